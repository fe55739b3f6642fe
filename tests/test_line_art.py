"""Edges against OpenCV's, on pictures of every kind, and against the recorded maps; labels resized as OpenCV does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from skimage.filters import gaussian

from conftest import golden_roots
from diffeat.errors import InvalidValueError
from diffeat.geometry import FrameSpec
from diffeat.geometry.line_art import canny
from diffeat.geometry.nearest import nearest_cells, resized_labels
from diffeat.techniques.conditions import condition_image, find_condition

GOLDEN = [p for root in golden_roots() if (root / "conditions").is_dir() for p in (root / "conditions").glob("*.png")]


@pytest.mark.parametrize("file", GOLDEN, ids=lambda p: p.stem)
def test_edges_of_a_condition_are_the_recorded_ones(file) -> None:
    assert "100, 200" in json.loads((file.parent / "meta.json").read_text())["what"]
    name, _, side = file.stem.split("_")
    picture = Image.fromarray(getattr(data, name)())
    frame = FrameSpec(mode="squash", size=int(side), filter="bicubic").frame(picture.size)
    shown = condition_image(find_condition("canny"), frame.pixels(picture))
    recorded = np.asarray(Image.open(file).convert("L"))
    assert (255 * shown[0].numpy() == recorded).all()
    assert torch.equal(shown[0], shown[2])


def drawn(seed: int, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Noise, two levels, smooth hills, or blocks: steps, ties and slopes of every direction."""
    rng = np.random.default_rng(seed)
    if kind == "levels":
        return (rng.integers(0, 2, shape) * rng.integers(1, 256)).astype(np.uint8)
    if kind == "hills":
        hills = gaussian(rng.normal(size=shape), 3, channel_axis=None if len(shape) == 2 else 2)
        return (255 * (hills - hills.min()) / max(np.ptp(hills), 1e-9)).astype(np.uint8)
    if kind == "blocks":
        small = rng.integers(0, 256, (-(-shape[0] // 5), -(-shape[1] // 5), *shape[2:]))
        return small.repeat(5, 0).repeat(5, 1)[: shape[0], : shape[1]].astype(np.uint8)
    return rng.integers(0, 256, shape).astype(np.uint8)


THRESHOLDS = st.sampled_from([0, 1, 50, 99.5, 100, 200, 300.7, 1000, 2039, 2040]) | st.floats(0, 2100)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 60), st.sampled_from([(), (1,), (3,)]),
    st.sampled_from(["noise", "levels", "hills", "blocks"]), THRESHOLDS, THRESHOLDS,
)  # fmt: skip
def test_edges_are_those_of_opencv(seed, height, width, channels, kind, low, high) -> None:
    cv2 = pytest.importorskip("cv2")
    picture = drawn(seed, (height, width, *channels), kind)
    expected = cv2.Canny(np.ascontiguousarray(picture), low, high)
    assert (255 * canny(picture, low, high) == expected).all()


@pytest.mark.parametrize("name", ["astronaut", "coffee", "rocket", "camera", "page"])
def test_edges_of_photos_are_those_of_opencv(name: str) -> None:
    cv2 = pytest.importorskip("cv2")
    photo = getattr(data, name)()
    assert (255 * canny(photo) == cv2.Canny(photo, 100, 200)).all()


@pytest.mark.parametrize("shape", [(4, 4, 3, 1), (4,), (0, 5, 3)])
def test_edges_are_of_pictures(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidValueError, match="bytes"):
        canny(np.zeros(shape, np.uint8))
    with pytest.raises(InvalidValueError, match="float64"):
        canny(np.zeros((4, 4)))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 40), st.integers(1, 40))
def test_labels_are_resized_as_opencv_does(width: int, wide: int, height: int, high: int) -> None:
    cv2 = pytest.importorskip("cv2")
    labels = np.random.default_rng(width).integers(0, 256, (height, width)).astype(np.uint8)
    expected = cv2.resize(labels, (wide, high), interpolation=cv2.INTER_NEAREST)
    assert (resized_labels(labels, (wide, high)) == expected).all()


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700))
def test_cells_are_repeated_as_pytorch_does(cells: int, count: int) -> None:
    row = torch.arange(cells, dtype=torch.float32)[None, None]
    assert (nearest_cells(count, cells, "pytorch") == F.interpolate(row, size=count)[0, 0].numpy()).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300))
def test_frames_look_labels_up_as_pillow_resizes(cells: int, count: int) -> None:
    """But where a centre falls on the edge of two cells, which Pillow's sums may round either way."""
    row = np.arange(cells, dtype=np.int32)[None]
    pillow = np.asarray(Image.fromarray(row).resize((count, 1), Image.Resampling.NEAREST))[0]
    inner = (2 * np.arange(count) + 1) * cells % (2 * count) != 0
    frame = FrameSpec(mode="squash", size=(cells, 1)).frame((count, 1))
    looked_up = frame.map_to_original(torch.from_numpy(row), mode="nearest")[0].numpy()
    onto = FrameSpec(mode="squash", size=(64, 64)).frame((cells, 1))
    brought = onto.map_from_original(torch.from_numpy(row), (1, count), mode="nearest")[0].numpy()
    assert (looked_up[inner] == pillow[inner]).all()
    assert (brought[inner] == pillow[inner]).all()


def test_the_rules_are_different() -> None:
    assert (resized_labels(np.arange(300)[None], (256, 1)) == np.arange(256) * 300 // 256).all()
    assert (nearest_cells(256, 186, "opencv") != np.arange(256) * 186 // 256).any()
