"""Every id of Generic Diffusion Feature against tensors recorded with its own code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from conftest import golden_roots
from diffeat.activations import MapRequest, read

TOLERANCE = 1e-5


def _cases() -> list:
    found = [p for root in golden_roots() for p in sorted((root / "gdf").glob("**/expected.safetensors"))]
    found = [p for p in found if not p.parent.name.startswith("e2e")]
    return [pytest.param(p.parent, id=f"{p.parents[2].name}-{p.parent.name}") for p in found]


def load_denoiser(folder: Path) -> nn.Module:
    import diffusers

    pipeline = folder if (folder / "pipeline").is_dir() else folder.parent
    index = json.loads((pipeline / "pipeline" / "model_index.json").read_text())
    part = "unet" if "unet" in index else "transformer"
    cls = getattr(diffusers, index[part][1])
    return cls.from_pretrained(pipeline / "pipeline", subfolder=part).eval()


def forward_kwargs(folder: Path) -> dict:
    kwargs: dict = dict(load_file(folder / "inputs.safetensors"))
    kwargs.pop("latents_unpacked", None)
    if "time_ids" in kwargs:
        kwargs["added_cond_kwargs"] = {k: kwargs.pop(k) for k in ("text_embeds", "time_ids")}
    elif "encoder_attention_mask" in kwargs:
        kwargs["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    return kwargs


def error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape, (got.shape, expected.shape)
    return ((got - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("folder", _cases())
def test_every_id_by_alias(folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    ids = [f"gdf:{name}" for name in expected]
    with torch.no_grad():
        got = read(load_denoiser(folder), ids, **forward_kwargs(folder))
    assert list(got) == ids
    errors = {name: error(got[f"gdf:{name}"], tensor) for name, tensor in expected.items()}
    assert max(errors.values()) <= TOLERANCE, sorted(errors.items(), key=lambda e: -e[1])[:5]


@pytest.mark.parametrize("folder", [p for p in _cases() if (p.values[0] / "expected_attn.safetensors").exists()])
def test_aggregated_cross_attention(folder: Path) -> None:
    """Mean over heads, then over layers of equal resolution, nearest-resized and concatenated."""
    expected = load_file(folder / "expected_attn.safetensors")["attn"]
    unet, kwargs = load_denoiser(folder), forward_kwargs(folder)
    tokens = range(kwargs["encoder_hidden_states"].shape[1])
    ids = [n for n, _ in unet.named_modules() if n.startswith("up_blocks") and n.endswith("attn2")]
    with torch.no_grad():
        maps = read(unet, [MapRequest(f"{i}.map", tokens=tokens) for i in ids], **kwargs)
    by_size: dict[int, list[Tensor]] = {}
    side = kwargs["sample"].shape[-1]
    for value in maps.values():
        if side // 4 <= value.shape[-1] <= side // 2:  # layers from 1/32 to 1/16 of the image side
            by_size.setdefault(value.shape[-1], []).append(value)
    resized = [
        nn.functional.interpolate(torch.stack(v).mean(0), size=expected.shape[-2:], mode="nearest")
        for v in by_size.values()
    ]
    assert error(torch.cat(resized, dim=1), expected) <= TOLERANCE
