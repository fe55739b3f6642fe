"""Everything about a pipeline that a technique could change, so that it can be put back exactly.

Adapters exchange layers, set attributes, swap attention processors and flip ``requires_grad``. Each of these is a
change of some module's ``__dict__``. A snapshot keeps those dictionaries (not the weights); putting it back restores
the very same module and parameter objects, so the weights are bit for bit those of before. Changes *inside* a weight
are noticed by torch's version counter, and repaired where a copy of the weights was kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffeat.backbones.fingerprint import writes_into

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_SAMPLE = 64


class Snapshot:
    """The state of a pipeline.

    Args:
        copy_weights: Keep a copy of all weights too, for techniques that may write into them.
    """

    def __init__(self, pipeline: DiffusionPipeline, watch_weights: bool = True, copy_weights: bool = False) -> None:
        self._pipeline = pipeline
        self._pipeline_dict = dict(pipeline.__dict__)
        roots = [v for v in pipeline.components.values() if isinstance(v, nn.Module)]
        modules = list(dict.fromkeys(m for root in roots for m in root.modules()))
        self._modules = [_Attributes(m.__dict__) for m in modules]
        self._configs = [(c, dict(c), dict(vars(c))) for c in _configs([pipeline, *modules])]
        watched = roots if watch_weights or copy_weights else []
        tensors = ((*root.named_parameters(), *root.named_buffers()) for root in watched)
        self._weights = [_Weight(name, w, copy_weights) for of_root in tensors for name, w in of_root]

    def restore(self) -> list[str]:
        """Put everything back.

        Returns:
            Names of weights that had been written into; with ``copy_weights`` they are repaired.
        """
        self.restore_structure()
        return self.restore_weights()

    def restore_weights(self) -> list[str]:
        """Put weights and their ``requires_grad`` back; see :meth:`restore`."""
        return [w.name for w in self._weights if w.restore()]

    def restore_structure(self) -> None:
        """Put modules, hooks, attributes and configurations back, without a look into the weights."""
        for attributes in self._modules:
            attributes.put_back()
        _refill(self._pipeline.__dict__, self._pipeline_dict)
        for config, items, attributes in self._configs:
            _refill(config, items)
            _refill(vars(config), attributes)

    def changed(self) -> list[str]:
        """Names of weights that were written into since."""
        return [w.name for w in self._weights if w.changed()]


class _Weight:
    def __init__(self, name: str, tensor: Tensor, copy: bool) -> None:
        self.name, self._tensor, self._grad = name, tensor, tensor.requires_grad
        self._version, self._place = writes_into(tensor), tensor.data_ptr()
        self._data = tensor.data
        self._sample = _sampled(tensor)
        self._copy = tensor.detach().clone() if copy else None

    def changed(self) -> bool:
        """Whether the weight was exchanged as a whole (.data = …, .to(…)) or written into."""
        written = self._moved() or writes_into(self._tensor) != self._version
        return written or not torch.equal(_sampled(self._tensor), self._sample)

    def restore(self) -> bool:
        """Put the weight back; whether it had been changed."""
        tensor, changed = self._tensor, self.changed()
        if self._moved():
            tensor.data = self._data  # the old storage is still here
        if tensor.requires_grad != self._grad:
            tensor.requires_grad_(self._grad)
        if changed and self._copy is not None:
            with torch.no_grad():
                tensor.copy_(self._copy)
            self._version = writes_into(tensor)
        return changed

    def _moved(self) -> bool:
        return self._tensor.data_ptr() != self._place or self._tensor.dtype != self._data.dtype


def _sampled(tensor: Tensor) -> Tensor:
    """Bits of some of the values: NaN equals itself."""
    flat = tensor.detach().reshape(-1) if tensor.is_contiguous() else tensor.detach().flatten()[:_SAMPLE]
    return flat[:: max(1, len(flat) // _SAMPLE)].clone().view(torch.uint8)


class _Attributes:
    """Those of a module; of dictionaries among them (modules, parameters, hooks) a copy of what they hold."""

    __slots__ = ("_before", "_empty", "_full", "_now")

    def __init__(self, attributes: dict[str, Any]) -> None:
        self._now, self._before = attributes, dict(attributes)
        inner = [value for value in attributes.values() if isinstance(value, dict)]
        self._full = [(value, dict(value)) for value in inner if value]
        self._empty = [value for value in inner if not value]  # most of them: a pipeline has thousands of modules

    def put_back(self) -> None:
        """In place: handles of hooks point at these very dictionaries."""
        _refill(self._now, self._before)
        for value, items in self._full:
            _refill(value, items)
        for value in self._empty:
            if value:
                _refill(value, {})


def _refill(target: dict, items: dict) -> None:
    """Past the write protection of diffusers' configurations; only what differs is touched, others may be looking."""
    if list(target) == list(items) and all(map(is_, target.values(), items.values())):
        return
    kind: Any = OrderedDict if isinstance(target, OrderedDict) else dict
    for name in [name for name in target if name not in items]:
        kind.__delitem__(target, name)
    ordered = list(target) == list(items)
    for name, value in items.items():
        if not ordered:
            kind.pop(target, name, None)
        if not ordered or target[name] is not value:
            kind.__setitem__(target, name, value)


def _configs(owners: Iterable[object]) -> list[dict]:
    found = (vars(owner).get("_internal_dict") for owner in owners)
    return list({id(c): c for c in found if isinstance(c, dict)}.values())
