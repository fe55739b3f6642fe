"""Matching against brute force: both maps resized to their pictures, normalised, compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

import diffeat
from diffeat.errors import InvalidValueError, NonFiniteError
from diffeat.features import FeatureMap
from diffeat.geometry import Frame, FrameSpec
from diffeat.tasks.correspondence import (
    Lattice,
    Matching,
    Target,
    heat_map,
    match,
    mutual_matches,
    strongest_matches,
)
from diffeat.tasks.correspondence import target as target_module
from diffeat.tasks.correspondence.axis import Axis
from diffeat.tasks.correspondence.readout import window_soft_argmax
from diffeat.tasks.correspondence.target import PreparedTarget

GOLDEN = Path(__file__).parent / "golden" / "pck"


def features(
    tensor: torch.Tensor, frame: Frame | None = None, size: tuple[int, int] | None = None, recipe: str = "r"
) -> FeatureMap:
    frame = frame or FrameSpec("squash", (64, 64)).frame(size or (64, 64))
    return FeatureMap({"map": tensor}, frame, "picture.png", "0" * 64, {"recipe_hash": recipe, "recipe": recipe})


def brute_scores(descriptors: torch.Tensor, target: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(n, H, W) cosine similarities the straightforward way."""
    up = F.interpolate(target[None], size=(size[1], size[0]), mode="bilinear", align_corners=False)[0]
    return torch.einsum("nc,chw->nhw", F.normalize(descriptors, dim=1), F.normalize(up, dim=0))


@st.composite
def cases(
    draw: st.DrawFn,
) -> tuple[int, tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], int]:
    side = st.integers(1, 12)
    long = st.integers(1, 40)
    return (
        draw(st.integers(1, 9)),
        (draw(side), draw(side)),
        (draw(side), draw(side)),
        (draw(long), draw(long)),
        (draw(long), draw(long)),
        draw(st.integers(0, 2**31)),
    )


@settings(max_examples=400, deadline=None)
@given(cases())
def test_matching_equals_brute_force_on_any_size_and_ratio(case) -> None:
    channels, source_grid, target_grid, source_size, target_size, seed = case
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(channels, *source_grid, generator=generator, dtype=torch.float64)
    target = torch.randn(channels, *target_grid, generator=generator, dtype=torch.float64)
    w, h = source_size
    corners = [[0, 0], [w - 1, 0], [0, h - 1], [w - 1, h - 1]]
    inner = [[int(torch.randint(w, (), generator=generator)), int(torch.randint(h, (), generator=generator))]]
    points = torch.tensor(corners + inner)

    found = match(features(source, size=source_size), features(target, size=target_size), points, memory=2000)

    up = F.interpolate(source[None], size=(h, w), mode="bilinear", align_corners=False)[0]
    scores = brute_scores(up[:, points[:, 1], points[:, 0]].T, target, target_size).flatten(1)
    x, y = found.target.long().T
    chosen = scores.gather(1, (y * target_size[0] + x)[:, None])[:, 0]
    torch.testing.assert_close(chosen, scores.amax(1), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.similarity.double(), scores.amax(1), atol=1e-6, rtol=0)
    clear = scores.topk(min(2, scores.shape[1])).values
    alone = clear[:, 0] - clear[:, -1] > 1e-9 if clear.shape[1] == 2 else torch.ones(5, dtype=torch.bool)
    assert torch.equal((y * target_size[0] + x)[alone], scores.argmax(1)[alone])


def _resized(cells: int, length: int) -> Axis:
    return Axis.at((torch.arange(length, dtype=torch.float64) + 0.5) * (cells / length) - 0.5, cells)


