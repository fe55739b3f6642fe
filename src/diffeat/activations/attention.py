"""Attention probabilities, computed beside the fused attention from what it really received.

Fused attention never forms the matrix

    P[b, h, i, j] = softmax_j( scale * <q[b, h, i], k[b, h, j]> + mask[b, h, i, j] )

so it has to be computed a second time. While a wanted attention module runs, a ``TorchFunctionMode`` watches
for its call of ``scaled_dot_product_attention`` and takes q, k, mask, scale and the causal flag from there:
after head split, QK normalisation, rotary embedding, LoRA and whatever else the model does. The model goes on
with its fused attention.

P is formed for a few rows at a time. What is not asked for is dropped at once: with chosen keys only those
columns are kept, but the softmax still runs over *all* keys (through the log-sum-exp of the row).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diffeat.errors import InvalidValueError

CHUNK_ELEMENTS = 2**22
"""How many attention logits are held at a time by default (16 MiB in float32)."""


@dataclass(frozen=True)
class MapRequest:
    """An attention map, reduced as wanted while it is computed.

    Attributes:
        id: Id or alias of a map: ``….attn2.map``, ``….attn.cross_map``, ``gdf:…-cross-map``.
        heads: ``"mean"`` averages the heads, ``"all"`` keeps them.
        tokens: Keys to keep. They count text tokens in cross-attention and in ``cross_map``, image tokens in
            self-attention and in ``self_map``, and all tokens of the sequence in ``map`` of a joint
            attention.
        queries: Image tokens (row-major) whose rows to keep; rows of the whole sequence in ``map`` of a joint
            attention.

    The result is ``(B, heads, Nq, Nk)``, without the head axis under ``heads="mean"``. With ``tokens`` and
    all queries it is ``(B, heads, K, h, w)``: one picture per token, of where that token is attended from.
    With ``queries`` and all keys of a self-attention it is ``(B, heads, Q, h, w)``: where each query looks.
    ``str(request)`` is its key in results.
    """

    id: str
    heads: Literal["mean", "all"] = "mean"
    tokens: Sequence[int] | None = None
    queries: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.heads not in ("mean", "all"):
            raise InvalidValueError(f"heads must be 'mean' or 'all', got {self.heads!r}")
        for field in ("tokens", "queries"):
            chosen = getattr(self, field)
            if chosen is None:
                continue
            if not len(chosen) or any(not isinstance(i, int) or i < 0 for i in chosen):
                raise InvalidValueError(f"{field} must be a non-empty list of positions from 0, got {chosen!r}")
            object.__setattr__(self, field, tuple(chosen))

    def __str__(self) -> str:
        parts = [f"heads={self.heads}"]
        parts += [f"{n}={'+'.join(map(str, v))}" for n in ("tokens", "queries") if (v := getattr(self, n)) is not None]
        return f"{self.id}[{','.join(parts)}]"


@dataclass(frozen=True)
class AttentionCall:
    """The arguments of one ``scaled_dot_product_attention`` call that decide its probabilities."""

    query: Float[Tensor, "b h q d"]
    key: Float[Tensor, "b g k d"]
    mask: Tensor | None = None
    causal: bool = False
    scale: float | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(B, heads, Nq, Nk)`` of the whole matrix."""
        b, heads, n, _ = self.query.shape
        return b, heads, n, self.key.shape[2]


def _call_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionCall:
    if query.dim() == 3:  # (B·heads, N, D) or unbatched heads: one matrix per leading index
        query, key = query.unsqueeze(1), key.unsqueeze(1)
    return AttentionCall(query, key, attn_mask, is_causal, scale)


