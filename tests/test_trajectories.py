"""Keyed noise and the rows of the forward process."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from diffeat.trajectories import forward_rows, keyed_normal

BASE = {"seed": 0, "image": "a", "stream": "diffusion", "timestep": 261.0, "draw": 0}


def test_noise_is_a_pure_function_of_its_key() -> None:
    torch.manual_seed(1)
    first = keyed_normal((4, 8, 8), **BASE)  # pyright: ignore
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = keyed_normal((4, 8, 8), **BASE)  # pyright: ignore
    assert torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "the global generator must not move"


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"image": "b"}, {"stream": "posterior"}, {"timestep": 262.0}, {"draw": 1}],
    ids=lambda c: next(iter(c)),
)
def test_every_part_of_the_key_counts(change: dict) -> None:
    one, other = keyed_normal((4, 32, 32), **BASE), keyed_normal((4, 32, 32), **{**BASE, **change})  # pyright: ignore
    correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
    assert abs(correlation) < 0.1  # 1/sqrt(4096) = 0.016 is one standard deviation


def test_noise_is_standard_normal() -> None:
    draws = torch.stack([keyed_normal((4, 16, 16), **{**BASE, "draw": d}) for d in range(64)])  # pyright: ignore
    assert draws.mean().abs() < 0.02
    assert (draws.std() - 1).abs() < 0.02


def test_rows_are_every_timestep_and_draw() -> None:
    rows = forward_rows([20, 261], draws=3, noisy=True)
    assert [(r.timestep, r.draw) for r in rows] == list(product([20.0, 261.0], range(3)))
