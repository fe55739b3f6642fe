"""``diffeat eval spair -r gdf-…`` on a tiny model: pictures to numbers, against a dense computation on the lattice."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from diffeat.cli.main import app
from diffeat.datasets.spair import read_spair
from diffeat.extraction import Extractor, Reading

HERE = Path(__file__).parent / "golden"
MODEL, SPAIR = HERE / "gdf" / "sd15" / "pipeline", HERE / "pck" / "SPair-71k"
PAIRS, SIDE = 2, 512


def dense_share(recipe: Reading) -> float:
    """Share of points that are hit, with every vector of the lattice at hand."""
    extractor = Extractor.from_recipe(recipe.replace(fuse=None), device="cpu")
    hits = []
    for pair in read_spair(SPAIR, "test").limited(PAIRS):
        lattices, sizes = [], []
        for path in (pair.source, pair.target):
            (feature,) = extractor.extract([path])
            maps = [F.interpolate(m[None], (128, 128), mode="bilinear") for m in feature.activations.values()]
            whole = F.interpolate(torch.cat(maps, 1), (SIDE, SIDE), mode="bilinear")[0].flatten(1)
            lattices.append(whole / whole.norm(dim=0))
            sizes.append(np.array(feature.frame.original))
        for point, truth in zip(pair.source_points, pair.target_points, strict=True):
            x, y = np.round(np.clip(np.array(point) * SIDE / sizes[0], 0, SIDE - 1)).astype(int)
            best = int((lattices[0][:, y * SIDE + x] @ lattices[1]).argmax())
            found = np.array([best % SIDE, best // SIDE]) * sizes[1] / SIDE
            hits.append(np.linalg.norm(found - truth) <= 0.1 * max(sizes[1]))
    return 100 * float(np.mean(hits))


def test_a_preset_is_evaluated_as_the_original_evaluates() -> None:
    changes = ["-m", str(MODEL), "--size", "64"]
    recipe = Reading.load("gdf-sd15-spair").replace(model=str(MODEL), **{"frame.size": 64})
    arguments = ["eval", "spair", "--root", str(SPAIR), "--limit", str(PAIRS), "--protocol", "gdf"]
    done = CliRunner().invoke(app, [*arguments, "-r", "gdf-sd15-spair", *changes])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "a highly realistic photo that may contain an aeroplane" in done.output
    told = re.search(r"PCK@0\.1 ([\d.]+)", done.output)
    assert told is not None
    assert abs(float(told[1]) - dense_share(recipe)) < 0.006