class FirstAttention(TorchFunctionMode):
    """Meets the first fused attention call made while it is active, then keeps out of the way."""

    _met = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._met or func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self._met = True
        return self._meet(func, *args, **(kwargs or {}))

    def _meet(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """The outcome of the call."""
        return func(*args, **kwargs)

    def __exit__(self, *_: object) -> None:
        """Take this mode off the stack wherever it lies there; nothing happens if it is gone already."""
        if self not in torch.overrides._get_current_function_mode_stack():
            return
        above = []
        while (top := torch.overrides._pop_mode()) is not self:
            above.append(top)
        for mode in reversed(above):
            torch.overrides._push_mode(mode)


class AttentionWatch(FirstAttention):
    """Reports the first fused attention call made while it is active."""

    def __init__(self, report: Callable[[AttentionCall], None]) -> None:
        super().__init__()
        self._report = report

    def _meet(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        self._report(_call_of(*args, **kwargs))
        return func(*args, **kwargs)


def probabilities(
    call: AttentionCall,
    rows: Sequence[Tensor | slice],
    columns: Sequence[Tensor | slice],
    mean_heads: bool = False,
    chunk: int = CHUNK_ELEMENTS,
) -> Float[Tensor, "b *h q k"]:
    """Softmax probabilities of chosen rows and columns; every row is normalised over all keys.

    Rows (queries) and columns (keys) are given per sample of the batch; one entry serves all samples. Samples with
    fewer columns than others are filled up with zeros. Softmax is computed in float32 at least, the result is in the
    dtype of the queries.

    Args:
        mean_heads: Average over the heads on the way.
        chunk: The most logits to hold at a time; at least one row of one head is.
    """
    if call.query.is_meta:
        return _shape_only(call, rows, columns, mean_heads)
    if len(rows) == 1 and len(columns) == 1:
        return _some(call, slice(None), rows[0], columns[0], mean_heads, chunk)
    batch = range(call.query.shape[0])
    pick = [
        _some(call, slice(b, b + 1), rows[b % len(rows)], columns[b % len(columns)], mean_heads, chunk) for b in batch
    ]
    widest = max(p.shape[-1] for p in pick)
    return torch.cat([torch.nn.functional.pad(p, (0, widest - p.shape[-1])) for p in pick])


def _some(
    call: AttentionCall, batch: slice, rows: Tensor | slice, columns: Tensor | slice, mean: bool, chunk: int
) -> Tensor:
    query, key = call.query[batch][:, :, rows], call.key[batch]
    b, heads, n = query.shape[:3]
    groups, m = key.shape[1:3]
    mask = None if call.mask is None else _expand(call.mask, call)[batch][:, :, rows]
    index = torch.arange(call.query.shape[2], device=query.device)[rows] if call.causal else None
    take_heads = max(1, min(heads, chunk // max(1, b * m)))
    take_rows = max(1, min(n, chunk // max(1, b * m * take_heads)))
    strips = []
    for start in range(0, n, take_rows):
        stop = start + take_rows
        parts = []
        for first in range(0, heads, take_heads):
            span = slice(first, first + take_heads)
            keys = key[:, span] if groups == heads else key[:, [h * groups // heads for h in range(heads)[span]]]
            bias = None if mask is None else mask[:, span if mask.shape[1] > 1 else slice(None), start:stop]
            logits = _logits(query[:, span, start:stop], keys, call.scale, bias)
            if index is not None:
                later = torch.arange(m, device=logits.device) > index[start:stop, None]
                logits = logits.masked_fill(later, float("-inf"))
            part = _normalised(logits, columns).to(query.dtype if not mean else logits.dtype)
            parts.append(part.sum(1, keepdim=True) if mean else part)
        if mean:
            strips.append((torch.stack(parts).sum(0) / heads).squeeze(1).to(query.dtype))
        else:
            strips.append(torch.cat(parts, dim=1))
    return torch.cat(strips, dim=-2)


def _logits(query: Tensor, key: Tensor, scale: float | None, bias: Tensor | None) -> Tensor:
    dtype = torch.promote_types(query.dtype, torch.float32)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query.to(dtype) * factor) @ key.to(dtype).transpose(-1, -2)
    if bias is None:
        return logits
    if bias.dtype == torch.bool:
        return logits.masked_fill(~bias, float("-inf"))
    return logits + bias.to(dtype)


def _normalised(logits: Tensor, columns: Tensor | slice) -> Tensor:
    if isinstance(columns, slice) and columns == slice(None):
        return logits.softmax(-1)
    total = logits.logsumexp(-1, keepdim=True)
    return (logits[..., columns] - total).exp()


def _expand(mask: Tensor, call: AttentionCall) -> Tensor:
    """The mask as a broadcast view ``(B, 1 or heads, Nq, Nk)``."""
    while mask.dim() < 4:
        mask = mask.unsqueeze(0)
    return mask.expand(call.query.shape[0], -1, call.query.shape[2], call.key.shape[2])


def _shape_only(
    call: AttentionCall, rows: Sequence[Tensor | slice], columns: Sequence[Tensor | slice], mean: bool
) -> Tensor:
    b, heads, n, m = call.shape

    def count(of: int, chosen: Tensor | slice) -> int:
        return len(range(of)[chosen]) if isinstance(chosen, slice) else len(chosen)

    head = () if mean else (heads,)
    return call.query.new_empty(b, *head, count(n, rows[0]), count(m, columns[0]))
