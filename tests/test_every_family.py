"""Every tiny pipeline, as a directory: listed by the command line, and extracted from in a batch, non-square too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from diffeat.activations import Catalogue
from diffeat.cli.main import app
from diffeat.extraction import Extractor, Recipe
from tiny.pipelines import FAMILIES, build

#: UNets of one and of two text encoders, classes, packed and plain tokens, ragged texts, latents of videos, pixels. How
#: the other families load, are listed and run is tested in test_backbones_* and test_activations_families too.
QUICK = {"sd15", "sdxl", "dit", "flux", "sd3", "lumina2", "qwen_image", "ddpm"}


@pytest.fixture(
    scope="module",
    params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / request.param
    build(request.param).save_pretrained(folder)
    return folder


def _pictures() -> list[Image.Image]:
    numbers = np.random.default_rng(0)
    return [Image.fromarray(numbers.integers(0, 255, (50, 80, 3), dtype=np.uint8)) for _ in range(2)]


def test_listed_and_extracted(directory: Path) -> None:
    listed = CliRunner().invoke(app, ["activations", str(directory), "--json"])
    assert listed.exit_code == 0, listed.output
    table = json.loads(listed.output)
    ids = [row["id"] for row in table]
    assert ids == [a.id for a in Catalogue.from_model(directory)]
    assert len(set(ids)) == len(ids)
    depths = [row["depth"] for row in table]
    assert depths == sorted(depths)
    assert 0 <= depths[0] <= depths[-1] <= 1

    maps = [row for row in table if row["grid"] and row["kind"] not in {"input", "map"}]
    chosen = [maps[len(maps) // 3]["id"], maps[2 * len(maps) // 3]["id"]]
    extractor = Extractor.from_recipe(
        Recipe.from_dict({"model": str(directory), "trajectory": {"timesteps": [250]}, "activations": chosen}),
        device="cpu",
        batch_size=2,
    )
    backbone = extractor.backbone
    step = backbone.multiple
    width, height = 4 * step, 2 * step
    if backbone.square_only:
        height = width
    sized = extractor.recipe.replace(**{"frame.size": [width, height]})
    words = ["a cat", "a bird and a cat"] if backbone.family.conditional else [None, None]
    if backbone.family.name == "dit":
        words = [None, None]
    pair = Extractor(sized, backbone, batch_size=2).extract(_pictures(), words)
    alone = [
        Extractor(sized, backbone, batch_size=1).extract(p, [w])[0] for p, w in zip(_pictures(), words, strict=True)
    ]
    by_id = {a.id: a for a in Catalogue.of(backbone, size=(width, height))}
    for together, single in zip(pair, alone, strict=True):
        for name in chosen:
            assert tuple(together[name].shape) == (by_id[name].channels, *by_id[name].grid)
            scale = single[name].abs().max()
            assert scale > 0
            assert (together[name] - single[name]).abs().max() / scale <= 1e-5
    assert not torch.equal(pair[0][chosen[1]], pair[1][chosen[1]])
