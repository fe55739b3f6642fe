"""The training loop: stopped anywhere and gone on with, it ends in the same weights."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diffeat.errors import InvalidValueError, NonFiniteError, StoreError
from diffeat.training.loop import LOG, STATE, Loop, Schedule, read_log


class Line:
    """Fits a line with momentum to points that depend on the step's number alone."""

    def __init__(self, folder: Path | None, steps: int = 10, every: int = 4, rate: float = 0.1, **plan: Any) -> None:
        torch.manual_seed(0)
        self.net = nn.Linear(3, 1)
        self.seen: list[int] = []
        optimiser = torch.optim.AdamW(self.net.parameters(), lr=rate)
        schedule = Schedule(steps, every, **plan)
        self.loop = Loop(folder, schedule, {"adam": optimiser}, {"net": self.net}, {"rate": rate})

    def gradients(self, number: int) -> dict[str, float | str]:
        self.seen.append(number)
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        loss = (self.net(x)[:, 0] - x.sum(1)).square().mean()
        loss.backward()
        return {"loss": float(loss.detach())}

    @property
    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.net.parameters()])


def whole(tmp_path: Path) -> Line:
    line = Line(tmp_path / "whole")
    line.loop.run(line.gradients)
    return line


def by_hand(steps: int) -> torch.Tensor:
    line = Line(None)
    optimiser = torch.optim.AdamW(line.net.parameters(), lr=0.1)
    for number in range(steps):
        optimiser.zero_grad()
        line.gradients(number)
        optimiser.step()
    return line.weights


def test_it_makes_the_steps_of_the_optimiser(tmp_path: Path) -> None:
    line = whole(tmp_path)
    assert torch.equal(line.weights, by_hand(10))
    assert line.loop.losses[-1] < line.loop.losses[0]
    rows = read_log(tmp_path / "whole" / LOG)
    assert [row["step"] for row in rows] == [str(k) for k in range(1, 11)]
    assert [float(row["loss"]) for row in rows] == pytest.approx(line.loop.losses, rel=1e-6)


@pytest.mark.parametrize("dies_at", [2, 4, 7, 9])
def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path, dies_at: int) -> None:
    broken = Line(tmp_path / "broken")

    def dies(number: int) -> dict[str, float | str]:
        if number == dies_at:
            raise OSError("killed")
        return broken.gradients(number)

    with pytest.raises(OSError, match="killed"):
        broken.loop.run(dies)
    again = Line(tmp_path / "broken")
    assert again.loop.step == dies_at // 4 * 4
    again.loop.run(again.gradients)
    one = whole(tmp_path)
    assert torch.equal(one.weights, again.weights)
    assert one.loop.losses == again.loop.losses
    drop = lambda n: [(r["step"], r["loss"]) for r in read_log(tmp_path / n / LOG)]  # noqa: E731
    assert drop("whole") == drop("broken")


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_after_the_step_and_loses_nothing(asked: signal.Signals, tmp_path: Path) -> None:
    stopped = Line(tmp_path / "stopped")

    def interrupted(number: int) -> dict[str, float | str]:
        if number == 5:
            os.kill(os.getpid(), asked)
        return stopped.gradients(number)

    before = signal.getsignal(asked)
    with pytest.raises(KeyboardInterrupt):
        stopped.loop.run(interrupted)
    assert signal.getsignal(asked) is before
    assert stopped.loop.step == 6
    again = Line(tmp_path / "stopped")
    again.loop.run(again.gradients)
    assert again.seen == [6, 7, 8, 9]
    assert torch.equal(again.weights, whole(tmp_path).weights)


def test_the_best_by_validation_is_kept(tmp_path: Path) -> None:
    line, kept = Line(tmp_path, every=2), []
    values = iter([1.0, 3.0, 2.0, 3.0, 0.0])
    told: list[tuple[int, float]] = []
    line.loop.run(
        line.gradients,
        validate=lambda: next(values),
        keep=lambda: kept.append(line.loop.step),
        on_validation=lambda step, value: told.append((step, value)),
    )
    assert line.loop.best == (4, 3.0)
    assert kept == [2, 4]
    assert told == [(2, 1.0), (4, 3.0), (6, 2.0), (8, 3.0), (10, 0.0)]
    assert Line(tmp_path).loop.best == (4, 3.0)
    assert [row["validation"] for row in read_log(tmp_path / LOG)][1::2] == ["1", "3", "2", "3", "0"]


def test_rates_and_clipping_are_those_asked_for(tmp_path: Path) -> None:
    line = Line(None, steps=3, rate=1.0)
    line.loop.run(line.gradients)
    frozen = Line(None, steps=3, rate=1.0)
    frozen.loop.schedule = Schedule(3, 3, share=lambda _: 0.0)
    start = frozen.weights
    frozen.loop.run(frozen.gradients)
    assert torch.equal(frozen.weights, start)
    assert not torch.equal(line.weights, start)
    short = Line(None, steps=1, clip=1e-3)
    short.loop.run(short.gradients)
    length = torch.stack([p.grad.square().sum() for p in short.net.parameters() if p.grad is not None]).sum().sqrt()
    assert float(length) == pytest.approx(1e-3, rel=1e-3)


def test_a_run_stops_when_its_time_is_over(tmp_path: Path) -> None:
    line = Line(tmp_path, seconds=0)
    line.loop.run(line.gradients)
    assert line.loop.step == 1
    again = Line(tmp_path)
    again.loop.run(again.gradients)
    assert torch.equal(again.weights, by_hand(10))


def test_what_is_refused(tmp_path: Path) -> None:
    line = Line(tmp_path)
    line.loop.run(line.gradients)
    with pytest.raises(InvalidValueError, match=r"rate \(0.1 there, 0.2 now\)"):
        Line(tmp_path, rate=0.2)
    (tmp_path / STATE).write_bytes(b"no tensors")
    with pytest.raises(StoreError, match="Remove it to start anew"):
        Line(tmp_path)
    endless = Line(None)
    with pytest.raises(NonFiniteError, match="became inf at step 1"):
        endless.loop.run(lambda _: {"loss": float("inf")})
