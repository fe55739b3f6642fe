"""Muon for the matrices, AdamW for the rest.

Muon (Jordan et al. 2024) makes every update of a weight matrix nearly orthogonal; a convolution counts as the matrix
(out, in·height·width). In the first minutes of training this U-Net, it needed about 60 % of AdamW's time to the same
validation loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

#: names of weights that AdamW keeps: look-up tables, the first and last convolution, heads that are thrown away
APART = ("embed", "conv_in", "conv_out", "heads")


class MuonAdamW:
    """One optimiser for named weights (4-D ones in channels-last memory), whose gradients are set by the caller."""

    def __init__(self, weights: dict[str, Tensor], decay: float = 0.01) -> None:
        self._matrices: list[tuple[Tensor, nn.Parameter]] = []
        rest: list[Tensor] = []
        for name, weight in weights.items():
            if weight.ndim >= 2 and not any(word in name for word in APART):
                flat = _flat(weight.detach())
                if flat.data_ptr() != weight.data_ptr():
                    raise ValueError(f"{name} is not laid out channels last")
                self._matrices.append((weight, nn.Parameter(flat)))
            else:
                rest.append(weight)
        views = [view for _, view in self._matrices]
        self._muon = torch.optim.Muon(views, momentum=0.95, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        self._adam = torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=decay)

    def step(self, rate: float) -> None:
        """Move the weights against their gradients."""
        for weight, view in self._matrices:
            view.grad = None if weight.grad is None else _flat(weight.grad)
        for optimiser in (self._muon, self._adam):
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """The momenta."""
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over momenta of :meth:`state_dict`."""
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])


def _flat(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight
