"""The bootstrap against brute force, results that merge, and what every registered task promises."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffeat.datasets.davis import Video
from diffeat.datasets.labelled import MaskSample
from diffeat.datasets.pairs import PointPair
from diffeat.datasets.registry import DATASETS
from diffeat.errors import InvalidValueError, UnknownNameError
from diffeat.evaluation import TaskOptions, bootstrap
from diffeat.evaluation.features import Kept
from diffeat.evaluation.intervals import resampled
from diffeat.report.results import WRITERS, write_result
from diffeat.tasks.classification import Classification
from diffeat.tasks.correspondence import PairRecord, get_protocol
from diffeat.tasks.correspondence.evaluate import CorrespondenceOptions, Evaluation, PairPrediction, Tally
from diffeat.tasks.correspondence.matching import Matches
from diffeat.tasks.propagation import Propagation, PropagationOptions, VideoScore
from diffeat.tasks.registry import TASKS, task_of
from diffeat.tasks.segmentation import Confusion, Segmentation, SegmentationOptions, evaluate_segmentation
from diffeat.tasks.segmentation.evaluate import Split
from stand_ins import STAND_INS
from test_segmentation import Colours

# ---- the bootstrap


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(5, 2, 900)
    low, high = bootstrap(values[:, None], lambda sums: sums[:, 0] / 900, replicates=4000)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.02)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 30, rel=0.06)


def test_units_of_one_group_are_drawn_together() -> None:
    """Ten copies of every value say no more than one: the interval is as wide as without them."""
    values = np.random.default_rng(1).normal(size=100)
    copies = np.repeat(values, 10)
    mean = lambda sums: sums[:, 0] / sums[:, 1]  # noqa: E731
    one = bootstrap(np.stack([values, np.ones(100)], 1), mean, replicates=3000)
    groups = [int(k) for k in np.repeat(np.arange(100), 10)]
    together = bootstrap(np.stack([copies, np.ones(1000)], 1), mean, groups=groups, replicates=3000)
    apart = bootstrap(np.stack([copies, np.ones(1000)], 1), mean, replicates=3000)
    assert together.high - together.low == pytest.approx(one.high - one.low, rel=0.08)
    assert apart.high - apart.low < 0.5 * (one.high - one.low)


def test_weights_of_pairs_are_products_of_their_pictures_counts() -> None:
    """Of two pictures, a replicate draws (2, 0), (1, 1) or (0, 2): a pair of both weighs 0, 1 or 0."""
    sums = resampled([[1.0], [1.0]], groups=[("a", "b"), ("a", "a")], replicates=2000)
    assert set(np.unique(sums)) == {2.0, 4.0}  # (1, 1): 1 + 1; (2, 0): 0 + 4; (0, 2) holds no pair and is drawn again
    assert (sums == 2).mean() == pytest.approx(2 / 3, abs=0.04)


def test_paired_differences_are_narrower_than_apart() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(size=400)
    better = base + 0.1
    mean = lambda sums: sums[:, 0] / 400  # noqa: E731
    low, high = bootstrap(better[:, None], mean, paired=base[:, None])
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.1)
    assert bootstrap(base[:, None], mean, seed=3) == bootstrap(base[:, None], mean, seed=3)
    with pytest.raises(InvalidValueError, match="as many groups, got 400 and 1"):
        bootstrap(base[:, None], mean, groups=["a"])


# ---- results that merge


def _matches(count: int) -> Matches:
    return Matches(torch.zeros(count, 2), torch.zeros(count, 2), torch.zeros(count))


def _evaluation(rng: np.random.Generator, count: int) -> Evaluation:
    predictions = []
    for i in range(count):
        names = f"{rng.integers(5)}.png", f"{rng.integers(5, 9)}.png"
        points = tuple((float(k), 0.0) for k in range(rng.integers(1, 5)))
        pair = PointPair(str(i), Path(names[0]), Path(names[1]), points, points, "ab"[i % 2])
        distances = tuple(rng.uniform(0, 20, len(points)))
        record = PairRecord(str(i), pair.category, names, distances, {"bbox": 100.0, "image": 120.0})
        predictions.append(PairPrediction(pair, _matches(len(points)), record))
    left_out = {f"lost {i}": "no keypoint" for i in range(count // 3)}
    protocol = get_protocol("spair").replace(average=str(rng.choice(["image", "category-point"])))
    tally = Tally(left_out, int(rng.integers(3)), None)
    return Evaluation("d test", "r", "0" * 64, protocol, tuple(predictions), tally, ("a note",))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.data())
def test_parts_of_pairs_merge_to_the_whole(seed: int, count: int, data: st.DataObject) -> None:
    whole = _evaluation(np.random.default_rng(seed), count)
    cut = data.draw(st.integers(1, count - 1))
    left = dict(list(whole.left_out.items())[:1])
    rest = {k: v for k, v in whole.left_out.items() if k not in left}
    one = replace(whole, predictions=whole.predictions[:cut], tally=Tally(left, whole.tally.moved, None))
    two = replace(whole, predictions=whole.predictions[cut:], tally=Tally(rest, 0, None))
    merged = one.merge(two)
    assert merged.result == whole.result
    assert str(merged) == str(whole)
    assert merged.interval() == whole.interval()
    assert merged.table() == whole.table()


def _segmentation(rng: np.random.Generator, count: int, tests: range | None = None) -> Segmentation:
    tests = tests or range(count)
    splits = []
    for k in range(2):
        confusions = tuple(Confusion(3, rng.integers(0, 50, (3, 3))) for _ in range(count))
        samples = tuple(MaskSample(Path(f"{i}.png"), Path(f"{i}.npy")) for i in range(count))
        doubts = tuple(rng.uniform(size=count).tolist())
        splits.append(Split(samples[:1], samples, confusions, doubts, ("c",) if k else ()))
    return Segmentation("d", "r", "0" * 64, ("a", "b", "c"), tuple(splits), SegmentationOptions(splits=2))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.data())
def test_parts_of_label_maps_merge_to_the_whole(seed: int, count: int, data: st.DataObject) -> None:
    whole = _segmentation(np.random.default_rng(seed), count)
    cut = data.draw(st.integers(1, count - 1))

    def part(some: slice) -> Segmentation:
        splits = (
            replace(s, test=s.test[some], confusions=s.confusions[some], doubts=s.doubts[some]) for s in whole.splits
        )
        return replace(whole, splits=tuple(splits))

    merged = part(slice(cut)).merge(part(slice(cut, None)))
    assert merged.value == whole.value
    assert merged.interval() == whole.interval()
    assert merged.table() == whole.table()
    assert str(merged) == str(whole)
    assert [s.unsure for s in merged.splits] == [s.unsure for s in whole.splits]
    assert merged.splits[0].confusion.counts.sum() == sum(c.counts.sum() for c in whole.splits[0].confusions)
    other = replace(whole, splits=tuple(replace(s, train=s.test[1:2]) for s in whole.splits))
    with pytest.raises(InvalidValueError, match="different training pictures"):
        whole.merge(other)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.data())
def test_parts_of_classes_merge_to_the_whole(seed: int, count: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, 3, (2, count))
    whole = Classification("d", "r", "0" * 64, ("a", "b", "c"), truth, predicted, 0.1, 9, TaskOptions())
    cut = data.draw(st.integers(1, count - 1))
    one = replace(whole, truth=truth[:cut], predicted=predicted[:cut])
    two = replace(whole, truth=truth[cut:], predicted=predicted[cut:])
    merged = one.merge(two)
    assert merged.value == whole.value == pytest.approx(100 * (truth == predicted).mean())
    assert merged.interval() == whole.interval()
    assert merged.table() == whole.table()
    with pytest.raises(InvalidValueError, match="different strength"):
        one.merge(replace(two, strength=1.0))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.data())
def test_videos_merge_to_their_union(seed: int, count: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    videos = tuple(Video(f"v{k}", (Path("0.jpg"),), (Path("0.png"),)) for k in range(count))
    numbers = lambda: dict(zip(("mean", "recall", "decay"), rng.uniform(size=3).tolist(), strict=True))  # noqa: E731
    scores = tuple(
        VideoScore(v.name, n, numbers(), numbers()) for v in videos for n in range(1, 1 + rng.integers(1, 4))
    )
    whole = Propagation("d val", "r", "0" * 64, scores, videos, PropagationOptions())

    def part(some: tuple[Video, ...]) -> Propagation:
        names = {v.name for v in some}
        return replace(whole, videos=some, scores=tuple(s for s in scores if s.video in names))

    first = data.draw(st.integers(1, count - 1))
    second = data.draw(st.integers(0, first))  # the parts may share videos, which count once
    merged = part(videos[:first]).merge(part(videos[second:]))
    assert merged == whole
    assert merged.value == pytest.approx(100 * np.mean([(s.j["mean"] + s.f["mean"]) / 2 for s in scores]))
    assert merged.interval() == whole.interval()
    other = replace(whole, scores=tuple(replace(s, j=dict.fromkeys(s.j, 2.0)) for s in scores))
    with pytest.raises(InvalidValueError, match="different scores"):
        whole.merge(other)


# ---- every registered task


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.name)
def test_a_task_is_whole(task) -> None:
    assert get_type_hints(task.evaluate)["return"] in WRITERS
    assert issubclass(task.options, TaskOptions)
    assert all(field.description for field in task.options.model_fields.values())
    assert not any(field.is_required() for field in task.options.model_fields.values())
    with pytest.raises(InvalidValueError, match="nonsense"):
        task.options(nonsense=1)
    with pytest.raises(InvalidValueError, match=r"limit: .*greater than or equal to 1 \(got 0\)"):
        task.options(limit=0)


SCORED = {task.kind for task in TASKS.values()}


def test_only_what_heads_learn_is_scored_by_no_task() -> None:
    assert {card.kind for card in DATASETS.values()} - SCORED == {"depth", "normals"}


@pytest.mark.parametrize("card", [c for c in DATASETS.values() if c.kind in SCORED], ids=lambda c: c.name)
def test_every_dataset_is_scored_by_its_task(card, tmp_path: Path) -> None:
    task = task_of(card.kind)
    options = task.options(limit=2)
    data = task.open(card.name, STAND_INS[card.name](tmp_path), options)
    parts = data if task.learns else (data,)
    assert len(parts) == 1 + task.learns
    assert [part.split for part in parts] == (["train"] if task.learns else []) + [card.split() or parts[-1].split]
    if task.learns:
        with pytest.raises(InvalidValueError, match="learned from on its train split"):
            task.open(card.name, tmp_path, task.options(split="trn"))


def test_options_of_pairs_are_checked_before_anything_is_read() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'spair'"):
        CorrespondenceOptions(protocol="spairs")
    with pytest.raises(InvalidValueError, match="Choose one of|Did you mean"):
        CorrespondenceOptions(average="imag")
    with pytest.raises(InvalidValueError, match="positive"):
        CorrespondenceOptions(threshold=(-1,))
    with pytest.raises(InvalidValueError, match="cannot be combined"):
        CorrespondenceOptions(flip=True, joint_pca=3)
    protocol = CorrespondenceOptions(threshold=(0.05, 0.01), average="point").protocol_for("pf-pascal")
    assert (protocol.alphas, protocol.average, protocol.reference) == ((0.05, 0.01), "point", "image")


def test_label_maps_are_not_held_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = STAND_INS["horse21"](tmp_path)
    data = TASKS["segmentation"].open("horse21", root, TaskOptions())
    alive: list[weakref.ref] = []
    most, read = 0, MaskSample.labels

    def counted(sample: MaskSample, classes: int, size: tuple[int, int] | None = None) -> np.ndarray:
        nonlocal most
        labels = read(sample, classes, size)
        alive.append(weakref.ref(labels))
        most = max(most, sum(ref() is not None for ref in alive))
        return labels

    monkeypatch.setattr(MaskSample, "labels", counted)
    monkeypatch.setattr("diffeat.tasks.segmentation.evaluate._EXAMPLES", 0)
    result = evaluate_segmentation(data, Colours(), SegmentationOptions(classifier="linear"))
    assert len(alive) == 2 * 7  # checked once, used once
    assert most <= 2
    page = write_result(result, tmp_path / "report")
    assert f"mIoU {result.value:.1f}" in page.read_text()


def test_values_that_are_kept_ready_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffeat.evaluation.features.MOST_BYTES", 10)
    kept: Kept[int, str] = Kept(3, len)
    for key, value in enumerate(("aaa", "bbb", "cc", "ddd")):
        assert kept.get_or_make(key, lambda value=value: value) == value
    assert list(kept) == [1, 2, 3]  # as many as may be kept
    kept.get_or_make(4, lambda: "e" * 6)
    assert list(kept) == [3, 4]  # 9 bytes
    kept.get_or_make(5, lambda: "f" * 20)
    assert list(kept) == [4, 5]  # two at least
