"""Named colours as ranges of hue, saturation and value, and fixed materials."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.floating]
Range = tuple[float, float]

#: name -> (hue, saturation, value) ranges; hue may run below 0
COLOURS: dict[str, tuple[Range, Range, Range]] = {
    "red": ((-0.03, 0.02), (0.65, 0.95), (0.45, 0.9)),
    "orange": ((0.045, 0.085), (0.65, 0.95), (0.7, 0.95)),
    "yellow": ((0.12, 0.165), (0.55, 0.9), (0.75, 0.98)),
    "green": ((0.24, 0.42), (0.4, 0.85), (0.3, 0.75)),
    "blue": ((0.55, 0.67), (0.45, 0.9), (0.35, 0.9)),
    "purple": ((0.73, 0.85), (0.35, 0.75), (0.35, 0.75)),
    "pink": ((0.9, 0.98), (0.25, 0.55), (0.8, 0.98)),
    "brown": ((0.04, 0.09), (0.45, 0.75), (0.25, 0.55)),
    "golden": ((0.08, 0.12), (0.4, 0.65), (0.6, 0.85)),
    "white": ((0.05, 0.15), (0.0, 0.12), (0.85, 1.0)),
    "grey": ((0.0, 1.0), (0.0, 0.12), (0.35, 0.65)),
    "black": ((0.0, 1.0), (0.0, 0.25), (0.04, 0.16)),
}
FUR = ("brown", "golden", "white", "grey", "black", "orange")
FUR_SHARES = (0.3, 0.2, 0.16, 0.14, 0.12, 0.08)


def colour(name: str, rng: np.random.Generator) -> Colour:
    """A draw of a named colour, linear-ish RGB in [0, 1]."""
    h, s, v = (float(rng.uniform(*bounds)) for bounds in COLOURS[name])
    return np.array(colorsys.hsv_to_rgb(h % 1.0, s, v), np.float32)


def any_colour(rng: np.random.Generator, dull: float = 0.5) -> Colour:
    """A colour without a name; with chance ``dull`` of low saturation, as most things in photographs are."""
    saturation = rng.uniform(0, 0.35) if rng.random() < dull else rng.uniform(0.3, 0.9)
    return np.array(colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.1, 0.95)), np.float32)


def fixed_material(name: str, rng: np.random.Generator) -> tuple[Colour, float]:
    """Colour and gloss of a material that does not depend on the figure's own colours."""
    u = float(rng.uniform(-1, 1))
    tones: dict[str, tuple[tuple[float, float, float], float]] = {
        "dark": ((0.05, 0.045, 0.045), 0.4),
        "glint": ((1.0, 1.0, 1.0), 0.0),
        "white": ((0.93, 0.92, 0.9), 0.2),
        "bone": ((0.85, 0.79, 0.66), 0.2),
        "nose": ((0.17, 0.1, 0.1) if u < 0.4 else (0.75, 0.45, 0.42), 0.5),
        "iris": [((0.3, 0.16, 0.06), 0.6), ((0.75, 0.55, 0.12), 0.6), ((0.35, 0.5, 0.2), 0.6), ((0.3, 0.42, 0.6), 0.6)][
            int((u + 1) * 1.999)
        ],
        "beak": [((0.9, 0.6, 0.12), 0.2), ((0.3, 0.27, 0.25), 0.2), ((0.8, 0.4, 0.2), 0.2)][int((u + 1) * 1.49)],
        "tyre": ((0.07, 0.07, 0.075), 0.05),
        "metal": ((0.62, 0.63, 0.65), 0.8),
        "glass": ((0.2, 0.27, 0.32) if u < 0.3 else (0.1, 0.24, 0.12), 1.0),
        "lamp": ((0.95, 0.94, 0.85), 0.9),
        "red": ((0.75, 0.07, 0.06), 0.7),
        "lips": ((0.7, 0.3, 0.28), 0.3),
        "drink": [((0.25, 0.13, 0.06), 0.4), ((0.55, 0.25, 0.05), 0.4), ((0.93, 0.9, 0.85), 0.2)][int((u + 1) * 1.49)],
        "brick": ((0.55, 0.28, 0.2), 0.0),
    }
    base, gloss = tones[name]
    return np.asarray(base, np.float32) * np.float32(rng.uniform(0.85, 1.1)), gloss
