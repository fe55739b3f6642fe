"""Whether two models hold the same weights, told without reading all of them."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

#: values looked at in each tensor
SAMPLES = 64


@torch.no_grad()
def fingerprint(*modules: nn.Module | None) -> str:
    """16 hex digits from the names, shapes, precisions and some evenly spread values of all weights.

    Training, merging an adapter or casting changes practically every value, so a few of each tensor tell. Weights that
    were moved off to the meta device count by name and shape.
    """
    digest = hashlib.blake2b(digest_size=8)
    for module in modules:
        if module is None:
            continue
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name}|{tuple(value.shape)}|{value.dtype}".encode())
            if value.is_meta or value.numel() == 0:
                continue
            spread = torch.linspace(0, value.numel() - 1, min(SAMPLES, value.numel())).long()
            places = torch.unravel_index(spread.to(value.device), value.shape)
            digest.update(value[places].double().cpu().numpy().tobytes())
    return digest.hexdigest()
