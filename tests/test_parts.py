"""Parts without words against brute force, and maps brought to pixels against direct sums."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from diffeat.errors import DiffeatError, InvalidValueError
from diffeat.features import FeatureMap
from diffeat.geometry import Frame, FrameSpec
from diffeat.refinement.upsampling import UPSAMPLERS, bilateral, bilinear
from diffeat.report.segments import files_of, write_segments
from diffeat.tasks.parts import METHODS, PartOptions, parts_of
from diffeat.tasks.parts.affinity import Dense, Factored, affinity_of
from diffeat.tasks.parts.cuts import bipartition, normalised_cuts
from diffeat.tasks.parts.merging import AttentionRows, divergence, merge_by_divergence
from diffeat.tasks.scored import ScoredMaps

RNG = np.random.default_rng(0)


def _planted(side: int, regions: int = 3, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(side) * regions // side, side)
    centres = np.random.default_rng(1).normal(size=(regions, 24))
    return centres[labels] + noise * np.random.default_rng(2).normal(size=(side * side, 24)), labels


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = set(zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_the_cut_is_the_best_threshold_of_the_dense_problem() -> None:
    rows = RNG.normal(size=(40, 6))
    affinity = affinity_of(rows, 3)
    assert affinity is not None
    a = affinity.block(np.arange(40))
    d = a.sum(1)
    values, vectors = scipy.linalg.eigh(np.diag(d) - a, np.diag(d))
    cut = bipartition(affinity)
    assert np.allclose(np.abs(cut.vector), np.abs(vectors[:, 1]), atol=1e-8)
    for threshold, value in zip(cut.thresholds, cut.values, strict=True):
        s = cut.vector > threshold
        between = a[s][:, ~s].sum()
        assert value == pytest.approx(between / d[s].sum() + between / d[~s].sum(), abs=1e-10)
    assert cut.value >= values[1] - 1e-12


def test_large_graphs_are_cut_as_by_the_dense_problem() -> None:
    rows, _ = _planted(28)  # more nodes than are solved densely
    large = affinity_of(rows)
    assert isinstance(large, Dense)
    a = large.matrix.astype(np.float64)
    _, vectors = scipy.linalg.eigh(np.diag(a.sum(1)) - a, np.diag(a.sum(1)), subset_by_index=[1, 1])
    found = bipartition(large).vector
    assert np.abs(np.abs(found) - np.abs(vectors[:, 0])).max() < 1e-3 * np.abs(vectors).max()


@pytest.mark.parametrize("memory", [2**30, 2**20])
def test_planted_regions_are_found(memory: int) -> None:
    rows, labels = _planted(28)
    affinity = affinity_of(rows, memory=memory)
    assert isinstance(affinity, Dense if memory > 2**20 else Factored)
    assert _same(normalised_cuts(affinity).labels, labels)
    assert _same(normalised_cuts(affinity, parts=3).labels, labels)


def test_memory_bounds_what_is_held() -> None:
    affinity = affinity_of(RNG.normal(size=(900, 8)), memory=2**19)
    assert isinstance(affinity, Factored)
    assert affinity.factor.nbytes <= 2**19


def test_nothing_is_left_out_unless_asked() -> None:
    rows = RNG.normal(size=(30, 5))
    affinity = affinity_of(rows, 10)
    assert affinity is not None
    kept, dropped = (normalised_cuts(affinity, 0.9, isolated=how) for how in ("keep", "drop"))
    assert len(kept.labels) == len(dropped.labels) == 30
    assert len(np.unique(kept.labels)) == len(kept.masks) + 1


class _Layer:
    def __init__(self, side: int, seed: int) -> None:
        self.grid = (side, side)
        self.matrix = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(side**2) / 8, side**2)).float()

    def rows(self, places: torch.Tensor) -> torch.Tensor:
        return self.matrix[places][None]


def test_merging_is_that_of_whole_matrices() -> None:
    layers = [_Layer(8, 0), _Layer(4, 1)]
    whole = torch.zeros(64, 64)
    for i, layer in itertools.product(range(64), layers):
        y, x = (i // 8) * layer.grid[0] // 8, (i % 8) * layer.grid[1] // 8
        row = layer.matrix[y * layer.grid[1] + x].reshape(1, 1, *layer.grid)
        large = torch.nn.functional.interpolate(row, size=(8, 8), mode="bilinear").flatten()
        whole[i] += layer.grid[1] / 12 * large / large.sum()
    rows = AttentionRows(layers)
    assert torch.allclose(rows.rows(torch.arange(64)), whole, atol=1e-6)
    p, q = whole[0].clamp(min=1e-12), whole[9].clamp(min=1e-12)
    assert divergence(whole[:1], whole[9:10]).item() == pytest.approx(
        ((p - q) * (p.log() - q.log())).sum().item() / 2, rel=1e-4
    )
    distances = divergence(whole, whole)
    threshold = float(distances.median())
    places = torch.tensor([y * 8 + x for y in (0, 7) for x in (0, 7)])
    proposals = torch.stack([whole[distances[place] < threshold].mean(0) for place in places.tolist()])
    groups, used = [], set()
    for i in range(4):
        if i not in used:
            near = [j for j in range(4) if i == j or divergence(proposals[i : i + 1], proposals[j : j + 1]) < 1.0]
            groups.append(proposals[near].mean(0))
            used |= set(near)
    assert torch.allclose(merge_by_divergence(rows, (threshold, 1.0), 2).flatten(1), torch.stack(groups), atol=1e-5)


def _feature(rows: np.ndarray, side: int, name: str = "x") -> FeatureMap:
    frame = FrameSpec("squash", (side * 4, side * 4)).frame((50, 40))
    return FeatureMap({"f": torch.from_numpy(rows.T.reshape(-1, side, side).copy()).float()}, frame, name)


@pytest.mark.parametrize("method", [name for name, of_features in METHODS.items() if of_features])
def test_methods_find_parts_and_colours_are_one_for_all_pictures(method: str) -> None:
    rows, labels = _planted(12, noise=0.1)
    alone = parts_of([_feature(rows, 12)], PartOptions(method, 3))[0]
    assert _same(alone.maps.argmax(0).numpy(), labels.reshape(12, 12))
    one, other = parts_of([_feature(rows, 12), _feature(rows[::-1], 12)], PartOptions(method, 3), together=True)
    assert torch.equal(one.maps.argmax(0), other.maps.argmax(0).flip(0, 1))


def test_a_picture_of_one_colour_is_one_part() -> None:
    found = parts_of([_feature(np.ones((64, 4)), 8)])[0]
    assert found.names == ("1",)
    assert "nothing in the features tells places apart" in found.notes


def test_a_threshold_that_no_cut_passes_is_told_from_features_that_are_alike() -> None:
    rows, _ = _planted(8, noise=0.1)
    found = parts_of([_feature(rows, 8)], PartOptions(threshold=1e-9))[0]
    assert found.notes[-1] == "no cut costs less than the threshold"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cut"}, "Did you mean|Choices|cuts"),
        ({"parts": 0}, "1 to 255 parts"),
        ({"parts": 10_000}, "1 to 255 parts"),
        ({"parts": 3, "threshold": 0.5}, "not both"),
        ({"method": "kmeans", "threshold": 0.5}, "number of parts"),
        ({"method": "merging", "parts": 3}, "finds the number"),
        ({"threshold": 3.0}, "above 0 and at most 2"),
        ({"method": "merging", "threshold": float("inf")}, "above 0 and finite"),
        ({"memory": 10}, "bytes are too few"),
        ({"alpha": -1}, "above 0"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(DiffeatError, match=message):
        parts_of([_feature(RNG.normal(size=(64, 4)), 8)], PartOptions(**options))


def test_bilateral_is_the_direct_sum() -> None:
    maps, frame = torch.rand(2, 3, 4), FrameSpec("squash", (32, 24)).frame((16, 12))
    picture = Image.fromarray(RNG.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    found = bilateral(maps, frame, picture)
    pixels = torch.from_numpy(np.asarray(picture) / np.float32(255))
    cells = torch.nn.functional.adaptive_avg_pool2d((frame.pixels(picture) + 1) / 2, (3, 4))
    for py, px in ((0, 0), (5, 9), (11, 15)):
        (x, y), total, weights = frame.points_to_grid([[px, py]], (3, 4))[0].tolist(), torch.zeros(2), 0.0
        for row, column in itertools.product(range(3), range(4)):
            if abs(row - round(y)) > 2 or abs(column - round(x)) > 2:
                continue
            unlike = float(((pixels[py, px] - cells[:, row, column]) ** 2).sum())
            weight = np.exp(-((y - row) ** 2 + (x - column) ** 2) / 2 - unlike / 0.02) + 1e-12
            total, weights = total + weight * maps[:, row, column], weights + weight
        assert torch.allclose(found[:, py, px], total / weights, atol=1e-4)


_HUBCONF = """
import torch

