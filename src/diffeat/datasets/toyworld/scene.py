"""Where the camera stands, and what stands in the way: framing, shadow, clutter behind and occluders in front."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from diffeat.datasets.toyworld.exact import apply, norm, normal, product
from diffeat.datasets.toyworld.figure import BOX, ELLIPSOID, FRUSTUM, PARTS, Figure, Solid, turn
from diffeat.datasets.toyworld.raster import Camera

Array = NDArray[np.floating]

YAW = {"right": 0.0, "left": 180.0, "front": -90.0, "back": 90.0}
_MIRROR = np.diag([1.0, -1.0, -1.0])  # world (right, up, towards us) to camera (right, down, ahead)
#: lowest, middle and highest camera elevation in degrees for classes that are not seen at eye level
ELEVATIONS = {
    "beetle": (12, 40, 80), "spider": (12, 40, 80), "cup": (6, 28, 60), "airplane": (-35, 5, 50),
    "bird": (-25, 6, 35), "fish": (-20, 3, 40), "car": (0, 14, 50), "boat": (-2, 8, 40), "chair": (-5, 16, 45),
}  # fmt: skip
HEADS = ("head", "eye", "nose", "mouth", "beak", "hair", "ear", "trunk_nose", "flower", "rim", "cap")


def aim(
    figure: Figure, name: str, view: str, framing: str, scale: float, size: int, rng: np.random.Generator
) -> Camera:
    """A camera on the figure from a named side; ``scale`` is the share of the picture its longer side fills."""
    low, middle, high = ELEVATIONS.get(name, (-8, 8, 40))
    elevation = float(np.clip(normal(rng, middle, (high - low) / 4.5), low, high))
    spread = 24 if view in ("left", "right") else 20
    yaw = YAW[view] + float(np.clip(normal(rng, 0, spread), -42, 42))
    roll = float(np.clip(normal(rng, 0, 6), -20, 20))
    rotation = product(product(_MIRROR, turn(pitch=roll)), product(turn(roll=elevation), turn(yaw=yaw)))
    centres = np.stack([s.centre for s in figure.solids])
    reach = np.stack([norm(s.axes) for s in figure.solids])
    box_low, box_high = (centres - reach).min(0), (centres + reach).max(0)
    middle_point, radius = (box_low + box_high) / 2, float(norm(box_high - box_low)) / 2
    distance = radius * float(rng.uniform(2.2, 7.0))
    shift = np.array([0, 0, distance]) - apply(rotation, middle_point)
    solids = figure.solids
    if framing == "close":
        solids = [s for s in figure.solids if _is_head(s)] or solids
    left, top, right, bottom = extent(solids, rotation, shift)
    focal = scale * size / max(right - left, bottom - top)
    slack = (1 - scale) / 2 if framing == "whole" else 0.12
    at = size * (0.5 + rng.uniform(-slack, slack, 2))
    centre = at - 0.5 - focal * np.array([(left + right) / 2, (top + bottom) / 2])
    return Camera(rotation, shift, float(focal), (float(centre[0]), float(centre[1])))


def _is_head(solid: Solid) -> bool:
    return PARTS[solid.part] in HEADS


def extent(solids: list[Solid], rotation: NDArray, shift: NDArray) -> tuple[float, float, float, float]:
    """Bounds (left, top, right, bottom) of solids on the plane at depth 1."""
    centres = apply(rotation, np.stack([s.centre for s in solids])) + shift
    reach = norm(product(rotation, np.stack([s.axes for s in solids])))
    low = (centres[:, :2] - reach[:, :2]) / centres[:, 2:]
    high = (centres[:, :2] + reach[:, :2]) / centres[:, 2:]
    (left, top), (right, bottom) = low.min(0), high.max(0)
    return left, top, right, bottom


def shadow(figure: Figure, camera: Camera, size: int, softness: float, lean: tuple[float, float]) -> Array:
    """Shade ``(size, size)`` in [0, 1] on the ground (y = 0): every solid's footprint, pushed along by its height."""
    centres = np.stack([s.centre for s in figure.solids])
    reach = np.stack([norm(s.axes) for s in figure.solids])
    ground = centres.copy()
    ground[:, 0] += lean[0] * centres[:, 1]
    ground[:, 2] += lean[1] * centres[:, 1]
    ground[:, 1] = 0
    at = camera.project(ground)
    flat = np.maximum(np.abs(camera.rotation[1, [0, 2]]).max(), 0.12)
    wide = np.maximum(reach[:, 0], reach[:, 2]) * camera.focal / at[:, 2]
    image = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(image)
    for (x, y, _), w in zip(at, wide, strict=True):
        draw.ellipse((x - w, y - w * flat, x + w, y + w * flat), fill=255)
    image = image.filter(ImageFilter.GaussianBlur(softness))
    return np.asarray(image, np.float32) / 255


def strangers(
    camera: Camera, size: int, count: int, depths: tuple[float, float], spot: tuple[float, float, float, float],
    widths: tuple[float, float], prefix: str, rng: np.random.Generator,
) -> list[Solid]:  # fmt: skip
    """Unnamed solids (part 0) whose centres lie in the picture box ``spot`` at depths between two bounds.

    ``widths`` are shares of the picture. The material of solid ``k`` is called ``prefix + str(k)``.
    """
    solids = []
    for k in range(count):
        depth = float(rng.uniform(*depths))
        x = float(rng.uniform(spot[0], spot[2]))
        y = float(rng.uniform(spot[1], spot[3]))
        ray = np.array([(x - camera.centre[0]) / camera.focal, (y - camera.centre[1]) / camera.focal, 1.0])
        unit = size * depth / camera.focal
        thick = unit * float(rng.uniform(*widths)) / 2
        kind = int(rng.choice([ELLIPSOID, BOX, FRUSTUM], p=[0.35, 0.25, 0.4]))
        long = 4.0 if kind == FRUSTUM else 1.8
        radii = thick * np.array([1, float(rng.uniform(1, long)), float(rng.uniform(0.3, 1.0))])
        radii[1] = max(radii[1], unit * 0.5) if kind == FRUSTUM and rng.random() < 0.5 else radii[1]
        limit = (depths[1] - depths[0]) * 0.5 + 0.3 * depth
        radii = np.minimum(radii, limit)
        axes = turn(yaw=rng.uniform(0, 360), pitch=normal(rng, 0, 35), roll=normal(rng, 0, 25)) * radii
        centre = apply(camera.rotation.T, ray * depth - camera.shift)
        axes = product(camera.rotation.T, axes)
        solids.append(Solid(kind, centre, axes, float(rng.uniform(0.4, 1.0)), 0, f"{prefix}{k}"))
    return solids
