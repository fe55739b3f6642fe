"""What surfaces look like: patterns painted in a solid's own coordinates, and light on them.

Shading is Lambert's law under one sun, a sky that is brighter above, a little Blinn highlight, and a bump made of
noise so that fur, cloth and bark do not look like plastic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.toyworld.exact import cos, dot, mean, norm, sin
from diffeat.datasets.toyworld.noise import look_up
from diffeat.datasets.toyworld.palette import FUR, FUR_SHARES, Colour, any_colour, colour, fixed_material

Array = NDArray[np.floating]

PATTERNS = ("plain", "striped", "spotted", "patched", "mottled", "shaded")
_NAMED_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "grey", "black")


@dataclass(frozen=True, slots=True)
class Material:
    """A pattern of two colours; ``grain`` is the contrast of its fine texture, ``gloss`` of its highlight."""

    one: Colour
    two: Colour
    pattern: str
    scale: float
    angle: float
    share: float
    grain: float
    grain_tile: str
    gloss: float
    offset: tuple[float, float]

    def albedo(self, local: Array) -> Array:
        """RGB ``(n, 3)`` at points given in the solid's own coordinates ``(n, 3)``."""
        c, s = np.float32(cos(self.angle)), np.float32(sin(self.angle))
        a = local[:, 0] + 0.35 * local[:, 2]
        b = local[:, 1] + 0.55 * local[:, 2]
        u = (c * a - s * b) * np.float32(self.scale) + np.float32(self.offset[0])
        v = (s * a + c * b) * np.float32(self.scale) + np.float32(self.offset[1])
        mix = self._mix(u, v, local)
        rgb = self.one + mix[:, None] * (self.two - self.one)
        fine = look_up(self.grain_tile, u * 1.7, v * 1.7) + 0.6 * look_up("pink", v * 0.7, u * 0.7) - np.float32(0.8)
        return rgb * (1 + np.float32(self.grain) * fine[:, None])

    def _mix(self, u: Array, v: Array, local: Array) -> Array:
        if self.pattern == "striped":
            wave = sin(2 * np.pi * (u * 3.2 + 0.55 * look_up("smooth", u * 0.8, v * 0.8)))
            return _soft(wave, 1 - 2 * self.share, 0.25)
        if self.pattern == "spotted":
            return _soft(look_up("blobs", u * 0.55, v * 0.55), 1 - self.share, 0.05)
        if self.pattern == "patched":
            return _soft(look_up("patch", u * 0.4, v * 0.4), 1 - self.share, 0.03)
        if self.pattern == "mottled":
            return look_up("cloud", u * 0.7, v * 0.7)
        if self.pattern == "shaded":
            return np.clip(0.5 - local[:, 1] * 2.2, 0, 1)
        return np.zeros(len(u), np.float32)


def _soft(x: Array, threshold: float, width: float) -> Array:
    return np.clip((x - np.float32(threshold)) / np.float32(width) + 0.5, 0, 1)


@dataclass(frozen=True, slots=True)
class Look:
    """The materials of one figure and the words for them."""

    materials: dict[str, Material]
    colour: str
    pattern: str


def _material(one: Colour, two: Colour, pattern: str, furry: bool, rng: np.random.Generator, gloss: float) -> Material:
    return Material(
        one, two, pattern, float(rng.uniform(0.5, 1.3)), float(rng.uniform(-0.5, 0.5)), float(rng.uniform(0.25, 0.5)),
        float(rng.uniform(0.25, 0.8) if furry else rng.uniform(0.04, 0.35)),
        str(rng.choice(["fur", "grain", "pink"] if furry else ["pink", "cloud", "ripple", "grain"])),
        gloss, (float(rng.random()), float(rng.random())),
    )  # fmt: skip


