"""The benchmarks' parts on small inputs; the whole tables are slow tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.tables.geometry import PROTOCOL, geometry_table, offline_scenes, run_geometry, sift_matches
from benchmarks.tables.rows import RowSource, bench_table, choosing, pair_score, score_rows, with_choosing, write_rows
from diffeat.datasets.registry import open_dataset
from diffeat.extraction import Baseline, Daisy, RgbPatches
from diffeat.geometry import Frame
from diffeat.studies.selection.score import Score, ratio
from diffeat.tasks.correspondence import get_protocol
from diffeat.tasks.correspondence.keypoints import pck, record_pair

GOLDEN = Path(__file__).parent / "golden" / "pck"


def dots(size: tuple[int, int] = (90, 66)) -> Image.Image:
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[30:36, 42:48] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("source", [RgbPatches(Baseline(stride=6)), Daisy()])
def test_baselines_lie_where_their_frame_says(source) -> None:
    """The features answer to a spot symmetrically around its centre, (44.5, 32.5)."""
    (found,) = source.stream([dots()])
    (empty,) = source.stream([Image.new("RGB", (90, 66))])
    response = (found.tensor - empty.tensor).norm(dim=0)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in response.shape), indexing="ij")
    weight = response.double() / response.sum()
    centre = torch.stack(((weight * x).sum(), (weight * y).sum()))
    frame: Frame = found.frame
    place = frame.points_from_grid(centre[None], (response.shape[0], response.shape[1]))[0]
    assert place.tolist() == pytest.approx([44.5, 32.5], abs=0.6)


def test_rgb_patches_are_the_pixels() -> None:
    (found,) = RgbPatches(Baseline(stride=4)).stream([dots((40, 40))])
    assert found.tensor.shape == (192, 10, 10)
    pixels = found.frame.pixels(dots((40, 40)))
    cell = found.tensor[:, 8, 9].reshape(3, 8, 8)
    assert torch.equal(cell[:, :6, :6], pixels[:, 30:36, 34:40])


def test_rows_share_extractions_and_write_a_table(tmp_path: Path) -> None:
    data = open_dataset("spair", GOLDEN).limited(6)
    sources = [RowSource(RgbPatches, {"colours": None}), RowSource(Daisy, {"daisy": None, "again": "DAISY"})]
    rows = score_rows(sources, data, get_protocol("spair").replace(alphas=(0.05, 0.1)), tmp_path)
    header, body = bench_table(rows)
    assert header == ["features", *(f"PCK@{a} per image (per point)" for a in (0.05, 0.1))]
    assert [r[0] for r in body] == ["colours", "daisy", "again"]
    assert body[1][1:] == body[2][1:]
    assert rows[2].evaluation.pictures["extracted"] == 0
    write_rows(tmp_path, "A table", rows, ["a note"])
    page = (tmp_path / "bench.html").read_text()
    assert "a note" in page
    assert "distance ≤ α·max(w, h)" in page
    assert len(json.loads((tmp_path / "bench.json").read_text())["rows"]) == 3


def test_sift_follows_a_shift(tmp_path: Path) -> None:
    from skimage.data import astronaut

    photo = Image.fromarray(astronaut()).crop((60, 0, 360, 260))
    photo.save(tmp_path / "a.png")
    Image.fromarray(astronaut()).crop((77, 9, 377, 269)).save(tmp_path / "b.png")
    points = np.array([[120.0, 100.0], [200.0, 150.0]])
    found = sift_matches(tmp_path / "a.png", tmp_path / "b.png", points)
    np.testing.assert_allclose(found, points - [17, 9], atol=0.5)


def test_scenes_without_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffeat.datasets.geometric.OPENCV_FOLDER", tmp_path / "none")
    scenes = offline_scenes(tmp_path, points=50)
    assert [p.name for p in scenes] == ["motorcycle"]
    assert "not installed" in scenes.notes[0]


@pytest.mark.slow
def test_geometry_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffeat.datasets.geometric.OPENCV_FOLDER", tmp_path / "none")
    rows = run_geometry(tmp_path, recipes=(), points=50)
    header, body = geometry_table(rows)
    assert header[1:5] == [f"PCK@{a:g} px per point (per image)" for a in PROTOCOL.alphas]
    assert [r[0] for r in body] == ["SIFT, way of the nearest match", "RGB patches", "DAISY (scikit-image)"]
    daisy, colours = rows[2], rows[1]
    assert daisy.result[8] > colours.result[8]
    assert "motorcycle" in (tmp_path / "bench.md").read_text()


def scored(share: float, seed: int, count: int = 400) -> Score:
    hits = (np.random.default_rng(seed).random(count) < share).astype(float)
    return Score(np.stack([hits, np.ones(count)], 1), ratio)


def test_a_choice_that_could_have_been_another_widens_the_interval() -> None:
    test = {0: scored(0.2, 0), 1: scored(0.4, 1)}
    surely = with_choosing(choosing([scored(0.3, 2), scored(0.9, 3)]), test)
    assert surely == (test[1].value, test[1].interval())
    same = scored(0.5, 4)
    other = Score(same.units[::-1].copy(), ratio)  # as good, on other pictures
    choices = choosing([same, other])
    assert 0.3 < choices.mean() < 0.7
    value, interval = with_choosing(choices, test)
    assert value == pytest.approx(np.mean([test[k].value for k in choices]))
    assert interval.low < test[0].value + 1 < test[1].value - 1 < interval.high
    gain, spread = with_choosing(choices, test, scored(0.9, 5))
    assert gain == pytest.approx(scored(0.9, 5).value - value)
    assert spread.low < scored(0.9, 5).value - test[1].value < gain < spread.high


@pytest.mark.parametrize("average", ["image", "point"])
def test_scores_of_pairs_are_those_of_the_protocol(average: str) -> None:
    rng = np.random.default_rng(0)
    protocol = get_protocol("spair").replace(average=average)
    records = [
        record_pair(rng.uniform(0, 40, (n, 2)), rng.uniform(0, 40, (n, 2)), target_size=(99, 99),
                    target_box=(0, 0, 90, 30), images=(f"a{n % 3}", f"b{n}"))
        for n in range(3, 12)
    ]  # fmt: skip
    score = pair_score(records, protocol)
    assert score.value == pytest.approx(pck(records, protocol).value)
    assert score.groups == tuple(r.images for r in records)


@pytest.mark.slow
def test_toyworld_table(tmp_path: Path) -> None:
    from benchmarks.tables.toyworld import run_toyworld

    rows = run_toyworld(tmp_path, activations=["up_blocks.1", "up_blocks.2"], images=2, pairs=2)
    names = [row.name for row in rows]
    assert names[:2] == ["RGB patches", "DAISY (scikit-image)"]
    assert sum("(chosen)" in n for n in names) == 1
    assert "random weights" in names[2]
    assert rows[2].evaluation.result.value != rows[3].evaluation.result.value
    text = (tmp_path / "bench.md").read_text()
    assert "were chosen on the validation pairs" in text
    assert "with validation pictures drawn anew, too (200 times: up" in text
