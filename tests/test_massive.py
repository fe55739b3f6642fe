"""Massive channels: reference cases, closed forms, and what must not be taken for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from conftest import golden_roots
from diffeat.errors import InvalidValueError
from diffeat.refinement.massive import Rule, detect_massive, high_norm_tokens, measured_channel
from diffeat.refinement.stats import ChannelStatistics, jaccard

DETECTOR = next((r / "ditf" / "detector" for r in reversed(golden_roots()) if (r / "ditf" / "detector").is_dir()), None)
CASES = json.loads((DETECTOR / "meta.json").read_text())["cases"] if DETECTOR else []


def _gather(images: list[torch.Tensor]) -> ChannelStatistics:
    statistics = ChannelStatistics(images[0].shape[1])
    for image in images:
        statistics.update(image)
    return statistics


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_reference_cases(case: dict) -> None:
    assert DETECTOR is not None
    stored = load_file(DETECTOR / "tensors.safetensors")
    name = case["name"]
    images = [stored[f"{name}.{i:02d}"] for i in range(case["n_images"])]
    statistics = _gather(images)
    for part in ("mean_abs", "mean", "std"):
        expected = stored[f"{name}.stats.{part}"].float()
        got = getattr(statistics, part)
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max(), part
    detection = detect_massive(statistics)
    assert detection.channels == case["expected"]
    known = case["statistics"]
    assert statistics.top(5) == known["top5"]
    assert statistics.peak_ratio == pytest.approx(known["max_over_median_abs"], rel=0.04)
    assert statistics.energy_share(known["top5"][:2]) == pytest.approx(known["top2_energy_share"], rel=1e-4)
    if name == "moderate_channel":
        assert detect_massive(statistics, Rule(ratio=5)).channels == known["top5"][:1]


def _images(count: int = 8, seed: int = 0, channels: int = 32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(20 + i, channels, generator=generator) for i in range(count)]


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 31), max_size=4), st.floats(40, 4000), st.integers(0, 1000), st.floats(1e-6, 1e6))
def test_finds_exactly_what_was_put_in(channels: set[int], size: float, seed: int, scale: float) -> None:
    images = _images(seed=seed)
    for image in images:
        for c in channels:
            image[:, c] = size * (1 if c % 2 else -1) + 0.05 * size * image[:, c]
    assert detect_massive(_gather([scale * i for i in images])).channels == sorted(channels)


def test_statistics_do_not_depend_on_the_order_and_equal_those_of_everything_at_once() -> None:
    images = _images()
    one, other = _gather(images), _gather(images[::-1])
    together = torch.cat(images)
    torch.testing.assert_close(one.mean_abs, other.mean_abs)
    torch.testing.assert_close(one.std, together.std(0, correction=0))
    torch.testing.assert_close(one.mean, together.mean(0))
    assert one.median_abs == pytest.approx(together.abs().median().item(), rel=0.03)


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        (lambda x, _: x + 100, []),
        (lambda x, _: x + 4, ["ratio"]),
        (lambda x, _: 300 * x, ["|mean| / std"]),
        (lambda x, i: x + 200 * (i % 2), ["|mean| / std", "in 50% < 90%"]),
        (lambda x, _: x, ["ratio", "|mean| / std", "in 0% < 90%"]),
    ],
)
def test_a_channel_tells_which_tests_it_fails(change, failed: list[str]) -> None:
    images = _images()
    for i, image in enumerate(images):
        image[:, 3] = change(image[:, 3], i)
    statistics, rule = _gather(images), Rule()
    told = measured_channel(statistics, 3, rule).failed(rule)
    assert [any(word in line for line in told) for word in failed] == [True] * len(failed)
    assert (3 in detect_massive(statistics).channels) == (not told)


def test_one_image_is_not_enough_to_know() -> None:
    images = _images(1)
    images[0][:, 3] = 100
    statistics = _gather(images)
    with pytest.raises(InvalidValueError, match="cannot be known"):
        detect_massive(statistics)
    with pytest.raises(InvalidValueError, match="one image"):
        statistics.stability(3)
    assert detect_massive(statistics, Rule(presence=0)).channels == [3]


def test_high_norm_tokens_are_told_apart_from_massive_channels() -> None:
    (image,) = _images(1)
    image[:, 4] = 300 + 60 * image[:, 4]  # every token's norm is now large and uneven
    image[7] *= 40
    image[7, 4] = 0
    assert high_norm_tokens(image, [4]).nonzero().flatten().tolist() == [7]
    assert not high_norm_tokens(image)[7]  # hidden by the massive channel


def test_gini_jaccard_and_stability() -> None:
    equal, unequal = ChannelStatistics(10), ChannelStatistics(10)
    equal.update(torch.ones(3, 10))
    unequal.update(torch.eye(10)[:1])
    assert equal.gini == pytest.approx(0, abs=1e-6)
    assert unequal.gini == pytest.approx(0.9, abs=1e-6)
    assert jaccard([[1, 2], [2, 3], [1, 2]]) == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)
    images = _images(4)
    for image in images:
        image[:, [2, 9]] += 50
    assert _gather(images).stability(2) == 1


def test_what_the_statistics_refuse() -> None:
    statistics = ChannelStatistics(4)
    with pytest.raises(InvalidValueError, match="No image"):
        _ = statistics.mean
    with pytest.raises(InvalidValueError, match="4 channels"):
        statistics.update(torch.ones(2, 5))
    with pytest.raises(InvalidValueError, match="NaN"):
        statistics.update(torch.full((2, 4), torch.nan))
    with pytest.raises(InvalidValueError, match="ratio > 1"):
        Rule(ratio=0.5)


FLUX = [r / "ditf" / "flux" for r in golden_roots() if (r / "ditf" / "flux" / "meta.json").is_file()]


@pytest.mark.parametrize("folder", FLUX, ids=str)
def test_the_channels_of_the_reference_model_are_found_in_its_stream(folder: Path) -> None:
    statistics = ChannelStatistics(40)
    for case in ("case0", "case1"):
        for key, stream in load_file(folder / case / "expected.safetensors").items():
            if key.startswith("single") and key.endswith("raw_members"):
                for member in stream:
                    statistics.update(member.flatten(1).T)
    expected = json.loads((folder / "meta.json").read_text())["massive_channels"]
    assert detect_massive(statistics).channels == expected
    assert statistics.stability(len(expected)) == 1
