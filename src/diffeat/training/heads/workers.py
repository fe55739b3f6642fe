"""The processes that share one training, as ``accelerate launch`` starts them; most often there is one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn


def is_first() -> bool:
    """Whether this is the process that writes and tells, of those of a training."""
    return os.environ.get("RANK", "0") == "0"


class Workers:
    """This process among those of a training.

    Attributes:
        rank: Its number.
        count: How many there are.
    """

    def __init__(self) -> None:
        self._accelerator = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.rank = 0 if self._accelerator is None else self._accelerator.process_index
        self.count = 1 if self._accelerator is None else self._accelerator.num_processes

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, number: int, batch: int) -> Sequence[int]:
        """Numbers of the examples of this process's part of a batch."""
        start = (number * self.count + self.rank) * batch
        return range(start, start + batch)

    def own(self, folder: Path) -> Path:
        """Of a folder that has one writer: this process's."""
        return folder if self.first else folder.with_name(f"{folder.name}-{self.rank}")

    def wrapped(self, network: nn.Module) -> nn.Module:
        """The network, with gradients averaged over the processes as they are made."""
        return network if self._accelerator is None else self._accelerator.prepare_model(network)

    def average(self, weights: Iterable[nn.Parameter]) -> None:
        """Average gradients of weights that lie outside of the network."""
        for weight in weights:
            if weight.grad is not None:
                self._mean(weight.grad)

    def mean(self, value: float) -> float:
        """Of a number of every process."""
        device = "cpu" if self._accelerator is None else self._accelerator.device
        return float(self._mean(torch.tensor(value, dtype=torch.float64, device=device)))

    def _mean(self, values: Tensor) -> Tensor:
        if self._accelerator is not None:
            torch.distributed.all_reduce(values)
            values /= self.count
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
