"""Windowed propagation against the dense form, its memory, J&F against closed forms, DAVIS' layout."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from diffeat.datasets.coding import colour_map
from diffeat.datasets.davis import read_davis, read_mask, write_mask, write_toyworld_videos
from diffeat.errors import DatasetError, InvalidValueError, UnknownNameError
from diffeat.extraction import Baseline
from diffeat.features import FeatureMap, Streams
from diffeat.geometry import FrameSpec
from diffeat.tasks.propagation import (
    PropagationOptions,
    boundary_score,
    evaluate_videos,
    propagate_labels,
    propagate_video,
    region_score,
)
from diffeat.tasks.propagation.metric import outline, over_frames


def _dense(target, context, labels, radius, topk, temperature):
    """The textbook form: every token against every token of every context frame."""
    _, h, w = target.shape
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    place = torch.stack([y.flatten(), x.flatten()], 1)
    near = (place[:, None] - place[None]).abs().amax(-1) <= radius
    keys = torch.cat([F.normalize(f, dim=0).flatten(1) for f in context], 1)
    affinity = F.normalize(target, dim=0).flatten(1).T @ keys
    affinity = affinity.masked_fill(~near.repeat(1, len(context)), -torch.inf)
    best, index = affinity.topk(topk, dim=1)
    weights = torch.softmax(best / temperature, 1)
    values = torch.cat([m.flatten(1) for m in labels], 1)
    return (values[:, index] * weights).sum(-1).unflatten(1, (h, w))


def _video(frames: int, channels: int, h: int, w: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(channels, h, w, generator=generator) for _ in range(frames + 1)]
    labels = [torch.rand(3, h, w, generator=generator) for _ in range(frames)]
    return features[0], features[1:], labels


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3), st.integers(5, 21), st.integers(5, 21), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99)
)
def test_equals_the_dense_form(frames: int, h: int, w: int, radius: int, topk: int, seed: int) -> None:
    target, context, labels = _video(frames, 6, h, w, seed)
    got = propagate_labels(target, context, labels, PropagationOptions(radius=radius, topk=topk))
    torch.testing.assert_close(got, _dense(target, context, labels, radius, topk, 0.1), rtol=1e-4, atol=1e-5)


def test_the_attention_kernel_is_that_of_a_head() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(4, 5, 6, generator=generator) for _ in range(2))
    labels = torch.rand(3, 5, 6, generator=generator)
    options = PropagationOptions(kernel="attention", radius=0, topk=30, temperature=1)
    found = propagate_labels(queries, [keys], [labels], options)
    heads = F.scaled_dot_product_attention(*(x.flatten(1).T[None] for x in (queries, keys, labels)))
    torch.testing.assert_close(found.flatten(1).T, heads[0])

    frame = FrameSpec("squash", (60, 50)).frame((60, 50))
    maps = {"a.attn1.k[3]": keys, "a.attn1.q[3]": queries}
    mask = torch.arange(50)[:, None].expand(50, 60) // 25
    video = [FeatureMap(maps, frame, "x")] * 2
    assert next(propagate_video(video, mask, options)).shape == (50, 60)
    with pytest.raises(InvalidValueError, match=r"60×50 pixels, its mask is of shape \(60, 50\), not \(50, 60\)"):
        next(propagate_video(video, mask.T, options))
    other = [replace(video[0], provenance={"recipe_hash": hash}) for hash in "ab"]
    with pytest.raises(InvalidValueError, match="cannot be compared"):
        next(propagate_video(other, mask, options))
    assert "kernel attention" in str(options)
    for names in ([*maps, "b"], ["a.attn1.q[3]"], ["a.attn1.q[3]", "b.attn1.k[3]"], ["a.attn1.q", "a.attn1.k[3]"], []):
        with pytest.raises(InvalidValueError, match="takes queries and keys"):
            options.check_maps("r", names)


def test_with_a_large_radius_it_looks_everywhere() -> None:
    target, context, labels = _video(2, 6, 9, 13)
    got = propagate_labels(target, context, labels, PropagationOptions(radius=99))
    torch.testing.assert_close(got, _dense(target, context, labels, 99, 5, 0.1), rtol=1e-4, atol=1e-5)


class _Memory(TorchDispatchMode):
    """Bytes of the tensors that are made and still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self._seen:
                    self._seen.add(storage.data_ptr())
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage.data_ptr(), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.now -= size


def test_memory_is_an_eighth_of_the_dense_form_with_equal_labels() -> None:
    target, context, labels = _video(4, 16, 40, 40)
    with _Memory() as dense:
        expected = _dense(target, context, labels, 12, 5, 0.1)
    with _Memory() as windowed:
        got = propagate_labels(target, context, labels, PropagationOptions())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(got.argmax(0), expected.argmax(0))
    assert dense.peak > 4 * 1600 * 1600 * 4  # the counter sees the affinities
    assert windowed.peak <= dense.peak / 8


