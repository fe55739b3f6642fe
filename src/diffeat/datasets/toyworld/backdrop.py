"""Places: what lies behind and below a figure, as a float picture.

A backdrop is a sky or wall above a ground plane seen in perspective (texture coordinates go with 1/(y - horizon)), or
a single cluttered surface, all made from the noise bank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.toyworld.exact import normal, sin
from diffeat.datasets.toyworld.noise import look_up
from diffeat.datasets.toyworld.palette import any_colour, colour

Array = NDArray[np.floating]

GROUNDS = ("grass", "sand", "snow", "road", "water", "floor")
WALLS = ("wall", "forest", "clutter", "studio")
PLACES = (*GROUNDS, *WALLS)


@dataclass(frozen=True, slots=True)
class Backdrop:
    """A picture ``(size, size, 3)`` in [0, 1] and the word for the place."""

    picture: Array
    place: str


def backdrop(place: str, size: int, horizon: float, rng: np.random.Generator) -> Backdrop:
    """Paint a place; ``horizon`` is a row of the picture (may lie outside it)."""
    y, x = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32), indexing="ij")
    x, y = x / size - 0.5, y / size - 0.5
    if place in GROUNDS:
        row = horizon / size - 0.5
        picture = _sky(x, y, row, rng) if place != "floor" or rng.random() < 0.1 else _wall(x, y, rng)
        if place != "floor" and rng.random() < 0.5:
            picture = _far_trees(picture, x, y, row, rng)
        below = y > row
        picture[below] = _ground(place, x[below], y[below] - np.float32(row), rng)
    elif place == "wall":
        picture = _wall(x, y, rng)
    elif place == "forest":
        picture = _foliage(x, y, rng)
    elif place == "clutter":
        picture = _clutter(x, y, rng)
    else:
        picture = _studio(x, y, rng)
    return Backdrop(np.clip(picture, 0, 1), place)


def _two(mix: Array, a: Array, b: Array) -> Array:
    return a + mix[..., None] * (b - a)


def _shift(rng: np.random.Generator) -> tuple[np.float32, np.float32]:
    return np.float32(rng.random()), np.float32(rng.random())


def _sky(x: Array, y: Array, row: float, rng: np.random.Generator) -> Array:
    kind = rng.random()
    if kind < 0.55:
        high, low = (
            colour("blue", rng) * 0.5 + 0.35,
            np.array([0.85, 0.88, 0.92], np.float32) * np.float32(rng.uniform(0.8, 1)),
        )
    elif kind < 0.85:
        tone = np.float32(rng.uniform(0.5, 0.95))
        high, low = np.array([0.9, 0.93, 0.97], np.float32) * tone, np.array([1, 1, 1], np.float32) * tone
    else:
        high, low = any_colour(rng) * 0.6, colour("orange", rng)
    fade = np.clip((y + 0.5) / max(row + 0.5, 0.15), 0, 1)
    picture = _two(fade, high, low)
    du, dv = _shift(rng)
    scale = np.float32(rng.uniform(0.2, 0.6))
    cloud = look_up("cloud", x * scale + du, y * scale * 2 + dv)
    cover = np.clip((cloud - np.float32(rng.uniform(0.3, 1.0))) * 3, 0, 1) * np.float32(rng.uniform(0.2, 0.9))
    return _two(cover, picture, np.array([0.97, 0.97, 0.98], np.float32))


def _far_trees(picture: Array, x: Array, y: Array, row: float, rng: np.random.Generator) -> Array:
    du, dv = _shift(rng)
    top = row - np.float32(rng.uniform(0.02, 0.3)) * (
        0.3 + look_up("smooth" if rng.random() < 0.5 else "pink", x * 0.5 + du, 0 * x + dv)
    )
    tone = colour(str(rng.choice(["green", "brown", "grey"])), rng) * np.float32(rng.uniform(0.4, 0.9))
    texture = look_up("pink", x * 1.2 + du, y * 1.2 + dv)
    mass = tone * (0.45 + 1.0 * texture[..., None])
    haze = np.float32(rng.uniform(0, 0.4))
    return np.where((y > top)[..., None], mass * (1 - haze) + 0.75 * haze, picture)


def _ground(place: str, x: Array, below: Array, rng: np.random.Generator) -> Array:
    depth = 1 / (below + np.float32(0.03))
    scale = np.float32(rng.uniform(0.12, 0.45))
    du, dv = _shift(rng)
    u, v = x * depth * scale + du, depth * scale * np.float32(rng.uniform(0.7, 1.3)) + dv
    fine = look_up("grain" if place in ("grass", "sand", "road") else "pink", u * 2, v * 2)
    broad = look_up("cloud", u * 0.5, v * 0.5)
    if place == "grass":
        a = colour("green", rng) * np.float32(rng.uniform(0.6, 1.0))
        b = colour("golden" if rng.random() < 0.4 else "green", rng) * np.float32(0.9)
        rgb = _two(broad, a, b) * (0.55 + 0.75 * fine[:, None])
    elif place == "sand":
        rgb = colour("golden", rng) * (0.8 + 0.25 * broad + 0.25 * fine)[:, None] * np.array([1, 0.97, 0.9], np.float32)
    elif place == "snow":
        rgb = np.array([0.9, 0.93, 0.98], np.float32) * (0.8 + 0.2 * broad + 0.08 * fine)[:, None]
    elif place == "road":
        rgb = (
            np.array([0.42, 0.42, 0.44], np.float32)
            * (0.6 + 0.4 * broad + 0.4 * fine)[:, None]
            * np.float32(rng.uniform(0.6, 1.3))
        )
    elif place == "water":
        wave = look_up("ripple", u * 1.2, v * 1.2)
        deep = colour("blue" if rng.random() < 0.7 else "green", rng) * np.float32(0.7)
        rgb = _two(np.clip(wave * wave * wave * 1.2, 0, 1), deep, deep * 0.4 + 0.55)
    else:
        tone = colour(str(rng.choice(["brown", "golden", "grey", "white"])), rng)
        tiles = (np.floor(u * 9) + (np.floor(v * 9) if rng.random() < 0.5 else 0)) % 2
        rgb = (
            tone
            * (0.8 + 0.18 * tiles * np.float32(rng.uniform(0, 1)) + 0.25 * (broad - 0.5) + 0.2 * (fine - 0.5))[:, None]
        )
    return rgb * (0.85 + 0.3 * np.clip(below, 0, 0.8))[:, None]


def _wall(x: Array, y: Array, rng: np.random.Generator) -> Array:
    tilt = np.float32(normal(rng, 0, 0.25))
    u, v = x + tilt * y, y * (1 + np.float32(normal(rng, 0, 0.2)) * x)
    du, dv = _shift(rng)
    tone = any_colour(rng, 0.8)
    noise = look_up("cloud", u * 0.5 + du, v * 0.5 + dv) - np.float32(0.5)
    fine = look_up("pink", u * 1.5 + du, v * 1.5 + dv) - np.float32(0.5)
    rgb = tone * (1 + 0.5 * noise + np.float32(rng.uniform(0, 0.6)) * fine)[..., None]
    kind = str(rng.choice(["plaster", "brick", "planks", "paper", "window"], p=[0.35, 0.2, 0.15, 0.2, 0.1]))
    if kind == "brick":
        n = np.float32(rng.uniform(6, 16))
        course = np.floor(v * n)
        along = (u * n * 0.5 + 0.5 * (course % 2)) % 1
        joint = (np.abs(along) < 0.08) | ((v * n) % 1 < 0.15)
        shade = look_up(
            "grain", np.floor(u * n * 0.5 + 0.5 * (course % 2)) * np.float32(0.137), course * np.float32(0.071)
        )
        rgb = rgb * (0.65 + 0.6 * shade[..., None])
        rgb = np.where(joint[..., None], any_colour(rng, 1.0) * 0.6 + 0.3, rgb)
    elif kind == "planks":
        n = np.float32(rng.uniform(4, 12))
        edge = ((u * n) % 1 < 0.07)[..., None]
        grain = look_up("ripple", v * 0.3 + np.floor(u * n) * np.float32(0.37), u * 2)
        rgb = np.where(edge, rgb * 0.4, rgb * (0.75 + 0.5 * grain[..., None]))
    elif kind == "paper":
        n = np.float32(rng.uniform(5, 20))
        wave = sin(2 * np.pi * u * n) * (sin(2 * np.pi * v * n) if rng.random() < 0.5 else 1)
        rgb = _two(np.clip(wave * 2, 0, 1) * np.float32(rng.uniform(0.2, 0.8)), rgb, any_colour(rng))
    elif kind == "window":
        cx, cy = rng.uniform(-0.4, 0.4, 2)
        inside = (np.abs(x - np.float32(cx)) < rng.uniform(0.08, 0.3)) & (
            np.abs(y - np.float32(cy)) < rng.uniform(0.1, 0.4)
        )
        rgb = np.where(inside[..., None], _sky(x, y, 0.2, rng), rgb)
    fall = 1 + np.float32(normal(rng, 0, 0.35)) * x + np.float32(normal(rng, 0, 0.35)) * y
    return rgb * np.clip(fall, 0.3, 1.6)[..., None]


def _foliage(x: Array, y: Array, rng: np.random.Generator) -> Array:
    du, dv = _shift(rng)
    scale = np.float32(rng.uniform(0.3, 1.0))
    leaf = look_up("cells", x * scale + du, y * scale + dv)
    broad = look_up("cloud", x * scale * 0.6 + dv, y * scale * 0.6 + du)
    fine = look_up("pink", x * 1.5 + du, y * 1.5 + dv)
    a = colour("green" if rng.random() < 0.75 else "golden", rng)
    rgb = _two(broad, a * np.float32(0.25), a) * (0.5 + 0.6 * (1 - leaf) + 0.3 * fine)[..., None]
    for _ in range(int(rng.integers(0, 5))):
        at, wide = rng.uniform(-0.5, 0.5), rng.uniform(0.01, 0.06)
        stem = np.abs(x - np.float32(at) + np.float32(normal(rng, 0, 0.15)) * y) < wide
        bark = colour("brown", rng) * (0.4 + 0.8 * look_up("fur", y + du, x * 3 + dv))[..., None]
        rgb = np.where(stem[..., None], bark, rgb)
    bright = np.clip((look_up("blobs", x * 0.9 + dv, y * 0.9 + du) - 0.85) * 6, 0, 1) * np.float32(rng.uniform(0, 0.9))
    return _two(bright, rgb, np.array([0.9, 0.95, 0.9], np.float32))


def _clutter(x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Regions of a thresholded noise, each with its own texture: a messy shelf, a crowd, rubble."""
    du, dv = _shift(rng)
    scale = np.float32(rng.uniform(0.2, 0.8))
    bend = look_up("smooth", x * scale + dv, y * scale + du)
    level = look_up("patch", x * scale + du + 0.1 * bend, y * scale + dv)
    count = int(rng.integers(3, 7))
    region = np.minimum((level * count).astype(np.int32), count - 1)
    tones = np.stack([any_colour(rng, 0.65) for _ in range(count)])
    tiles = ("pink", "cloud", "cells", "ridges", "ripple", "fur", "grain")
    rgb = tones[region]
    for k in range(count):
        inside = region == k
        s = np.float32(rng.uniform(0.3, 1.6))
        texture = look_up(str(rng.choice(tiles)), x[inside] * s + du, y[inside] * s + dv)
        rgb[inside] *= (1 + np.float32(rng.uniform(0.2, 1.1)) * (texture - 0.5))[:, None]
    return rgb


def _studio(x: Array, y: Array, rng: np.random.Generator) -> Array:
    tone = any_colour(rng, 0.8)
    fall = 1 + np.float32(normal(rng, 0, 0.2)) * x + np.float32(normal(rng, 0, 0.3)) * y
    glow = 1.15 - np.float32(rng.uniform(0.1, 0.8)) * (x * x + y * y)
    du, dv = _shift(rng)
    cloth = 1 + np.float32(rng.uniform(0, 0.25)) * (look_up("cloud", x * 0.4 + du, y * 0.4 + dv) - 0.5)
    return tone * (fall * glow * cloth)[..., None]
