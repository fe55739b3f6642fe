"""Measures of shift, verdicts, and the toy in which the truth is known."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffeat.errors import InvalidValueError, ModelError, UnknownNameError
from diffeat.studies.content_shift.halving import BASE, candidates_of, run_search
from diffeat.studies.content_shift.laplacian import paper_laplacian
from diffeat.studies.content_shift.measures import (
    cka_shift,
    cosine_shift,
    edge_shift,
    picture_measure,
    pixel_shift,
    self_match_shift,
    ssim_shift,
)
from diffeat.studies.content_shift.verdict import judge
from diffeat.techniques import Combination, ControlNet, Guidance, LoRA, Prompt
from oracles.exact_posterior import ExactPosterior, shapes_bank

TRUE = {"prompt": 1, "edges": 1, "all": 1, "wrong prompt": -1, "shuffled edges": -1, "guidance": -1, "other draw": 0}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- measures


@pytest.mark.parametrize("measure", [pixel_shift, ssim_shift, edge_shift, cosine_shift, cka_shift, self_match_shift])
def test_shifts_are_zero_for_the_same_and_grow_with_noise(measure) -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 32), indexing="ij")
    true = torch.stack([(x * 5).sin() * (y * 3).cos(), x * y, (x.square() + y.square() < 0.5).float()]).clamp(-1, 1)
    if measure is self_match_shift:  # which needs cells that are told apart
        true = noise(3, 24, 32, seed=5)
    values = [measure(true + k * noise(3, 24, 32), true) for k in (0.0, 0.2, 1.0)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[0] < values[1] < values[2]


def test_measures_by_hand() -> None:
    one, two = noise(6, 4, 5), noise(6, 4, 5, seed=1)
    assert pixel_shift(one[:3], two[:3]) == pytest.approx(float((one[:3] - two[:3]).div(2).norm() / 60**0.5), rel=1e-5)
    cosines = [float(torch.cosine_similarity(one[:, i, j], two[:, i, j], dim=0)) for i in range(4) for j in range(5)]
    assert cosine_shift(one, two) == pytest.approx(1 - sum(cosines) / 20, rel=1e-5)
    a, b = (x.flatten(1).T.double() - x.flatten(1).T.double().mean(0) for x in (one, two))
    k, l = a @ a.T, b @ b.T  # noqa: E741
    assert cka_shift(one, two) == pytest.approx(1 - float((k * l).sum() / (k.norm() * l.norm())))
    wide = noise(40, 4, 5)  # more channels than cells goes another way to the same number
    a, b = (x.flatten(1).T.double() - x.flatten(1).T.double().mean(0) for x in (wide, wide + noise(40, 4, 5, seed=2)))
    expected = 1 - float((a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm()))
    assert cka_shift(wide, wide + noise(40, 4, 5, seed=2)) == pytest.approx(expected)
    shifted = one.roll(1, dims=2)  # every cell but those of the first column finds itself one to the left
    expected = (4 * 4 * 1 + 4 * 4) / 20 / math.hypot(3, 4)
    assert self_match_shift(shifted, one) == pytest.approx(expected)


def test_edges_tolerate_one_pixel_and_no_more() -> None:
    true = torch.full((3, 32, 32), -1.0)
    true[:, :, 16:] = 1
    assert edge_shift(true.roll(1, 2)[..., 1:], true[..., 1:]) == pytest.approx(0, abs=0.1)
    near, far = edge_shift(true.roll(1, 2), true), edge_shift(true.roll(5, 2), true)
    assert near < 0.6 < far  # the border that rolls in is a wrong edge in both
    assert edge_shift(torch.zeros(3, 16, 16), torch.zeros(3, 16, 16)) == 0


def test_the_papers_score_cannot_tell_what_the_measures_can() -> None:
    clean, anchor = noise(8, 12, 12), noise(8, 12, 12) + 3 * noise(8, 12, 12, seed=1)
    rotation = torch.linalg.qr(noise(8, 8, seed=2)).Q
    for fake in (-clean, torch.einsum("cd,dhw->chw", rotation, clean)):
        assert paper_laplacian(fake, clean, anchor) == pytest.approx(1, abs=1e-6)
        assert cosine_shift(fake, clean) > 0.5
    with pytest.raises(InvalidValueError, match="anchor"):
        paper_laplacian(anchor, clean, clean)


# ---- verdicts


def test_verdicts_by_hand() -> None:
    base = np.linspace(1, 2, 40)[:, None] * np.ones((1, 2))
    assert judge(base, base).call == "harmless"
    assert judge(base, base).gain == 0
    assert judge(base, 0.8 * base).call == "helps"
    assert judge(base, 0.8 * base).gain == pytest.approx(0.2)
    assert judge(base, 1.2 * base).call == "hurts"
    assert judge(base, 0.99 * base).call == "harmless"  # sure, but too small to matter
    wild = base * np.random.default_rng(0).uniform(0.2, 1.8, (40, 1))
    unsure = judge(base[:8], wild[:8])
    assert unsure.call == "cannot tell"
    assert unsure.needed is None or unsure.needed > 8
    assert "cannot tell with 8 images" in str(unsure)
    for wrong in ((base, base[:3]), (base[:1], base[:1]), (0 * base, base)):
        with pytest.raises(InvalidValueError):
            judge(*wrong)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 30))
def test_verdicts_do_not_depend_on_scale_order_or_seeds(seed: int, pictures: int) -> None:
    rng = np.random.default_rng(seed)
    base, found = rng.uniform(0.1, 1, (2, pictures, 3))
    one = judge(base, found)
    assert one.low <= one.gain <= one.high
    for other in (
        judge(7 * base, 7 * found),
        judge(base.mean(1), found.mean(1)),
        judge(base[:, ::-1], found[:, ::-1]),
    ):
        assert (other.call, other.wins) == (one.call, one.wins)
        assert (other.gain, other.low, other.high) == pytest.approx((one.gain, one.low, one.high))


# ---- the toy


@pytest.fixture(scope="module")
def toy() -> ExactPosterior:
    return ExactPosterior(shapes_bank(800, 16))


def test_the_toys_answer_is_the_posterior_mean(toy: ExactPosterior) -> None:
    """Against probabilities written out one by one."""
    x, signal = toy.bank.images[:7].double(), 0.6
    noisy = noise(2, x.shape[1]).double()
    spread = 2 * (1 - signal**2)
    p = torch.stack([torch.stack([-(n - signal * k).square().sum() / spread for k in x]) for n in noisy]).softmax(1)
    small = ExactPosterior(type(toy.bank)(x, toy.bank.classes[:7], toy.bank.domains[:7], toy.bank.side))
    assert torch.allclose(small.denoise(noisy, signal, (1 - signal**2) ** 0.5), p @ x)


def test_true_information_reduces_shift_and_guidance_and_falsehoods_raise_it(toy: ExactPosterior) -> None:
    everything = torch.arange(len(toy.bank.images))
    for signal in (0.5, 0.25):
        base = toy.shifts(everything, 1, signal).mean()
        for name, sign in TRUE.items():
            gain = 1 - float(toy.shifts(everything, 1, signal, name).mean() / base)
            assert gain * sign > 0.02 or (sign == 0 and abs(gain) < 0.05), (signal, name, gain)
        assert torch.equal(toy.shifts(everything[:50], 1, signal, "null"), toy.shifts(everything[:50], 1, signal))


@pytest.mark.slow
def test_verdicts_agree_with_the_truth_at_the_stated_error_rates(toy: ExactPosterior) -> None:
    """Many small GATEs of 24 pictures each; wrong calls are as rare as stated, and large effects are found."""
    count, pictures = 60, 24
    everything = torch.arange(len(toy.bank.images))
    rng = np.random.default_rng(0)
    base = toy.shifts(everything, 2, 0.3).numpy()
    for name, sign in TRUE.items():
        found = toy.shifts(everything, 2, 0.3, name).numpy()
        calls = []
        for k in range(count):
            chosen = rng.choice(len(everything), pictures, replace=False)
            pair = base[chosen], found[chosen]
            if sign == 0:  # new noise every time: two draws are equally good only over all noise
                pair = tuple(toy.shifts(everything[chosen], 2, 0.3, n, seed=k).numpy() for n in ("base", name))
            calls.append(judge(*pair).call)
        rate = {c: calls.count(c) / count for c in ("helps", "hurts", "harmless", "cannot tell")}
        wrong = rate["helps"] * (sign <= 0) + rate["hurts"] * (sign >= 0)
        stated = 0.025 * (2 if sign == 0 else 1)
        assert wrong <= stated + 3 * math.sqrt(stated / count), (name, rate)  # three standard errors of the estimate
        if name in ("edges", "all", "guidance", "shuffled edges"):
            assert rate["helps" if sign > 0 else "hurts"] > 0.9, (name, rate)


# ---- search


class ToyScorer:
    """The toy behind the interface of a model: a technique's label says what it tells."""

    def __init__(self, toy: ExactPosterior, tells: dict[str, str], pictures: int = 64) -> None:
        self.toy, self.tells, self.pictures, self.spent = toy, tells, pictures, 0.0

    def cost(self, combination: Combination) -> float:
        return 10 * combination.calls()

    def shifts(self, combination: Combination, pictures) -> np.ndarray:
        self.spent += self.cost(combination) * len(pictures)
        told = sorted({self.tells[t.label] for t in combination} - {"null"})
        name = told[0] if len(told) == 1 else "all" if told else "base"
        return self.toy.shifts(torch.arange(64), 2, 0.3, name).numpy()[list(pictures)]


