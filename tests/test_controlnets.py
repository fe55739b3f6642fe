"""ControlNets of every supported class against the stock pipelines' own denoiser calls, on tiny random models."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers as D
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor

from diffeat import Extractor, Recipe
from diffeat.activations import read
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError, ModelError
from diffeat.extraction.views import Views
from diffeat.techniques import ControlNet, Scene, Session
from diffeat.techniques.parse import parse_combination
from tiny.pipelines import build

SIZE = (96, 64)
TEXTS = ["a cat", "a dog"]


@dataclass(frozen=True)
class Case:
    """A ControlNet class, a configuration of it, the stock pipeline that runs it, and where features are read."""

    base: str
    net: Any
    pipeline: Any
    reads: str
    config: dict[str, Any] = field(default_factory=dict)
    denoiser: dict[str, Any] = field(default_factory=dict)
    shown_as: str = "control_image"
    mode: int | None = None


SD3: dict[str, Any] = {
    "net": D.SD3ControlNetModel,
    "pipeline": D.StableDiffusion3ControlNetPipeline,
    "reads": "transformer_blocks.2",
}
FLUX: dict[str, Any] = {
    "net": D.FluxControlNetModel,
    "pipeline": D.FluxControlNetPipeline,
    "reads": "single_transformer_blocks.2",
}
XL: dict[str, Any] = {"base": "sdxl", "reads": "up_blocks.1"}
_NO_TEXT = {"joint_attention_dim": None, "use_pos_embed": False, "dual_attention_layers": (), "qk_norm": None}

CASES = {
    "sdxl": Case(**XL, net=D.ControlNetModel, pipeline=D.StableDiffusionXLControlNetPipeline, shown_as="image",
                 config={"conditioning_embedding_out_channels": (4, 4, 8, 8)}),
    "sdxl-union": Case(**XL, net=D.ControlNetUnionModel, pipeline=D.StableDiffusionXLControlNetUnionPipeline, mode=2,
                       config={"conditioning_embedding_out_channels": (4, 4, 8, 8), "num_trans_channel": 4,
                               "num_proj_channel": 4, "num_trans_head": 2, "num_control_type": 3}),
    "sd3": Case("sd3", **SD3, config={"num_layers": 2}),
    "sd3-pooled": Case("sd3", **SD3, config={"num_layers": 3, "force_zeros_for_pooled_projection": False}),
    "sd35-without-text": Case(
        "sd35", **SD3, config={"num_layers": 1, "force_zeros_for_pooled_projection": False, **_NO_TEXT}
    ),
    "flux": Case("flux", **FLUX, config={"num_layers": 1, "num_single_layers": 2}),
    "flux-without-guidance-and-singles": Case(
        "flux", **FLUX, config={"num_layers": 2, "num_single_layers": 0, "guidance_embeds": False}
    ),
    "flux-union": Case("flux", **FLUX, config={"num_layers": 1, "num_single_layers": 1, "num_mode": 4}, mode=3),
    "flux-hint": Case("flux", **FLUX, denoiser={"num_layers": 4},
                      config={"num_layers": 2, "num_single_layers": 0, "conditioning_embedding_channels": 16,
                              "patch_size": 2}),
    "qwen-image": Case("qwen_image", net=D.QwenImageControlNetModel, pipeline=D.QwenImageControlNetPipeline,
                       reads="transformer_blocks.2", denoiser={"num_layers": 3}, config={"num_layers": 2}),
    "hunyuan-dit": Case("hunyuan_dit", net=D.HunyuanDiT2DControlNetModel, pipeline=D.HunyuanDiTControlNetPipeline,
                        reads="blocks.7", denoiser={"num_layers": 8}, config={"transformer_num_layers": 8}),
    "sana": Case("sana", net=D.SanaControlNetModel, pipeline=D.SanaControlNetPipeline, reads="transformer_blocks.2",
                 denoiser={"num_layers": 3}, config={"num_layers": 2}),
}  # fmt: skip


def randomised(model: Any) -> Any:
    """Weights that start at zero would hide every effect."""
    for parameter in model.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.3)
    return model.eval()


@pytest.fixture(scope="module", params=CASES)
def case(request: Any) -> Case:
    return CASES[request.param]


def backbone_of(case: Case) -> Backbone:
    pipeline = build(case.base)
    if case.denoiser:
        torch.manual_seed(1)
        larger = type(pipeline.transformer).from_config({**pipeline.transformer.config, **case.denoiser})
        pipeline.register_modules(transformer=randomised(larger))
    return Backbone.from_pipeline(pipeline)


@pytest.fixture(scope="module")
def backbone(case: Case) -> Backbone:
    return backbone_of(case)


@pytest.fixture(scope="module")
def path(case: Case, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(case, backbone, tmp_path_factory.mktemp("nets") / "net")


def save(case: Case, backbone: Backbone, path: Path, seed: int = 2, **config: Any) -> str:
    torch.manual_seed(seed)
    wanted = {**backbone.denoiser.config, "extra_conditioning_channels": 0, **case.config, **config}
    wanted.pop("_use_default_values", None)  # would win over what is wanted
    randomised(case.net.from_config(wanted)).save_pretrained(path)
    return str(path)


@pytest.fixture(autouse=True)
def mean_of_the_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stock pipelines draw the latent of a condition; diffeat takes the mean."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean)


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC)


def negative(image: np.ndarray) -> np.ndarray:
    return 255 - image


def scene(seed: int) -> Scene:
    pixels = torch.from_numpy(np.array(picture(seed))).permute(2, 0, 1).float() / 127.5 - 1
    return Scene(str(seed), pixels, TEXTS[seed])


def control(case: Case, path: str, scale: float = 0.7) -> ControlNet:
    return ControlNet(model=path, condition=negative, scale=scale, mode=case.mode)


def features(backbone: Backbone, case: Case, *techniques: ControlNet, count: int = 2) -> Tensor:
    recipe = Recipe.from_dict(
        {
            "model": "tiny",
            "prompt": "a cat",
            "frame": {"mode": "squash", "size": list(SIZE)},
            "trajectory": {"kind": "noise", "timesteps": [300], "draws": 1},
            "activations": [case.reads],
            "techniques": list(techniques) or None,
        }
    )
    found = Extractor(recipe, backbone).extract([picture(i) for i in range(count)])
    return torch.stack([f.tensor for f in found])


def state(backbone: Backbone) -> str:
    digest = hashlib.sha256()
    for name in ("unet", "transformer", "vae"):
        part = getattr(backbone.pipeline, name, None)
        for path, module in part.named_modules() if part is not None else ():
            digest.update(f"{path}{type(module)}{sorted(vars(module))}{len(module._forward_hooks)}".encode())
        for path, weight in part.state_dict().items() if part is not None else ():
            digest.update(path.encode() + weight.float().numpy().tobytes())
    return digest.hexdigest() + str(backbone.denoiser.config)


@dataclass
class Stock:
    """What the stock pipeline passed to its denoiser in the first step, and what came out."""

    inputs: dict[str, Any]
    output: Tensor
    feature: Tensor


def stock_call(case: Case, backbone: Backbone, path: str) -> Stock:
    parts = {k: v for k, v in backbone.pipeline.components.items() if v is not None or k == "safety_checker"}
    if case.base == "hunyuan_dit":
        parts |= {"feature_extractor": None}
    pipeline = case.pipeline(**parts, controlnet=case.net.from_pretrained(path))
    pipeline.set_progress_bar_config(disable=True)
    denoiser, seen = backbone.denoiser, {}

    def before(module: Any, args: Any, kwargs: Any) -> None:
        names = ("hidden_states", "timestep") if hasattr(pipeline, "transformer") else ("sample", "timestep")
        seen["inputs"] = {**dict(zip(names, args, strict=False)), **kwargs}
        if isinstance(kwargs.get("controlnet_block_samples"), list):  # one of the denoisers empties the list
            seen["inputs"]["controlnet_block_samples"] = list(kwargs["controlnet_block_samples"])

    hooks = [
        denoiser.register_forward_pre_hook(before, with_kwargs=True),
        denoiser.register_forward_hook(lambda module, args, output: seen.update(output=output[0])),
        denoiser.get_submodule(case.reads).register_forward_hook(
            lambda module, args, output: seen.update(feature=output[-1] if isinstance(output, tuple) else output)
        ),
    ]
    mode = {} if case.mode is None else {"control_mode": case.mode}
    conditions: list[Any] = [Image.fromarray(negative(np.array(picture(i)))) for i in range(2)]
    if case.net is D.ControlNetUnionModel:  # this pipeline takes a list over kinds of condition
        conditions = [torch.stack([torch.from_numpy(np.array(c)).permute(2, 0, 1) / 255 for c in conditions])]
    try:
        with torch.no_grad():
            pipeline(
                TEXTS, width=SIZE[0], height=SIZE[1], num_inference_steps=1, output_type="latent",
                generator=torch.Generator().manual_seed(3), controlnet_conditioning_scale=0.7,
                **{case.shown_as: conditions}, **mode, **backbone.family.options,
            )  # fmt: skip
    finally:
        for hook in hooks:
            hook.remove()
    return Stock(**seen)


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 1e-5, f"relative error {error:.2e}"


def test_equals_the_stock_pipeline(case: Case, backbone: Backbone, path: str) -> None:
    expected = stock_call(case, backbone, path)
    latents = expected.inputs[backbone.family.latent_argument]
    h, w = backbone.latent_size(SIZE)
    channels = backbone.encode_images(torch.zeros(1, 3, *SIZE[::-1])).mean.shape[1]
    noisy = backbone.family.unpack(latents, torch.zeros(2, channels, h, w))
    t = expected.inputs["timestep"].float() * (1000 if case.base in ("flux", "qwen_image") else 1)
    with torch.no_grad(), Session(backbone) as session, session.use(control(case, path)) as steered:
        rows = steered.prepare([scene(0), scene(1)])
        inputs = steered.inputs(noisy, t, rows)
        feature = read(backbone.denoiser, [case.reads], **steered.inputs(noisy, t, rows))[case.reads]
        output = backbone.denoiser(**inputs)[0]
        with session.use() as plain:
            base = backbone.denoiser(**plain.inputs(noisy, t, plain.prepare([scene(0), scene(1)])))[0]
    close(output, expected.output)
    raw = expected.feature
    close(feature, raw if raw.ndim == 4 else raw.transpose(1, 2).reshape(feature.shape))
    assert (output - base).abs().max() > 1e-3 * base.abs().max()  # so the agreement is about something


def test_null_twin_batches_and_the_backbone_afterwards(case: Case, backbone: Backbone, path: str) -> None:
    before, base = state(backbone), features(backbone, case)
    technique = control(case, path)
    steered = features(backbone, case, technique)
    assert torch.equal(features(backbone, case, technique.null()), base)  # type: ignore[arg-type]
    assert (steered - base).abs().max() > 1e-3 * base.abs().max()
    close(features(backbone, case, technique, count=1), steered[:1])
    assert state(backbone) == before


def test_two_add_up(case: Case, backbone: Backbone, path: str, tmp_path: Path) -> None:
    """Halves of one net are the whole net; another net's residuals are added to each."""
    other = control(case, save(case, backbone, tmp_path / "other", seed=5))
    noisy = torch.randn(1, *backbone.encode_images(scene(0).pixels[None]).mean.shape[1:])

    def added(session: Session, *techniques: ControlNet) -> list[Tensor]:
        with session.use(techniques) as steered, torch.no_grad():
            inputs = steered.inputs(noisy, 300, steered.prepare([scene(0)]))
        return [
            leaf for name in sorted(inputs) if "control" in name or "residual" in name for leaf in flat(inputs[name])
        ]

    with Session(backbone) as session:
        one, half = added(session, control(case, path)), control(case, path, 0.35)
        twice, second, both = added(session, half, half), added(session, other), added(session, half, half, other)
    assert any(leaf.any() for leaf in one)
    for whole, halves, more, everything in zip(one, twice, second, both, strict=True):
        close(halves, whole)
        close(everything, whole + more)


