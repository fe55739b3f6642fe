"""The members of a pixel ensemble, trained together: their weights are stacked, and a step of all is one batched call.

Every member keeps a random stream of its own (first weights, order of the pixels) and stops by itself, so that the
result is, but for rounding, that of training one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffeat.errors import InvalidValueError
from diffeat.tasks.segmentation.pixels import TrainingPixels

_PATIENT_FROM = 4  # epochs that always run
_MOMENTUM, _EPS = 0.1, 1e-5  # of batch norms
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class EnsembleSettings:
    """How members are trained; the defaults are the published ones."""

    members: int = 10
    epochs: int = 100
    batch: int = 64
    rate: float = 1e-3
    patience: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.members, self.epochs, self.patience) < 1 or self.batch < 2 or not self.rate > 0:
            raise InvalidValueError(f"An ensemble needs members, epochs, patience, rate > 0 and batch > 1, got {self}.")


def pixel_classifier(channels: int, classes: int, generator: torch.Generator) -> nn.Sequential:
    one, two = (256, 128) if classes >= 30 else (128, 32)
    member = nn.Sequential(
        nn.Linear(channels, one),
        nn.ReLU(),
        nn.BatchNorm1d(one),
        nn.Linear(one, two),
        nn.ReLU(),
        nn.BatchNorm1d(two),
        nn.Linear(two, classes),
    )
    for module in member:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02, generator=generator)
            nn.init.zeros_(module.bias)
    return member


def train_together(
    members: Sequence[nn.Sequential],
    pixels: TrainingPixels,
    settings: EnsembleSettings,
    generators: Sequence[torch.Generator],
) -> list[nn.Sequential]:
    """Train members by :class:`EnsembleSettings`, where the pixels are; returns them in evaluation mode.

    Args:
        members: Of one shape, untrained.
        generators: Of every member's order of the pixels.
    """
    device = pixels.labels.device
    stack = _Stack([member.state_dict() for member in members], device, settings.rate)
    training = list(range(len(members)))
    best, waited = (torch.full((len(members),), value, device=device) for value in (torch.inf, 0.0))
    count, batch = max(1, len(pixels) // settings.batch), min(settings.batch, len(pixels))
    for epoch in range(settings.epochs):
        orders = [torch.randperm(len(pixels), generator=generators[k])[: count * batch] for k in training]
        order = torch.stack(orders).to(device)
        for start in range(0, count * batch, batch):
            some = order[:, start : start + batch]
            losses = stack.step(pixels.features(some.flatten()).unflatten(0, some.shape), pixels.labels[some])
            if epoch < _PATIENT_FROM:
                continue
            waited = torch.where(losses < best, 0.0, waited + 1)
            best = torch.minimum(best, losses)
            going = waited <= settings.patience
            if going.all():
                continue
            for k, state in zip(
                [k for k, on in zip(training, going, strict=True) if not on], stack.leave(going), strict=True
            ):
                members[k].load_state_dict(state)
            training = [k for k, on in zip(training, going, strict=True) if on]
            order, best, waited = order[going], best[going], waited[going]
            if not training:
                return [member.eval() for member in members]
    for k, state in zip(training, stack.leave(torch.zeros(len(training), dtype=torch.bool)), strict=True):
        members[k].load_state_dict(state)
    return [member.eval() for member in members]


class _Stack:
    """Members of one shape, stacked, and their optimiser: Adam works on every number alone, so one does for all."""

    def __init__(self, states: Sequence[Mapping[str, Tensor]], device: torch.device, rate: float) -> None:
        self._values = {name: torch.stack([state[name] for state in states]).to(device) for name in states[0]}
        self._trained = [name for name in self._values if name.rpartition(".")[2] not in _BUFFERS]
        for name in self._trained:
            self._values[name].requires_grad_()
        self._rate = rate
        self._optimiser = torch.optim.Adam([self._values[name] for name in self._trained], rate)

    def step(self, features: Float[Tensor, "members n channels"], labels: Int[Tensor, "members n"]) -> Tensor:
        """One step of every member; its losses (members,)."""
        with torch.enable_grad():
            logits = self._forward(features)
            losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            losses = losses.unflatten(0, labels.shape).mean(1)
            self._optimiser.zero_grad()
            losses.sum().backward()
        self._optimiser.step()
        return losses.detach()

    def leave(self, going: Tensor) -> list[dict[str, Tensor]]:
        """Go on with some members; the weights of the others, on the CPU."""
        going = going.to(next(iter(self._values.values())).device)
        left = {name: values.detach()[~going].cpu() for name, values in self._values.items()}
        states = [{name: values[k].clone() for name, values in left.items()} for k in range(int((~going).sum()))]
        before = {name: self._optimiser.state.get(self._values[name], {}) for name in self._trained}
        self._values = {name: values.detach()[going].clone() for name, values in self._values.items()}
        for name in self._trained:
            self._values[name].requires_grad_()
        self._optimiser = torch.optim.Adam([self._values[name] for name in self._trained], self._rate)
        for name, state in before.items():
            kept = {key: value[going] if value.ndim else value for key, value in state.items()}
            self._optimiser.state[self._values[name]] = kept
        return states

    def _forward(self, values: Tensor) -> Tensor:
        """Logits of (members, n, channels), in training: the numbers are those of :func:`pixel_classifier`."""
        values = self._norm(self._linear(values, 0).relu(), 2)
        values = self._norm(self._linear(values, 3).relu(), 5)
        return self._linear(values, 6)

    def _linear(self, values: Tensor, number: int) -> Tensor:
        weight, bias = (self._values[f"{number}.{name}"] for name in ("weight", "bias"))
        return torch.baddbmm(bias[:, None], values, weight.mT)

    def _norm(self, values: Tensor, number: int) -> Tensor:
        own = {name: self._values[f"{number}.{name}"] for name in ("weight", "bias", *_BUFFERS)}
        variance, mean = torch.var_mean(values, dim=1, correction=0)
        with torch.no_grad():
            n = values.shape[1]
            own["running_mean"].lerp_(mean, _MOMENTUM)
            own["running_var"].lerp_(variance * (n / (n - 1)), _MOMENTUM)
            own["num_batches_tracked"] += 1
        normal = (values - mean[:, None]) * torch.rsqrt(variance + _EPS)[:, None]
        return normal * own["weight"][:, None] + own["bias"][:, None]
