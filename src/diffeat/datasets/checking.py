"""What a dataset of label maps, depth or normals holds: every file is opened once, and no fault ends the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from diffeat.datasets.labelled import IGNORE, MaskDataset, MaskSample
from diffeat.datasets.measured import TargetDataset
from diffeat.errors import DiffeatError
from diffeat.geometry import open_image
from diffeat.progress import Progress, silent


@dataclass
class Findings:
    """What a part of a dataset holds.

    Attributes:
        split: Which part.
        pictures: How many there are.
        sizes: (width, height) of those that could be read, with their number.
        pixels: Of every class, over all pictures.
        shown: Pictures that show each class.
        known: Share of pixels that are labelled or measured, by picture.
        span: Least and greatest depth.
        faults: What cannot be read or does not fit, a line each.
        empty: Pictures without any labelled or measured pixel.
    """

    split: str
    pictures: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: Counter[str] = field(default_factory=Counter)
    shown: Counter[str] = field(default_factory=Counter)
    known: list[float] = field(default_factory=list)
    span: tuple[float, float] | None = None
    faults: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


def check_samples(data: MaskDataset | TargetDataset, progress: Progress = silent) -> Findings:
    """Open every picture, and its labels or measurements."""
    findings = Findings(data.split, len(data))
    classes = data.classes if isinstance(data, MaskDataset) else ()
    for sample in progress(data, total=len(data), desc=data.split):
        try:
            if isinstance(sample, MaskSample):
                labels = sample.labels(len(classes))
                counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)
                for k in np.flatnonzero(counts[: len(classes)]):
                    findings.pixels[classes[k]] += int(counts[k])
                    findings.shown[classes[k]] += 1
                known = labels != IGNORE
            else:
                target = sample.target()
                known = ~np.isnan(target if target.ndim == 2 else target[0])
                if sample.quantity == "depth" and known.any():
                    low, high = findings.span or (np.inf, -np.inf)
                    findings.span = min(low, float(target[known].min())), max(high, float(target[known].max()))
            open_image(sample.image)
        except DiffeatError as error:
            findings.faults.append(str(error))
            continue
        findings.sizes[known.shape[1], known.shape[0]] += 1
        findings.known.append(float(known.mean()))
        if not known.any():
            findings.empty.append(str(sample.image))
    return findings


def warnings_of(parts: Iterable[Findings], classes: Iterable[str]) -> list[str]:
    """What a training should know: classes without training pictures, one class alone, pictures that are all void."""
    parts, told = list(parts), []
    train = next((p for p in parts if p.split == "train"), None)
    for part in parts:
        if part.empty:
            told.append(f"{part.split}: {len(part.empty)} pictures have no known pixel, the first is {part.empty[0]}")
        if part is train and len(part.shown) == 1:
            told.append(f"train shows one class only, {next(iter(part.shown))!r}: nothing is learned from it")
        if train and part is not train and (lost := [c for c in part.shown if c not in train.shown]):
            told.append(f"{part.split} shows {', '.join(lost[:5])}, which no training picture shows")
    seen = {name for part in parts for name in part.shown}
    if seen and (never := [name for name in classes if name not in seen]):
        more = f" and {len(never) - 5} more" if len(never) > 5 else ""
        told.append(f"no picture shows {', '.join(never[:5])}{more}")
    return told
