"""Confusions against scikit-learn, outlines against brute force, exact surfaces of the toy world."""

from __future__ import annotations

import numpy as np
import pytest

from diffeat.datasets.labelled import IGNORE
from diffeat.datasets.toyworld import Toyworld
from diffeat.tasks.segmentation.boundary import boundary_counts, boundary_f, outline_counts
from diffeat.tasks.segmentation.confusion import Confusion

RNG = np.random.default_rng(0)


def maps(classes: int = 4, size: tuple[int, int] = (23, 31)) -> tuple[np.ndarray, np.ndarray]:
    truth = np.kron(RNG.integers(0, classes, (4, 4)), np.ones((8, 8), int))[: size[0], : size[1]].astype(np.uint8)
    predicted = np.where(RNG.random(truth.shape) < 0.15, RNG.integers(0, classes, truth.shape), truth).astype(np.uint8)
    truth[RNG.random(truth.shape) < 0.1] = IGNORE
    return truth, predicted


def test_a_confusion_is_scikit_learn_s_and_adds_up() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    parts = [maps() for _ in range(3)]
    total = Confusion(4)
    for truth, predicted in parts:
        one = Confusion(4)
        one.add(truth, predicted)
        total = total + one
    truth, predicted = (np.concatenate([p[i].ravel() for p in parts]) for i in (0, 1))
    keep = truth != IGNORE
    assert (total.counts == metrics.confusion_matrix(truth[keep], predicted[keep], labels=range(4))).all()
    expected = metrics.jaccard_score(truth[keep], predicted[keep], labels=range(4), average=None)
    np.testing.assert_allclose(total.iou, expected)
    assert total.accuracy == pytest.approx(metrics.accuracy_score(truth[keep], predicted[keep]))


def test_mean_iou_of_a_case_by_hand() -> None:
    confusion = Confusion(3)
    confusion.add(np.array([[0, 0, 1, 1, IGNORE]], np.uint8), np.array([[0, 1, 1, 1, 2]], np.uint8))
    np.testing.assert_allclose(confusion.iou, [1 / 2, 2 / 3, np.nan])
    assert confusion.miou == pytest.approx((1 / 2 + 2 / 3) / 2)


def slow_outline(mask: np.ndarray, void: np.ndarray) -> list[tuple[int, int]]:
    height, width = mask.shape
    return [
        (y, x)
        for y in range(height)
        for x in range(width)
        if not void[y, x]
        and any(
            y + b < height and x + a < width and not void[y + b, x + a] and mask[y, x] != mask[y + b, x + a]
            for a, b in ((1, 0), (0, 1), (1, 1))
        )
    ]


def test_outlines_equal_brute_force_and_add_up() -> None:
    total = np.zeros((4, 4), int)
    expected = np.zeros((4, 4), int)
    for _ in range(3):
        truth, predicted = maps()
        truth = np.where(truth == IGNORE, 0, truth)
        total += boundary_counts(truth, predicted, 4, bound=2)
        for label in range(4):
            one, other = (slow_outline(m == label, truth == IGNORE) for m in (predicted, truth))
            for column, (own, against) in enumerate(((one, other), (other, one))):
                near = sum(any((y - v) ** 2 + (x - u) ** 2 <= 4 for v, u in against) for y, x in own)
                expected[label, 2 * column : 2 * column + 2] += len(own), near
    assert (total == expected).all()
    precision, recall = expected[:, 1] / expected[:, 0], expected[:, 3] / expected[:, 2]
    np.testing.assert_allclose(boundary_f(total), 2 * precision * recall / (precision + recall))


def test_a_band_of_void_between_classes_is_an_outline_and_the_edge_of_what_is_unknown_is_none() -> None:
    truth = np.repeat(np.array([0] * 9 + [IGNORE] * 3 + [1] * 8, np.uint8)[None], 20, 0)
    halves = (np.arange(20) >= 10)[None].repeat(20, 0).astype(np.uint8)
    assert boundary_f(boundary_counts(truth, halves, 2, bound=2)).tolist() == [1, 1]  # as around objects of VOC
    assert boundary_f(outline_counts(truth, halves, bound=2)[None]).tolist() == [1]
    shifted = (np.arange(20) >= 5)[None].repeat(20, 0).astype(np.uint8)
    assert boundary_f(boundary_counts(truth, shifted, 2, bound=2)).tolist() == [0, 0]
    truth[:, 9:] = IGNORE  # nothing is known of the right half, whatever is predicted there
    counts = boundary_counts(truth, halves, 2, bound=2)
    assert counts.sum() == 0
    assert np.isnan(boundary_f(counts)).all()


def test_outlines_that_agree_and_those_that_are_far_apart() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[10:20, 10:20] = 1
    assert boundary_f(boundary_counts(truth, truth, 3))[:2].tolist() == [1, 1]
    assert np.isnan(boundary_f(boundary_counts(truth, truth, 3))[2])
    assert boundary_f(boundary_counts(truth, np.roll(truth, 15, 1), 2, bound=1)).tolist() == [0, 0]


@pytest.fixture(scope="module")
def world() -> Toyworld:
    return Toyworld(7, 96)


def test_surfaces_are_where_the_figure_is_seen(world: Toyworld) -> None:
    for k in range(4):
        sample, surface = world.sample(k), world.surface(k)
        known = np.isfinite(surface.depth)
        assert ((sample.parts > 0) & ~known).sum() < 0.01 * max(100, (sample.parts > 0).sum())
        assert (surface.depth[known] > 0).all()
        np.testing.assert_allclose(np.linalg.norm(surface.normals[:, known], axis=0), 1, atol=1e-5)
        assert (surface.normals[:, ~known] == 0).all()


def test_normals_are_those_of_the_depth(world: Toyworld) -> None:
    """The cross product of finite differences of the points that rays meet is the normal, away from edges."""
    angles = []
    for k in range(4):
        surface, camera = (
            world.surface(k),
            world._stage(np.random.default_rng(np.random.SeedSequence((7, 0, k))), {}).camera,
        )
        y, x = np.mgrid[:96, :96]
        rays = np.stack(
            [(x - camera.centre[0]) / camera.focal, (y - camera.centre[1]) / camera.focal, np.ones((96, 96))]
        )
        points = np.where(np.isfinite(surface.depth), rays * surface.depth, np.nan)
        across, down = points[:, 1:-1, 2:] - points[:, 1:-1, :-2], points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
        estimate = np.cross(down, across, axis=0)
        estimate /= np.linalg.norm(estimate, axis=0)
        angles.append((estimate * surface.normals[:, 1:-1, 1:-1]).sum(0).ravel())
    cosine = np.concatenate(angles)
    cosine = cosine[np.isfinite(cosine)]
    assert len(cosine) > 1000
    assert np.median(cosine) > 0.995
