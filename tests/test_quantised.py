"""Models whose weights are quantised, by ``--model`` and in recipes, where what reads them is installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from typer.testing import CliRunner

from diffeat import Backbone, Extractor, Reading, load_source, zoo
from diffeat.backbones.loading import _is_empty
from diffeat.cli.main import app
from diffeat.datasets import write_samples
from diffeat.errors import ModelError, StoreError


def _pipeline(name: str = "tiny-unet") -> Any:
    return DiffusionPipeline.from_pretrained(zoo.path(name))


def _gguf(file: Path, network: torch.nn.Module, kind: str = "Q8_0") -> str:
    """A network with its matrices quantised and all else as it is, under its own names."""
    gguf = pytest.importorskip("gguf")
    writer, form = gguf.GGUFWriter(str(file), "sd1"), gguf.GGMLQuantizationType[kind]
    for name, value in network.state_dict().items():
        values = value.float().numpy()
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(values, form), raw_dtype=form)
        else:
            writer.add_tensor(name, values)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return str(file)


def _torchao(folder: Path, name: str, part: str) -> str:
    pytest.importorskip("torchao")
    import diffusers
    import transformers
    from torchao.quantization import Int8WeightOnlyConfig  # pyright: ignore[reportMissingImports]

    pipeline = _pipeline(name)
    kind = type(getattr(pipeline, part))
    library: Any = transformers if part == "text_encoder" else diffusers
    settings = library.TorchAoConfig(Int8WeightOnlyConfig())
    pipeline.register_modules(
        **{part: kind.from_pretrained(zoo.path(name), subfolder=part, quantization_config=settings)}
    )
    pipeline.save_pretrained(folder)
    return str(folder)


def _map(recipe: str, model: str, picture: Path) -> Tensor:
    return Extractor.from_recipe(Reading.load(recipe).replace(model=model)).extract([picture])[0].tensor


def _error(recipe: str, model: str, picture: Path) -> float:
    plain = _map(recipe, Reading.load(recipe).model, picture)
    return float((_map(recipe, model, picture) - plain).norm() / plain.norm())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most"), [("Q8_0", 0.005), ("Q4_0", 0.05)])
def test_a_file_in_gguf(kind: str, most: float, tmp_path: Path) -> None:
    model = _gguf(tmp_path / "m.gguf", _pipeline().unet, kind) + ",base=tiny-unet"
    assert 0 < _error("tiny-dift", model, write_samples(tmp_path / "photos")[0]) < most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "name", "part"),
    [
        ("tiny-dift", "tiny-unet", "unet"),
        ("tiny-dift", "tiny-unet", "text_encoder"),
        ("ditf-tiny", "tiny-dit", "transformer"),
    ],
)
def test_a_folder_of_torchao(recipe: str, name: str, part: str, tmp_path: Path) -> None:
    model = _torchao(tmp_path / "m", name, part)
    assert 0 <= _error(recipe, model, write_samples(tmp_path / "photos")[0]) < 0.02


@pytest.mark.slow
def test_a_folder_of_quanto(tmp_path: Path) -> None:
    pytest.importorskip("optimum.quanto")
    from diffusers import QuantoConfig, UNet2DConditionModel

    pipeline: Any = _pipeline()
    pipeline.register_modules(
        unet=UNet2DConditionModel.from_pretrained(
            zoo.path("tiny-unet"), subfolder="unet", quantization_config=QuantoConfig("int8")
        )
    )
    pipeline.save_pretrained(tmp_path / "m")
    assert 0 < _error("tiny-dift", str(tmp_path / "m"), write_samples(tmp_path / "photos")[0]) < 0.01


@pytest.mark.slow
def test_a_quantised_model_on_the_command_line_and_in_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_samples(Path("photos"))
    model = _gguf(Path("m.gguf"), _pipeline().unet) + ",base=tiny-unet"
    Reading.load("tiny-dift").replace(model=model, name="mine").save(Path("mine.yaml"))
    runner = CliRunner()
    for words in (
        ["-r", "tiny-dift", "--model", model, "--plan"],
        ["-r", "tiny-dift", "--model", model],
        ["-r", "mine.yaml"],
    ):
        done = runner.invoke(app, ["extract", "photos", "--out", "features" if words[-1] == model else "mine", *words])
        assert done.exit_code == 0, done.output
    store = load_source("mine.yaml")
    assert store.fingerprint != load_source("tiny-dift").fingerprint
    done = runner.invoke(app, ["extract", "photos", "-r", "tiny-dift", "--out", "features"])  # unquantised
    assert isinstance(done.exception, StoreError)
    assert runner.invoke(app, ["activations", model]).exit_code == 0
    done = runner.invoke(app, ["models", "show", model])
    assert "`diffeat activations" in str(done.exception)


def test_gguf_that_does_not_tell_its_model_or_that_diffusers_does_not_read(tmp_path: Path) -> None:
    file = _gguf(tmp_path / "m.gguf", _pipeline("tiny-dit").transformer)
    with pytest.raises(ModelError, match=r"does not tell .* Say what it was trained from: .*m\.gguf,base="):
        Backbone.from_pretrained(file)
    with pytest.raises(ModelError, match="diffusers reads no single files of a PixArtTransformer2DModel"):
        Backbone.from_pretrained(f"{file},base=tiny-dit")


def test_weights_whose_parts_have_the_content_are_not_missing() -> None:
    class Packed(torch.nn.Parameter):  # as those of quanto
        data_: Tensor
        scale: Tensor

        def __tensor_flatten__(self) -> tuple[list[str], None]:
            return ["data_", "scale"], None

    def packed(device: str) -> Packed:
        weight = Packed(torch.empty(2, device="meta"))
        weight.data_, weight.scale = torch.zeros(2), torch.zeros(1, device=device)
        return weight

    assert not _is_empty(packed("cpu"))
    assert _is_empty(packed("meta"))
    assert _is_empty(torch.nn.Parameter(torch.empty(1, device="meta")))
    assert not _is_empty(torch.nn.Parameter(torch.zeros(1)))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="reads it")
def test_bitsandbytes_without_an_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffeat.backbones.folder.find_spec", lambda name: name)
    folder = Path(shutil.copytree(zoo.path("tiny-unet"), tmp_path / "m"))
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(ModelError, match=r"The unet in .*m is quantised by bitsandbytes, which needs an accelerator"):
        Backbone.from_pretrained(str(folder))