class Stand(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.zeros(()))

    def forward(self, image, features, output_size=None, q_chunk_size=None):
        b, k, h, w = features.shape
        cells = torch.nn.functional.adaptive_avg_pool2d(image, (h, w)).flatten(2)[0].T
        pixels = image.flatten(2)[0].T
        at = lambda n, m: torch.cartesian_prod(*((torch.arange(s) + 0.5) / s for s in (n, m)))
        apart = torch.cdist(pixels, cells) + 9 * torch.cdist(at(*image.shape[2:]), at(h, w))
        share = torch.cat([(-self.sharpness * part).softmax(1) for part in apart.split(q_chunk_size)])
        return (share @ features.flatten(2)[0].T).T.view(1, k, *image.shape[2:])

def anyup(pretrained=True):
    assert not pretrained
    return Stand()
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of torch.hub with a stand-in for AnyUp."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for folder in ("wimmerth_anyup_main", "checkpoints"):
        (tmp_path / folder).mkdir()
    (tmp_path / "wimmerth_anyup_main" / "hubconf.py").write_text(_HUBCONF)
    torch.save({"sharpness": torch.tensor(8.0)}, tmp_path / "checkpoints" / "anyup_paper.pth")
    return tmp_path


def test_anyup_is_asked_for_where_it_is_not(hub: Path) -> None:
    (hub / "checkpoints" / "anyup_paper.pth").unlink()
    frame = FrameSpec("squash", (64, 64)).frame((64, 64))
    with pytest.raises(DiffeatError, match=r"Fetch its code and weights \(CC-BY-4.0.*torch.hub.load\('wimmerth/anyup'"):
        UPSAMPLERS["anyup"](torch.zeros(1, 8, 8), frame, Image.new("RGB", (64, 64)))


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", UPSAMPLERS)
def test_upsamplers_keep_a_constant_and_follow_an_edge_no_worse_than_bilinear(name: str) -> None:
    frame = FrameSpec("squash", (64, 64)).frame((64, 64))
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[:, 29:] = 255
    picture = Image.fromarray(colours)
    assert torch.allclose(UPSAMPLERS[name](torch.full((1, 8, 8), 0.3), frame, picture), torch.tensor(0.3), atol=1e-4)
    truth = torch.from_numpy(colours[..., 0] > 0).float()
    coarse = torch.nn.functional.adaptive_avg_pool2d(truth[None], (8, 8))
    wrong = ((UPSAMPLERS[name](coarse, frame, picture)[0] > 0.5).float() != truth).sum()
    assert wrong <= ((bilinear(coarse, frame, picture)[0] > 0.5).float() != truth).sum()


