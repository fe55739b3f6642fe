"""Forward hooks that bring wanted activations out of a denoiser, and always go away again."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from diffeat.activations.anatomy import has, is_unet
from diffeat.activations.attention import CHUNK_ELEMENTS, MapRequest
from diffeat.activations.names import bare_denoiser, locate
from diffeat.activations.sites.attention import MapProbe
from diffeat.activations.sites.probe import Probe, first_tensor
from diffeat.backbones import TokenLayout, layout_of
from diffeat.backbones.sharing import Hooks, shared
from diffeat.backbones.wrappers import uncompiled
from diffeat.errors import InvalidValueError, TapError

Wanted = str | MapRequest


class Stop(BaseException):
    """Ends a forward pass that has given all that was wanted; caught only by the owner that raised it."""

    def __init__(self, owner: object) -> None:
        self.owner = owner


@dataclass(frozen=True, eq=False)
class Tap:
    """One tensor to bring out, for all the names it was asked by; the first of them stands in messages."""

    name: str
    probe: Probe
    keys: tuple[str, ...]


class Taps:
    """Hooks on the modules that produce the wanted activations, for as long as the ``with`` block lasts.

    Only those modules are touched (and, on UNets, the transformer wrapper around a token tensor, to see its
    grid). Names may be ids, aliases or :class:`MapRequest`; the keys of the result are exactly what was asked
    (``str(request)`` for a request). A module that runs several times within one forward pass gives its first
    run. Calls that other threads make meanwhile go by unseen and undisturbed.

    Args:
        denoiser: Network, pipeline or backbone.
        activations: One or several names.
        stop: Whether :meth:`run` ends the forward pass right after the last wanted activation.
        chunk: The most attention logits held at a time.
        sink: Is given each name and its tensor at once, to look at and not to keep: the tensor may be the denoiser's
            own memory. Nothing is held, and :meth:`run` returns empty tensors.

    Shapes: convolutional ``(B, C, h, w)`` as they are; image tokens ``(B, C, h, w)`` on the grid of this
    forward pass, cut out of joint text-image sequences; text tokens (keys and values of cross-attention)
    ``(B, N, C)``; parameters of adaptive norms ``(B, C)``, float32; attention maps ``(B, heads, Nq, Nk)`` or as
    :class:`MapRequest` says.
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
        self._taps = _taps(self.denoiser, wanted)
        self._signature = inspect.signature(self.denoiser.forward)
        self._hooks = Hooks()
        self._hooked: dict[str, nn.Module] = {}
        self._inside: ExitStack | None = None
        self._running = False
        self.live = True
        self._reset()

    def _reset(self) -> None:
        self._values: dict[Tap, Tensor] = {}
        self._call: dict[str, Any] | None = None
        self._layout: TokenLayout | None = None
        self._grids: dict[str, tuple[int, int]] = {}

    # ---- life of the hooks

    def __enter__(self) -> Taps:
        if self._inside is not None:
            raise TapError("these taps are in use already; make a second Taps for a nested use")
        with ExitStack() as stack:
            stack.callback(self._reset)
            with shared(self.denoiser):
                stack.callback(self._detach)
                self._attach()
            stack.enter_context(self._hooks.acting())
            self._inside = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        inside, self._inside = self._inside, None
        if inside is not None:
            with shared(self.denoiser):
                inside.close()

    def another(self) -> Taps:
        """The same taps for a use beside this one."""
        twin = copy.copy(self)
        twin._hooks, twin._hooked, twin._inside = Hooks(), {}, None
        twin._reset()
        return twin

    def _attach(self) -> None:
        self._hooks.before(self.denoiser, self._begin, first=True)
        for path in dict.fromkeys(t.probe.anchor for t in self._taps if t.probe.anchor):
            self._hooks.before(self._module(path), partial(self._see_grid, path), first=True)
        for tap in self._taps:
            wanted = partial(self._wants, tap)
            tap.probe.attach(self._hooks, self._module(tap.probe.module), partial(self._see, tap), wanted)

    def _module(self, path: str) -> nn.Module:
        self._hooked[path] = self.denoiser.get_submodule(path)
        return self._hooked[path]

    def _detach(self) -> None:
        self._hooks.remove()
        self._hooked = {}

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
        if self._inside is None:
            raise TapError("the taps are not attached; use them as `with Taps(...) as taps: taps.run(...)`")
        self._reset()
        self._running = True
        try:
            with uncompiled(self.denoiser, self._hooked), self._hooks.acting():
                self.denoiser(**kwargs)
        except Stop as stop:
            if stop.owner is not self:
                raise
        finally:
            self._running = False
            self._hooks.leave()
        return self.collect()

    def collect(self) -> dict[str, Tensor]:
        """The activations of the last forward pass, for taps around a call that somebody else makes."""
        missing = [t for t in self._taps if t not in self._values]
        if missing:
            raise TapError(_why_missing(self.denoiser, missing, started=self._call is not None))
        values = {key: value for tap, value in self._values.items() for key in tap.keys}
        self._reset()
        return {key: values[key] for key in self.keys}

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._running and self._call is not None:
            raise TapError("the denoiser was called inside its own forward pass; read before or after it")
        self._reset()
        self._call = dict(self._signature.bind_partial(*args, **kwargs).arguments)
        if any(not _is_at(self.denoiser, path, module) for path, module in self._hooked.items()):
            self._detach()  # an adapter was loaded or removed since and exchanged layers: hook the new ones
            self._attach()

    def _wants(self, tap: Tap) -> bool:
        return self.live and self._call is not None and tap not in self._values

    def _deliver(self, tap: Tap, value: Callable[[bool], Tensor]) -> None:
        """Keep ``value(last)``; ``last``: the forward pass ends here, so nothing can overwrite the memory."""
        if not self._wants(tap):
            return
        last = self._running and self.stop and len(self._values) + 1 == len(self._taps)
        if self.sink is None:
            self._values[tap] = value(last)
        else:
            tensor = value(True)
            for key in tap.keys:
                self.sink(key, tensor)
            self._values[tap] = tensor.new_empty(0)
        if last:
            raise Stop(self)

    def _see(self, tap: Tap, seen: Any) -> None:
        self._deliver(tap, lambda last: tap.probe.value(tap.name, seen, self, last))

    def _see_grid(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        image = first_tensor(args, kwargs)
        if image is not None and image.dim() == 4:
            self._grids[path] = (image.shape[-2], image.shape[-1])

    # ---- what probes ask of the running pass

    @property
    def rows(self) -> int:
        """Latents in the batch of the running forward pass."""
        return len(latents_of(self._call or {}))

    def layout(self, anchor: str | None) -> TokenLayout | None:
        """Where the image tokens lie in the running forward pass; on UNets, on the grid of the anchor's input."""
        if anchor is not None:
            size = self._grids.get(anchor)
            return None if size is None else TokenLayout(size)
        if self._layout is None and self._call is not None and not is_unet(self.denoiser):
            self._layout = layout_of(self.denoiser, self._call)
        return self._layout


def _is_at(root: nn.Module, path: str, module: nn.Module) -> bool:
    return not path or (has(root, path) and root.get_submodule(path) is module)


def latents_of(call: Mapping[str, Any]) -> Tensor:
    """The latents of a denoiser call, rows first."""
    value = next((call[name] for name in ("sample", "hidden_states", "x") if name in call), None)
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, Tensor) for v in value):
        return torch.stack([v.detach() for v in value])
    raise TapError("the denoiser was called without latents in 'sample', 'hidden_states' or 'x'")


