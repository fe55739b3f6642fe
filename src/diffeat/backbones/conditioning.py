"""Conditions of a denoiser call, one row per prompt, selected and repeated at will.

A row holds the denoiser's arguments as the stock pipeline gives them for one prompt alone. Rows are put together when
a batch is run, so a row never depends on its batch mates: texts of different lengths are padded behind the mask that
the model has for this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffeat.errors import InvalidValueError, ModelError


@dataclass(frozen=True)
class Conditioning:
    """Rows of denoiser arguments.

    Attributes:
        rows: Per row, the denoiser's arguments (batch of one) other than latent and timestep.
        prompts: Per row, the prompt.
        size: Image size ``(width, height)`` the rows were made for.
        shared: Names of arguments that have no batch axis and are the same for all rows.
    """

    rows: tuple[Mapping[str, Any], ...]
    prompts: tuple[str, ...]
    size: tuple[int, int]
    shared: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Tensor | Iterable[int]) -> Conditioning:
        """The rows at ``index``, in that order; an index may come several times.

        Raises:
            InvalidValueError: If an index is outside the rows.
        """
        chosen = [int(i) for i in (index.tolist() if isinstance(index, Tensor) else index)]
        for i in chosen:
            if not -len(self) <= i < len(self):
                raise InvalidValueError(f"Row {i} is asked for, but this conditioning has {len(self)} rows.")
        rows, prompts = tuple(self.rows[i] for i in chosen), tuple(self.prompts[i] for i in chosen)
        return Conditioning(rows, prompts, self.size, self.shared)

    def arguments(self) -> dict[str, Any]:
        """All rows as one batch of denoiser arguments.

        Raises:
            ModelError: If texts differ in length and the model has no mask to hide the padding with.
        """
        first = self.rows[0]
        if len(self) == 1:
            return dict(first)
        joined = {
            name: first[name] if name in self.shared else _join(name, [row[name] for row in self.rows])
            for name in first
        }
        return _mask_padding(joined, self.rows, self.shared)


def _join(name: str, values: Sequence[Any]) -> Any:
    tensors = [v for v in values if isinstance(v, Tensor)]
    if tensors and tensors[0].ndim == 0:
        return tensors[0]
    if len(tensors) == len(values) and len({t.shape[1:] for t in tensors}) == 1:
        return torch.cat(tensors)
    if tensors:  # texts of several lengths, or a mask that the pipeline leaves out where nothing is masked
        length = max(t.shape[1] for t in tensors)
        full = [v if isinstance(v, Tensor) else torch.ones_like(tensors[0][:1]) for v in values]
        return torch.cat([_pad(t, length) for t in full])
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _join(key, [v[key] for v in values]) for key in first}
    if isinstance(first, list):
        return [item for value in values for item in value]
    return first


def _pad(tensor: Tensor, length: int) -> Tensor:
    if tensor.shape[1] == length:
        return tensor
    padding = tensor.new_zeros(tensor.shape[0], length - tensor.shape[1], *tensor.shape[2:])
    return torch.cat([tensor, padding], dim=1)


def _mask_padding(joined: dict[str, Any], rows: Sequence[Mapping[str, Any]], shared: frozenset[str]) -> dict[str, Any]:
    """Make sure that every text argument whose rows differ in length comes with a mask of those lengths."""
    for name, value in joined.items():
        if name in shared or not isinstance(value, Tensor) or value.ndim != 3:
            continue
        lengths = [row[name].shape[1] for row in rows]
        if len(set(lengths)) == 1:
            continue
        mask = next((m for m in (f"{name}_mask", name.replace("hidden_states", "attention_mask")) if m in joined), None)
        if mask is None:
            raise ModelError(
                f"The prompts give {sorted(set(lengths))} tokens in {name!r} and this model has no mask for padding. "
                "Use prompts of one length, or one image at a time."
            )
        device = value.device
        kept = [
            row[mask] if row[mask] is not None else torch.ones(1, n, dtype=torch.long, device=device)
            for row, n in zip(rows, lengths, strict=True)
        ]
        joined[mask] = torch.cat([_pad(m, max(lengths)) for m in kept])
    return joined
