"""How many rows a denoiser call takes.

On an accelerator the first call runs one row and measures it; later calls fill the free memory, with a margin. What
torch holds for later is free too. A call at another size starts with the rows that its pixels let expect. On a CPU,
where larger batches bring little, a call takes about as much memory as four 64×64 latents. Either way a call that runs
out of memory is repeated with half the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from diffeat.backbones import Backbone
from diffeat.memory import Parts

T = TypeVar("T")

_CPU_CELLS = 4 * 64 * 64
_MARGIN = 0.7
_MOST = 64


class RowBudget:
    """Runs jobs in calls that fit the memory, or of a fixed number of rows."""

    def __init__(self, backbone: Backbone, rows: int | None) -> None:
        self._backbone = backbone
        self._fixed = rows
        self._parts: dict[tuple[int, int], Parts] = {}
        self._measured: dict[tuple[int, int], float] = {}  # bytes of a row

    def rows(self, size: tuple[int, int]) -> int:
        """Rows that a call at ``size`` (width, height) may take, as far as known."""
        return self._of(size).rows

    def run(self, jobs: Sequence[T], size: tuple[int, int], work: Callable[[Sequence[T]], None]) -> None:
        """Call ``work`` on consecutive parts of ``jobs``; a part that runs out of memory is repeated in halves.

        Raises:
            TooLargeError: If a single row does not fit.
        """
        parts = self._of(size)
        parts.run(jobs, lambda part: self._call(part, size, parts, work))

    def _of(self, size: tuple[int, int]) -> Parts:
        if size not in self._parts:
            self._parts[size] = Parts(
                self._fixed or self._guess(size),
                f"One picture at {size[0]}×{size[1]} pixels does not fit into the memory of {self._backbone.device}. "
                "Use a smaller frame size, bfloat16, or diffusers' offloading (pipeline.enable_model_cpu_offload).",
            )
        return self._parts[size]

    def _guess(self, size: tuple[int, int]) -> int:
        pixels = size[0] * size[1]
        if self._backbone.device.type == "cuda":
            per_pixel = max((taken / (w * h) for (w, h), taken in self._measured.items()), default=0.0)
            return self._fitting(per_pixel * pixels) if per_pixel else 1
        stride = self._backbone.latent_stride
        return max(1, min(_MOST, _CPU_CELLS * stride * stride // pixels))

    def _fitting(self, per_row: float) -> int:
        """Rows of so many bytes that fit what is free."""
        device = self._backbone.device
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + cached
        return max(1, min(_MOST, int(_MARGIN * free / per_row)))

    def _call(
        self, part: Sequence[T], size: tuple[int, int], parts: Parts, work: Callable[[Sequence[T]], None]
    ) -> None:
        device = self._backbone.device
        if self._fixed or device.type != "cuda" or size in self._measured:
            work(part)
            return
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work(part)
        per_row = max(1, (torch.cuda.max_memory_allocated(device) - before) // len(part))
        self._measured[size] = per_row
        parts.rows = self._fitting(per_row)
