"""Models from the hub, its cache and a mirror folder: what is fetched, gone on with, checked and said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from diffeat.backbones import Backbone, cards, load_meta_denoiser, loading
from diffeat.backbones import hub as hubs
from diffeat.backbones.named import ModelName
from diffeat.cli.main import app
from diffeat.errors import InvalidValueError, ModelError
from support.hub import Hub, hub  # noqa: F401
from tiny.pipelines import build

UNUSED = ("safety_checker/model.safetensors", "v1.ckpt", "unet/diffusion_pytorch_model.bin", "README.md",
          "unet/diffusion_pytorch_model.fp16.safetensors", "vae/openvino_model.bin", "flax_model.msgpack")  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as they are: a safety checker, the same weights in several formats and variants."""
    root = tmp_path_factory.mktemp("repository") / "sd"
    build("sd15").save_pretrained(root)
    index = json.loads((root / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (root / "model_index.json").write_text(json.dumps(index))
    for name in UNUSED:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"not used" * 100)
    save_file({"x": torch.zeros(9)}, root / "unet/diffusion_pytorch_model.fp16.safetensors")
    return root


@pytest.fixture
def served(hub: Hub, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:  # noqa: F811
    """``gone/sd`` is not there any more, ``mirror/sd`` is."""
    hub.add("mirror/sd", repository)
    card = cards()["sd15"].model_copy(update={"ids": ("gone/sd", "mirror/sd"), "prediction": "epsilon"})
    monkeypatch.setattr(loading, "cards", lambda: {"sd15": card})
    return hub


def test_only_what_is_used_is_fetched_from_the_first_mirror_that_has_it(served: Hub, monkeypatch) -> None:
    model = Backbone.from_pretrained("sd15")
    expected = build("sd15").unet.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in model.denoiser.state_dict().items())
    assert not set(served.fetched()) & set(UNUSED)
    assert len(served.fetched()) == len(set(served.fetched()))
    monkeypatch.setattr(hubs, "offline", lambda: True)  # from now on the cache alone
    served.repositories.clear()
    assert Backbone.from_pretrained("sd15").name == "sd15"


def test_configurations_alone_for_the_names_of_activations(served: Hub) -> None:
    assert load_meta_denoiser("mirror/sd")[1].name == "sd"
    assert served.fetched() == ["model_index.json", "unet/config.json"]


def test_a_half_download_is_gone_on_with_and_a_spoilt_one_fetched_again(served: Hub, monkeypatch) -> None:
    weights = "unet/diffusion_pytorch_model.safetensors"
    served.cut[weights] = 1000
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    download = hubs.plan("mirror/sd")
    folder = hubs.fetch(download, check=True)
    assert served.ranges == ["bytes=1000-"]
    file = next(file for file in download.files if file.name == weights)
    assert file.fault(folder) is None
    blob = (folder / weights).resolve()
    blob.write_bytes(bytes(file.size or 0))
    assert "SHA-256" in str(file.fault(folder))
    hubs.fetch(download, check=True)
    assert file.fault(folder) is None
    blob.write_bytes(b"short")
    served.spoilt.add(weights)
    with pytest.raises(ModelError, match=r"has another SHA-256 digest, though it was fetched again.*HF_ENDPOINT"):
        hubs.fetch(download, check=True)
    assert download.left == sum(len(served.repositories["mirror/sd"][name]) for name in UNUSED) + sum(
        len(d) for n, d in served.repositories["mirror/sd"].items() if n == ".gitattributes"
    )


def test_a_gate_a_missing_repository_and_no_connection_are_one_line(served: Hub, monkeypatch) -> None:
    served.gated.add("mirror/sd")
    with pytest.raises(ModelError) as error:
        Backbone.from_pretrained("sd15")
    assert "gone/sd: there is no such repository, or it is private" in str(error.value)
    assert f"mirror/sd: it is gated: accept its licence at {served.url}/mirror/sd and log in" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="no such repository"):
        hubs.plan("gone/sd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        hubs.plan("mirror/sd")


def test_a_mirror_folder_goes_first_and_needs_no_hub(repository: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DIFFEAT_MODELS", str(tmp_path))
    for name in ("sd21", "someone/model"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(repository)
    assert loading.resolve_model("sd21")[0] == str(tmp_path / "sd21")
    assert hubs.snapshot("someone/model") == tmp_path / "someone/model"
    assert Backbone.from_pretrained("someone/model").family.name == "sd"
    assert hubs.near("someone/model") == str(tmp_path / "someone/model")
    assert hubs.near("../model") == "../model"
    assert "someone/model" in hubs.in_cache()
    copy = hubs.copy_of("someone/model")
    assert copy is not None
    assert copy.missing == ()
    assert copy.size > 10_000
    (tmp_path / "broken" / "unet").mkdir(parents=True)
    (tmp_path / "broken" / "model_index.json").write_text((repository / "model_index.json").read_text())
    broken = hubs.copy_of("broken")
    assert broken is not None
    assert set(broken.missing) >= {"vae", "text_encoder"}


def test_which_files_are_needed() -> None:
    """Sharded, in variants, both formats; a repository of one network."""
    shards = [f"unet/diffusion_pytorch_model{v}-0000{i}-of-00002.safetensors" for i in (1, 2) for v in ("", ".fp16")]
    index = ["unet/diffusion_pytorch_model.safetensors.index.json",
             "unet/diffusion_pytorch_model.safetensors.index.fp16.json"]  # fmt: skip
    rest = ["unet/config.json", "text/pytorch_model.bin", "text/config.json"]
    files = [*shards, *index, *rest, "text/tf_model.h5", "model_index.json"]
    plain = {"model_index.json", *rest, *[s for s in shards if "fp16" not in s], index[0]}
    assert set(hubs.needed(files, ["unet", "text"], None, "a/b")) == plain
    half = {"model_index.json", *rest, *[s for s in shards if "fp16" in s], index[1]}
    assert set(hubs.needed(files, ["unet", "text"], "fp16", "a/b")) == half
    only = [f for f in files if "fp16" in f or not f.startswith("unet/d")]
    assert set(hubs.needed(only, ["unet", "text"], None, "a/b")) == half
    with pytest.raises(ModelError, match="no variant 'bf16'.*fp16"):
        hubs.needed(files, ["unet", "text"], "bf16", "a/b")
    network = ["config.json", "model.safetensors", "pytorch_model.bin", "preprocessor_config.json", "x.onnx"]
    assert hubs.needed(network, [""], None, "a/b") == ["config.json", "model.safetensors", "preprocessor_config.json"]


def test_how_models_are_written(tmp_path: Path, monkeypatch) -> None:
    assert ModelName.parse("sd15,variant=fp16,revision=ab") == ModelName("sd15", "fp16", "ab")
    assert ModelName.parse("a, b") == ModelName("a, b")
    for text in ("sd15,varient=fp16", "sd15,variant=", "sd15,variant=a,variant=b"):
        with pytest.raises(InvalidValueError, match=r"NAME,variant=fp16"):
            ModelName.parse(text)
    monkeypatch.chdir(tmp_path)
    Path("x,variant=fp16").mkdir()
    assert ModelName.parse("x,variant=fp16") == ModelName("x,variant=fp16")


def _original(state: dict[str, torch.Tensor], levels: int) -> dict[str, torch.Tensor]:
    """The autoencoder under the names of its first home."""
    named = {}
    for name, value in state.items():
        side, _, rest = name.partition(".")
        if side in ("encoder", "decoder"):
            words = rest.split(".")
            if words[0] in ("down_blocks", "up_blocks"):
                level = int(words[1]) if side == "encoder" else levels - 1 - int(words[1])
                inner = {"resnets": ["block", words[3]], "downsamplers": ["downsample"], "upsamplers": ["upsample"]}
                tail = [w if w != "conv_shortcut" else "nin_shortcut" for w in words[4:]]
                words = [words[0][:-7], str(level), *inner[words[2]], *tail]
            elif words[:2] == ["mid_block", "resnets"]:
                words = ["mid", f"block_{int(words[2]) + 1}", *words[3:]]
            elif words[0] == "mid_block":
                kinds = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
                if words[3] != "group_norm" and value.ndim == 2:
                    value = value[:, :, None, None]
                words = ["mid", "attn_1", kinds[words[3]], words[-1]]
            rest = ".".join(words).replace("conv_norm_out", "norm_out")
        named[f"first_stage_model.{side}.{rest}"] = value.contiguous()
    return named


def test_a_file_with_a_whole_model_loads_by_its_name(repository: Path, tmp_path: Path, monkeypatch) -> None:
    from test_view_weights import original_name

    pipeline = build("sd15")
    unet = pipeline.unet
    weights = {
        **{
            f"model.diffusion_model.{original_name(k, unet.config['layers_per_block'])}": v
            for k, v in unet.state_dict().items()
        },
        **_original(pipeline.vae.state_dict(), 4),
        **{
            f"cond_stage_model.transformer.text_model.{k.removeprefix('text_model.')}": v
            for k, v in pipeline.text_encoder.state_dict().items()
        },
    }
    file = tmp_path / "mine.safetensors"
    save_file({k: v.contiguous() for k, v in weights.items()}, file)
    card = cards()["sd15"].model_copy(update={"ids": (str(repository),)})
    monkeypatch.setattr(loading, "cards", lambda: {"sd15": card})
    for name in (f"{file}", f"{file},base=sd15"):
        model = Backbone.from_pretrained(name)
        for part in ("unet", "vae", "text_encoder"):
            expected = getattr(pipeline, part).state_dict()
            found = getattr(model.pipeline, part).state_dict()
            assert all(torch.equal(found[k], expected[k]) for k in found), part
    assert load_meta_denoiser(str(file))[1].name == "sd"
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="pip install gguf"):
        Backbone.from_pretrained(str(tmp_path / "mine.gguf"))


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, " ".join(str(result.exception or result.output).split())


def test_the_command_lists_plans_and_fetches(served: Hub, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DIFFEAT_MODELS", str(tmp_path / "models"))
    served.repositories["CompVis/cleandift"] = {"one.safetensors": b"weights", "other.safetensors": b"x"}
    code, said = run("models", "get", "sd15", "--plan")
    assert code == 0
    assert said.startswith("mirror/sd: ")
    assert " files, " in said
    assert served.fetched() == ["model_index.json"]
    code, said = run("models", "get", "sd15", "--to", str(tmp_path / "models"))
    assert code == 0, said
    folder = tmp_path / "models" / "mirror" / "sd"
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert not any((folder / name).exists() for name in UNUSED)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "model: mirror/sd\nactivations: [up_blocks.1]\ntrajectory: {timesteps: [1]}\n"
        "denoiser: {source: CompVis/cleandift, file: one.safetensors}\n"
        "techniques: [{kind: controlnet, model: no/control}]\n"
    )
    code, said = run("models", "get", "--recipe", str(recipe))
    assert code == 1
    assert "no/control: there is no such repository" in said
    assert "one.safetensors" in served.fetched()
    assert "other.safetensors" not in served.fetched()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Backbone.from_pretrained("sd15").family.name == "sd"  # from the mirror folder
    code, said = run("models")
    assert code == 0
    assert "mirror/sd" in said
    assert "sd3.5-medium" in said
    code, said = run("models", "show", "flux-dev")
    assert "154, 1446" in said
    assert "eval_spair.py" in said
    assert "did you mean 'sd21'" in run("models", "show", "sd2.1")[1].lower()
    assert "Name a model" in run("models", "get")[1]
