"""Offloading by diffusers and accelerate, on the CPU: the same features, from the second call on too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import nn

from diffeat.backbones import Backbone
from diffeat.extraction import Extractor, Recipe
from diffeat.extraction.detect import calibration_pictures
from tiny.pipelines import build

PICTURES = list(calibration_pictures(2))
CPU = torch.device("cpu")


def _group(kind: str, **options: Any) -> Callable[[Any, Path], None]:
    def offload(pipeline: Any, folder: Path) -> None:
        pipeline.transformer.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type=kind, **options)

    return offload


def _to_disk(pipeline: Any, folder: Path) -> None:
    """Weights are on the meta device until their layer runs, as under sequential offloading."""
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            accelerate.disk_offload(part, str(folder / name), execution_device=CPU)


WAYS: dict[str, Callable[[Any, Path], None]] = {
    "model": lambda pipeline, _: pipeline.enable_model_cpu_offload(device="cpu"),
    "blocks": _group("block_level", num_blocks_per_group=1),
    "leaves": _group("leaf_level"),
    "disk": _to_disk,
}


@pytest.mark.parametrize(
    ("way", "family", "activation"),
    [*((way, "pixart_sigma", "ditf:2") for way in WAYS), ("disk", "z_image", "ditf:1")],
)
def test_offloaded_models_give_the_same_features(way: str, family: str, activation: str, tmp_path: Path) -> None:
    recipe = Recipe.from_dict(
        {
            "model": "tiny",
            "frame": {"mode": "squash", "size": 96},
            "trajectory": {"timesteps": [50]},
            "activations": [activation],
            "refine": {"discard": "drop", "channels": [3]},
        }
    )
    expected = Extractor(recipe, Backbone.from_pipeline(build(family))).extract(PICTURES)
    pipeline = build(family)
    WAYS[way](pipeline, tmp_path)
    extractor = Extractor(recipe, Backbone.from_pipeline(pipeline))
    for _ in range(2):
        found = extractor.extract(PICTURES)
    assert extractor.backbone.device.type == "cpu"
    assert all(torch.equal(a.tensor, b.tensor) for a, b in zip(found, expected, strict=True))
