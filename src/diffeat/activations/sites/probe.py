"""How tensors are taken out of a running network: hooks on one module, and what is made of what they see.

A site is something that can be read so at many modules under one name, such as their input or their queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from diffeat.activations.anatomy import Node
from diffeat.activations.grids import fits, on_grid
from diffeat.backbones import TokenLayout
from diffeat.backbones.sharing import Hooks
from diffeat.errors import TapError

Stream = Literal["image", "text", "any"]
See = Callable[[Any], None]


class Pass(Protocol):
    """The running forward pass, as the taps know it."""

    denoiser: nn.Module
    chunk: int

    @property
    def rows(self) -> int:
        """Latents in the batch."""
        ...

    def layout(self, anchor: str | None) -> TokenLayout | None:
        """Where the image tokens lie; on UNets, on the grid of the anchor's input."""
        ...


class Probe(ABC):
    """Where an activation is seen and how its tensor is made. Equal probes give equal tensors.

    Attributes:
        anchor: On UNets, the module whose 4-D input gives the grid.
    """

    module: str
    anchor: str | None

    @abstractmethod
    def attach(self, hooks: Hooks, module: nn.Module, see: See, wanted: Callable[[], bool]) -> None:
        """Hook the module: ``see`` is called with whatever it is when it is there, if it is ``wanted`` at all."""

    @abstractmethod
    def value(self, name: str, seen: Any, run: Pass, last: bool) -> Tensor:
        """The activation out of what ``see`` was called with.

        Args:
            name: What it was asked for as.
            last: The forward pass ends here, so nothing can overwrite the memory.
        """

    def absence(self, denoiser: nn.Module) -> str | None:
        """Why it may not have been seen in a whole forward pass, where more can be said than that."""
        return None


@dataclass(frozen=True)
class StreamProbe(Probe):
    """A tensor of tokens or a map that goes into or comes out of a module.

    Attributes:
        stream: ``image`` must come out on the grid; ``text`` stays a token sequence; ``any`` becomes a grid if it fits.
        item: Position of the image stream in a tuple output.
        columns: Channels ``[start, stop)`` of a fused projection.
    """

    module: str
    stream: Stream
    item: int = 0
    columns: tuple[int, int] | None = None
    anchor: str | None = None

    def value(self, name: str, seen: Any, run: Pass, last: bool) -> Tensor:
        tensor = self._tensor(name, seen)
        if self.columns is not None:
            tensor = tensor[..., slice(*self.columns)]
        if tensor.dim() == 3 and self.stream != "text":
            layout = run.layout(self.anchor)
            if layout is not None and (self.stream == "image" or fits(layout, tensor.shape[1])):
                return on_grid(name, tensor, layout)
        return tensor if last and self.columns is None else tensor.clone()

    @abstractmethod
    def _tensor(self, name: str, seen: Any) -> Tensor: ...


@dataclass(frozen=True)
class OutputProbe(StreamProbe):
    """A module's output."""

    def attach(self, hooks: Hooks, module: nn.Module, see: See, wanted: Callable[[], bool]) -> None:
        hooks.after(module, lambda _, __, output: see(output))

    def _tensor(self, name: str, seen: Any) -> Tensor:
        return _stream_of(name, seen, self.item)

    def absence(self, denoiser: nn.Module) -> str | None:
        attention, _, _ = self.module.rpartition(".")
        if getattr(denoiser.get_submodule(attention), "fused_projections", False):
            return (
                "the q, k, v projections are fused, so the separate ones do not run. "
                "Call `unfuse_qkv_projections()` on the denoiser first."
            )
        return None


@dataclass(frozen=True)
class InputProbe(StreamProbe):
    """A module's first input."""

    def attach(self, hooks: Hooks, module: nn.Module, see: See, wanted: Callable[[], bool]) -> None:
        hooks.before(module, lambda args, kwargs: see(first_tensor(args, kwargs)))

    def _tensor(self, name: str, seen: Any) -> Tensor:
        return _given(name, seen)


@dataclass(frozen=True)
class IncrementProbe(StreamProbe):
    """A module's output minus its first input."""

    def attach(self, hooks: Hooks, module: nn.Module, see: See, wanted: Callable[[], bool]) -> None:
        hooks.after(module, lambda args, kwargs, output: see((first_tensor(args, kwargs), output)))

    def _tensor(self, name: str, seen: Any) -> Tensor:
        before, output = seen
        return _stream_of(name, output, self.item) - _given(name, before)


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The image stream among a module's arguments: the first one, or what diffusers calls hidden states."""
    if args and isinstance(args[0], Tensor):
        return args[0]
    for name in ("hidden_states", "x", "input_tensor", "sample", "input"):
        if isinstance(kwargs.get(name), Tensor):
            return kwargs[name]
    return next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)


def _given(name: str, tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise TapError(f"{name!r}: the module was called without a tensor")
    return tensor


def _stream_of(name: str, output: Any, item: int) -> Tensor:
    """The image stream of whatever a module returned."""
    output = getattr(output, "sample", output) if not isinstance(output, Tensor) else output
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)):
        tensors = [output[item], *output] if item < len(output) else output
        for value in tensors:
            if isinstance(value, Tensor):
                return value
    raise TapError(f"{name!r}: the module returned no tensor but {type(output).__name__}")


class NoSuchSite(Exception):
    """The module exists but does not offer the site; the text says why."""


class Site(ABC):
    """A site: the last part of an id, ``MODULE.site``; the output's name is empty, its id the module's path.

    Attributes:
        name: That last part.
        kinds: The kinds of activation that it gives.
        per_head: Whether its channels or matrices belong to attention heads.
    """

    name: str
    kinds: ClassVar[tuple[str, ...]]
    per_head: ClassVar[bool] = False

    @abstractmethod
    def kind_at(self, node: Node) -> str | None:
        """The kind under which a catalogue lists it at a module; ``None`` where it is not listed."""

    @abstractmethod
    def at(self, node: Node) -> Probe:
        """How it is read at a module, listed there or not."""
