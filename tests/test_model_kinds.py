"""What people have as models: wrapped, cast, offloaded, exchanged, one variant alone, single files, parts, nonsense."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

import diffeat
from diffeat.activations import Catalogue, Taps
from diffeat.backbones import Backbone, load_meta_denoiser
from diffeat.backbones.placement import device_of, dtype_of
from diffeat.backbones.weights import find_weights, load_denoiser_weights
from diffeat.errors import DiffeatError, InvalidValueError, ModelError
from diffeat.extraction import load_aggregation
from tiny.pipelines import build

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sd15"
    build("sd15").save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A folder to change."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def refusal(path: Path | str) -> str:
    """The one line that says why a path is no model."""
    with pytest.raises(DiffeatError) as raised:
        Backbone.from_pretrained(str(path))
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---- the fingerprint: everything that changes the numbers, as it is now


def _one_bit(part: str) -> Callable[[Any], None]:
    def change(pipeline: Any) -> None:
        weight = list(getattr(pipeline, part).parameters())[-1]
        weight.data.view(torch.int32).view(-1)[-1] ^= 1  # behind autograd's back

    return change


def _set(path: str, name: str, value: Any) -> Callable[[Any], None]:
    return lambda pipeline: setattr(pipeline.unet.get_submodule(path), name, value)


#: Changes of one live pipeline, one after the other.
LATE: dict[str, Callable[[Any], Any]] = {
    "a bit of the unet": _one_bit("unet"),
    "a bit of the vae": _one_bit("vae"),
    "a bit of the text encoder": _one_bit("text_encoder"),
    "tokens": lambda p: p.tokenizer.add_tokens(["zebra"]),
    "length of texts": lambda p: setattr(p.tokenizer, "model_max_length", 50),
    "flip_sin_to_cos": _set("time_proj", "flip_sin_to_cos", False),
    "norm_eps": _set("mid_block.resnets.0.norm1", "eps", 1e-3),
    "act_fn": _set("mid_block.resnets.0", "nonlinearity", nn.ReLU()),
    "scaling_factor": lambda p: p.vae.register_to_config(scaling_factor=0.5),
    "betas": lambda p: p.scheduler.register_to_config(beta_end=0.02),
    "freeu": lambda p: p.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4),
    "lora": lambda p: p.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), adapter_name="a"),
    "scale of the lora": lambda p: p.unet.set_adapters(["a"], [0.5]),
    "lora off": lambda p: p.unet.disable_lora(),
    "tiling": lambda p: p.vae.enable_tiling(),
    "precision": lambda p: p.unet.to(torch.bfloat16),
}
#: What leaves the numbers alone, one after the other; each way of offloading needs a pipeline of its own.
SAME: dict[str, Callable[[Any], Any]] = {
    "a call": lambda p: p("a cat", width=64, height=64, num_inference_steps=1, output_type="latent"),
    "safety checker": lambda p: p.register_modules(safety_checker=nn.Linear(2, 2)),
    "feature extractor": lambda p: p.register_modules(feature_extractor=p.scheduler),
    "channels last": lambda p: p.unet.to(memory_format=torch.channels_last),
    "slicing": lambda p: p.vae.enable_slicing(),
    "compiled blocks": lambda p: p.unet.compile_repeated_blocks(backend="eager"),
    "compiled in place": lambda p: p.unet.compile(backend="eager"),
    "compiled": lambda p: setattr(p, "unet", torch.compile(p.unet, backend="eager")),
}
OFFLOADED: dict[str, Callable[[Any], Any]] = {
    "model": lambda p: p.enable_model_cpu_offload(device="cpu"),
    "sequential": lambda p: p.enable_sequential_cpu_offload(device="cpu"),
    "group": lambda p: p.unet.enable_group_offload(CPU, CPU, offload_type="leaf_level"),
}


@pytest.fixture(scope="module")
def before() -> str:
    return Backbone.from_pipeline(build("sd15")).fingerprint


def test_a_live_pipeline_that_computes_otherwise_is_another(before: str) -> None:
    pipeline = build("sd15")
    pipeline.tokenizer = deepcopy(pipeline.tokenizer)
    model, seen = Backbone.from_pipeline(pipeline), {before}
    for name, change in LATE.items():
        change(pipeline)
        now = model.fingerprint
        assert now not in seen, name
        seen.add(now)


def test_what_leaves_the_numbers_alone_does_not_count(before: str) -> None:
    pipeline = build("sd15")
    for name, change in SAME.items():
        change(pipeline)
        assert Backbone.from_pipeline(pipeline).fingerprint == before, name


@pytest.mark.parametrize("way", OFFLOADED)
def test_offloading_does_not_count(way: str, before: str) -> None:
    pipeline = build("sd15")
    OFFLOADED[way](pipeline)
    assert Backbone.from_pipeline(pipeline).fingerprint == before


def test_saving_and_names_and_versions_do_not_count(copy: Path, before: str, tmp_path: Path) -> None:
    for part in ("unet", "vae", "text_encoder"):
        edit(copy / part / "config.json", _name_or_path="/elsewhere", _diffusers_version="9", transformers_version="9")
    (copy / "tokenizer").rename(tmp_path / "t")
    (tmp_path / "t").rename(copy / "tokenizer")
    assert Backbone.from_pretrained(str(copy)).fingerprint == before


def test_weights_offloaded_to_disk_count(before: str, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        pipeline = build("sd15", seed)
        pipeline.unet.enable_group_offload(
            CPU, CPU, offload_type="leaf_level", offload_to_disk_path=str(tmp_path / name)
        )
        assert (Backbone.from_pipeline(pipeline).fingerprint == before) == (seed == 0)


def test_parts_that_were_exchanged_need_a_new_backbone_and_texts_follow_their_encoder() -> None:
    pipeline = build("sd15")
    model = Backbone.from_pipeline(pipeline)
    state = "encoder_hidden_states"
    first = model.condition(["a cat"]).rows[0][state]
    with torch.no_grad():
        for weight in pipeline.text_encoder.parameters():
            weight.mul_(1.5)
    assert not torch.equal(model.condition(["a cat"]).rows[0][state], first)
    for part in ("unet", "vae", "text_encoder"):
        other = build("sd15", 1)
        model = Backbone.from_pipeline(other)
        setattr(other, part, getattr(pipeline, part))
        for ask in (lambda m=model: m.fingerprint, lambda m=model: m.condition(["a cat"])):
            with pytest.raises(ModelError, match=f"The {part} of .* exchanged"):
                ask()


# ---- wrapped and cast denoisers, in every door


def _wrap(pipeline: Any, wrapper: Callable[[nn.Module], nn.Module]) -> None:
    name = "unet" if getattr(pipeline, "unet", None) is not None else "transformer"
    setattr(pipeline, name, wrapper(getattr(pipeline, name)))


LORA = LoraConfig(r=2, target_modules=["to_q"])
WRAPPED: dict[str, Callable[[Any], Any]] = {
    "compiled": lambda p: _wrap(p, lambda d: torch.compile(d, backend="eager")),  # pyright: ignore
    "compiled in place": lambda p: p.unet.compile(backend="eager"),
    "peft": lambda p: _wrap(p, lambda d: get_peft_model(d, LORA)),  # pyright: ignore
}


@torch.no_grad()
def _features(model: Backbone) -> torch.Tensor:
    clean = model.encode_images(torch.zeros(1, 3, 64, 64)).mean
    with Taps(model, "mid_block") as taps:
        return taps.run(**model.denoiser_inputs(clean, 10, model.condition(["a cat"], size=(64, 64))))["mid_block"]


@pytest.mark.parametrize("way", WRAPPED)
def test_wrapped_denoisers_work_in_every_door(way: str) -> None:
    expected = _features(Backbone.from_pipeline(build("sd15")))
    pipeline = build("sd15")
    WRAPPED[way](pipeline)
    model = Backbone.from_pipeline(pipeline)
    assert torch.equal(_features(model), expected)
    assert len(Catalogue.of(pipeline)) == len(Catalogue.of(build("sd15").unet))
    with diffeat.tap(pipeline, ["mid_block"]) as taps:
        pipeline("a cat", width=64, height=64, num_inference_steps=1, output_type="latent")
    assert taps.steps
    assert model.fingerprint


def test_data_parallel_is_named() -> None:
    pipeline = build("sd15")
    _wrap(pipeline, nn.DataParallel)
    assert len(Catalogue.of(pipeline.unet))
    with pytest.raises(ModelError, match=r"unet is wrapped in DataParallel.*unet\.module"):
        Backbone.from_pipeline(pipeline)


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl", "flux", "qwen_image"])
@torch.no_grad()
def test_the_compute_dtype_is_that_of_the_casts_not_of_the_storage(family: str) -> None:
    pipeline = build(family)
    denoiser = pipeline.components.get("unet") or pipeline.transformer
    pipeline.to(torch.bfloat16)
    for part in (denoiser, pipeline.vae):
        part.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    model = Backbone.from_pipeline(pipeline)
    assert model.dtype == torch.bfloat16
    assert torch.float8_e4m3fn in {p.dtype for p in denoiser.parameters()}
    clean = model.encode_images(torch.zeros(1, 3, 64, 64)).mean
    assert model.denoise(clean, 10, model.condition(["a cat"], size=(64, 64))).isfinite().all()
    stock = {"width": 64, "height": 64, "num_inference_steps": 1, "output_type": "latent"}
    assert pipeline("a cat", **stock) is not None


# ---- parts that do not fit


def _with(part: str, other: Any) -> Any:
    pipeline = build("sd15")
    setattr(pipeline, part, other)
    return pipeline


def _inpainting() -> Any:
    import diffusers

    config: dict[str, Any] = {name: value for name, value in build("sd15").unet.config.items() if name[0] != "_"}
    return _with("unet", diffusers.UNet2DConditionModel(**{**config, "in_channels": 9}))


MISFITS: dict[str, tuple[Callable[[], Any], str]] = {
    "vae": (lambda: _with("vae", build("sd3").vae), r"UNet2DConditionModel takes 4 channels.*AutoencoderKL.*16"),
    "inpainting": (_inpainting, r"UNet2DConditionModel takes 9 channels \(a picture, a mask.*of 4"),
    "text encoder": (
        lambda: _with("text_encoder", build("sd3").text_encoder_3),
        r"texts of width 8 \(cross_attention_dim\), but text_encoder \(T5EncoderModel\) gives 16",
    ),
    "tokenizer": (lambda: _with("tokenizer", build("sd3").tokenizer_3), r"tokenizer has \d+ tokens, but its CLIPText"),
    "scheduler": (lambda: _with("scheduler", build("flux").scheduler), r"discrete diffusion.*FlowMatchEuler"),
    "no vae": (lambda: _with("vae", None), "has no vae"),
    "no tokenizer": (lambda: _with("tokenizer", None), "has no tokenizer"),
    "no scheduler": (lambda: _with("scheduler", None), "has no scheduler"),
}


@pytest.mark.parametrize("part", MISFITS)
def test_parts_that_do_not_fit_are_refused_when_put_together(part: str) -> None:
    make, reason = MISFITS[part]
    with pytest.raises(ModelError, match=reason):
        Backbone.from_pipeline(make())


# ---- folders and files


def _rename(folder: Path, ending: str) -> None:
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_suffix(f".{ending}.safetensors"))


@pytest.mark.parametrize("variant", ["fp16", "non_ema"])
def test_a_folder_with_one_variant_alone_loads(variant: str, copy: Path, before: str) -> None:
    _rename(copy, variant)
    assert Backbone.from_pretrained(str(copy)).fingerprint == before


def test_variants_of_which_none_is_whole_are_listed(copy: Path) -> None:
    for part, ending in (("unet", "fp16"), ("vae", "ema")):
        (copy / part / WEIGHTS).rename(copy / part / WEIGHTS.replace(".safe", f".{ending}.safe"))
    assert "unet: fp16; vae: ema" in refusal(copy)


def test_pickled_weights_load_without_running_code(copy: Path, before: str, tmp_path: Path) -> None:
    state = load_file(copy / "unet" / WEIGHTS)
    (copy / "unet" / WEIGHTS).unlink()
    torch.save(state, copy / "unet" / "diffusion_pytorch_model.bin")
    assert Backbone.from_pretrained(str(copy)).fingerprint == before

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert "could not be loaded" in refusal(copy)
    assert not (tmp_path / "ran").exists()


def test_missing_weights_are_not_drawn_at_random(copy: Path) -> None:
    for part, name in (("text_encoder", "model.safetensors"), ("unet", WEIGHTS)):
        state = load_file(copy / part / name)
        whole = dict(state)
        state.pop(next(iter(state)))
        save_file(state, copy / part / name, {"format": "pt"})
        assert f"{part} lack 1 tensors" in refusal(copy)
        save_file(whole, copy / part / name, {"format": "pt"})


def test_an_image_to_image_pipeline_loads_by_its_parts(copy: Path, before: str) -> None:
    edit(copy / "model_index.json", _class_name="StableDiffusionImg2ImgPipeline")
    assert Backbone.from_pretrained(str(copy)).fingerprint == before


@pytest.mark.parametrize(
    ("pipeline", "instead"),
    [
        ("FluxKontextPipeline", "flux-dev"),
        ("FluxFillPipeline", "flux-dev"),
        ("StableDiffusionInstructPix2PixPipeline", "sd15"),
        ("StableDiffusionXLImg2ImgPipeline", "sdxl"),
        ("WanPipeline", "sd15"),
        ("SanaSprintPipeline", "sana"),
        ("StableDiffusionControlNetPipeline", "sd15"),
    ],
)
def test_pipelines_for_other_things_say_what_to_load(pipeline: str, instead: str, copy: Path) -> None:
    edit(copy / "model_index.json", _class_name=pipeline)
    assert f"Load {instead!r}" in refusal(copy)


def _folder(path: Path, config: dict[str, Any] | None = None, *files: str) -> Path:
    path.mkdir(parents=True)
    for name in files:
        save_file({"lora_down.weight" if "lora" in name else "x": torch.zeros(1)}, path / name)
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.usefixtures("no_quantisers")
def test_other_things_say_what_to_write(saved: Path, tmp_path: Path) -> None:
    unet = Path(shutil.copytree(saved / "unet", tmp_path / "tuned"))
    checkpoint = tmp_path / "checkpoint-500"
    shutil.copytree(saved / "unet", checkpoint / "unet")
    single = tmp_path / "model.safetensors"
    save_file({"model.diffusion_model.out.2.bias": torch.zeros(4)}, single)
    (tmp_path / "old.ckpt").write_bytes(b"x")
    (tmp_path / "q.gguf").write_bytes(b"GGUF")
    (tmp_path / "hub" / "snapshots").mkdir(parents=True)
    shutil.copytree(saved, tmp_path / "hub" / "snapshots" / "abc")
    kinds = {
        unet: rf"a denoiser \(UNet2DConditionModel\).*`model:` and `denoiser: {{source: {unet}}}`",
        checkpoint: rf"denoiser: {{source: {checkpoint}/unet}}",
        single: r"single-file checkpoint.*`denoiser: {source: .*model.safetensors}`.*from_single_file",
        tmp_path / "old.ckpt": "file of weights.*denoiser:",
        tmp_path / "q.gguf": "GGUF",
        saved / "unet": f"part of the pipeline {saved}",
        saved / "model_index.json": "give that folder",
        saved.parent: f"give {saved}",
        tmp_path / "hub": "give .*snapshots/abc",
        _folder(tmp_path / "lora", None, "pytorch_lora_weights.safetensors"): "LoRA.*technique `lora:",
        _folder(tmp_path / "l2", None, "my_lora.safetensors") / "my_lora.safetensors": "LoRA.*technique `lora:",
        _folder(tmp_path / "control", {"_class_name": "ControlNetModel"}): "technique `controlnet:",
        _folder(tmp_path / "vae", {"_class_name": "AutoencoderKL"}): "autoencoder",
        _folder(tmp_path / "dino", {"architectures": ["Dinov2Model"], "model_type": "dinov2"}): "`vision:",
        tmp_path / "nowhere" / "model": "not there",
    }
    for path, reason in kinds.items():
        assert re.search(reason, said := refusal(path)), said


@pytest.mark.parametrize(
    ("method", "package"), [("bitsandbytes", "bitsandbytes"), ("torchao", "torchao"), ("quanto", "optimum-quanto")]
)
@pytest.mark.usefixtures("no_quantisers")
def test_quantised_parts_say_what_to_install(method: str, package: str, copy: Path) -> None:
    for part in ("unet", "text_encoder"):
        edit(copy / part / "config.json", quantization_config={"quant_method": method})
        assert f"pip install {package}" in refusal(copy)
        edit(copy / part / "config.json", quantization_config=None)


def test_other_weights_of_the_denoiser_in_every_form(saved: Path, tmp_path: Path) -> None:
    tuned = build("sd15", 1).unet
    tuned.save_pretrained(tmp_path / "tuned")
    tuned.save_pretrained(tmp_path / "checkpoint-500" / "unet")
    tuned.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    state = {name: value.contiguous() for name, value in tuned.state_dict().items()}
    save_file({f"module.{name}": value for name, value in state.items()}, tmp_path / "parallel.safetensors")
    torch.save({"state_dict": state}, tmp_path / "old.ckpt")
    model = Backbone.from_pipeline(build("sd15"))
    for name in ("tuned", "checkpoint-500", "sharded", "parallel.safetensors", "old.ckpt"):
        nn.init.zeros_(next(model.denoiser.parameters()))
        load_denoiser_weights(model, str(tmp_path / name))
        assert all(torch.equal(value, state[key]) for key, value in model.denoiser.state_dict().items()), name
    tuned.save_pretrained(tmp_path / "checkpoint-500" / "unet_ema")
    with pytest.raises(ModelError, match="several denoisers; name one: .*unet or .*unet_ema"):
        load_denoiser_weights(model, str(tmp_path / "checkpoint-500"))


def test_a_missing_folder_is_missing_not_offline(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), "./none", "a/b/none", "weights.safetensors"):
        for load in (load_aggregation, lambda name: find_weights(name, None, None)):
            with pytest.raises(ModelError, match="not there"):
                load(name)


# ---- hostile folders: one line, no code, no waiting

_FILES = ("model_index.json", "unet/config.json", f"unet/{WEIGHTS}", "tokenizer/tokenizer.json", "vae/config.json")


def _fifo(file: Path) -> None:
    os.mkfifo(file)


def _loop(file: Path) -> None:
    file.symlink_to(file.name)


def _endless(file: Path) -> None:
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", _FILES)
def test_files_that_are_none(name: str, copy: Path) -> None:
    for make in (_fifo, _loop, _endless, Path.touch):
        (copy / name).unlink()
        make(copy / name)
        assert refusal(copy)


@pytest.mark.parametrize(
    ("part", "entry", "value"),
    [
        ("unet", "layers_per_block", 10**9),
        ("text_encoder", "num_hidden_layers", 10**9),
        ("scheduler", "num_train_timesteps", 10**12),
        ("scheduler", "beta_end", float("nan")),
        ("vae", "scaling_factor", 0),
        ("vae", "scaling_factor", "x"),
        ("vae", "latents_mean", [1.0]),
    ],
)
def test_configurations_of_nonsense(part: str, entry: str, value: Any, copy: Path) -> None:
    edit(copy / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **{entry: value})
    assert refusal(copy)


def test_code_in_a_folder_is_never_imported(copy: Path, tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    index = copy / "model_index.json"
    for name, entries in {"pipe": {"_class_name": ["pipe", "Evil"]}, "unet/mine": {"unet": ["mine", "Evil"]}}.items():
        (copy / f"{name}.py").write_text(code)
        whole = index.read_text()
        edit(index, **entries)
        assert "code is never loaded" in refusal(copy)
        index.write_text(whole)
    assert not (tmp_path / "ran").exists()


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["diffusers", ".."]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
_KEYS = st.sampled_from(["_class_name", "unet", "vae", "text_encoder", "tokenizer", "scheduler", "../x", "extra"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.dictionaries(_KEYS, _JSON, min_size=1, max_size=3), cut=st.none() | st.integers(0, 300))
def test_any_index_is_read_or_refused_in_one_line(entries: dict, cut: int | None, saved: Path, tmp_path: Path) -> None:
    """From the configuration alone, which is all that an index can spoil."""
    folder = tmp_path / "any"
    if not folder.exists():
        shutil.copytree(saved, folder)
    text = json.dumps(json.loads((saved / "model_index.json").read_text()) | entries)
    (folder / "model_index.json").write_text(text if cut is None else text[:cut])
    try:
        load_meta_denoiser(str(folder))
    except DiffeatError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < 1000  # noqa: PT017


# ---- devices and precisions


@pytest.mark.skipif(torch.accelerator.is_available(), reason="of a machine without an accelerator")
@pytest.mark.parametrize("name", ["cuda", "cuda:9", "gpu", "mps", "", "cpu:7", "mete", "🦙"])
def test_devices_that_are_none_are_named_before_anything_is_loaded(name: str) -> None:
    for load in (
        lambda: device_of(name),
        lambda: Backbone.from_pretrained("no/model", device=name or "gpu"),
        lambda: diffeat.load_source("tiny-unet", device=name),
    ):
        with pytest.raises(InvalidValueError, match=r"no device .*; there is cpu\."):
            load()


def test_precisions() -> None:
    assert dtype_of("torch.bfloat16") == torch.bfloat16
    for load in (dtype_of, lambda name: diffeat.load_source("tiny-unet", dtype=name)):
        with pytest.raises(InvalidValueError, match="precision 'float8' is unknown"):
            load("float8")