def test_search_ends_with_what_helps_within_the_budget(toy: ExactPosterior) -> None:
    edges, wrong = ControlNet(model="edges"), Prompt(text="wrong")
    useless, guidance = LoRA(path="useless"), Guidance(scale=7)
    tells = {edges.label: "edges", wrong.label: "wrong prompt", useless.label: "null", guidance.label: "guidance"}
    scorer = ToyScorer(toy, tells)
    candidates = [Combination.of(t) for t in (edges, wrong, useless, guidance)]
    found = run_search(scorer, candidates, budget=1e9)
    assert found.chosen == Combination([edges])
    assert found.verdict is not None
    assert found.verdict.call == "helps"
    small = ToyScorer(toy, tells)
    assert run_search(small, candidates, budget=900).spent <= 900
    nothing = run_search(ToyScorer(toy, tells), [Combination([wrong]), Combination([guidance])], budget=1e9)
    assert nothing.chosen == BASE


class SetScorer:
    """Shifts as they are given, by label; the base has 1."""

    def __init__(self, shifts: dict[str, np.ndarray]) -> None:
        self.by_label, self.pictures, self.spent = shifts, 8, 0.0

    def cost(self, combination: Combination) -> float:
        return 1.0

    def shifts(self, combination: Combination, pictures) -> np.ndarray:
        return self.by_label.get(combination.label, np.ones(8))[list(pictures)]