def flat(residuals: Any) -> list[Tensor]:
    if isinstance(residuals, Tensor):
        return [residuals]
    return [leaf for item in residuals or () for leaf in flat(item)]


def test_nets_of_other_depth_add_up_block_by_block(tmp_path: Path) -> None:
    """Stock sums lists of unequal length to the shorter one; here every block gets what each net alone gives it."""
    case = CASES["flux-hint"]
    backbone = backbone_of(case)
    shallow = control(case, save(case, backbone, tmp_path / "shallow", num_layers=1, num_single_layers=1))
    latents = {"num_layers": 3, "conditioning_embedding_channels": None, "patch_size": 1}
    deep = control(case, save(case, backbone, tmp_path / "deep", seed=5, **latents))
    denoiser: Any = backbone.denoiser
    noisy = torch.randn(1, 16, SIZE[1] // 8, SIZE[0] // 8)
    hidden = {}
    block = denoiser.transformer_blocks[3]
    with torch.no_grad(), Session(backbone) as session:
        for name, techniques in {"shallow": [shallow], "deep": [deep], "both": [shallow, deep], "base": []}.items():
            with session.use(techniques) as steered:
                inputs = steered.inputs(noisy, 300, steered.prepare([scene(0)]))
            # what is added after the last block is the difference to what that block itself returns
            seen = []
            hooks = [
                block.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output[1])),
                denoiser.single_transformer_blocks[0].register_forward_pre_hook(
                    lambda module, args, kwargs, seen=seen: seen.append(kwargs["hidden_states"]), with_kwargs=True
                ),
            ]
            denoiser(**inputs)
            for hook in hooks:
                hook.remove()
            hidden[name] = seen[1] - seen[0]
    assert not hidden["base"].any()
    assert hidden["shallow"].any()
    assert hidden["deep"].any()
    assert torch.allclose(hidden["both"], hidden["shallow"] + hidden["deep"], rtol=1e-4, atol=1e-4)