def _taps(denoiser: nn.Module, wanted: list[Wanted]) -> list[Tap]:
    """One tap per tensor, however often and by whatever name it was asked for."""
    names = [item.id if isinstance(item, MapRequest) else item for item in wanted]
    taps: dict[Probe, Tap] = {}
    for item, name, probe in zip(wanted, names, locate(denoiser, names), strict=True):
        if isinstance(item, MapRequest):
            if not isinstance(probe, MapProbe):
                raise InvalidValueError(f"{name!r} is not an attention map; ask for it by its plain name")
            probe = probe.reduced(item)
        before = taps.get(probe, Tap(name, probe, ()))
        taps[probe] = Tap(before.name, probe, (*before.keys, str(item)))
    return list(taps.values())


def _why_missing(denoiser: nn.Module, missing: list[Tap], started: bool) -> str:
    names = ", ".join(repr(t.name) for t in missing[:4]) + (" …" if len(missing) > 4 else "")
    if not started:
        return f"{names}: the denoiser has not been called in this thread since the taps were attached."
    probe = missing[0].probe
    if has(denoiser, probe.module) and (reason := probe.absence(denoiser)):
        return f"{names}: {reason}"
    return (
        f"{names}: the forward pass went by without running {probe.module!r} "
        "(a block skipped by the arguments of this call, or a branch this model does not use)."
    )


def read(denoiser: Any, activations: Wanted | Iterable[Wanted], /, **denoiser_kwargs: Any) -> dict[str, Tensor]:
    """Run a denoiser as far as needed and return the activations inside it.

    Args:
        denoiser: A stock diffusers denoiser, or a pipeline or Backbone that holds one.
        activations: Ids (``up_blocks.1``, ``transformer_blocks.14.attn.q``), aliases (``dift:1``) or
            :class:`~diffeat.activations.MapRequest`.
        **denoiser_kwargs: Exactly what ``denoiser.forward`` takes.

    Returns:
        One tensor per name, keyed exactly as asked: ``(B, C, h, w)`` for image activations, ``(B, N, C)`` for
        text tokens, ``(B, C)`` for shift, scale and gate, ``(B, heads, Nq, Nk)`` or reduced for maps. Gradients stay
        attached unless the caller switched them off.

    Raises:
        UnknownNameError: A name this denoiser does not have; the nearest ones are named.
        TapError: The activation exists but this forward pass did not produce it.
    """
    with Taps(denoiser, activations) as taps:
        return taps.run(**denoiser_kwargs)
