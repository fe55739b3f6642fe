"""PCK against recorded numbers, hand cases and a plain reimplementation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from diffeat.errors import InvalidValueError, UnknownNameError
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec
from diffeat.tasks.correspondence import (
    PROTOCOLS,
    PairRecord,
    Protocol,
    curve,
    get_protocol,
    match,
    pck,
    record_pair,
)

GOLDEN = Path(__file__).parent / "golden" / "pck"
ALPHAS = (0.01, 0.05, 0.1, 0.15, 0.2)


def features(tensor: torch.Tensor, size: tuple[int, int]) -> FeatureMap:
    return FeatureMap({"map": tensor}, FrameSpec("squash", (64, 64)).frame(size), "p", "0" * 64, {})


def dift_records() -> list[PairRecord]:
    data = json.loads((GOLDEN / "random_dift.json").read_text())
    maps = load_file(GOLDEN / "random_dift.safetensors")
    records = []
    for pair, want in zip(data["pairs"], data["expected_pairs"], strict=True):
        source, target = (
            features(maps[pair[f"{side}_imname"].split(".")[0]][0], tuple(pair[f"{side}_imsize"][:2]))
            for side in ("src", "trg")
        )
        found = match(source, target, pair["src_kps"])
        for got, expected, ties in zip(found.target.tolist(), want["predicted_xy"], want["ties"], strict=True):
            tied = [[x, y] for y, x in ties.get("tied_yx", [])]
            assert got == expected or got in tied
        record = record_pair(
            found.target,
            pair["trg_kps"],
            target_size=tuple(pair["trg_imsize"][:2]),
            target_box=pair["trg_bndbox"],
            name=want["pair"],
            category=pair["category"],
        )
        assert record.lengths["bbox"] == want["threshold_base"]
        records.append(record)
    return records


def test_recorded_scores_of_random_maps_at_original_resolution() -> None:
    records = dift_records()
    expected = json.loads((GOLDEN / "random_dift.json").read_text())["expected"]
    for average in ("image", "point"):
        result = pck(records, get_protocol("dift").replace(alphas=ALPHAS, average=average), replicates=0)
        for alpha in ALPHAS:
            rows = expected[f"{alpha:g}"]
            assert result[alpha] == pytest.approx(rows["All"][f"per_{average}"], abs=1e-9)
            for category, score in result.categories.items():
                assert score.values[alpha][average] == pytest.approx(rows[category][f"per_{average}"], abs=1e-9)
                assert (score.pairs, score.points) == (rows[category]["pairs"], rows[category]["points"])


def test_recorded_scores_of_the_square_evaluation() -> None:
    data = json.loads((GOLDEN / "random_hyperfeatures.json").read_text())
    records = [
        record_pair(
            np.array(pair["predicted_original_yx"])[:, ::-1],
            pair["target_points_xy"],
            target_size=tuple(pair["target_size"]),
            target_box=pair["target_bounding_box"],
            name=pair["name"],
        )
        for pair in data["pairs"]
    ]
    for record, pair in zip(records, data["pairs"], strict=True):
        assert record.distances == pytest.approx(pair["distances"])
    for name, reference in (("hyperfeatures", "bbox"), ("hyperfeatures-image", "img")):
        result = pck(records, PROTOCOLS[name].replace(alphas=ALPHAS), replicates=0)
        for alpha in ALPHAS:
            assert result[alpha] == pytest.approx(100 * data["aggregate_per_point"][f"{alpha:g}"][reference])


def test_recorded_threshold_arithmetic() -> None:
    table = json.loads((GOLDEN / "random_hyperfeatures.json").read_text())["compute_pck"]
    for row in table["rows"]:
        box = row["bounding_box"]
        correct = []
        for p, t in zip(table["predicted_yx"], table["target_yx"], strict=True):
            record = record_pair([p[::-1]], [t[::-1]], target_size=tuple(row["size_wh"]), target_box=box)
            protocol = Protocol("t", alphas=(row["alpha"],), reference="bbox" if box else "image", headline=0)
            correct.append(pck([record], protocol, replicates=0).value == 100)
        assert correct == row["correct"]


def test_a_threshold_that_is_given_twice_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="0.1, 0.05, 0.1: one is given twice"):
        get_protocol("spair").replace(alphas=(0.1, 0.05, 0.1))


def test_inclusive_and_strict_differ_exactly_on_the_threshold() -> None:
    record = record_pair([[5, 0], [0, 6]], [[0, 0], [0, 0]], target_size=(50, 20))
    base = Protocol("t", alphas=(0.1,), reference="image", headline=0)
    assert pck([record], base, replicates=0).value == 50
    assert pck([record], base.replace(inclusive=False), replicates=0).value == 0


def test_distances_are_isotropic_in_original_pixels() -> None:
    """Squashing a 400×100 picture to a square would shrink a horizontal error fourfold."""
    record = record_pair([[60, 0]], [[0, 0]], target_size=(400, 100), target_box=(0, 0, 400, 100))
    assert record.distances == (60.0,)
    assert pck([record], PROTOCOLS["spair"], replicates=0)[0.1] == 0


def test_averages() -> None:
    records = [
        PairRecord("a", "cat", ("1", "2"), (0.0, 0.0, 0.0, 99.0), {"bbox": 10.0, "image": 10.0}),
        PairRecord("b", "cat", ("2", "1"), (99.0,), {"bbox": 10.0, "image": 10.0}),
        PairRecord("c", "dog", ("3", "4"), (0.0, 99.0), {"bbox": 10.0, "image": 10.0}),
    ]
    base = PROTOCOLS["spair"]
    expected = {
        "image": (75 + 0 + 50) / 3,
        "point": 100 * 4 / 7,
        "category-image": ((75 + 0) / 2 + 50) / 2,
        "category-point": (100 * 3 / 5 + 50) / 2,
    }
    for average, value in expected.items():
        assert pck(records, base.replace(average=average), replicates=0)[0.1] == pytest.approx(value)
    assert curve(records, base, [0.1, 10]) == pytest.approx([expected["image"], 100])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["image", "point", "category-image", "category-point"]))
def test_intervals_repeat_and_hold_the_estimate(seed: int, average: str) -> None:
    rng = np.random.default_rng(seed)
    records = [
        PairRecord(
            str(i),
            "xy"[i % 2],
            (f"i{rng.integers(8)}", f"j{rng.integers(8)}"),
            tuple(rng.uniform(0, 20, 6)),
            {"bbox": 100.0, "image": 100.0},
        )
        for i in range(30)
    ]
    protocol = PROTOCOLS["spair"].replace(average=average)
    one = pck(records, protocol, replicates=200, seed=1)
    assert one == pck(records, protocol, replicates=200, seed=1)
    assert one.intervals != pck(records, protocol, replicates=200, seed=2).intervals
    for alpha, (low, high) in one.intervals.items():
        assert low <= one[alpha] <= high


def test_interval_width_is_that_of_the_mean_when_pairs_are_independent() -> None:
    """With a picture of its own for each pair's ends, the product weights triple the variance of the mean."""
    rng = np.random.default_rng(0)
    hits = rng.uniform(size=400) < 0.5
    records = [
        PairRecord(str(i), "", (f"s{i}", f"t{i}"), (0.0 if hit else 99.0,), {"image": 10.0, "bbox": 10.0})
        for i, hit in enumerate(hits)
    ]
    low, high = pck(records, PROTOCOLS["spair"], replicates=4000).intervals[0.1]
    expected = 2 * 1.96 * np.sqrt(3) * 100 * hits.std() / np.sqrt(400)
    assert high - low == pytest.approx(expected, rel=0.1)


