"""What can be read out of a denoiser, measured without weights.

The sites (:mod:`diffeat.activations.sites`) say what each module offers. One forward pass of a copy of the network on
the meta device (shapes only, no numbers, no memory) then says the rest through the very taps that read real
activations: the order of execution, channels, grid, and the share of the network's floating-point operations spent by
the time an activation is ready.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from diffeat.activations.aliases import aliases_of
from diffeat.activations.names import bare_denoiser, compile_pattern, is_pattern, unknown
from diffeat.activations.sites import candidates
from diffeat.activations.taps import Tap, Taps
from diffeat.ambient import neutral
from diffeat.backbones import Backbone, card_of, dummy_inputs, load_meta_denoiser
from diffeat.backbones.families import config_of, structure_of
from diffeat.backbones.layout import Call
from diffeat.backbones.memory import keep_newest
from diffeat.errors import DiffeatError, InvalidValueError, ModelError
from diffeat.notebook import Displayed, Html, paragraph, table

#: Catalogues that are kept, by class and configuration of the denoiser and by size.
REMEMBERED = 64


@dataclass(frozen=True)
class Activation:
    """One readable activation.

    Attributes:
        id: Module path and site.
        kind: One of the kinds of the sites (:data:`diffeat.activations.KINDS`): ``resnet``, ``block``, ``attention-q``,
            ``map``, ``adaln``, ``modulation`` …
        channels: Channels; of a map, the number of keys.
        grid: ``(h, w)`` at the size the catalogue was made for; ``None`` for what is no map of the image: text tokens
            and parameters of adaptive norms.
        stride: Cells of the latent per cell of the grid.
        heads: Attention heads, for q, k, v and maps.
        depth: Share (0 to 1) of the denoiser's operations spent when it is ready.
        stage: ``down 0``, ``mid``, ``up 1``, ``transformer_blocks 12`` …
        aliases: Names of other systems for it.
    """

    id: str
    kind: str
    channels: int
    grid: tuple[int, int] | None
    stride: float | None
    heads: int | None
    depth: float
    stage: str
    aliases: tuple[str, ...] = ()


class Catalogue(Displayed):
    """All activations of one denoiser, in order of execution.

    Iterate it, index it by id or alias, or select with :meth:`find`.

    Attributes:
        activations: All of them.
        flops: Floating-point operations of one whole forward pass for one image.
    """

    def __init__(self, denoiser: nn.Module, activations: Iterable[Activation], flops: int) -> None:
        self._denoiser = denoiser
        self.activations = tuple(activations)
        self.flops = flops

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        name = type(bare_denoiser(self._denoiser)).__name__
        return name, {"activations": len(self), "GFLOP": f"{self.flops / 1e9:.3g}"}

    def _details(self) -> Iterator[Html]:
        stages: dict[str, list[Activation]] = {}
        for activation in self:
            stages.setdefault(activation.stage, []).append(activation)
        rows = []
        for stage, several in stages.items():
            grids = dict.fromkeys("{}×{}".format(*a.grid) for a in several if a.grid)
            channels = [a.channels for a in several if a.grid]
            width = f"{min(channels)}–{max(channels)}" if len(set(channels)) > 1 else "".join(map(str, channels[:1]))
            rows.append([stage, str(len(several)), width, ", ".join(grids), f"{several[-1].depth:.0%}", several[-1].id])
        yield table(["stage", "activations", "channels", "grid", "depth", "its last"], rows)
        yield paragraph("Choose: catalogue.find('up_blocks.*'), catalogue[name].")

    def __iter__(self) -> Iterator[Activation]:
        return iter(self.activations)

    def __len__(self) -> int:
        return len(self.activations)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Activation:
        if name not in self._by_name:
            raise unknown(self._denoiser, name)
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Activation]:
        return {name: a for a in self.activations for name in (a.id, *a.aliases)}

    def find(self, wanted: str | Iterable[str]) -> list[Activation]:
        """Activations by id, alias or pattern, in order of execution whatever the order asked.

        ``*`` stays within one part of an id between dots; ``**`` and a leading ``*`` cross dots:
        ``up_blocks.*.resnets.*``, ``*attn2.q``, ``gdf:up-level1-*``.

        Raises:
            UnknownNameError: A name or pattern that selects nothing, with the nearest names.
        """
        chosen: set[str] = set()
        for name in [wanted] if isinstance(wanted, str) else wanted:
            if name in self._by_name:
                chosen.add(self._by_name[name].id)
                continue
            form = compile_pattern(name) if is_pattern(name) else None
            hits = {a.id for n, a in self._by_name.items() if form is not None and form.fullmatch(n)}
            if not hits:
                raise unknown(self._denoiser, name)
            chosen |= hits
        return [a for a in self.activations if a.id in chosen]

    @classmethod
    @neutral()
    def of(cls, denoiser: Any, size: tuple[int, int] | None = None, inputs: Call | None = None) -> Catalogue:
        """The catalogue of a backbone, pipeline or denoiser, on any device.

        It is measured once for a class, configuration and size; ``inputs`` are always measured.

        Args:
            denoiser: What to list.
            size: Image size (width, height) in pixels that the grids are for; by default what the model is made for.
            inputs: Arguments of a real forward pass, for classes whose arguments are not known here.

        Raises:
            InvalidValueError: A size that is no multiple of the latent's stride.
            ModelError: An unknown class without ``inputs``, or a configuration that the known arguments do not suit.
        """
        network = bare_denoiser(denoiser)
        latent = _latent_size(denoiser, network, size)
        if inputs is not None:
            return _measure(network, _to_meta(inputs), latent)
        config = {name: value for name, value in config_of(network).items() if not name.startswith("_")}
        key = (type(network), json.dumps(config, sort_keys=True, default=str), latent)
        catalogue = _measured.get(key)
        if catalogue is None:
            call = dummy_inputs(network, latent)
            try:
                catalogue = _measured[key] = _measure(network, call, latent)
            except DiffeatError:
                raise
            except (RuntimeError, TypeError, ValueError, IndexError) as error:  # whatever torch finds wrong with it
                raise ModelError(
                    f"This {type(network).__name__} does not take the arguments that are known for its class "
                    f"({type(error).__name__}: {error}). Give those of a real call as `inputs=`."
                ) from error
            keep_newest(_measured, REMEMBERED)
        return catalogue

    @classmethod
    def from_model(cls, model: str, size: tuple[int, int] | None = None) -> Catalogue:
        """The catalogue of a model id or directory, from its config alone (no weights are read)."""
        denoiser, _ = load_meta_denoiser(model)
        card = card_of(model)
        return cls.of(denoiser, size=size or (card.size if card else None))


_measured: dict[tuple[type[nn.Module], str, tuple[int, int]], Catalogue] = {}


class FlopCounter(TorchDispatchMode):
    """Counts floating-point operations, also on meta tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func._overloadpacket is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:  # which torch leaves out
            self.total += sdpa_flop_count(args[0].shape, args[1].shape, args[2].shape)
        elif (count := flop_registry.get(func._overloadpacket)) is not None:
            self.total += count(*args, **kwargs, out_val=out)
        return out


