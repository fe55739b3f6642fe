"""Whether two models are the same: all weights, and the configurations that say how they are used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_CHUNK = 1 << 24
#: Entries of configurations that say where and with what a model was saved, not what it computes.
_IRRELEVANT = ("transformers_version", "torch_dtype", "dtype", "architectures")
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprint(*parts: Any) -> str:
    """16 hex digits from every weight of modules (name, shape, precision, all bits) and from configurations.

    The bits of a weight count as integers: their sum and their sum weighted by position, modulo 2⁶⁴, which any single
    change and any exchange of two values alters. Weights that were moved off to the meta device count by name and
    shape.

    Args:
        parts: Modules of diffusers or transformers, schedulers, or ``None``.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if part is None:
            continue
        digest.update(json.dumps(_plain(getattr(part, "config", {})), sort_keys=True, default=str).encode())
        for name, value in sorted(part.state_dict().items()) if isinstance(part, nn.Module) else ():
            if isinstance(value, Tensor):
                digest.update(f"{name}|{tuple(value.shape)}|{value.dtype}|{_sums(value)}".encode())
    return digest.hexdigest()


def _sums(value: Tensor) -> tuple[int, int]:
    if value.is_meta or value.numel() == 0:
        return 0, 0
    bits = value.detach().contiguous().flatten().view(_INTEGERS[value.element_size()])
    total = weighted = 0
    for start in range(0, len(bits), _CHUNK):
        chunk = bits[start : start + _CHUNK].to(torch.int64)
        place = torch.arange(start + 1, start + 1 + len(chunk), device=chunk.device)
        total += int(chunk.sum())
        weighted += int((chunk * place).sum())
    return total % (1 << 64), weighted % (1 << 64)


def _plain(config: Any) -> dict[str, Any]:
    """A configuration without private entries and what does not change numbers."""
    entries = config if isinstance(config, Mapping) else config.to_dict() if hasattr(config, "to_dict") else {}
    return {
        key: _plain(value) if isinstance(value, Mapping) else value
        for key, value in entries.items()
        if not str(key).startswith("_") and key not in _IRRELEVANT
    }
