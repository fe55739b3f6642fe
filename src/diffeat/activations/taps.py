"""Forward hooks that bring wanted activations out of a denoiser, and always go away again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from diffeat.activations import rules
from diffeat.activations.attention import (
    CHUNK_ELEMENTS,
    AttentionCall,
    AttentionWatch,
    MapRequest,
    probabilities,
)
from diffeat.activations.grids import fits, image_spans, on_grid, text_spans
from diffeat.activations.names import bare_denoiser, locate
from diffeat.activations.sources import Source
from diffeat.backbones import TokenLayout, layout_of
from diffeat.errors import InvalidValueError, TapError

Wanted = str | MapRequest


class _Stop(Exception):
    """Ends a forward pass that has given all that was wanted; caught only by the taps that raised it."""

    def __init__(self, owner: Taps) -> None:
        self.owner = owner


@dataclass(frozen=True, eq=False)
class _Tap:
    """One tensor to bring out, for all the names it was asked by."""

    name: str
    source: Source
    request: MapRequest | None
    keys: tuple[str, ...]


class Taps:
    """Hooks on the modules that produce the wanted activations, for as long as the ``with`` block lasts.

    Only those modules are touched (and, on UNets, the transformer wrapper around a token tensor, to see its
    grid). Names may be ids, aliases or :class:`MapRequest`; the keys of the result are exactly what was asked
    (``str(request)`` for a request). A module that runs several times within one forward pass gives its first
    run.

    Args:
        denoiser: Network, pipeline or backbone.
        activations: One or several names.
        stop: Whether :meth:`run` ends the forward pass right after the last wanted activation.
        chunk: The most attention logits held at a time.
        sink: Is given each name and its tensor at once, to look at and not to keep: the tensor may be the denoiser's
            own memory. Nothing is held, and :meth:`run` returns empty tensors.

    Shapes: convolutional ``(B, C, h, w)`` as they are; image tokens ``(B, C, h, w)`` on the grid of this
    forward pass, cut out of joint text-image sequences; text tokens (keys and values of cross-attention)
    ``(B, N, C)``; attention maps ``(B, heads, Nq, Nk)`` or as :class:`MapRequest` says.
    """

    def __init__(
        self,
        denoiser: Any,
        activations: Wanted | Iterable[Wanted],
        stop: bool = True,
        chunk: int = CHUNK_ELEMENTS,
        sink: Callable[[str, Tensor], None] | None = None,
    ) -> None:
        self.denoiser: nn.Module = bare_denoiser(denoiser)
        self.stop = stop
        self.chunk = chunk
        self.sink = sink
        wanted = [activations] if isinstance(activations, (str, MapRequest)) else list(activations)
        if not wanted:
            raise InvalidValueError("no activation asked for")
        self.keys = list(dict.fromkeys(str(w) for w in wanted))
        self._taps = _tap_list(self.denoiser, wanted)
        self._signature = inspect.signature(self.denoiser.forward)
        self._handles: list[RemovableHandle] = []
        self._hooked: dict[str, nn.Module] = {}
        self._watches: list[AttentionWatch] = []
        self._running = False
        self.live = True
        self._reset()

    def _reset(self) -> None:
        self._values: dict[_Tap, Tensor] = {}
        self._call: dict[str, Any] | None = None
        self._layout: TokenLayout | None = None
        self._grids: dict[str, tuple[int, int]] = {}

    # ---- life of the hooks

    def __enter__(self) -> Taps:
        if self._handles:
            raise TapError("these taps are in use already; make a second Taps for a nested use")
        try:
            self._attach()
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._detach()
        self._reset()

    def _attach(self) -> None:
        begin = self.denoiser.register_forward_pre_hook(self._begin, with_kwargs=True, prepend=True)
        self._handles.append(begin)
        for path in dict.fromkeys(t.source.anchor for t in self._taps if t.source.anchor):
            module = self._module(path)
            self._handles.append(module.register_forward_pre_hook(self._see_grid(path), with_kwargs=True, prepend=True))
        for tap in self._taps:
            module = self._module(tap.source.module)
            if tap.source.where == "input":
                self._handles.append(module.register_forward_pre_hook(self._on_input(tap), with_kwargs=True))
            elif tap.source.where == "map":
                enter, leave = self._around_attention(tap)
                self._handles.append(module.register_forward_pre_hook(enter))
                self._handles.append(module.register_forward_hook(leave, always_call=True))
            else:
                self._handles.append(module.register_forward_hook(self._on_output(tap), with_kwargs=True))

    def _module(self, path: str) -> nn.Module:
        self._hooked[path] = self.denoiser.get_submodule(path)
        return self._hooked[path]

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        for watch in self._watches:
            watch.leave()
        self._handles, self._watches, self._hooked = [], [], {}

    # ---- one forward pass

    def run(self, **kwargs: Any) -> dict[str, Tensor]:
        """One forward pass of the denoiser.

        Args:
            **kwargs: What ``denoiser.forward`` takes.

        Returns:
            The activations under the names they were asked by, in that order.

        Raises:
            TapError: A wanted activation was not produced.
        """
        if not self._handles:
            raise TapError("the taps are not attached; use them as `with Taps(...) as taps: taps.run(...)`")
        self._reset()
        self._running = True
        try:
            self.denoiser(**kwargs)
        except _Stop as stop:
            if stop.owner is not self:
                raise
        finally:
            self._running = False
        return self.collect()

    def collect(self) -> dict[str, Tensor]:
        """The activations of the last forward pass, for taps around a call that somebody else makes."""
        missing = [t for t in self._taps if t not in self._values]
        if missing:
            raise TapError(_why_missing(self.denoiser, missing, started=self._call is not None))
        found = {key: value for tap, value in self._values.items() for key in tap.keys}
        self._reset()
        return {key: found[key] for key in self.keys}

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._running and self._call is not None:
            raise TapError("the denoiser was called inside its own forward pass; read before or after it")
        self._reset()
        self._call = dict(self._signature.bind_partial(*args, **kwargs).arguments)
        if any(_submodule(self.denoiser, path) is not module for path, module in self._hooked.items()):
            self._detach()  # an adapter was loaded or removed since and exchanged layers: hook the new ones
            self._attach()

    def _deliver(self, tap: _Tap, value: Callable[[bool], Tensor]) -> None:
        """Keep ``value(last)``; ``last``: the forward pass ends here, so nothing can overwrite the memory."""
        if not self.live or self._call is None or tap in self._values:
            return
        last = self._running and self.stop and len(self._values) + 1 == len(self._taps)
        if self.sink is None:
            self._values[tap] = value(last)
        else:
            found = value(True)
            for key in tap.keys:
                self.sink(key, found)
            self._values[tap] = found.new_empty(0)
        if last:
            raise _Stop(self)

    # ---- hooks

    def _see_grid(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            image = _first_tensor(args, kwargs)
            if image is not None and image.dim() == 4:
                self._grids[path] = (image.shape[-2], image.shape[-1])

        return hook

    def _on_output(self, tap: _Tap) -> Callable[..., None]:
        source = tap.source

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            def value(last: bool) -> Tensor:
                tensor = _stream(tap.name, output, source.item)
                if source.where == "increment":
                    before = _first_tensor(args, kwargs)
                    assert before is not None
                    return self._shape(tap, tensor - before, last)
                return self._shape(tap, tensor, last)

            self._deliver(tap, value)

        return hook

    def _on_input(self, tap: _Tap) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            def value(last: bool) -> Tensor:
                tensor = _first_tensor(args, kwargs)
                if tensor is None:
                    raise TapError(f"{tap.name!r}: the module was called without a tensor")
                return self._shape(tap, tensor, last)

            self._deliver(tap, value)

        return hook

    def _around_attention(self, tap: _Tap) -> tuple[Callable[..., None], Callable[..., None]]:
        active: list[AttentionWatch] = []

        def report(call: AttentionCall) -> None:
            self._deliver(tap, lambda last: self._map(tap, call))

        def enter(_: nn.Module, __: Any) -> None:
            if self.live and self._call is not None and tap not in self._values:
                watch = AttentionWatch(report)
                watch.__enter__()
                active.append(watch)
                self._watches.append(watch)

        def leave(_: nn.Module, __: Any, ___: Any) -> None:
            while active:
                watch = active.pop()
                watch.leave()
                self._watches.remove(watch)

        return enter, leave

    # ---- from what the module holds to what the user gets

    def _layout_at(self, source: Source) -> TokenLayout | None:
        if source.anchor is not None:
            size = self._grids.get(source.anchor)
            return None if size is None else TokenLayout(size)
        if rules.is_unet(self.denoiser):
            return None
        if self._layout is None:
            assert self._call is not None
            self._layout = layout_of(self.denoiser, self._call)
        return self._layout

    def _shape(self, tap: _Tap, tensor: Tensor, last: bool) -> Tensor:
        source = tap.source
        if source.columns is not None:
            tensor = tensor[..., slice(*source.columns)]
        if tensor.dim() == 3 and source.stream != "text":
            layout = self._layout_at(source)
            if layout is not None and (source.stream == "image" or fits(layout, tensor.shape[1])):
                return on_grid(tap.name, tensor, layout)
        return tensor if last and source.columns is None else tensor.clone()

    def _map(self, tap: _Tap, call: AttentionCall) -> Tensor:
        request = tap.request or MapRequest(tap.name, heads="all")
        batch, _, n, m = call.shape
        layout = self._layout_at(tap.source)
        rows: list[Any] = [slice(None)]
        columns: list[Any] = [slice(None)]
        if tap.source.part != "map":
            assert layout is not None
            rows = list(image_spans(tap.name, layout, n, batch))
            image = tap.source.part == "self_map"
            columns = list(image_spans(tap.name, layout, m, batch) if image else text_spans(layout, m, batch))
        rows = [_choose(tap.name, "queries", r, n, request.queries, call.query.device) for r in rows]
        columns = [_choose(tap.name, "tokens", c, m, request.tokens, call.query.device) for c in columns]
        result = probabilities(call, rows, columns, request.heads == "mean", self.chunk)
        return _as_pictures(result, request, layout)


def _tap_list(denoiser: nn.Module, wanted: list[Wanted]) -> list[_Tap]:
    """One tap per tensor, however often and by whatever name it was asked for."""
    found: dict[tuple[Source, Any], list[str]] = {}
    names: dict[tuple[Source, Any], tuple[str, MapRequest | None]] = {}
    asked = [item.id if isinstance(item, MapRequest) else item for item in wanted]
    for item, name, source in zip(wanted, asked, locate(denoiser, asked), strict=True):
        request = item if isinstance(item, MapRequest) else None
        if request is not None and source.where != "map":
            raise InvalidValueError(f"{name!r} is not an attention map; ask for it by its plain name")
        reduction = None if request is None else (request.heads, request.tokens, request.queries)
        found.setdefault((source, reduction), []).append(str(item))
        names.setdefault((source, reduction), (name, request))
    return [_Tap(names[key][0], key[0], names[key][1], tuple(keys)) for key, keys in found.items()]


def _submodule(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The image stream among a module's arguments: the first one, or what diffusers calls hidden states."""
    if args and isinstance(args[0], Tensor):
        return args[0]
    for name in ("hidden_states", "x", "input_tensor", "sample", "input"):
        if isinstance(kwargs.get(name), Tensor):
            return kwargs[name]
    return next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)