def test_single_pairs_work_and_nothing_prints_without_its_protocol() -> None:
    record = record_pair([[1, 1]], [[1, 1]], target_size=(10, 10), target_box=(0, 0, 5, 5))
    result = pck([record], PROTOCOLS["dift-point"], replicates=50, notes=["ground-truth categories were used"])
    text = str(result)
    assert "PCK@0.1 100.00 [100.00, 100.00]" in text
    assert "dift-point: distance ≤ α·max(w, h) of the target box, pooled over points" in text
    assert "1 pairs, 1 points" in text
    assert "ground-truth categories" in text
    for name, protocol in PROTOCOLS.items():
        assert str(protocol).startswith(name)
        json.dumps(protocol.to_dict())
    assert PROTOCOLS["spair"].replace(inclusive=False).name == "spair*"


def test_every_number_is_told_by_the_pair_and_by_the_point() -> None:
    records = [
        PairRecord("a", "cat", ("1", "2"), (0.0, 0.0, 0.0, 99.0), {"bbox": 10.0, "image": 10.0}),
        PairRecord("b", "cat", ("2", "1"), (99.0,), {"bbox": 10.0, "image": 10.0}),
        PairRecord("c", "dog", ("3", "4"), (0.0, 99.0), {"bbox": 10.0, "image": 10.0}),
    ]
    image, point = (75 + 0 + 50) / 3, 100 * 4 / 7
    by_point = pck(records, PROTOCOLS["dift-point"], replicates=200)
    by_image = pck(records, PROTOCOLS["dift"], replicates=200)
    for result in (by_point, by_image):
        lines = str(result).splitlines()[:2]
        assert sorted(line.split("   ")[0].strip() for line in lines) == ["per image", "per point"]
        assert f"PCK@0.1 {image:.2f} [" in str(result)
        assert f"PCK@0.1 {point:.2f} [" in str(result)
        assert "α·max(w, h) of the target box" in str(result)
        assert set(result.spreads) == {"image", "point"}
    assert by_point.spreads == by_image.spreads  # one bootstrap serves both
    assert str(by_point).startswith("per point")
    assert by_point.headline.startswith(f"PCK@0.1 of the target box: {point:.1f} [")
    assert by_point.headline.endswith("per image; 3 pairs, 7 points")
    assert by_point.cell(0.1).endswith(f"({image:.1f})")
    header, rows = by_point.table()
    assert header[-2] == "PCK@0.1 per point (per image)"
    assert rows[0] == ["cat", "2", "5", *["60.0 (37.5)"] * 4]
    assert rows[-1][-1] == f"{point:.1f} ({image:.1f})"
    macro = pck(records, PROTOCOLS["spair"].replace(average="category-image"), replicates=0)
    assert macro.table()[1][-1][-1] == f"{(37.5 + 50) / 2:.1f} ({(60 + 50) / 2:.1f})"
    assert macro.table()[1][0][-1] == "37.5 (60.0)"
    assert "per image, mean of categories" in macro.headline
    plain = by_image.to_dict()["averages"]
    assert plain["point"]["0.1"]["pck"] == pytest.approx(point)
    assert plain["point"]["0.1"]["interval"] == list(by_point.intervals[0.1])
    assert PROTOCOLS["geometry"].columns()[0] == "PCK@1 px per point (per image)"
    assert PROTOCOLS["hyperfeatures-image"].measure() == "PCK@0.1 of the target picture"


def test_bad_input_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="no keypoint in pair 'p'"):
        record_pair(np.zeros((0, 2)), np.zeros((0, 2)), target_size=(9, 9), name="p")
    with pytest.raises(InvalidValueError, match="no area"):
        record_pair([[1, 1]], [[1, 1]], target_size=(9, 9), target_box=(3, 3, 3, 8))
    with pytest.raises(InvalidValueError, match="not a number"):
        record_pair([[np.nan, 1]], [[1, 1]], target_size=(9, 9))
    with pytest.raises(InvalidValueError, match="needs"):
        pck([record_pair([[1, 1]], [[1, 1]], target_size=(9, 9))], PROTOCOLS["spair"])
    with pytest.raises(InvalidValueError, match="no pair"):
        pck([], PROTOCOLS["spair"])
    with pytest.raises(UnknownNameError, match="Did you mean 'spair'"):
        get_protocol("spairs")
    with pytest.raises(InvalidValueError, match=r"alpha 0\.3 was not scored"):
        pck([record_pair([[1, 1]], [[1, 1]], target_size=(9, 9))], PROTOCOLS["pf-pascal"])[0.3]
