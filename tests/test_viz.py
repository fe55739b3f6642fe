"""Pictures of features: right colours, right places, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

from diffeat.errors import InvalidValueError
from diffeat.viz import feature_grid, heat_grid, heat_overlay, pca_colours


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    c = shape[0]
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(c, c, generator=generator) * torch.logspace(1, -1, c)
    return torch.einsum("ij,jhw->ihw", mixing, torch.randn(*shape, generator=generator))


def expected_colours(maps: list[torch.Tensor]) -> list[np.ndarray]:
    """The same by scikit-learn and numpy."""
    cells = [m.double().flatten(1).T.numpy() for m in maps]
    pca = PCA(3, svd_solver="full").fit(np.concatenate(cells))
    signs = np.sign([row[np.abs(row).argmax()] for row in pca.components_])
    scores = [pca.transform(c) * signs for c in cells]
    low, high = np.quantile(np.concatenate(scores), [0.02, 0.98], axis=0)
    return [
        np.rint(((s - low) / (high - low)).clip(0, 1) * 255).reshape(*m.shape[1:], 3)
        for s, m in zip(scores, maps, strict=True)
    ]


@pytest.mark.parametrize("shape", [(5, 20, 31), (40, 4, 6)])  # more cells than channels, and fewer
def test_colours_are_principal_components(shape) -> None:
    maps = features(*shape)
    (found,) = pca_colours([maps])
    (expected,) = expected_colours([maps])
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1


def test_a_shared_basis_spans_all_maps() -> None:
    maps = [features(6, 9, 14), features(6, 5, 3, seed=1) + 2]
    for found, expected in zip(pca_colours(maps, shared=True), expected_colours(maps), strict=True):
        assert np.abs(found - expected).max() <= 1
    alone = pca_colours([maps[1]])[0]
    assert np.array_equal(pca_colours(maps)[1], alone)
    assert not np.array_equal(pca_colours(maps, shared=True)[1], alone)


def test_equal_features_get_equal_colours_under_a_shared_basis() -> None:
    one = features(6, 8, 8)
    other = features(6, 8, 8, seed=1)
    other[:, 2, 3] = one[:, 5, 6]
    first, second = pca_colours([one, other], shared=True)
    assert np.array_equal(first[5, 6], second[2, 3])


def test_cells_that_are_not_finite_stay_grey_and_do_not_count() -> None:
    maps = features(4, 6, 6)
    broken = maps.clone()
    broken[1, 2, 3] = float("nan")
    broken[0, 0, 0] = float("inf")
    found = pca_colours([broken])[0]
    assert found[2, 3].tolist() == found[0, 0].tolist() == [128] * 3
    assert len(np.unique(found)) > 20
    assert (pca_colours([torch.full((4, 2, 2), float("nan"))])[0] == 128).all()


@pytest.mark.parametrize("shape", [(1, 4, 5), (2, 4, 5), (7, 1, 1), (3, 1, 2)])
def test_few_channels_or_cells(shape) -> None:
    assert pca_colours([features(*shape)])[0].shape == (*shape[1:], 3)


def test_constant_features_are_grey() -> None:
    assert (pca_colours([torch.full((8, 4, 4), 3.7)])[0] == 128).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype) -> None:
    maps = features(5, 9, 9).to(dtype)
    assert np.array_equal(pca_colours([maps])[0], pca_colours([maps.float()])[0])


def test_wrong_maps() -> None:
    with pytest.raises(InvalidValueError, match=r"\(C, h, w\) is wanted, got shape \(3, 4\)"):
        pca_colours([torch.zeros(3, 4)])
    with pytest.raises(InvalidValueError, match="equal channels, got 3, 4"):
        pca_colours([torch.zeros(3, 2, 2), torch.zeros(4, 2, 2)], shared=True)
    assert pca_colours([], shared=True) == []


# --- heat ----------------------------------------------------------------------------------------


def test_heat_is_where_the_map_is_high() -> None:
    photo = Image.new("RGB", (90, 60), (100, 100, 100))
    values = torch.zeros(6, 9)
    values[1, 7] = 1
    picture = np.asarray(heat_overlay(photo, values)).astype(int)
    assert picture.shape == (60, 90, 3)
    row, column = np.unravel_index(picture.sum(-1).argmax(), (60, 90))
    assert (10 <= row < 20, 70 <= column < 80) == (True, True)
    assert np.ptp(picture[30:, :50]) <= 1  # far from it the dimmed photo, all one grey


def test_heat_scales_and_guards() -> None:
    photo = Image.new("RGB", (8, 8))
    same = torch.linspace(0, 1, 64).reshape(8, 8)
    fixed = heat_overlay(photo, same * 5, low=0, high=5)
    assert fixed.tobytes() == heat_overlay(photo, same, low=0, high=1).tobytes()
    for odd in (torch.full((2, 2), float("nan")), torch.zeros(1, 1), torch.ones(3, 3)):
        assert heat_overlay(photo, odd).size == (8, 8)
    with pytest.raises(InvalidValueError, match=r"\(h, w\) is wanted"):
        heat_overlay(photo, torch.zeros(1, 2, 2))


# --- grids ---------------------------------------------------------------------------------------

BLUE = (0, 0, 255)


def block(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Bounding box of all pixels of one colour."""
    there = (np.asarray(picture) == colour).all(-1)
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_a_grid_holds_photo_and_maps_in_the_photos_shape() -> None:
    maps = features(5, 6, 9)
    grid = feature_grid([("a.png", Image.new("RGB", (30, 20), BLUE), {"up": maps})], cell=120, smooth=False)
    left, top, right, bottom = block(grid, BLUE)
    assert (right - left, bottom - top) == (120, 80)
    colours = pca_colours([maps])[0]
    cells = np.asarray(grid)[top:bottom, right:]
    start = np.flatnonzero((cells != 255).any((0, 2)))[0]
    shown = cells[:, start : start + 120]
    centres = shown[(np.arange(6) * 80 + 40) // 6][:, (np.arange(9) * 120 + 60) // 9]
    assert np.array_equal(centres, colours)


def test_grids_are_the_same_every_time_and_stand_on_white() -> None:
    rows = [(f"{i}.png", Image.new("RGB", (30, 20 + 9 * i)), {"a": features(4, 5, 7, seed=i)}) for i in range(3)]
    one, two = (feature_grid(rows, shared_basis=True, caption="all of it") for _ in range(2))
    assert one.tobytes() == two.tobytes()
    assert all(one.getpixel(p) == (255, 255, 255) for p in [(0, 0), (one.width - 1, one.height - 1)])
    assert feature_grid(rows).tobytes() != one.tobytes()


def test_missing_photos_and_maps_and_long_names() -> None:
    rows = [
        ("x" * 400, None, {"up_blocks.1.attentions.1.transformer_blocks.0.attn2.q" * 4: features(4, 5, 7)}),
        ("b", None, {"short": features(4, 9, 3)}),
    ]
    grid = feature_grid(rows, cell=100)
    assert grid.width < 300
    assert block(grid, (240, 241, 243))[2] <= grid.width  # the empty places are shown
    assert feature_grid([("a", Image.new("RGB", (1, 500)), {"m": features(3, 2, 2)})], cell=50).height < 300


def test_nothing_to_draw() -> None:
    for rows in ([], [("a", None, {})]):
        with pytest.raises(InvalidValueError, match="nothing to draw"):
            feature_grid(rows)
    with pytest.raises(InvalidValueError, match="a: the picture is needed"):
        heat_grid([("a", None, {"cat": torch.zeros(2, 2)})])


def test_a_grid_of_words() -> None:
    values = torch.zeros(10, 15)
    values[2:4, 11:13] = 1
    photo = Image.new("RGB", (30, 20), BLUE)
    grid = heat_grid([("a.png", photo, {"cat": values, "dog": values.flip(1)})], cell=150)
    _, top, right, bottom = block(grid, BLUE)
    half = (grid.width - right) // 2
    warm = (np.asarray(grid)[top:bottom].astype(int) @ [1, 1, -1] > 250) & (np.asarray(grid)[top:bottom].sum(-1) < 700)
    cat, dog = warm[:, right : right + half], warm[:, right + half :]
    assert np.flatnonzero(cat.any(0)).mean() > half * 0.6
    assert np.flatnonzero(dog.any(0)).mean() < half * 0.4