def _stream(name: str, output: Any, item: int) -> Tensor:
    """The image stream of whatever a module returned."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "sample"):
        output = output.sample
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)):
        if item < len(output) and isinstance(output[item], Tensor):
            return output[item]
        for value in output:
            if isinstance(value, Tensor):
                return value
    raise TapError(f"{name!r}: the module returned no tensor but {type(output).__name__}")


def _choose(name: str, what: str, span: slice, total: int, chosen: Any, device: torch.device) -> Any:
    """Positions within a span of the sequence, as an index into the whole sequence."""
    if chosen is None:
        return span
    positions = range(total)[span]
    if max(chosen) >= len(positions):
        raise InvalidValueError(f"{name!r}: {what} up to {max(chosen)} asked for, there are {len(positions)}")
    return torch.tensor([positions[i] for i in chosen], device=device)


def _as_pictures(result: Tensor, request: MapRequest, layout: TokenLayout | None) -> Tensor:
    """Queries of chosen tokens, or keys of chosen queries, laid out as pictures."""
    if layout is None:
        return result
    if request.tokens is not None and request.queries is None and result.shape[-2] == layout.tokens:
        return result.transpose(-1, -2).unflatten(-1, layout.grid).contiguous()
    if request.queries is not None and request.tokens is None and result.shape[-1] == layout.tokens:
        return result.unflatten(-1, layout.grid)
    return result


def _why_missing(denoiser: nn.Module, missing: list[_Tap], started: bool) -> str:
    names = ", ".join(repr(t.name) for t in missing[:4]) + (" …" if len(missing) > 4 else "")
    if not started:
        return f"{names}: the denoiser has not been called since the taps were attached."
    first = missing[0]
    module = _submodule(denoiser, first.source.module)
    attention = _submodule(denoiser, first.source.module.rpartition(".")[0])
    processor = getattr(module, "processor", None)
    if first.source.where == "map":
        return (
            f"{names}: no map exists there. The module made no call of scaled_dot_product_attention in this "
            f"forward pass (its processor is {type(processor).__name__}). Linear attention has no map at all; "
            "for sliced, xformers or eager attention first call "
            "`denoiser.set_attn_processor(diffusers.models.attention_processor.AttnProcessor2_0())`."
        )
    if getattr(attention, "fused_projections", False):
        return (
            f"{names}: the q, k, v projections are fused, so the separate ones do not run. "
            "Call `unfuse_qkv_projections()` on the denoiser first."
        )
    if any(getattr(m, "_compiled_call_impl", None) is not None for m in denoiser.modules()):
        return f"{names}: not produced, the model is compiled. Load it without `torch.compile` to read from it."
    return (
        f"{names}: the forward pass went by without running {first.source.module!r} "
        "(a block skipped by the arguments of this call, or a branch this model does not use)."
    )
