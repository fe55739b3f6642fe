"""Views with weights of their own: merged checkpoints and whole models beside the base, each loaded once."""

# ruff: noqa: F811 (arguments are named like the fixtures that are imported)
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from diffeat import Extractor
from diffeat.backbones import Backbone, weights
from diffeat.errors import InvalidValueError, ModelError
from diffeat.extraction import Views
from diffeat.techniques import ControlNet, LoRA, OtherWeights, Session
from support.techniques import backbone, files, fingerprint, picture, recipe, save_kohya  # noqa: F401 (fixtures)
from tiny.pipelines import build

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
OUTER = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
         "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip


def original_name(name: str, layers: int) -> str:
    """What the single-file checkpoints of Stable Diffusion 1 call a weight of the UNet."""
    for ours, theirs in OUTER.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    parts = name.split(".")
    if parts[0] == "mid_block":
        kind, rest = parts[1], parts[3:]
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(parts[2])}"
    else:
        side, block, kind, j, rest = parts[0], int(parts[1]), parts[2], int(parts[3]), parts[4:]
        at = (layers + 1) * block + j + 1 if side == "down_blocks" else (layers + 1) * block + j
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (block + 1)}.0.op.{rest[-1]}"
        if kind == "upsamplers":
            return f"output_blocks.{(layers + 1) * block + layers}.{2 if block else 1}.conv.{rest[-1]}"
        place = f"{'input' if side == 'down_blocks' else 'output'}_blocks.{at}.{int(kind == 'attentions')}"
    return ".".join([place, *(RESNET.get(part, part) if kind == "resnets" else part for part in rest)])


