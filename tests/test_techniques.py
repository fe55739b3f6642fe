"""Techniques on tiny pipelines: undone whatever happens, null twins equal to the base, clear refusals."""

from __future__ import annotations

import hashlib
from typing import Any

import diffusers as D
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from diffeat import Extractor, Recipe
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError, ModelError
from diffeat.techniques import (
    Combination,
    ControlNet,
    DenoiseFrom,
    Guidance,
    IPAdapter,
    LoRA,
    Prompt,
    Scene,
    Session,
)
from tiny.pipelines import build

SIZE = 64


def fingerprint(pipeline: Any) -> str:
    """Every weight bit, every module's class, flags, hooks and attention processors, and the configurations."""
    digest = hashlib.sha256()
    for name, part in sorted(pipeline.components.items()):
        if not isinstance(part, nn.Module):
            continue
        for path, module in part.named_modules():
            hooks = [len(getattr(module, h)) for h in ("_forward_hooks", "_forward_pre_hooks")]
            seen = (name, path, type(module).__name__, module.training, hooks, sorted(map(str, vars(module))))
            digest.update(repr((*seen, type(getattr(module, "processor", None)).__name__)).encode())
        for path, weight in [*part.named_parameters(), *part.named_buffers()]:
            digest.update(f"{path}{weight.dtype}{weight.requires_grad}".encode())
            digest.update(weight.detach().contiguous().numpy().tobytes())
        config = getattr(part, "config", None)
        digest.update(repr((config, sorted(map(str, vars(config))) if config is not None else None)).encode())
    digest.update(repr(sorted(vars(pipeline))).encode())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.from_pipeline(build("sd15"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Any:
    """A ControlNet, a LoRA of both networks in kohya's format, and an IP-Adapter."""
    folder = tmp_path_factory.mktemp("techniques")
    torch.manual_seed(0)
    unet = backbone.pipeline.unet
    control = D.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
    for p in control.parameters():
        p.data.normal_(std=0.2)
    control.save_pretrained(folder / "control")
    D.ControlNetModel.from_unet(
        D.UNet2DConditionModel.from_config({**unet.config, "cross_attention_dim": 16}),
        conditioning_embedding_out_channels=(4, 4, 8, 8),
    ).save_pretrained(folder / "other")
    _save_kohya(folder / "lora.safetensors", unet, backbone.pipeline.text_encoder)
    wide = D.UNet2DConditionModel.from_config({**unet.config, "block_out_channels": (8, 16, 16, 16)})
    _save_kohya(folder / "wide.safetensors", wide, None)
    return folder


def _save_kohya(file: Any, unet: nn.Module, text: nn.Module | None) -> None:
    from safetensors.torch import save_file

    state = {}
    for prefix, part in (("lora_unet", unet), ("lora_te", text)):
        for path, module in part.named_modules() if part is not None else ():
            if isinstance(module, nn.Linear) and path.endswith(
                ("attn2.to_q", "attn2.to_v", "q_proj", "v_proj", "out_proj")
            ):
                name = f"{prefix}_{path.replace('.', '_')}"
                state[f"{name}.lora_down.weight"] = torch.randn(2, module.in_features)
                state[f"{name}.lora_up.weight"] = torch.randn(module.out_features, 2)
                state[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(state, file)


def picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def recipe(*techniques: Any, **changes: Any) -> Recipe:
    base = Recipe.from_dict(
        {
            "model": "tiny",
            "prompt": "a cat",
            "frame": {"mode": "squash", "size": SIZE},
            "trajectory": {"kind": "noise", "timesteps": [200], "draws": 2},
            "activations": ["up_blocks.1", "up_blocks.2.attentions.0.transformer_blocks.0.attn2.q"],
            "techniques": list(techniques) or None,
        }
    )
    return base.replace(**changes) if changes else base


def features(backbone: Backbone, *techniques: Any, **changes: Any) -> torch.Tensor:
    found = Extractor(recipe(*techniques, **changes), backbone).extract([picture(0), picture(1)])
    return torch.cat([m.flatten() for f in found for m in f.activations.values()])


def all_of(files: Any) -> list[Any]:
    return [
        Prompt(text="a dog on a chair"),
        ControlNet(model=str(files / "control"), condition="soft-edges"),
        LoRA(path=str(files / "lora.safetensors"), scale=0.7),
        DenoiseFrom(start=260, steps=2),
        Guidance(scale=3),
    ]


def test_every_technique_acts_and_is_undone_and_its_null_twin_is_the_base(backbone: Backbone, files: Any) -> None:
    base, before = features(backbone), fingerprint(backbone.pipeline)
    for technique in all_of(files)[:4]:
        assert not torch.allclose(features(backbone, technique), base), technique
        assert torch.equal(features(backbone, technique.null()), base), technique
        assert fingerprint(backbone.pipeline) == before
    together = Combination(all_of(files))
    both = features(backbone, *together)
    assert not torch.allclose(both, features(backbone, *list(together)[:4]))  # guidance acts on the steps
    assert torch.equal(features(backbone, *together.null()), base)
    assert torch.equal(features(backbone), base)
    assert fingerprint(backbone.pipeline) == before


def test_a_lora_of_the_text_encoder_changes_the_text_only_while_it_is_there(backbone: Backbone, files: Any) -> None:
    scene = [Scene("x", torch.zeros(3, SIZE, SIZE), "a cat")]
    with Session(backbone) as session:
        with session.use() as steered:
            plain = steered.prepare(scene).conditioning.rows[0]["encoder_hidden_states"]
        with session.use(LoRA(path=str(files / "lora.safetensors"))) as steered:
            changed = steered.prepare(scene).conditioning.rows[0]["encoder_hidden_states"]
        with session.use() as steered:
            again = steered.prepare(scene).conditioning.rows[0]["encoder_hidden_states"]
    assert not torch.allclose(plain, changed)
    assert torch.equal(plain, again)


def test_scales_interpolate_a_lora(backbone: Backbone, files: Any) -> None:
    """At half the scale, W + s/2 B A: what PEFT computes equals weights merged by hand."""
    file = files / "lora.safetensors"
    from safetensors.torch import load_file

    state = load_file(file)
    merged = Backbone.from_pipeline(build("sd15"))
    modules = {f"lora_unet_{p.replace('.', '_')}": m for p, m in merged.pipeline.unet.named_modules()} | {
        f"lora_te_{p.replace('.', '_')}": m for p, m in merged.pipeline.text_encoder.named_modules()
    }
    for key in [k for k in state if k.endswith("alpha")]:
        name = key.removesuffix(".alpha")
        up, down = state[f"{name}.lora_up.weight"], state[f"{name}.lora_down.weight"]
        modules[name].weight.data += 0.5 * state[key] / 2 * up @ down
    found = features(backbone, LoRA(path=str(file), scale=0.5))
    assert torch.allclose(found, features(merged), rtol=1e-4, atol=1e-5)


def test_ip_adapter_by_a_pipeline_that_has_an_image_encoder(backbone: Backbone, tmp_path: Any) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(1)
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16,
            patch_size=8, projection_dim=8,
        )
    )  # fmt: skip
    unet = backbone.pipeline.unet
    width = unet.config.cross_attention_dim
    adapter: dict[str, torch.Tensor] = {}
    k = 1
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            for which in ("to_k_ip", "to_v_ip"):
                adapter[f"ip_adapter.{k}.{which}.weight"] = torch.randn(module.to_k.out_features, width)
            k += 2
    adapter["image_proj.proj.weight"] = torch.randn(4 * width, 8)
    adapter["image_proj.proj.bias"] = torch.randn(4 * width)
    adapter["image_proj.norm.weight"] = torch.ones(width)
    adapter["image_proj.norm.bias"] = torch.zeros(width)
    from safetensors.torch import save_file

    (tmp_path / "models").mkdir()
    save_file(adapter, tmp_path / "models" / "ip.safetensors")
    encoder.save_pretrained(tmp_path / "models" / "image_encoder")
    base, before = features(backbone), fingerprint(backbone.pipeline)
    technique = IPAdapter(path=str(tmp_path), file="ip.safetensors", scale=0.8)
    assert not torch.allclose(features(backbone, technique), base)
    assert torch.equal(features(backbone, technique.null()), base)
    assert fingerprint(backbone.pipeline) == before


class Writes:
    """A technique that does what none may do."""

    label = "writes"

    def __init__(self, sly: bool) -> None:
        self.sly = sly

    def apply(self, pipeline: Any) -> None:
        weight = pipeline.unet.conv_in.weight
        pipeline.unet.mid_block.register_forward_hook(lambda *_: None)
        if self.sly:
            weight.data *= 2
        else:
            with torch.no_grad():
                weight.add_(1)

    def null(self) -> Any:
        return Prompt()


@pytest.mark.parametrize("sly", [False, True])
def test_a_technique_that_writes_into_weights_is_refused_and_undone(backbone: Backbone, sly: bool) -> None:
    before = fingerprint(backbone.pipeline)
    refused = pytest.raises(ModelError, match=r"wrote into 1 weights .*conv_in.weight.* put back")
    with refused, Session(backbone) as session, session.use(Writes(sly)):
        pass
    assert fingerprint(backbone.pipeline) == before


def test_refusals_name_the_reason_and_leave_the_backbone_alone(backbone: Backbone, files: Any, tmp_path: Any) -> None:
    before = fingerprint(backbone.pipeline)
    broken = lambda picture: picture[:3]  # noqa: E731
    for error, match, technique in [
        (ModelError, "another architecture: .* layers do not fit", LoRA(path=str(files / "wide.safetensors"))),
        (ModelError, "cannot be read", LoRA(path=str(tmp_path / "none.safetensors"))),
        (ModelError, "another base model: it has cross_attention_dim 16", ControlNet(model=str(files / "other"))),
        (ModelError, "cannot be loaded", ControlNet(model=str(tmp_path / "none"))),
        (InvalidValueError, "no condition 'cany'. Did you mean 'canny'",
         ControlNet(model=str(files / "control"), condition="cany")),
        (InvalidValueError, "has shape", ControlNet(model=str(files / "control"), condition=broken)),
        (InvalidValueError, "no caption for 'image-", Prompt(captions={"other.png": "a cat"})),
        (InvalidValueError, "no caption file", Prompt(captions=tmp_path / "none.csv")),
        (InvalidValueError, "not above the timestep 200", DenoiseFrom(start=150, steps=2)),
        (ModelError, "IP-Adapter", IPAdapter(path=str(tmp_path))),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            features(backbone, LoRA(path=str(files / "lora.safetensors")), technique)
        assert fingerprint(backbone.pipeline) == before, technique
    for make in (
        lambda: ControlNet(model="x", scale=3),
        lambda: LoRA(path="x", scale=-1),
        lambda: Guidance(scale=99),
        lambda: DenoiseFrom(start=2000),
    ):
        with pytest.raises(InvalidValueError, match=r"is not valid: (scale|start): Input should be"):
            make()
    with pytest.raises(InvalidValueError, match="there can be one"):
        Combination([Guidance(), Guidance(scale=3)])
    with pytest.raises(ModelError, match="ControlNets are supported for UNet"):
        Session(Backbone.from_pipeline(build("pixart_sigma"))).__enter__().use(ControlNet(model="x")).__enter__()


def test_an_error_in_the_middle_of_a_stream_undoes_everything(backbone: Backbone, files: Any) -> None:
    before = fingerprint(backbone.pipeline)
    extractor = Extractor(recipe(*all_of(files)), backbone)
    stream = extractor.stream([picture(i) for i in range(40)])
    next(stream)
    base = features(backbone)  # the suspended stream leaves the base to others
    stream.close()
    assert torch.equal(base, features(backbone))
    assert fingerprint(backbone.pipeline) == before


def test_recipes_hold_techniques(files: Any, tmp_path: Any) -> None:
    held = recipe(*all_of(files))
    held.save(tmp_path / "r.yaml")
    loaded = Recipe.load(tmp_path / "r.yaml")
    assert loaded == held
    assert loaded.hash == held.hash
    assert loaded.hash != recipe().hash
    assert "techniques" not in recipe().content()
    with pytest.raises(InvalidValueError, match="techniques"):
        held.replace(techniques=[{"kind": "controlnet", "model": "x", "scale": 5}])


def test_lambdas_are_told_apart(backbone: Backbone, files: Any) -> None:
    full, none = lambda p: np.ones(p.shape[:2]), lambda p: np.zeros(p.shape[:2])
    one, two = (ControlNet(model=str(files / "control"), condition=c) for c in (full, none))
    assert one != two
    assert one == ControlNet(model=str(files / "control"), condition=full)
    scene = [Scene("x", torch.zeros(3, SIZE, SIZE), "a cat")]
    with Session(backbone) as session:
        controls = []
        for technique in (one, two):
            with session.use(technique) as steered:
                controls.append(steered.prepare(scene).controls[0])
    assert [float(c.mean()) for c in controls] == [1, 0]


def test_captioner_and_captions_by_name(backbone: Backbone) -> None:
    captioner = Prompt(captioner=lambda image: "a dog" if image.size == (SIZE, SIZE) else "?")
    assert torch.equal(features(backbone, captioner), features(backbone, Prompt(text="a dog")))
    names = [f.image for f in Extractor(recipe(), backbone).extract([picture(0), picture(1)])]
    captions = Prompt(captions=dict.fromkeys(names, "a dog"))
    assert torch.equal(features(backbone, captions), features(backbone, Prompt(text="a dog")))