def look(furry: bool, names: set[str], rng: np.random.Generator) -> Look:
    """Draw a figure's colours and pattern; ``names`` are the materials its solids use."""
    word = str(rng.choice(FUR, p=FUR_SHARES)) if furry and rng.random() < 0.93 else str(rng.choice(_NAMED_COLOURS))
    weights = (0.3, 0.14, 0.14, 0.14, 0.14, 0.14) if furry else (0.52, 0.1, 0.06, 0.06, 0.18, 0.08)
    pattern = str(rng.choice(PATTERNS, p=weights))
    main = colour(word, rng)
    if pattern in ("mottled", "shaded"):
        second_tone = np.clip(main * np.float32(rng.uniform(0.45, 1.6)) + np.float32(rng.uniform(0, 0.12)), 0, 1)
    else:
        others = [c for c in (FUR if furry else _NAMED_COLOURS) if c != word]
        second_tone = colour(str(rng.choice(others)), rng)
        if np.abs(second_tone - main).sum() < 0.5:
            second_tone = main * 0.25 if mean(main) > 0.4 else np.clip(main + 0.55, 0, 1).astype(np.float32)
    gloss = float(rng.uniform(0, 0.15) if furry else rng.uniform(0, 0.8))
    materials = {"main": _material(main, second_tone, pattern, furry, rng, gloss)}
    light = np.clip(main * 0.5 + 0.5 * np.float32(rng.uniform(0.5, 1.0)), 0, 1).astype(np.float32)
    leaf = "green" if rng.random() < 0.8 else "orange"
    for name in sorted(names - {"main"}):
        if name in ("second", "third"):
            choice = rng.random()
            tone = light if choice < 0.35 else main * 0.45 if choice < 0.6 else second_tone if choice < 0.8 else main
            if not furry and choice > 0.4:
                tone = any_colour(rng)
            kind = pattern if rng.random() < 0.35 else "plain"
            materials[name] = _material(tone, second_tone, kind, furry, rng, gloss)
        elif name == "skin":
            tone = np.array([0.92, 0.7, 0.58], np.float32) * np.float32(rng.uniform(0.28, 1.05))
            materials[name] = _material(tone, tone, "plain", False, rng, 0.15)
        elif name == "hair":
            tone = colour(str(rng.choice(["black", "brown", "golden", "grey", "white", "orange"])), rng)
            materials[name] = _material(tone, tone * 0.5, "mottled", True, rng, 0.1)
        elif name in ("shirt", "trousers", "hat", "shoes", "petal", "roof"):
            tone = main if name in ("shirt", "petal") else any_colour(rng, 0.6)
            kind = pattern if name in ("shirt", "petal") else str(rng.choice(["plain", "mottled"]))
            kind = "striped" if name == "roof" and rng.random() < 0.4 else kind
            materials[name] = _material(tone, second_tone, kind, False, rng, 0.1)
        elif name in ("leaves", "bark"):
            shade = colour(leaf, rng) if name == "leaves" else colour("brown", rng)
            materials[name] = _material(shade, shade * np.float32(0.35), "mottled", True, rng, 0.05)
        else:
            tone, shine = fixed_material(name, rng)
            materials[name] = _material(tone, tone, "plain", False, rng, shine)
    if not names & {"main", "shirt", "petal"}:  # nothing wears the drawn colour
        word, pattern = leaf if "leaves" in names else "", "plain"
    return Look(materials, word, pattern)


@dataclass(frozen=True, slots=True)
class Light:
    """A sun (direction to it in camera axes, strength) and an ambient sky."""

    direction: Array
    sun: float
    ambient: float
    tint: Array

    def shade(self, albedo: Array, normal: Array, gloss: Array) -> Array:
        """Lit RGB ``(n, 3)`` from albedo ``(n, 3)``, unit normals in camera axes and gloss ``(n,)``."""
        facing = dot(normal, self.direction)
        diffuse = np.clip(facing * 0.85 + 0.15, 0, 1) * np.float32(self.sun)
        sky = np.float32(self.ambient) * (0.62 - 0.38 * normal[:, 1])
        half = self.direction + np.array([0, 0, -1], np.float32)
        half = half / norm(half)
        mirrored = np.clip(dot(normal, half), 0, 1)
        cubed = mirrored * mirrored * mirrored
        sixth = cubed * cubed
        twelfth = sixth * sixth
        spark = twelfth * twelfth * gloss * np.float32(0.5 * self.sun)
        return albedo * (diffuse[:, None] * self.tint + sky[:, None]) + spark[:, None]


def light(rng: np.random.Generator, mood: str) -> Light:
    """``mood`` is "sunny", "soft" or "dark"; the sun stands in the upper half on the camera's side."""
    azimuth, height = rng.uniform(-1.2, 1.2), rng.uniform(0.25, 1.3)
    direction = np.array([sin(azimuth) * cos(height), -sin(height), -cos(azimuth) * cos(height)], np.float32)
    sun, ambient = {"sunny": (0.95, 0.42), "soft": (0.45, 0.75), "dark": (0.35, 0.2)}[mood]
    tint = np.array([1, rng.uniform(0.9, 1.0), rng.uniform(0.75, 1.0)], np.float32)
    return Light(direction, sun * float(rng.uniform(0.85, 1.15)), ambient * float(rng.uniform(0.8, 1.2)), tint)
