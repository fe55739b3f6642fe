"""Models from the hub, its cache and a mirror folder: what is fetched, gone on with, checked and said."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from diffeat.backbones import Backbone, cards, copies, load_meta_denoiser, loading
from diffeat.backbones import hub as hubs
from diffeat.backbones.named import ModelName
from diffeat.backbones.weights import denoiser_files
from diffeat.cli.main import app
from diffeat.errors import InvalidValueError, ModelError
from diffeat.extraction import Reading, Recipe
from diffeat.extraction.join import check_weights
from diffeat.extraction.needs import needs
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


def test_a_renamed_repository_is_followed(served: Hub) -> None:
    served.renamed["old/sd"] = "mirror/sd"
    assert load_meta_denoiser("old/sd")[1].name == "sd"
    folder = hubs.snapshot("old/sd")
    assert (folder / "unet/diffusion_pytorch_model.safetensors").is_file()
    assert not set(served.fetched()) & set(UNUSED)


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
    assert "someone/model" in copies.in_cache()
    copy = copies.copy_of("someone/model")
    assert copy is not None
    assert copy.missing == ()
    assert copy.size > 10_000
    (tmp_path / "broken" / "unet").mkdir(parents=True)
    (tmp_path / "broken" / "model_index.json").write_text((repository / "model_index.json").read_text())
    broken = copies.copy_of("broken")
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


@pytest.mark.parametrize(
    ("text", "option"),
    [("tiny-unet,base=sd15", "base"), ("tiny-unet,revision=ab", "revision"), ("sd15,base=sd21", "base"),
     ("FILE,variant=fp16", "variant"), ("FILE,revision=ab", "revision"), ("FOLDER,revision=ab", "revision"),
     ("FOLDER,base=sd15", "base")],
)  # fmt: skip
def test_what_a_model_does_not_use_is_refused(text: str, option: str, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    text = text.replace("FILE", str(tmp_path / "m.gguf")).replace("FOLDER", str(repository))
    for load in (Backbone.from_pretrained, load_meta_denoiser):
        with pytest.raises(InvalidValueError, match=f"takes no {option}, which belongs to .*: leave it out"):
            load(text)


def test_a_mirror_serves_the_revision_and_variant_that_it_has(served: Hub, tmp_path: Path, monkeypatch) -> None:
    commit = served.sha("mirror/sd")
    assert run("models", "get", "mirror/sd", "--to", str(tmp_path / "models"))[0] == 0
    monkeypatch.setenv("DIFFEAT_MODELS", str(tmp_path / "models"))
    mirror = tmp_path / "models" / "mirror" / "sd"
    assert hubs.mirrored("mirror/sd", commit) == hubs.mirrored("mirror/sd", commit[:8]) == mirror
    assert hubs.mirrored("mirror/sd", "0123456789") is hubs.mirrored("mirror/sd", "main") is None
    assert hubs.mirrored("mirror/sd", variant="fp16") is None  # the plain weights alone were fetched
    assert hubs.near("mirror/sd", "0123456789") == "mirror/sd"
    served.requests.clear()
    assert hubs.snapshot("mirror/sd", commit) == mirror
    assert not served.requests
    assert hubs.snapshot("mirror/sd", variant="fp16").is_relative_to(tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE is set; the mirror folder has no such revision"):
        Backbone.from_pretrained("mirror/sd,revision=0123456789")


def test_a_full_disk_is_not_taken_for_no_connection(served: Hub, monkeypatch) -> None:
    import errno

    import huggingface_hub

    real = huggingface_hub.hf_hub_download

    def full(place: str, file: str, **options):
        if file.endswith(".safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(place, file, **options)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(ModelError, match=r"safetensors of mirror/sd cannot be written.*No space left") as error:
        hubs.snapshot("mirror/sd")
    assert not isinstance(error.value, hubs.UnreachableError)
    with pytest.raises(ModelError, match="No space left"):
        Backbone.from_pretrained("mirror/sd")


def test_a_copy_is_whole_with_all_shards(tmp_path: Path) -> None:
    part = tmp_path / "unet"
    part.mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": "X", "unet": ["diffusers", "UNet2DConditionModel"]}')
    (part / "config.json").write_text("{}")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = part / "model.safetensors.index.json"
    for name, missing in ((None, ("unet",)), (shards[0], ("unet",)), (shards[1], ())):
        index.write_text(json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}))
        if name is not None:
            (part / name).write_bytes(b"weights")
        copy = copies.copy_of(str(tmp_path))
        assert copy is not None
        assert copy.missing == missing
    index.unlink()
    assert getattr(copies.copy_of(str(tmp_path)), "missing", ()) == ("unet",)


@pytest.mark.usefixtures("no_quantisers")
def test_a_home_is_found_in_names_of_files(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"mine\.gguf is quantised by GGUF"):
        Backbone.from_pretrained("~/mine.gguf")
    with pytest.raises(ModelError, match="is not there"):
        Backbone.from_pretrained("~nobody-of-this-name/model")


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


@pytest.mark.usefixtures("no_quantisers")
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
    fine = tmp_path / "fine.yaml"
    fine.write_text(recipe.read_text().partition("techniques")[0])
    code, said = run("models", "get", "--recipe", str(fine), "--plan")
    assert (code, served.fetched().count("one.safetensors")) == (0, 0)
    assert f"mirror/sd: is here, in {folder}." in said
    assert "CompVis/cleandift: one.safetensors, 0 kB; 0 kB are left there" in said
    served.spoilt.add("one.safetensors")
    code, said = run("models", "get", "--recipe", str(recipe))
    assert code == 1
    assert "no/control: there is no such repository" in said
    fetched = next((tmp_path / "cache").rglob("one.safetensors"))
    assert fetched.read_bytes() == b"weights"  # though it came spoilt at first
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


def test_what_is_here_is_a_model_and_what_is_fetched_is_something(served: Hub, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sd15").mkdir()  # named like a model, and none
    assert run("models", "get", "sd15", "--plan")[1].startswith("mirror/sd: ")
    Path("other").mkdir()
    code, said = run("models", "get", "./other")
    assert (code, "other" in said, "is here" in said) == (1, True, False)
    assert "is not there" in run("models", "get", "./gone")[1]
    assert "tiny-unet: is here" in run("models", "get", "tiny-unet")[1]
    served.repositories["some/lora"] = {"style.safetensors": b"lora", "README.md": b"x"}
    served.repositories["some/loras"] = {"a.safetensors": b"a", "b.safetensors": b"b"}
    code, said = run("models", "get", "some/lora")
    assert code == 0
    assert (Path(said.replace(" ", "")) / "style.safetensors").read_bytes() == b"lora"
    code, said = run("models", "get", "some/loras")
    assert code == 1
    assert "some/loras holds no model" in said
    assert "leave it out" in run("models", "get", "-r", "tiny-unet", "--variant", "fp16")[1]


def test_room_is_asked_for_what_is_not_here_yet(served: Hub, tmp_path: Path, monkeypatch) -> None:
    import shutil
    from types import SimpleNamespace

    whole = hubs.plan("mirror/sd")
    assert whole.absent() == whole.size - len(served.repositories["mirror/sd"]["model_index.json"])  # read for the plan
    hubs.fetch(whole)
    assert whole.absent() == 0
    assert whole.absent(tmp_path) == whole.size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert run("models", "get", "mirror/sd")[0] == 0
    code, said = run("models", "get", "mirror/sd", "--to", str(tmp_path / "to"))
    assert code == 1
    assert "more, and" in said


def test_what_recipes_need(tmp_path: Path, monkeypatch) -> None:
    """Of every part that can name weights: trained joins, networks of joined recipes, bases of single files, and what
    techniques bring."""
    monkeypatch.chdir(tmp_path)
    Path("mine.gguf").write_bytes(b"GGUF")
    base = {"model": "sd15", "activations": ["up_blocks.1"], "trajectory": {"timesteps": [1]}}
    steps = {"kind": "inversion", "steps": 1}

    def names(**fields: object) -> set[tuple[str, str | None, str | None, bool]]:
        recipe = Recipe.from_dict(base | fields)
        return {(n.name, n.file, n.revision, n.weights) for n in needs(recipe)} - {("sd15", None, None, True)}

    def fuse(**weights: str) -> dict[str, object]:
        return {"trajectory": steps, "fuse": {"kind": "hyperfeatures", "weights": weights}}

    assert names(**fuse(source="a/b", file="x.pt")) == {("a/b", "x.pt", None, True)}
    both = {("a/b", "model.safetensors", "v1", True), ("a/b", "config.json", "v1", True)}
    assert names(**fuse(source="a/b", revision="v1")) == both
    assert names(model="mine.gguf,base=sd21") == {("sd21", None, None, True)}
    Path("mine.safetensors").write_bytes(b"")
    assert names(model="mine.safetensors,base=sd21") == {("sd21", None, None, False)}
    assert names(denoiser={"source": "mine.safetensors"}) == set()
    for technique, expected in (
        ({"kind": "lora", "path": "a/b"}, {("a/b", None, None, True)}),
        ({"kind": "lora", "path": "a/b", "file": "in/x.safetensors"}, {("a/b", "in/x.safetensors", None, True)}),
        ({"kind": "lora", "path": "loras/x.safetensors"}, {("loras/x.safetensors", None, None, True)}),
        ({"kind": "lora", "path": "/no/loras/x.safetensors"}, {("/no/loras/x.safetensors", None, None, True)}),
        ({"kind": "weights", "source": "a/b", "file": "x.bin", "revision": "v1"}, {("a/b", "x.bin", "v1", True)}),
        ({"kind": "weights", "model": "sd21,variant=fp16"}, {("sd21,variant=fp16", None, None, True)}),
        ({"kind": "weights", "model": "mine.gguf,base=sd21"}, {("sd21", None, None, True)}),
        ({"kind": "ip-adapter"}, {("h94/IP-Adapter", "models/ip-adapter_sd15.safetensors", None, True),
                                  ("h94/IP-Adapter", "models/image_encoder", None, True)}),
        ({"kind": "controlnet", "model": "a/b", "condition": "depth"},
         {("a/b", None, None, True), ("Intel/dpt-hybrid-midas", None, None, True)}),
    ):  # fmt: skip
        assert names(techniques=[technique]) == expected, technique
        fields = {"views": [{"techniques": [technique]}, {}], "fuse": {"kind": "mean"}}
        assert names(**fields) == expected, technique
    joined = Recipe.from_dict({"parts": [base], "join": "convolution", "network": {"source": "c/d"}})
    assert [(n.name, n.file) for n in needs(joined)] == [("sd15", None), ("c/d", "convolution.safetensors")]


def test_weights_that_lie_here_take_nothing_that_is_not_used(tmp_path: Path) -> None:
    """Nor are those of a view taken for others."""
    file = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    for options, said in (
        ({"source": str(file), "file": "y.safetensors"}, "take no file"),
        ({"source": str(file), "revision": "v1"}, "take no revision"),
        ({"source": str(tmp_path), "file": "x.safetensors", "revision": "v1"}, "take no revision"),
        ({"source": str(tmp_path), "revision": "v1"}, "take no revision"),
    ):
        with pytest.raises(ModelError, match=f"{said}: leave it out"):
            denoiser_files(**options)
    assert denoiser_files(str(tmp_path), "x.safetensors") == [file]
    recipe = Reading.load("tiny-unet")
    for sha256, fits in ((hashlib.sha256(file.read_bytes()).hexdigest(), True), ("0" * 64, False)):
        weights = {"source": str(file), "sha256": sha256}
        for fields in ({"denoiser": weights}, {"views": ({"denoiser": weights}, {}), "fuse": {"kind": "mean"}}):
            with nullcontext() if fits else pytest.raises(ModelError, match="its SHA-256 differs"):
                check_weights(recipe.replace(**fields))
