"""Checkpoints: one safetensors file, with plain facts as JSON in its metadata, whole or not there.

Momenta are stored by the number of their parameter; what else an optimiser holds (rates, decay) comes from the code
that makes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from diffeat.errors import StoreError
from diffeat.storage.atomic import StagedFile, disk_errors

_FACTS = "diffeat-training"


class Stateful(Protocol):
    """What can be kept: modules, and anything else whose state is tensors by name."""

    def state_dict(self) -> Mapping[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> object: ...


def write(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors, in a folder that is made if missing; StoreError if that fails."""
    from safetensors.torch import save as to_bytes

    plain = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        StagedFile(file, to_bytes(plain, metadata=metadata)).commit()


def save(file: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Write a checkpoint; raises as :func:`write`."""
    write(file, tensors, {_FACTS: json.dumps(facts)})


def load(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), "pt") as handle:
            facts = json.loads(handle.metadata()[_FACTS])
            return {name: handle.get_tensor(name) for name in handle.keys()}, facts  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"The state {file} of an earlier run cannot be read ({error}). Remove it to start anew."
        ) from None


def within(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part of a checkpoint, by their own names."""
    return {name.removeprefix(f"{part}/"): value for name, value in tensors.items() if name.startswith(f"{part}/")}


class Tensors:
    """Named tensors, written into where they are when they are loaded."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def state_dict(self) -> Mapping[str, Tensor]:
        return self._tensors

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        for name, value in self._tensors.items():
            value.copy_(state[name])


class Momenta:
    """The state of an optimiser as tensors by name."""

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        self._optimiser = optimiser

    def state_dict(self) -> dict[str, Tensor]:
        state = self._optimiser.state_dict()["state"]
        return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        weights = [weight for group in self._optimiser.param_groups for weight in group["params"]]
        momenta: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            number, name = key.split(".", 1)
            weight = weights[int(number)]
            alike = torch.empty_like(weight).copy_(value) if value.shape == weight.shape else value  # same layout
            momenta.setdefault(int(number), {})[name] = alike
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": momenta})
