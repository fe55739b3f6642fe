"""Word maps against numbers of the published code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from conftest import golden_roots
from diffeat.activations.attended import Attended, AttentionTaps
from diffeat.tasks.words.maps import aggregate, normalised
from test_golden_gdf import error

CASES = [p for root in golden_roots() for p in sorted((root / "word_maps").glob("case*"))]


@pytest.mark.parametrize("folder", [pytest.param(p, id=p.name) for p in CASES])
def test_word_maps(folder: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder.parents[1] / "gate" / "pipeline", subfolder="unet").eval()
    stored, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    meta = json.loads((folder / "meta.json").read_text())
    count = len(expected["global"])
    sums: dict[str, torch.Tensor] = {}

    def limit(name: str, usual: float) -> float:
        """Peaked logits: where float64 is farther from the recorded numbers, kernels of float32 may be as far."""
        return max(usual, meta["checks"].get(f"{name}_own_float64", 0.0))

    def use(attended: Attended) -> torch.Tensor:
        heads = attended.text(range(count), mean_heads=False)[1]
        sums[attended.name] = sums.get(attended.name, 0) + heads
        return torch.empty(0)

    with torch.no_grad(), AttentionTaps(unet, [f"{name}.map" for name in meta["layers"]], use) as taps:
        for sample, t in zip(stored["sample"], stored["timestep"], strict=True):
            taps.run(
                sample=sample, timestep=t, encoder_hidden_states=stored["encoder_hidden_states"], return_dict=False
            )
    layers = [sums[f"{name}.map"] for name in meta["layers"]]
    for key, wanted in expected.items():
        if key.startswith("raw."):
            layer, head = (int(part.removeprefix("layer").removeprefix("head")) for part in key.split(".")[1:])
            assert error(layers[layer][head][meta["raw_token_indices"]], wanted) < limit("raw_maps", 2e-5)
    maps = aggregate(layers, "bicubic", "heads", (64, 64))
    assert error(maps, expected["global"]) < limit("global", 1e-5)
    if "global_normalised" in expected:
        inner = maps / (maps[1:-1].sum(0) + 1e-6)
        assert error(inner, expected["global_normalised"]) < 1e-5
        assert error(normalised(maps[1:-1], "words"), expected["global_normalised"][1:-1]) < 1e-5
    for word, said in meta["words"].items():
        word_map = maps[said["token_indices"]].mean(0)
        assert error(word_map, expected[f"word.{word}"]) < limit(f"word.{word}", 1e-5)
        if f"word.{word}.expanded" in expected:
            size = tuple(expected[f"word.{word}.expanded"].shape)  # width and height exchanged, as published
            enlarged = F.interpolate(word_map[None, None], size=size, mode="bicubic")[0]
            span = (enlarged.amax() - enlarged.amin()) / enlarged.amax()  # stretching enlarges errors, too
            large = normalised(enlarged, "range")[0]
            assert error(large, expected[f"word.{word}.expanded"]) < limit(f"word.{word}", 1e-5) / span
            same = (large > 0.4) == expected[f"word.{word}.mask_0.4"].bool()
            assert same.float().mean() > 0.999
