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
from diffeat.activations.taps import Taps, Wanted, latents_of
from diffeat.backbones import Backbone, Family
from diffeat.backbones.families import structure_of
from diffeat.backbones.wrappers import uncompiled
from diffeat.errors import InvalidValueError, TapError, UnknownNameError

Halves = Literal["conditional", "both"]


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
        for _, t, activations in reversed(self.steps):
            if t == timestep:
                return activations
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
        self._family: Family = target.family if isinstance(target, Backbone) else structure_of(self.denoiser)
        self._steps = None if steps is None else set(steps)
        self._halves = halves
        self._to = to
        self._index = -1
        self._before: tuple[float, Tensor] | None = None
        self._call_in_step = 0

    def _attach(self) -> None:
        super()._attach()
        self._hooks.after(self.denoiser, self._end)

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super()._begin(args, kwargs)
        call = self._call or {}
        latents, timestep = latents_of(call), _timestep(self._family, call)
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
        self._conditional = self._conditional_rows(latents)

    def _conditional_rows(self, latents: Tensor) -> slice:
        """The rows of this call that are conditional and wanted."""
        rows = len(latents)
        if self._halves == "both" or self._pipeline is None or rows % 2:
            return slice(None)
        told = getattr(self._pipeline, "do_classifier_free_guidance", False)
        guided = bool(told) or not self._family.tells_guidance  # then equal latents in both halves tell it
        if not guided or not torch.equal(latents[: rows // 2], latents[rows // 2 :]):
            return slice(None)
        return slice(None, rows // 2) if self._family.conditional_first else slice(rows // 2, None)

    def _end(self, *_: Any) -> None:
        if not self.live or self._before is None:
            self._reset()
            return
        wanted = {name: value[self._conditional].detach() for name, value in self.collect().items()}
        activations = {n: v.clone() if self._to is None else v.to(self._to, copy=True) for n, v in wanted.items()}
        if self._call_in_step == 0:
            self.kept.steps.append((self._index, self._before[0], activations))
        else:
            first = self.kept.steps[-1][2]
            for name, value in activations.items():
                first[name] = torch.cat([first[name], value])

    def check_steps(self) -> None:
        """Refuse silence about wanted steps that never came."""
        missing = sorted((self._steps or set()) - {index for index, _, _ in self.kept.steps})
        if missing:
            raise TapError(
                f"The steps {', '.join(map(str, missing))} never came: the generation had {self._index + 1}. Steps are "
                "counted from 0 in the order of the generation; they are no timesteps."
            )


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
    """Read activations during a generation that the caller runs inside the ``with`` block, in the same thread.

    ::

        with diffeat.tap(pipe, ["up_blocks.1"], steps=[10, 20]) as taps:
            image = pipe("a cat").images[0]
        taps[541.0]["up_blocks.1"]

    Args:
        pipeline_or_denoiser: A diffusers pipeline (or Backbone), or its denoiser. From the denoiser alone it cannot
            be known which rows are conditional: all are kept, a second call on the same latents following the first.
        activations: Ids, aliases or map requests.
        steps: Which denoising steps to keep, counted from 0 (next to noise) as in a recipe's ``trajectory.save``, not
            timesteps; all by default.
        halves: Under guidance, ``"conditional"`` rows only or ``"both"`` as the pipeline orders them.
        to: Device to move the kept tensors to, e.g. ``"cpu"``; by default they stay where they are.
        chunk: The most attention logits held at a time.

    Raises:
        UnknownNameError: A name that the denoiser does not have.
        TapError: A step ran without producing a wanted activation, or a wanted step never came.
    """
    if halves not in ("conditional", "both"):
        raise InvalidValueError(f"halves must be 'conditional' or 'both', got {halves!r}")
    recorder = _Recorder(pipeline_or_denoiser, activations, steps, halves, to, chunk)
    with uncompiled(), recorder:
        yield recorder.kept
    recorder.check_steps()


def _timestep(family: Family, call: Mapping[str, Any]) -> float:
    value = call.get("timestep", call.get("t", float("nan")))
    value = float(value.flatten()[0]) if isinstance(value, Tensor) else float(value)
    return round(family.read_timestep(value), 3)
