"""What an extraction will take, told before it begins: a few of its pictures are read, and counted.

Calls and floating-point operations are counted while the pictures run, the text encoders' and the autoencoder's
included; seconds are those of the same pictures; bytes are those of their maps (channels × grid × bytes of the dtype)
as a store holds them. Where all pictures have one frame size, calls, operations and bytes of the whole run follow
exactly; otherwise they are the average of the pictures that were read, which are spread evenly.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from diffeat.activations.catalogue import FlopCounter
from diffeat.errors import DiffeatError, ImageError, InvalidValueError, NonFiniteError, StoreError
from diffeat.features import FeatureMap, Picture, Source
from diffeat.storage.shard import Maps

#: Pictures that are read to measure, and the seconds after which no further one is.
_MOST, _SECONDS = 8, 20.0


@dataclass(frozen=True)
class Estimate:
    """What an extraction will take.

    Attributes:
        measured: Of the pictures, read to measure.
        rows: Of denoiser calls; none where there is no denoiser.
        seconds: On the device that was measured, by one process.
        free: Bytes on the disk, ``None`` where it cannot be told.
    """

    pictures: int
    measured: int
    rows: int
    flops: float
    seconds: float
    bytes: int
    free: int | None

    def check(self) -> None:
        """Refuse what the disk does not hold."""
        if self.free is not None and self.bytes > self.free:
            raise StoreError(
                f"The features of {self.pictures} pictures would take {size(self.bytes)}, and {size(self.free)} are "
                "free there. Nothing was extracted. Choose another --out, --store-dtype int8, fewer or smaller maps, "
                "or fewer pictures."
            )

    def table(self) -> list[tuple[str, str]]:
        """What it says, by lines."""
        each = max(self.pictures, 1)
        free = "" if self.free is None else f"; {size(self.free)} are free"
        return [
            ("pictures", f"{self.pictures} to extract, measured on {self.measured}"),
            ("denoiser", f"{self.rows} rows, {self.rows / each:g} a picture"),
            ("operations", f"{self.flops:.3g} FLOPs, {self.flops / each:.3g} a picture"),
            ("time", f"{duration(self.seconds)}, {self.seconds / each:.3g} s a picture, by one process"),
            ("disk", f"{size(self.bytes)}, {size(self.bytes / each)} a picture{free}"),
        ]


def estimate(
    source: Source[FeatureMap],
    pictures: Sequence[Picture],
    pack: Callable[[FeatureMap, str], Maps],
    folder: Path | None = None,
    most: int = _MOST,
) -> Estimate:
    """Measure an extraction on a few of its pictures; one that cannot be read is passed over.

    Args:
        pack: Makes of features what a store holds (:meth:`~diffeat.storage.FeatureStore.packed`).
        folder: Where the store will lie, on this machine.
        most: Pictures to read.

    Raises:
        DiffeatError: None of the pictures could be read; the reason of the last one.
    """
    step = max(1.0, len(pictures) / most)
    sample = [pictures[int(i * step)] for i in range(min(most, len(pictures)))]
    failed: list[DiffeatError] = []
    flops, rows, bytes_, seconds, measured = FlopCounter(), 0, 0, 0.0, 0
    with source.session():
        if len(sample) > 1:  # what is done once, such as texts and the choice of kernels
            list(source.stream([sample[0]], on_error=lambda _, error: failed.append(error)))
        with _counted(source) as count, flops:
            for picture in sample:
                start = time.perf_counter()
                for features in source.stream([picture], on_error=lambda _, error: failed.append(error)):
                    packed = pack(features, "")
                    bytes_ += sum(values.nbytes for _, tensors in packed for values in tensors.values())
                    measured += 1
                seconds += time.perf_counter() - start
                if seconds > _SECONDS:
                    break
        rows = count()
    if not measured:
        raise failed[-1] if failed else StoreError("There is no picture to measure.")
    whole = len(pictures) / measured
    free = None if folder is None else free_bytes(folder)
    return Estimate(
        len(pictures),
        measured,
        round(rows * whole),
        flops.total * whole,
        seconds * whole,
        round(bytes_ * whole),
        free,
    )


def check_room(
    source: Source[FeatureMap],
    pictures: Sequence[Picture],
    pack: Callable[[FeatureMap, str], Maps],
    folder: Path | None,
) -> None:
    """Refuse an extraction that the disk does not hold, by the first of its pictures that can be read."""
    for picture in pictures[:3]:
        with suppress(ImageError, InvalidValueError, NonFiniteError):
            one = estimate(source, [picture], pack, folder)
            replace(one, pictures=len(pictures), bytes=one.bytes * len(pictures)).check()
            return


def check_rest(each: float, pictures: int, folder: Path) -> None:
    """Refuse to go on where the disk does not hold so many more pictures of so many bytes."""
    free = free_bytes(folder)
    if free is not None and each * pictures > free:
        raise StoreError(
            f"The features of {pictures} more pictures would take {size(each * pictures)}, and {size(free)} are free "
            "there. What is stored stays. Choose --store-dtype int8, fewer or smaller maps, or fewer pictures."
        )


def free_bytes(folder: Path) -> int | None:
    """Where a folder lies or will lie; ``None`` where it cannot be told."""
    there = next((p for p in (folder, *folder.absolute().parents) if p.exists()), None)
    try:
        return None if there is None else shutil.disk_usage(there).free
    except OSError:
        return None


@contextmanager
def _counted(source: Source[FeatureMap]) -> Iterator[Callable[[], int]]:
    """Counts rows of denoiser calls meanwhile; those that only record what a stock pipeline passes end before it."""
    rows = 0

    def counting(forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal rows
            tensors = (v for v in (*arguments, *named.values()) if isinstance(v, torch.Tensor) and v.ndim > 1)
            rows += len(next(tensors, [0]))
            return forward(*arguments, **named)

        return counted

    with ExitStack() as stack:
        parts = getattr(source, "sources", [source])
        for denoiser in {part.backbone.denoiser for part in parts if hasattr(part, "backbone")}:
            before = denoiser.forward
            if "forward" in vars(denoiser):  # an offloading one's, for instance
                stack.callback(setattr, denoiser, "forward", before)
            else:
                stack.callback(delattr, denoiser, "forward")
            denoiser.forward = counting(before)
        yield lambda: rows


def size(count: float) -> str:
    """Bytes in decimal units.

    Example:
        >>> size(950), size(2_600_000), size(1.25e12)
        ('950 B', '2.6 MB', '1.25 TB')
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:g} B"


def duration(seconds: float) -> str:
    """Seconds as one says them.

    Example:
        >>> duration(4.2), duration(75), duration(9000), duration(1e6)
        ('4.2 s', '1 min 15 s', '2 h 30 min', '11 d 14 h')
    """
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
