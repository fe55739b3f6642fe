"""The formula path against published code (FLUX) and the explicit formula (other families), and its algebra."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffeat.activations import Taps, modulated_sites
from diffeat.refinement.adaln import modulate
from test_activations_adaln import FAMILIES, FLUX, _adaln_id, _kwargs, _load
from test_golden_gdf import TOLERANCE, error


def _formula(net, names: list[str], channels: dict[str, list[int]], **kwargs):
    """Raw members, parameters of the first member, and the formula for ensembles of 1 and of all."""
    sites = modulated_sites(net, names)
    rows = len(kwargs.get("hidden_states", kwargs.get("x")))
    parameters = [id for s in sites for id in s.parameters.values()]
    with torch.no_grad(), Taps(net, [*names, *(s.raw for s in sites), *parameters]) as taps:
        got = taps.run(**kwargs)
    for name, site in zip(names, sites, strict=True):
        assert all(got[id].shape == (rows, site.norm.channels) for id in site.parameters.values())
        mean = {part: got[id].mean(0) for part, id in site.parameters.items()}
        results = {}
        for members in {1, rows}:
            for discard in ("none", "pre"):
                results[members, discard] = modulate(
                    got[site.raw][:members].mean(0), site.norm, mean.get("scale"), mean.get("shift"),
                    channels=channels.get(name, []), discard=discard,
                )[None]  # fmt: skip
        yield name, got, mean, results


@pytest.mark.parametrize("folder", FAMILIES)
def test_formula_of_every_family(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    expected = load_file(folder / "expected.safetensors")
    names = {_adaln_id(s): s["name"] for s in meta["sites"]}
    discard = dict.fromkeys(names, meta["discard"])
    checked = 0
    for id, got, mean, results in _formula(_load(folder, meta), list(names), discard, **_kwargs(folder, meta)):
        site = names[id]
        for part in ("shift", "scale", "gate"):
            assert (part in mean) == (f"{site}.{part}" in expected), (site, part)
            if part in mean:
                assert error(mean[part], expected[f"{site}.{part}"]) <= TOLERANCE, (site, part)
        for (members, how), value in results.items():
            key = f"{site}.ensemble{members}.modulated{'_discard' if how == 'pre' else ''}"
            assert error(value, expected[key]) <= TOLERANCE, key
            checked += 1
        assert error(results[1, "none"], got[id][:1]) <= TOLERANCE  # the tensor the consumer really read
    assert checked


@pytest.mark.parametrize("folder", FLUX)
def test_formula_of_flux(folder: Path) -> None:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    net = FluxTransformer2DModel.from_pretrained(folder.parent / "pipeline", subfolder="transformer").eval()
    stored, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    case = next(c for c in json.loads((folder.parent / "meta.json").read_text())["cases"] if c["folder"] == folder.name)
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
    names = {f"single_transformer_blocks.{k}.adaln": f"single{k}" for k in case["single_blocks"]}
    for k in case["double_blocks"]:
        names |= {f"transformer_blocks.{k}.adaln": f"double{k}.msa"}
        names |= {f"transformer_blocks.{k}.ff.adaln": f"double{k}.mlp"}
    for id, got, mean, results in _formula(net, list(names), dict.fromkeys(names, case["discard"]), **kwargs):
        key = names[id]
        for part in ("shift", "scale", "gate"):
            assert error(mean[part], expected[f"{key}.{part}"]) <= TOLERANCE, (key, part)
        assert error(results[members, "none"], expected[f"{key}.modulated"]) <= TOLERANCE, key
        assert error(results[members, "pre"], expected[f"{key}.modulated_discard"]) <= TOLERANCE, key
        if key.endswith("mlp"):
            assert error(got[id].mean(0, keepdim=True), expected[f"{key}.reference_mean"]) <= TOLERANCE
