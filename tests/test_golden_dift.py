"""DIFT's maps from its own noisy latents, and their mean over the draws."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from conftest import golden_roots
from diffeat.activations import read
from test_golden_gdf import TOLERANCE, error, load_denoiser

CASES = [
    pytest.param(root / "dift", case, id=f"{root.parent.name}-{case['name']}")
    for root in golden_roots()
    if (root / "dift").is_dir()
    for case in json.loads((root / "dift" / "cases.json").read_text())
]


@pytest.mark.parametrize(("folder", "case"), CASES)
@pytest.mark.parametrize("reverse", [False, True])
def test_all_blocks(folder, case, reverse: bool) -> None:
    stored = load_file(folder / case["file"])
    names = [f"dift:{i}" for i in range(4)]
    draws = len(stored["noisy_latents"])
    with torch.no_grad():
        found = read(
            load_denoiser(folder),
            names[::-1] if reverse else names,
            sample=stored["noisy_latents"],
            timestep=case["t"],
            encoder_hidden_states=stored["prompt_embeds"].expand(draws, -1, -1),
        )
    for i, name in enumerate(names):
        assert error(found[name], stored[f"up_ft_{i}"]) <= TOLERANCE
        assert error(found[name].mean(0, keepdim=True), stored[f"up_ft_{i}_mean"]) <= TOLERANCE