def test_files_are_written_once(tmp_path: Path) -> None:
    frame = Frame((8, 6), (8, 8), (0, 0, 8, 8))
    single = {"up <1>": torch.rand(2, 2, 2)}
    maps = ScoredMaps(("cat <b>", "sofa"), torch.rand(2, 4, 4), frame, "x", ("note",), 0.5, single)
    picture = Image.new("RGB", (8, 6))
    result = (picture, maps, maps.labels(picture), maps.at_pixels(picture))
    page = write_segments(tmp_path, ["x"], iter([result]), "words", words=maps.names, layers=list(single))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(files_of(["x"]))
    stored = np.asarray(Image.open(tmp_path / "x.labels.png"))
    assert (stored == result[2].numpy()).all()
    assert "cat &lt;b&gt;" in page.read_text()
    assert page.read_text().count('type="range"') == 2
    assert page.read_text().count('alt="up &lt;1&gt;"') == 2
    shares = [f"{100 * float((result[2] == k).float().mean()):.0f} %" for k in (1, 2)]
    assert all(
        f"</i>{name} {share}<" in page.read_text()
        for name, share in zip(("cat &lt;b&gt;", "sofa"), shares, strict=True)
    )
    with pytest.raises(DiffeatError, match="there already"):
        write_segments(tmp_path, ["x"], [result], "words")


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("cuts", {"threshold": 9}, "at most 2"),
        ("cuts", {"threshold": float("nan")}, "above 0"),
        ("merging", {"threshold": 0}, "above 0"),
        ("cuts", {"alpha": -3}, "exponent"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_read(method: str, given: dict, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        PartOptions(method, **given)