def _prepared(features: torch.Tensor, size: tuple[int, int]) -> PreparedTarget:
    return PreparedTarget(features, _resized(features.shape[1], size[1]), _resized(features.shape[2], size[0]))


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(1, 5000))
def test_parts_of_any_size_give_one_result(case, memory: int) -> None:
    channels, _, grid, _, size, seed = case
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(channels, *grid, generator=generator)
    target = _prepared(features, size)
    descriptors = torch.randn(7, channels, generator=generator)
    with mock.patch.object(target_module, "_POSITIONS", memory):
        assert torch.equal(_prepared(features, size).norms(), target.norms())
    index, score = target.nearest(descriptors, memory=memory)
    whole = target.similarity(descriptors).flatten(1)
    assert torch.equal(index[:, 1] * size[0] + index[:, 0], whole.argmax(1))
    torch.testing.assert_close(score, whole.amax(1))


def test_equal_pixels_give_the_first_in_reading_order() -> None:
    tensor = torch.zeros(2, 3, 3)
    tensor[0] = 1
    index, _ = _prepared(tensor, (30, 30)).nearest(torch.tensor([[1.0, 0.0]]), memory=500)
    assert index.tolist() == [[0, 0]]


def test_norms_survive_neighbours_that_cancel() -> None:
    tensor = torch.tensor([[[1.0, -1.0]], [[1.0, -0.999]]])
    prepared = _prepared(tensor, (33, 1))
    up = F.interpolate(tensor[None].double(), size=(1, 33), mode="bilinear")[0]
    torch.testing.assert_close(prepared.norms().double(), up.norm(dim=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("spec", [FrameSpec("pad", (96, 64)), FrameSpec("keep", shorter=48, multiple=8)])
def test_padded_and_kept_frames_match_over_the_picture_only(spec: FrameSpec) -> None:
    generator = torch.Generator().manual_seed(3)
    frames = [spec.frame(size) for size in ((50, 90), (70, 31))]
    maps = [torch.randn(16, 8, 12, generator=generator, dtype=torch.float64) for _ in frames]
    points = torch.tensor([[0, 0], [49, 89], [20, 33]])
    found = match(features(maps[0], frames[0]), features(maps[1], frames[1]), points)
    source_full = frames[0].map_to_original(maps[0])
    target_full = F.normalize(frames[1].map_to_original(maps[1]), dim=0)
    vectors = F.normalize(source_full[:, points[:, 1], points[:, 0]].T, dim=1)
    expected = torch.einsum("nc,chw->nhw", vectors, target_full).flatten(1).argmax(1)
    assert found.target.tolist() == [[int(i) % 70, int(i) // 70] for i in expected]


def test_heat_map_is_the_similarity_of_every_original_pixel() -> None:
    generator = torch.Generator().manual_seed(4)
    source, target = (torch.randn(5, 6, 7, generator=generator) for _ in range(2))
    heat = heat_map(features(source, size=(20, 30)), features(target, size=(41, 23)), (3, 4))
    vector = F.interpolate(source[None], size=(30, 20), mode="bilinear")[0][:, 4, 3]
    torch.testing.assert_close(heat, brute_scores(vector[None], target, (41, 23))[0], atol=1e-5, rtol=1e-5)


def test_a_picture_matches_itself() -> None:
    tensor = torch.randn(32, 8, 8, generator=torch.Generator().manual_seed(5))
    both = features(tensor, size=(80, 60))
    points = torch.tensor([[10.0, 10.0], [40.0, 30.0], [70.0, 50.0]])
    assert torch.equal(diffeat.match(both, both, points).target, points.double())
    mutual = mutual_matches(both, both)
    assert len(mutual) == 64
    assert torch.equal(mutual.source, mutual.target)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_mutual_matches_equal_brute_force(case) -> None:
    channels, one, other, _, _, seed = case
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(channels + 2, *g, generator=generator) for g in (one, other))
    sim = F.normalize(a.flatten(1), dim=0).T @ F.normalize(b.flatten(1), dim=0)
    forward, back = sim.argmax(1), sim.argmax(0)
    expected = [i for i in range(len(forward)) if back[forward[i]] == i]
    fa, fb = features(a, size=(40, 40)), features(b, size=(40, 40))
    found = mutual_matches(fa, fb, memory=64)
    cells = fa.frame.points_to_grid(found.source, one).round().long()
    assert (cells[:, 1] * one[1] + cells[:, 0]).tolist() == expected
    assert torch.equal(found.source, mutual_matches(fa, fb).source)


def test_window_soft_argmax_equals_the_written_formula() -> None:
    similarity = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    found = window_soft_argmax(similarity, radius=2, temperature=0.1)
    for i, scores in enumerate(similarity):
        best = divmod(int(scores.argmax()), 9)
        total, x_sum, y_sum = 0.0, 0.0, 0.0
        for y in range(7):
            for x in range(9):
                near = max(abs(y - best[0]), abs(x - best[1])) <= 2
                weight = torch.exp((scores[y, x] if near else torch.tensor(0.0)) / 0.1).item()
                total, x_sum, y_sum = total + weight, x_sum + weight * x, y_sum + weight * y
        assert found[i].tolist() == pytest.approx([x_sum / total, y_sum / total])


def test_cells_in_the_edge_convention_follow_the_published_arithmetic() -> None:
    """A 60×60 grid over 840×840 padded pixels: cell ``int(60/840·p)``, prediction ``14·cell + 7``."""
    frame = FrameSpec("pad", (840, 840)).frame((840, 840))
    lattice = Lattice("cells", convention="edge", snap=True)
    points = torch.tensor([[0.0, 13.9], [14.0, 839.0], [420.5, 77.0]])
    expected = (points * 60 / 840).floor()
    assert torch.equal(lattice.source_cells(points, frame, (60, 60)), expected.double())
    back = lattice.to_original(expected, frame, (60, 60))
    torch.testing.assert_close(back, (expected * 14 + 7).double())


def test_recorded_square_load_size_matches() -> None:
    """Predictions of the Hyperfeatures evaluation on random maps."""
    expected = json.loads((GOLDEN / "random_hyperfeatures.json").read_text())
    maps = load_file(GOLDEN / "random_hyperfeatures.safetensors")
    points = 0
    for pair in expected["pairs"]:
        size = tuple(pair["load_size"])
        matching = Matching(Lattice(size, convention="index", snap=True))
        spec = FrameSpec("squash", size)
        source = features(maps[f"{pair['name']}.source"][0], spec.frame(tuple(pair["source_size"])))
        target = features(maps[f"{pair['name']}.target"][0], spec.frame(tuple(pair["target_size"])))
        found = match(source, target, pair["source_points_xy"], matching=matching)
        scale = torch.tensor(pair["target_size"]) / torch.tensor(size, dtype=torch.float64)
        for (x, y), want, ties in zip(found.target, pair["predicted_load_yx"], pair["ties"], strict=True):
            got = [round(float(y / scale[1])), round(float(x / scale[0]))]
            assert got in ties.get("tied_yx", [want])
            points += 1
    assert points == 20


def test_index_convention_rounds_and_clips_as_recorded() -> None:
    table = json.loads((GOLDEN / "random_hyperfeatures.json").read_text())["points_to_idxs"]
    frame = FrameSpec("squash", (16, 16)).frame((16, 16))
    points = torch.tensor(table["points_yx"]).flip(1)
    cells = Lattice((16, 16), convention="index", snap=True).source_cells(points, frame, (16, 16))
    assert (16 * cells[:, 1] + cells[:, 0]).tolist() == table["idx"]


def test_bad_input_is_refused() -> None:
    one = features(torch.randn(4, 5, 5), size=(20, 10))
    with pytest.raises(InvalidValueError, match=r"\(20, 5\) lies outside .* 20×10"):
        match(one, one, [[3, 3], [20, 5]])
    with pytest.raises(InvalidValueError, match="Point 0 is not a number"):
        match(one, one, [[float("nan"), 5]])
    for points in ([1, 2, 3], "abc", [[1, 2], [3]]):
        with pytest.raises(InvalidValueError, match="n, 2"):
            match(one, one, points)
    picture: Any = Image.new("RGB", (20, 10))
    for pair in ((picture, one), (one, picture)):
        for search in (match, heat_map, mutual_matches):
            with pytest.raises(InvalidValueError, match=r"not Image: take extractor\.extract"):
                search(*pair, *([] if search is mutual_matches else [[1, 1]]))
    with pytest.raises(InvalidValueError, match="cannot be compared"):
        match(one, features(torch.randn(4, 5, 5), size=(20, 10), recipe="other"), [[1, 1]])
    with pytest.raises(InvalidValueError, match="channels do not fit"):
        match(one, features(torch.randn(3, 5, 5)), [[1, 1]])
    with pytest.raises(NonFiniteError):
        match(one, features(torch.full((4, 5, 5), torch.nan)), [[1, 1]])
    with pytest.raises(InvalidValueError, match="feature cells"):
        Matching(readout="window")
    with pytest.raises(InvalidValueError, match="Did you mean 'index'"):
        Lattice((4, 4), convention="indexes")  # pyright: ignore[reportArgumentType]


def test_half_precision_and_prepared_targets() -> None:
    generator = torch.Generator().manual_seed(8)
    source, target = (torch.randn(64, 6, 6, generator=generator) for _ in range(2))
    prepared = Target(features(target.half(), size=(50, 40)))
    found = prepared.find(features(source.half(), size=(50, 40)), [[5, 5], [40, 30]])
    again = match(
        features(source.half().float(), size=(50, 40)),
        features(target.half().float(), size=(50, 40)),
        [[5, 5], [40, 30]],
    )
    assert torch.equal(found.target, again.target)
    assert len(prepared.find(features(source, size=(50, 40)), torch.zeros(0, 2))) == 0


def test_axis_equals_interpolate() -> None:
    for cells, length in ((5, 13), (13, 5), (1, 4), (7, 7), (4, 1)):
        values = torch.randn(cells, dtype=torch.float64, generator=torch.Generator().manual_seed(cells))
        expected = F.interpolate(values[None, None], size=length, mode="linear", align_corners=False)[0, 0]
        torch.testing.assert_close(_resized(cells, length).apply(values, 0), expected)


def test_matches_without_points_spread_over_the_picture_or_a_mask() -> None:
    """Every cell finds itself; those along the borders, and then the left half, are the most alike."""
    maps = torch.randn(32, 24, 32, generator=torch.Generator().manual_seed(0))
    frame = FrameSpec("squash", (256, 192)).frame((256, 192))
    noise = 0.3 * torch.randn(maps.shape, generator=torch.Generator().manual_seed(1))
    noise[:, :, :16] *= 0.5
    noise[:, :1] = noise[:, -1:] = noise[:, :, :1] = noise[:, :, -1:] = 0
    one, other = features(maps, frame), features(maps + noise, frame)
    spread = strongest_matches(one, other, 12)
    assert len(spread) == 12
    inner = spread.source / torch.tensor([256, 192])
    assert ((inner > 1 / 16) & (inner < 15 / 16)).all()
    quadrants = [int(x > 0.5) + 2 * int(y > 0.5) for x, y in inner.tolist()]
    assert {quadrants.count(q) for q in range(4)} <= {2, 3, 4}
    distances = torch.cdist(spread.source, spread.source) + 1e9 * torch.eye(12)
    assert distances.min() > 0.5 * (256 * 192 / 12) ** 0.5
    mask = torch.zeros(192, 256, dtype=torch.bool)
    mask[60:130, 150:230] = True
    inside = strongest_matches(one, other, 5, mask)
    assert len(inside) == 5
    assert all(mask[round(y), round(x)] for x, y in inside.source.tolist())
    assert len(strongest_matches(one, other, 5000, mask)) == 9 * 10  # all cells in it
    with pytest.raises(InvalidValueError, match="256×192"):
        strongest_matches(one, other, 5, mask.T)
    with pytest.raises(InvalidValueError, match="empty"):
        strongest_matches(one, other, 5, mask & False)