def merged(unet: Any, lora: Path, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """The UNet's weights with a kohya LoRA added by hand."""
    from safetensors.torch import load_file

    state, adapter = {k: v.clone() for k, v in unet.state_dict().items()}, load_file(lora)
    for name in state:
        key = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
        if f"{key}.alpha" in adapter:
            up, down = adapter[f"{key}.lora_up.weight"], adapter[f"{key}.lora_down.weight"]
            state[name] += scale * adapter[f"{key}.alpha"] / len(down) * up @ down
    return state


def write_checkpoint(file: Path, state: dict[str, torch.Tensor], layers: int) -> None:
    """As trainers merge a LoRA: one pickled file with the original names, autoencoder and text encoder beside it."""
    named = {f"model.diffusion_model.{original_name(name, layers)}": value for name, value in state.items()}
    others = {"first_stage_model.x": torch.zeros(1), "cond_stage_model.x": torch.zeros(1)}
    torch.save({"state_dict": {**named, **others}}, file)


@pytest.fixture(scope="module")
def checkpoint(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A LoRA of the UNet alone, and the model it was merged into."""
    folder = tmp_path_factory.mktemp("merged")
    torch.manual_seed(5)
    save_kohya(folder / "lora.safetensors", backbone.denoiser, None)
    state = merged(backbone.denoiser, folder / "lora.safetensors")
    write_checkpoint(folder / "merged.ckpt", state, backbone.denoiser.config.layers_per_block)
    return folder / "lora.safetensors", folder / "merged.ckpt"


def maps(*arguments: Any, **changes: Any) -> list[torch.Tensor]:
    (features,) = Extractor(recipe(**changes), *arguments).extract([picture(0)])
    return list(features.activations.values())


def test_a_merged_checkpoint_is_the_lora_at_every_scale(backbone: Backbone, checkpoint: tuple[Path, Path]) -> None:
    lora, file = checkpoint
    plain, before = maps(backbone), fingerprint(backbone.pipeline)
    for scale in (1.0, 0.4, -0.75):
        by_lora = maps(backbone, techniques=[LoRA(path=str(lora), scale=scale)])
        by_weights = maps(backbone, techniques=[OtherWeights(source=str(file), scale=scale)])
        for one, other, base in zip(by_lora, by_weights, plain, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(one, base, rtol=1e-2, atol=1e-3)
    assert fingerprint(backbone.pipeline) == before


def test_views_share_what_is_equal_and_read_each_file_once(
    backbone: Backbone, files: Any, checkpoint: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lora, file = checkpoint
    counted = {"file": 0, "vae": 0, "text": 0}

    def count(owner: Any, name: str, what: str) -> None:
        plain = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (counted.update({what: counted[what] + 1}), plain(*a, **k))[1])

    count(weights, "denoiser_weights", "file")
    count(backbone.pipeline.vae, "encode", "vae")
    count(backbone.pipeline.text_encoder, "forward", "text")
    control = {"kind": "controlnet", "model": str(files / "control"), "condition": "soft-edges"}
    own = {"source": str(file)}
    views = [
        {"name": "plain"},
        {"name": "merged", "denoiser": own},
        {"name": "merged, controlnet", "denoiser": own, "techniques": [control]},
        {"name": "merged, again a lora", "denoiser": own, "techniques": [{"kind": "lora", "path": str(lora)}]},
    ]
    joined = recipe(prompt="a cat on a roof", views=views, fuse={"kind": "concat"})
    extractor = Extractor(joined, backbone)
    (features,) = extractor.extract([picture(0)])
    assert counted == {"file": 1, "vae": 1, "text": 1}
    twice = [LoRA(path=str(lora), scale=2)]
    expected = [
        *maps(backbone, prompt="a cat on a roof"),
        *maps(backbone, prompt="a cat on a roof", techniques=[LoRA(path=str(lora))]),
        *maps(backbone, prompt="a cat on a roof", techniques=[ControlNet.model_validate(control), twice[0].at(1)]),
        *maps(backbone, prompt="a cat on a roof", techniques=twice),
    ]
    assert features.tensor.shape[0] == sum(m.shape[0] for m in expected)
    alone = Views([recipe(prompt="a cat on a roof", techniques=[OtherWeights(source=str(file))])], backbone)
    assert extractor.fingerprint != alone.fingerprint != backbone.fingerprint
    grid = features.tensor.shape[-2:]
    assert torch.allclose(
        features.tensor,
        torch.cat([torch.nn.functional.interpolate(m[None], grid, mode="bilinear")[0] for m in expected]),
        rtol=1e-3,
        atol=1e-4,
    )


def test_weights_that_are_equal_are_the_models_own(backbone: Backbone, checkpoint: tuple[Path, Path]) -> None:
    own = dict(backbone.denoiser.named_parameters())
    with Session(backbone) as session, session.use(OtherWeights(source=str(checkpoint[1]))):
        other = dict(backbone.denoiser.named_parameters())
        exchanged = {name for name in own if other[name] is not own[name]}
    assert exchanged
    assert exchanged == {name for name in own if re.search(r"attn2\.to_[qv]\.weight", name)}


def test_a_view_with_its_own_model(backbone: Backbone, tmp_path: Path) -> None:
    """Denoiser and text encoder of the other one; what it gives is what it gives on its own."""
    other = build("sd15", 1)
    other.vae.load_state_dict(backbone.pipeline.vae.state_dict())
    other.save_pretrained(tmp_path / "other")
    views = [{"name": "plain"}, {"name": "other", "model": str(tmp_path / "other")}]
    held = recipe(views=views, fuse={"kind": "concat"}, activations=["up_blocks.1"])
    before = fingerprint(backbone.pipeline)
    found = Extractor(held, backbone).extract([picture(0)])[0].tensor
    assert fingerprint(backbone.pipeline) == before
    expected = [maps(b, activations=["up_blocks.1"])[0] for b in (backbone, Backbone.from_pipeline(other))]
    assert torch.allclose(found, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_refusals(backbone: Backbone, tmp_path: Path) -> None:
    build("sd15", 1).save_pretrained(tmp_path / "other")
    before = fingerprint(backbone.pipeline)
    with pytest.raises(ModelError, match="another autoencoder"):
        maps(backbone, techniques=[OtherWeights(model=str(tmp_path / "other"))])
    torch.save({"state_dict": {"model.diffusion_model.out.2.bias": torch.zeros(4)}}, tmp_path / "part.ckpt")
    with pytest.raises(ModelError, match=r"part\.ckpt"):
        maps(backbone, techniques=[OtherWeights(source=str(tmp_path / "part.ckpt"))])
    with pytest.raises(ModelError, match="not there"):
        maps(backbone, techniques=[OtherWeights(source="none.ckpt")])
    assert fingerprint(backbone.pipeline) == before
    with pytest.raises(InvalidValueError, match="a model brings its own denoiser"):
        recipe(views=[{"model": "a/b", "denoiser": {"source": "c.ckpt"}}], fuse={"kind": "mean"})
    with pytest.raises(InvalidValueError, match="either source"):
        OtherWeights()