def test_a_moving_object_is_followed() -> None:
    """Features that travel with the object carry its label along, beyond the radius of one step."""
    generator = torch.Generator().manual_seed(0)
    ground, thing = torch.randn(8, 20, 20, generator=generator), torch.randn(8, 4, 4, generator=generator)
    frame = FrameSpec(size=80).frame((40, 40))
    maps, truths = [], []
    for t in range(6):
        feature, truth = ground.clone(), torch.zeros(40, 40, dtype=torch.int64)
        feature[:, 4:8, 2 * t + 1 : 2 * t + 5] = thing
        truth[8:16, 4 * t + 2 : 4 * t + 10] = 7
        maps.append(FeatureMap({"x": feature}, frame, f"{t}", "", {}))
        truths.append(truth)
    found = list(propagate_video(maps, truths[0], PropagationOptions(radius=3, topk=1, last_frames=1)))
    assert len(found) == 5
    for mask, truth in zip(found, truths[1:], strict=True):
        assert set(mask.unique().tolist()) == {0, 7}
        assert region_score((mask == 7).numpy(), (truth == 7).numpy()) > 0.7


def test_region_and_boundary_scores() -> None:
    square, moved, empty = (np.zeros((100, 100), bool) for _ in range(3))
    square[30:60, 30:60] = True
    moved[30:60, 35:65] = True
    assert region_score(square, square) == boundary_score(square, square) == 1
    assert region_score(square, moved) == pytest.approx(25 / 35)
    assert region_score(empty, empty) == boundary_score(empty, empty) == 1
    assert region_score(square, empty) == boundary_score(square, empty) == boundary_score(empty, square) == 0
    assert boundary_score(square, moved, bound=5) == 1
    rows = np.argwhere(outline(square))
    assert len(rows) == 4 * 30  # one pixel wide
    edges = outline(moved)
    near = [
        np.abs(np.argwhere(edges) - p).max(1).min() <= 2 and np.hypot(*(np.argwhere(edges) - p).T).min() <= 2
        for p in rows
    ]
    other = [np.hypot(*(rows - p).T).min() <= 2 for p in np.argwhere(edges)]
    precision, recall = np.mean(near), np.mean(other)
    assert boundary_score(square, moved) == pytest.approx(2 * precision * recall / (precision + recall))


def test_over_frames() -> None:
    told = over_frames([1.0] * 4 + [0.4] * 4)
    assert told["mean"] == pytest.approx(0.7)
    assert told["recall"] == 0.5
    assert told["decay"] == pytest.approx(0.6)


def test_masks_on_disk(tmp_path: Path) -> None:
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    write_mask(tmp_path / "m.png", mask)
    assert (read_mask(tmp_path / "m.png") == mask).all()
    assert colour_map(4) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert colour_map()[8] == (64, 0, 0)


class _Colours(Streams):
    """The colours of the pictures as features."""

    recipe = Baseline(name="RGB patches")

    def stream(self, images, prompts=None):
        from diffeat.geometry import open_image

        for path in images:
            image = open_image(path)
            frame = FrameSpec(size=32).frame(image.size)
            yield FeatureMap({"x": torch.cat([frame.pixels(image), torch.ones(1, 32, 32)])}, frame, str(path), "", {})


def test_videos_of_the_toy_world_in_the_layout_of_davis(tmp_path: Path) -> None:
    root = write_toyworld_videos(tmp_path / "davis", videos=2, frames=5, size=64)
    videos = read_davis(root)
    assert [len(v.frames) for v in videos] == [5, 5]
    assert all(set(np.unique(read_mask(m))) <= {0, 1, 2} for v in videos for m in v.masks if m)
    result = evaluate_videos(videos, _Colours(), PropagationOptions(masks=tmp_path / "out"))  # type: ignore[arg-type]
    scores = result.scores
    assert [(s.video, s.number) for s in scores] == [(f"toy-0{k}", n) for k in (0, 1) for n in (1, 2)]
    assert all(0 < s.jf <= 1 for s in scores)
    assert (read_mask(tmp_path / "out" / "toy-00" / "00000.png") == videos[0].first_mask).all()
    only = videos.only(["toy-01"])
    assert [v.name for v in only] == ["toy-01"]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="There is no"):
        read_davis(tmp_path)
    root = write_toyworld_videos(tmp_path / "davis", videos=1, frames=2, size=32)
    with pytest.raises(UnknownNameError, match="toy-00"):
        read_davis(root).only(["toy-1"])
    (root / "Annotations" / "480p" / "toy-00" / "00000.png").unlink()
    with pytest.raises(DatasetError, match="nothing to propagate"):
        read_davis(root)
    target, context, labels = _video(2, 4, 5, 5)
    with pytest.raises(InvalidValueError, match="one grid"):
        propagate_labels(target[:, :4], context, labels)
    with pytest.raises(InvalidValueError, match="As many labels"):
        propagate_labels(target, context, labels[:1])
    with pytest.raises(InvalidValueError, match="topk: .*greater than or equal to 1"):
        PropagationOptions(topk=0)
