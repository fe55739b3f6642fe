"""Modulated inputs against the explicit AdaLN formula, evaluated in float64 from weights and conditioning.

The expected tensors of ``ditf/others`` were computed without looking at the consumer, so they say independently that
``adaln`` is the right tensor and that the image tokens are cut out at the right place.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from conftest import golden_roots
from diffeat.activations import read
from test_golden_gdf import TOLERANCE, error

FAMILIES = [
    pytest.param(path.parent, id=f"{root.parent.name}-{path.parent.name}")
    for root in golden_roots()
    for path in sorted((root / "ditf" / "others").glob("*/meta.json"))
]


def _load(folder: Path, meta: dict) -> nn.Module:
    import diffusers

    return getattr(diffusers, meta["model_class"]).from_pretrained(folder / meta["transformer"]).eval()


def _kwargs(folder: Path, meta: dict) -> dict:
    stored = load_file(folder / "inputs.safetensors")
    members = meta["ensemble"]
    whole = {"hidden_states": stored.pop("hidden_states")}
    for name, value in stored.items():
        alone = name in ("img_ids", "txt_ids") or name.startswith(("image_rotary_emb", "freqs"))
        whole[name] = value if alone else value.repeat(members, *[1] * (value.dim() - 1))
    if meta["model_class"] == "PixArtTransformer2DModel":
        whole["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    if "img_shapes" in meta:
        whole["img_shapes"] = [[tuple(meta["img_shapes"][0])]] * members
    if meta["model_class"] == "ZImageTransformer2DModel":
        return {"x": list(whole["hidden_states"]), "t": whole["timestep"], "cap_feats": list(whole["cap_feats"])}
    rotary = sorted(k for k in whole if k.startswith("image_rotary_emb") and k != "image_rotary_emb")
    if rotary:
        whole["image_rotary_emb"] = tuple(whole.pop(k) for k in rotary)
    return whole


@pytest.mark.parametrize("folder", FAMILIES)
def test_modulated_and_raw(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    expected = load_file(folder / "expected.safetensors")
    modulated = {s["name"]: _adaln_id(s) for s in meta["sites"]}
    raw = {s["name"]: f"{s['norm']}.in" for s in meta["sites"]}
    with torch.no_grad():
        got = read(_load(folder, meta), [*modulated.values(), *raw.values()], **_kwargs(folder, meta))
    for name in modulated:
        assert error(got[modulated[name]][:1], expected[f"{name}.ensemble1.modulated"]) <= TOLERANCE, name
        assert error(got[raw[name]], expected[f"{name}.raw_members"]) <= TOLERANCE, name


def _adaln_id(site: dict) -> str:
    first = site["name"].endswith(".msa")
    return f"{site['block'] if first else site['consumer']}.adaln"


FLUX = [
    pytest.param(path.parent, id=f"{root.parent.name}-{path.parent.name}")
    for root in golden_roots()
    for path in sorted((root / "ditf" / "flux").glob("case*/inputs.safetensors"))
]


@pytest.mark.parametrize("folder", FLUX)
def test_flux(folder: Path) -> None:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    net = FluxTransformer2DModel.from_pretrained(folder.parent / "pipeline", subfolder="transformer").eval()
    stored, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    members = len(stored["hidden_states"])
    kwargs = {
        "hidden_states": stored["hidden_states"],
        "encoder_hidden_states": stored["prompt_embeds"].expand(members, -1, -1),
        "pooled_projections": stored["pooled_prompt_embeds"].expand(members, -1),
        "timestep": stored["timestep"].expand(members),
        "guidance": stored["guidance"].expand(members),
        "img_ids": stored["img_ids"],
        "txt_ids": stored["txt_ids"],
    }
    doubles = len(net.transformer_blocks)
    names = {}
    for key in expected:
        stack, _, rest = key.partition(".")
        number = int(stack[6:])
        path = f"{'transformer' if stack.startswith('double') else 'single_transformer'}_blocks.{number}"
        if rest == "msa.modulated_members":
            names[key] = f"ditf:{number}"
        elif rest == "mlp.modulated_members":
            names[key] = f"{path}.ff.adaln"
        elif rest in ("msa.raw_members", "raw_members"):
            names[key] = f"{path}.in"
        elif rest == "modulated" and members == 1:
            names[key] = f"ditf:{doubles + number}"
    with torch.no_grad():
        got = read(net, names.values(), **kwargs)
    assert names
    for key, name in names.items():
        assert error(got[name], expected[key]) <= TOLERANCE, key