class _MetaMasks(TorchFunctionMode):
    """Lets real masks (whose sums decide sequence lengths) meet meta queries in the attention."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention and kwargs.get("attn_mask") is not None:
            kwargs = {**kwargs, "attn_mask": kwargs["attn_mask"].to("meta")}
        return func(*args, **kwargs)


class _Census(Taps):
    """Taps on everything, which note shape and cost instead of keeping tensors."""

    def __init__(self, denoiser: nn.Module) -> None:
        self._offered = {c.id: c for c in candidates(denoiser)}
        super().__init__(denoiser, list(self._offered), stop=False)
        self._flops = FlopCounter()
        self._seen: dict[str, tuple[tuple[int, ...], int]] = {}

    def _deliver(self, tap: Tap, value: Callable[[bool], Tensor]) -> None:
        if tap in self._values:
            return
        self._values[tap] = value(True)
        spent = self._flops.total
        for key in tap.keys:
            self._seen[key] = (tuple(self._values[tap].shape), spent)

    def take(self, inputs: Call, latent: tuple[int, int]) -> Catalogue:
        with self, torch.no_grad(), self._flops, _MetaMasks():
            self.denoiser(**inputs)
        names: dict[str, list[str]] = {}
        for alias, id in aliases_of(self.denoiser, self._seen):
            names.setdefault(id, []).append(alias)
        total = max(1, self._flops.total)
        activations = []
        for id, (shape, spent) in self._seen.items():
            c = self._offered[id]
            channels = shape[-1] if len(shape) == 3 or c.kind == "map" else shape[1]
            grid = (shape[2], shape[3]) if len(shape) == 4 and c.kind != "map" else None
            stride = round(latent[0] / grid[0], 3) if grid else None
            depth = round(spent / total, 4)
            tags = tuple(names.get(id, ()))
            activations.append(Activation(id, c.kind, channels, grid, stride, c.heads, depth, c.stage, tags))
        return Catalogue(self.denoiser, activations, self._flops.total)


def _measure(network: nn.Module, call: Call, latent: tuple[int, int]) -> Catalogue:
    config, build = getattr(network, "config", None), getattr(type(network), "from_config", None)
    if config is None or build is None:
        raise ModelError(f"{type(network).__name__} has no diffusers config to build a copy without weights from.")
    with torch.device("meta"):
        copy = build(config).eval()
    return _Census(copy).take(call, latent)


def _latent_size(thing: Any, denoiser: nn.Module, size: tuple[int, int] | None) -> tuple[int, int]:
    family = structure_of(denoiser)
    if size is None and not isinstance(thing, Backbone):
        return family.default_latent(config_of(denoiser))
    width, height = size or thing.default_size
    stride = thing.latent_stride if isinstance(thing, Backbone) else family.latent_stride
    if width % stride or height % stride:
        raise InvalidValueError(f"an image size of {width}x{height} is not a multiple of {stride}")
    return height // stride, width // stride


# Arguments whose values, not only shapes, decide how the tokens lie.
_LAYOUT_ARGUMENTS = ("img_ids", "txt_ids", "encoder_attention_mask")


def _to_meta(value: Any, name: str = "") -> Any:
    """The arguments of a real call without their content, on the meta device."""
    if isinstance(value, Tensor):
        return value.cpu() if name in _LAYOUT_ARGUMENTS else value.to("meta")
    if isinstance(value, dict):
        return {k: _to_meta(v, k) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_meta(v) for v in value)
    return value