def test_a_search_says_what_it_found_out_where_nothing_helps() -> None:
    little, unsure = LoRA(path="little"), LoRA(path="unsure")
    spread = 0.9 + 0.5 * np.array([1, -1, 1, -1, 1, -1, 1, -1])
    shifts = {little.label: np.full(8, 0.995), unsure.label: spread}
    found = run_search(SetScorer(shifts), [Combination([little])], budget=99)
    assert found.chosen == BASE
    assert found.reason == "All that are left are harmless; the base is kept."
    found = run_search(SetScorer(shifts), [Combination([little]), Combination([unsure])], budget=99)
    assert found.reason == "It cannot be told whether lora unsure ×1 helps; the base is kept."


def test_the_first_verdict_that_holds_is_given() -> None:
    """A sure gain that is too small to matter is harmless, and so is a sure loss; a sure gain that matters helps."""
    base = np.ones(30)
    for shift, call in ((0.99, "harmless"), (1.01, "harmless"), (0.95, "helps"), (1.05, "hurts")):
        assert judge(base, np.full(30, shift), margin=0.02).call == call
    wide = 1 + 0.03 * np.random.default_rng(0).standard_normal(30)
    assert judge(base, wide - 0.015, margin=0.02).call == "helps"
    assert judge(base, wide - 0.005, margin=0.02).call == "harmless"


def test_the_gain_by_laplacians_is_the_papers_score_with_the_base_as_anchor() -> None:
    from diffeat.studies.content_shift.measures import feature_measure

    measure = feature_measure("laplacian")
    clean, base, better = noise(4, 6, 6), noise(4, 6, 6, seed=1), noise(4, 6, 6, seed=2) * 0.5
    gain = judge([measure(base, clean)] * 2, [measure(better, clean)] * 2).gain
    assert gain == pytest.approx(paper_laplacian(better, clean, base))
    assert measure(-clean, clean) == measure(clean, clean) == 0


def test_the_cheaper_of_equals_wins(toy: ExactPosterior) -> None:
    cheap, dear = LoRA(path="same"), ControlNet(model="same")
    scorer = ToyScorer(toy, {cheap.label: "edges", dear.label: "edges"})
    found = run_search(scorer, [Combination([dear]), Combination([cheap])], budget=1e9)
    assert found.chosen == Combination([cheap])


def test_candidates_have_strengths() -> None:
    labels = [c.label for c in candidates_of([LoRA(path="a.safetensors"), Prompt(text="x"), Guidance(scale=4)])]
    assert labels == ["lora a ×1", "lora a ×0.5", "prompt 'x'", "guidance ×4"]


# ---- measures by weights of a vision network


def test_dino_shift_is_one_minus_the_mean_cosine_of_patch_tokens(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=56, mlp_ratio=2
    )
    network = Dinov2Model(config).eval()
    network.save_pretrained(tmp_path)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
    measure = picture_measure(f"dino:{tmp_path}")
    levels = torch.randint(0, 256, (2, 3, 56, 56), generator=torch.Generator().manual_seed(1))
    one, other = levels / 127.5 - 1
    assert measure(one, one) == pytest.approx(0, abs=1e-6)
    pixels = (levels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        tokens = network(pixels, output_hidden_states=True).hidden_states[-1][:, 1:].double()
    cosine = (tokens[0] * tokens[1]).sum(-1) / (tokens[0].norm(dim=-1) * tokens[1].norm(dim=-1))
    assert measure(one, other) == pytest.approx(1 - float(cosine.mean()), abs=1e-5)


def test_measures_by_weights_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)  # as if not installed
    with pytest.raises(ModelError, match="LPIPS needs the package lpips"):
        picture_measure("lpips")
    with pytest.raises(ModelError, match="no-such-model"):
        picture_measure(f"dino:{tmp_path / 'no-such-model'}")
    with pytest.raises(UnknownNameError, match="use 'dino:MODEL' or 'lpips'"):
        picture_measure("dino")