def test_a_condition_is_encoded_once_and_views_equal_their_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES["sd3"]
    backbone = backbone_of(case)
    one, other = (save(case, backbone, tmp_path / str(seed), seed) for seed in (2, 5))
    combinations = [[], [control(case, one)], [control(case, one, 1.5)], [control(case, one), control(case, other)]]
    recipes = [
        Recipe.from_dict(
            {
                "model": "tiny",
                "frame": {"mode": "squash", "size": list(SIZE)},
                "trajectory": {"kind": "noise", "timesteps": [300], "draws": 2},
                "activations": [case.reads],
                "techniques": techniques or None,
            }
        )
        for techniques in combinations
    ]
    images = [picture(0), picture(1)]
    alone = [[m.tensor for m in Extractor(recipe, backbone).extract(images)] for recipe in recipes]
    encoded = []
    encode = backbone.encode_images
    monkeypatch.setattr(backbone, "encode_images", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    together = Views(recipes, backbone).extract(images)
    assert sum(encoded) == 2 + 2  # each picture and each condition
    for found, expected in zip(zip(*together, strict=True), alone, strict=True):
        for map_, tensor in zip(found, expected, strict=True):
            close(map_.tensor, tensor)


def test_half_precision_beside_an_autoencoder_in_float32(tmp_path: Path) -> None:
    case = CASES["sdxl"]
    backbone = backbone_of(case)
    technique = control(case, save(case, backbone, tmp_path / "net"))
    expected = features(backbone, case, technique)
    backbone = Backbone.from_pipeline(backbone.pipeline.to(torch.bfloat16))
    vae = backbone.pipeline.vae
    before, places = state(backbone), [p.data_ptr() for p in vae.parameters()]
    assert (features(backbone, case, technique) - expected).norm() < 0.1 * expected.norm()
    assert state(backbone) == before
    assert [p.data_ptr() for p in vae.parameters()] == places


def refused(backbone: Backbone, technique: ControlNet, error: type[Exception], match: str) -> None:
    before = state(backbone)
    with pytest.raises(error, match=match), Session(backbone) as session, session.use(technique):
        pass
    assert state(backbone) == before


OTHER_BASES = {
    "sdxl-union": ({"cross_attention_dim": 8}, "it has cross_attention_dim 8 instead of 16"),
    "sd3": ({"qk_norm": "rms_norm"}, "it has qk_norm rms_norm instead of None"),
    "sd35-without-text": ({"pooled_projection_dim": 8}, "it has pooled_projection_dim 8 instead of 16"),
    "flux": ({"joint_attention_dim": 16}, "it has joint_attention_dim 16 instead of 8"),
    "qwen-image": ({"num_attention_heads": 1}, "it has num_attention_heads 1 instead of 2"),
    "hunyuan-dit": ({"transformer_num_layers": 6}, "it has transformer_num_layers 6 instead of 8"),
    "sana": ({"caption_channels": 16}, "it has caption_channels 16 instead of 8"),
}


@pytest.mark.parametrize("name", OTHER_BASES)
def test_of_another_base_model(name: str, tmp_path: Path) -> None:
    case, (config, message) = CASES[name], OTHER_BASES[name]
    backbone = backbone_of(case)
    technique = control(case, save(case, backbone, tmp_path / "net", **config))
    refused(backbone, technique, ModelError, f"made for another base model: {message}")


def test_refusals(tmp_path: Path) -> None:
    flux, sd3 = backbone_of(CASES["flux"]), backbone_of(CASES["sd3"])
    of_flux = save(CASES["flux"], flux, tmp_path / "flux")
    refused(sd3, ControlNet(model=of_flux), ModelError, "a FluxControlNetModel for a FluxTransformer2DModel, but this")
    schnell = backbone_of(Case("flux", **FLUX, denoiser={"guidance_embeds": False}))
    refused(schnell, ControlNet(model=of_flux), ModelError, "another base model: it has guidance_embeds True")
    masked = save(CASES["sd3"], sd3, tmp_path / "masked", extra_conditioning_channels=1)
    refused(sd3, ControlNet(model=masked), ModelError, "takes 1 more channels, a mask")
    (tmp_path / "xs").mkdir()
    (tmp_path / "xs" / "config.json").write_text('{"_class_name": "ControlNetXSAdapter"}')
    refused(sd3, ControlNet(model=str(tmp_path / "xs")), ModelError, r"not supported.*\(FluxControlNetModel\)")
    refused(sd3, ControlNet(model=str(tmp_path / "none")), ModelError, "is not there")
    for spoil in (
        lambda file: file.write_bytes(file.read_bytes()[:100]),
        lambda file: (file.unlink(), os.mkfifo(file)),
    ):
        spoilt = Path(save(CASES["sd3"], sd3, tmp_path / "spoilt"))
        spoil(next(spoilt.glob("*.safetensors")))
        refused(sd3, ControlNet(model=str(spoilt)), ModelError, "is damaged|is not a regular file")
        shutil.rmtree(spoilt)
    pixart = Backbone.from_pipeline(build("pixart_sigma"))
    refused(pixart, ControlNet(model=of_flux), ModelError, "Sana.* this model has a PixArtTransformer2DModel")
    union = save(CASES["flux-union"], flux, tmp_path / "union")
    for mode in (None, 4):
        refused(flux, ControlNet(model=union, mode=mode), InvalidValueError, "knows 4 kinds .* mode=0 to 3")
    refused(flux, ControlNet(model=of_flux, mode=1), InvalidValueError, "one kind of condition")


def test_a_mode_is_held_only_where_there_is_one() -> None:
    assert "mode" not in ControlNet(model="x").model_dump()
    assert "mode" not in ControlNet(model="x").model_dump(exclude_defaults=True)
    union = ControlNet(model="x", mode=2)
    assert ControlNet(**union.model_dump()) == union != ControlNet(model="x", mode=1)
    assert union.null().mode == union.at(0.5).mode == 2
    assert next(iter(parse_combination("controlnet:x,mode=2"))) == union
