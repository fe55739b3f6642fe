"""Reading activations while somebody's own generation runs.

The pipeline is called as ever and never stopped early. A denoising *step* is one or two calls of the denoiser
on the same latents at the same timestep: under classifier-free guidance most pipelines put the unconditional
and the conditional half into one batch, some (Qwen-Image, Lumina 2, FLUX with true guidance, FLUX.2 klein)
make two calls, the conditional one first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffeat.activations.attention import CHUNK_ELEMENTS
from diffeat.activations.names import bare_denoiser
from diffeat.activations.rules import class_name
from diffeat.activations.taps import Taps, Wanted
from diffeat.errors import InvalidValueError, TapError, UnknownNameError

Halves = Literal["conditional", "both"]

# How a class writes time: 0..1000, its thousandth (sigma), or one minus that.
_SIGMA = (
    "AuraFlowTransformer2DModel",
    "ChromaTransformer2DModel",
    "Flux2Transformer2DModel",
    "FluxTransformer2DModel",
    "QwenImageTransformer2DModel",
)
_REVERSED_SIGMA = ("Lumina2Transformer2DModel", "ZImageTransformer2DModel")

# Pipelines that put the conditional half of a guided batch first.
_CONDITIONAL_FIRST = ("DiTPipeline", "ZImagePipeline", "ZImageImg2ImgPipeline")
# Pipelines that do not tell whether they guide; equal latents in both halves of the batch tell it.
_SILENT = ("DiTPipeline",)


class GenerationTaps(Mapping[float, dict[str, Tensor]]):
    """Activations of a generation by timestep: ``taps[981.0]["up_blocks.1"]``.

    Timesteps count 0 to 1000 of the training schedule. A schedule that visits a timestep twice (PNDM) keeps
    the later visit under it; :attr:`steps` has every step.

    Attributes:
        steps: ``(index, timestep, activations)`` of every step that was kept, in order of the generation.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[int, float, dict[str, Tensor]]] = []

    @property
    def timesteps(self) -> list[float]:
        return list(dict.fromkeys(t for _, t, _ in self.steps))

    def __getitem__(self, timestep: float) -> dict[str, Tensor]:
        for _, t, found in reversed(self.steps):
            if t == timestep:
                return found
        raise UnknownNameError(
            f"No step at timestep {timestep}; kept: {', '.join(map(str, self.timesteps)) or 'none'}."
        )

    def __iter__(self) -> Iterator[float]:
        return iter(self.timesteps)

    def __len__(self) -> int:
        return len(self.timesteps)


class _Recorder(Taps):
    """Taps that sort what they see into the steps of a generation."""

    def __init__(
        self,
        target: Any,
        activations: Wanted | Iterable[Wanted],
        steps: Iterable[int] | None,
        halves: Halves,
        to: str | torch.device | None,
        chunk: int,
    ) -> None:
        super().__init__(target, activations, stop=False, chunk=chunk)
        self.kept = GenerationTaps()
        self._pipeline = None if isinstance(target, nn.Module) else getattr(target, "pipeline", target)
        self._steps = None if steps is None else set(steps)
        self._halves = halves
        self._to = to
        self._index = -1
        self._before: tuple[float, Tensor] | None = None
        self._call_in_step = 0

    def _attach(self) -> None:
        super()._attach()
        self._handles.append(self.denoiser.register_forward_hook(self._end))

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super()._begin(module, args, kwargs)
        assert self._call is not None
        latents, timestep = _latents(self._call), _timestep(self.denoiser, self._call)
        again = (
            self._before is not None
            and self._before[0] == timestep
            and self._before[1].shape == latents.shape
            and torch.equal(self._before[1], latents)
        )
        self._call_in_step = self._call_in_step + 1 if again else 0
        self._index += not again
        self._before = (timestep, latents)
        wanted = self._steps is None or self._index in self._steps
        self.live = wanted and (self._call_in_step == 0 or self._pipeline is None or self._halves == "both")
        self._rows = self._conditional_rows(latents)

    def _conditional_rows(self, latents: Tensor) -> slice:
        """The rows of this call that are conditional and wanted."""
        rows = len(latents)
        if self._halves == "both" or self._pipeline is None or rows % 2:
            return slice(None)
        name = type(self._pipeline).__name__
        guided = name in _SILENT or bool(getattr(self._pipeline, "do_classifier_free_guidance", False))
        if not guided or not torch.equal(latents[: rows // 2], latents[rows // 2 :]):
            return slice(None)
        return slice(None, rows // 2) if name in _CONDITIONAL_FIRST else slice(rows // 2, None)

    def _end(self, _: nn.Module, __: Any, ___: Any) -> None:
        if not self.live:
            self._reset()
            return
        assert self._before is not None
        timestep = self._before[0]
        found = {name: self._keep(value[self._rows]) for name, value in self.collect().items()}
        if self._call_in_step == 0:
            self.kept.steps.append((self._index, timestep, found))
        else:
            first = self.kept.steps[-1][2]
            for name, value in found.items():
                first[name] = torch.cat([first[name], value])

    def _keep(self, value: Tensor) -> Tensor:
        value = value.detach()
        return value.clone() if self._to is None else value.to(self._to, copy=True)


@contextmanager
def tap(
    pipeline_or_denoiser: Any,
    activations: Wanted | Iterable[Wanted],
    steps: Iterable[int] | None = None,
    *,
    halves: Halves = "conditional",
    to: str | torch.device | None = None,
    chunk: int = CHUNK_ELEMENTS,
) -> Iterator[GenerationTaps]:
    """Read activations during a generation that the caller runs inside the ``with`` block.

    ::

        with diffeat.tap(pipe, ["up_blocks.1"], steps=[10, 20]) as taps:
            image = pipe("a cat").images[0]
        taps[541.0]["up_blocks.1"]

    Args:
        pipeline_or_denoiser: A diffusers pipeline (or Backbone), or its denoiser. From the denoiser alone it cannot
            be known which rows are conditional: all are kept, a second call on the same latents following the first.
        activations: Ids, aliases or map requests.
        steps: Which denoising steps to keep, counted from 0; all by default.
        halves: Under guidance, ``"conditional"`` rows only or ``"both"`` as the pipeline orders them.
        to: Device to move the kept tensors to, e.g. ``"cpu"``; by default they stay where they are.
        chunk: The most attention logits held at a time.

    Raises:
        UnknownNameError: A name that the denoiser does not have.
        TapError: A step ran without producing a wanted activation.
    """
    if halves not in ("conditional", "both"):
        raise InvalidValueError(f"halves must be 'conditional' or 'both', got {halves!r}")
    recorder = _Recorder(pipeline_or_denoiser, activations, steps, halves, to, chunk)
    with recorder:
        yield recorder.kept


def _latents(call: Mapping[str, Any]) -> Tensor:
    """The latents of a call, rows first."""
    value = next((call[name] for name in ("sample", "hidden_states", "x") if name in call), None)
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, Tensor) for v in value):
        return torch.stack([v.detach() for v in value])
    raise TapError("the denoiser was called without latents in 'sample', 'hidden_states' or 'x'")


def _timestep(denoiser: nn.Module, call: Mapping[str, Any]) -> float:
    value = call.get("timestep", call.get("t", float("nan")))
    value = float(value.flatten()[0]) if isinstance(value, Tensor) else float(value)
    name = class_name(bare_denoiser(denoiser))
    if name in _REVERSED_SIGMA:
        value = (1 - value) * 1000
    elif name in _SIGMA:
        value *= 1000
    return round(value, 3)
