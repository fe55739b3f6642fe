"""The published procedure around Diffusion Hyperfeatures, against its own numbers: what enters the autoencoder, where
points and predictions lie, scores, and the loss as its validation logs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conftest import golden_roots
from diffeat.datasets.spair import read_pair_list
from diffeat.extraction import Recipe
from diffeat.features import FeatureMap, Streams
from diffeat.geometry import open_image
from diffeat.tasks.correspondence import Lattice, get_protocol, pck
from diffeat.tasks.correspondence.evaluate import evaluate
from diffeat.training.hyperfeatures.loss import keypoint_loss, nearest_cells

ROOTS = [root for root in golden_roots() if (root / "hyperfeatures_published").is_dir()]
ROOT = next(iter(ROOTS), Path())
pytestmark = pytest.mark.skipif(not ROOTS, reason="the reference data lie beside the repository")
PROTOCOLS = {64: "hyperfeatures-64", 224: "hyperfeatures"}


@cache
def tensors() -> dict[str, Tensor]:
    return load_file(ROOT / "hyperfeatures_published" / "tensors.safetensors")


@cache
def expected() -> dict:
    return json.loads((ROOT / "hyperfeatures_published" / "expected.json").read_text())


class Recorded(Streams):
    """The recorded maps; frames as the recipe of the tables says."""

    fingerprint = ""

    def __init__(self, load: int) -> None:
        self.recipe = Recipe.load("hyperfeatures-sd15-paper").replace(**{"frame.load": load})

    def stream(self, images, prompts=None, *, on_error=None) -> Iterator[FeatureMap]:
        for picture in images:
            key = "map." + "/".join(Path(picture.name).parts[-2:])
            frame = self.recipe.frame.frame(picture.image.size)
            yield FeatureMap({"map": tensors()[key].float()}, frame, picture.name, picture.digest, {"prompt": ""})


@pytest.mark.parametrize("side", [64, 224, 512])
@pytest.mark.parametrize("name", ["pic0", "pic1"])
def test_what_enters_the_autoencoder(name: str, side: int) -> None:
    image = open_image(ROOT / "hyperfeatures_published" / f"{name}.png")
    spec = Recipe.load("hyperfeatures-sd15-paper").replace(**{"frame.load": side}).frame
    pixels = spec.frame(image.size).pixels(image)
    assert pixels.shape == (3, 512, 512)
    c, y, x = tensors()[f"{name}.{side}.index_cyx"].T.long()
    assert (pixels[c, y, x] - tensors()[f"{name}.{side}.value"]).abs().max() <= 1e-5
    (facts,) = (p for p in expected()["pictures"] if p["file"] == f"{name}.png" and p["load_size"] == side)
    assert pixels.mean((1, 2)).tolist() == pytest.approx(facts["mean_per_channel"], abs=1e-5)


def test_the_published_preset_loads_224() -> None:
    frame = Recipe.load("hyperfeatures-sd15-paper").frame
    assert (frame.load, frame.size, frame.filter) == ((224, 224), (512, 512), "bilinear")


@pytest.mark.parametrize("load", [64, 224])
def test_predictions_and_scores_by_the_protocol_that_bears_the_name(load: int, tmp_path: Path) -> None:
    facts, protocol = expected()["eval"][f"load_{load}"], get_protocol(PROTOCOLS[load])
    pairs = read_pair_list(ROOT / "pck" / "annotations" / "test.json", ROOT / "pck" / "SPair-71k" / "JPEGImages")
    result = evaluate(pairs, Recorded(load), protocol, store=tmp_path / "store")
    for prediction, row in zip(result.predictions, facts["pairs"], strict=True):
        width, height = row["target_size_wh"]
        for (x, y), want, ties in zip(
            prediction.matches.target.tolist(), row["pred_lattice_yx"], row["tied_yx"], strict=True
        ):
            cell = [y * load / height, x * load / width]
            assert [round(v) for v in cell] in [want, *ties]
            assert cell == pytest.approx([round(v) for v in cell], abs=1e-6)
        tied = any(row["tied_yx"])
        assert tied or list(prediction.record.distances) == pytest.approx(row["distance"], rel=1e-6)
    for reference, key in (("bbox", "bbox"), ("image", "img")):
        scored = pck(result.records, protocol.replace(reference=reference), replicates=0)
        low, high = facts[f"pck_{key}_range_over_ties"]
        assert low - 1e-9 <= scored[facts["pck_threshold"]] / 100 <= high + 1e-9
    assert scored.overall.points == facts["points"]
    assert not [note for note in result.notes if "published procedure" in note]
    other = evaluate(pairs.limited(1), Recorded(288 - load), protocol, store=tmp_path / "other")
    assert any(f"the published procedure gives {load}×{load}" in note for note in other.notes)


@pytest.mark.parametrize("load", [64, 224])
def test_the_loss_as_validation_logs_it(load: int) -> None:
    """Points of the load lattice are taken for cells of the 64×64 descriptor, so that at 224 most lie on its border."""
    pairs = read_pair_list(ROOT / "pck" / "annotations" / "test.json", ROOT / "pck" / "SPair-71k" / "JPEGImages")
    lattice = Lattice((load, load), convention="index")
    spec = Recorded(load).recipe.frame
    for pair, row in list(zip(pairs, expected()["eval"][f"load_{load}"]["pairs"], strict=True))[::6]:
        maps, cells = [], []
        for path, points in ((pair.source, pair.source_points), (pair.target, pair.target_points)):
            maps.append(tensors()["map." + "/".join(path.parts[-2:])].float())
            size = open_image(path).size
            # On a grid of its own size a lattice's positions are the grid's cells.
            on_lattice = lattice.source_cells(torch.tensor(points), spec.frame(size), (load, load))
            cells.append(nearest_cells(on_lattice, (64, 64)))
        assert keypoint_loss(maps[0], maps[1], cells[0], cells[1]).item() == pytest.approx(row["loss"], rel=1e-5)
