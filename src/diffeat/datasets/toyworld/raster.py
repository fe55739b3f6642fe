"""Exact ray casting of quadric solids seen through a pinhole camera.

A ray from the camera through a pixel is ``t·d`` with ``d = (x, y, 1)``. In a solid's own frame it is ``q + t·e`` with
``q = -A⁻¹c`` and ``e = A⁻¹d``. For the unit sphere ``|q + t e|² = 1`` is a quadratic in ``t`` whose coefficients are
polynomials of ``x`` and ``y``; for a frustum ``x² + z² = (m + k y)²`` is another, cut to ``|y| ≤ 1`` and closed by the
cap that faces the camera; a cube is met by the slab method. The nearest solid at each pixel wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.toyworld.exact import apply, dot, inverse, norm, product
from diffeat.datasets.toyworld.figure import BOX, ELLIPSOID, Solid

Array = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera: world points ``p`` go to ``R p + s`` (x right, y down, z ahead) and then to pixels.

    ``pixel = focal · (X, Y) / Z + centre`` in pixel-index coordinates of the final picture.
    """

    rotation: NDArray[np.float64]
    shift: NDArray[np.float64]
    focal: float
    centre: tuple[float, float]

    def view(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return apply(self.rotation, points) + self.shift

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """World points ``(..., 3)`` to ``(..., 3)``: pixel x, pixel y, depth."""
        seen = self.view(points)
        plane = seen[..., :2] / seen[..., 2:] * self.focal + np.asarray(self.centre)
        return np.concatenate([plane, seen[..., 2:]], -1)


@dataclass(frozen=True, slots=True)
class Hits:
    """What each fine pixel sees: depth (inf where nothing), index of the solid (-1), and the surface there.

    The surface arrays hold one row per hit pixel, in the order of ``np.nonzero(index >= 0)``.
    """

    depth: Array
    index: NDArray[np.int16]
    solid: NDArray[np.int64]
    normal: Array
    local: Array


_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


def cast(solids: list[Solid], camera: Camera, size: int, oversample: int) -> Hits:
    """Cast all rays of a ``size × size`` picture, ``oversample²`` per pixel."""
    fine = size * oversample
    steps = (np.arange(fine) + 0.5) / oversample - 0.5
    xs = ((steps - camera.centre[0]) / camera.focal).astype(np.float32)
    ys = ((steps - camera.centre[1]) / camera.focal).astype(np.float32)
    centres = camera.view(np.stack([s.centre for s in solids]))
    axes = product(camera.rotation, np.stack([s.axes for s in solids]))
    maps = inverse(axes)
    corners = centres[:, None] + apply(axes[:, None], _CORNERS)
    plane = corners[..., :2] / np.maximum(corners[..., 2:], 1e-3) * camera.focal + np.asarray(camera.centre)
    low = np.floor((plane.min(1) + 0.5) * oversample - 1).clip(0, fine).astype(int)
    high = np.ceil((plane.max(1) + 0.5) * oversample + 1).clip(0, fine).astype(int)
    origins = -apply(maps, centres).astype(np.float32)
    maps = maps.astype(np.float32)

    depth = np.full((fine, fine), np.inf, np.float32)
    index = np.full((fine, fine), -1, np.int16)
    for k, solid in enumerate(solids):
        (x0, y0), (x1, y1) = low[k], high[k]
        if x0 >= x1 or y0 >= y1 or corners[k, :, 2].min() < 0.05:
            continue
        x, y = xs[None, x0:x1], ys[y0:y1, None]
        t = _MEET[solid.kind](maps[k], origins[k], x, y, solid.taper)
        window = depth[y0:y1, x0:x1]
        nearer = t < window
        window[nearer] = t[nearer]
        index[y0:y1, x0:x1][nearer] = k

    rows, columns = np.nonzero(index >= 0)
    t = depth[rows, columns]
    which = index[rows, columns].astype(np.int64)
    x, y = xs[columns] * t, ys[rows] * t
    m = [entry[which] for entry in maps.reshape(-1, 9).T]
    local = np.stack([m[k] * x + m[k + 1] * y + m[k + 2] * t for k in (0, 3, 6)], -1) + origins[which]
    a, b, c = _normals(solids, which, local).T
    normal = np.stack([m[k] * a + m[k + 3] * b + m[k + 6] * c for k in range(3)], -1)
    normal /= norm(normal)[:, None] + np.float32(1e-9)
    lengths = norm(np.stack([s.axes.T for s in solids])).astype(np.float32)
    return Hits(depth, index, which, normal, local * lengths[which])


def _square_form(m: Array, x: Array, y: Array, weights: tuple[float, float, float]) -> Array:
    """``Σ wᵢ (Mᵢ·(x, y, 1))²`` over a grid, from its six coefficients."""
    g = product((m * np.asarray(weights, np.float32)[:, None]).T, m)
    grid = (g[0, 0] * x + 2 * g[0, 2]) * x + ((g[1, 1] * y + 2 * g[1, 2]) * y + g[2, 2])
    grid += (2 * g[0, 1]) * x * y
    return grid


def _meet_ellipsoid(m: Array, q: Array, x: Array, y: Array, taper: float) -> Array:
    a = _square_form(m, x, y, (1, 1, 1))
    g = apply(m.T, q)
    b = g[0] * x + (g[1] * y + g[2])
    gap = b * b - a * (dot(q, q) - 1)
    hit = gap > 0
    return np.where(hit, (-b - np.sqrt(np.where(hit, gap, 0))) / a, np.float32(np.inf))


def _meet_frustum(m: Array, q: Array, x: Array, y: Array, taper: float) -> Array:
    middle, slope = np.float32((1 + taper) / 2), np.float32((taper - 1) / 2)
    a = _square_form(m, x, y, (1, -float(slope * slope), 1))
    reach = middle + slope * q[1]
    g = q[0] * m[0] + q[2] * m[2] - slope * reach * m[1]
    b = g[0] * x + (g[1] * y + g[2])
    gap = b * b - a * (q[0] * q[0] + q[2] * q[2] - reach * reach)
    rise = m[1, 0] * x + (m[1, 1] * y + m[1, 2])
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (-b - np.sqrt(np.maximum(gap, 0))) / a
        on_side = (gap > 0) & (np.abs(q[1] + t * rise) <= 1) & (t > 0)
        t = np.where(on_side, t, np.float32(np.inf))
        if abs(q[1]) > 1:  # the cap on the camera's side
            side = np.float32(np.sign(q[1]))
            at_cap = (side - q[1]) / rise
            px = q[0] + at_cap * (m[0, 0] * x + (m[0, 1] * y + m[0, 2]))
            pz = q[2] + at_cap * (m[2, 0] * x + (m[2, 1] * y + m[2, 2]))
            radius = middle + slope * side
            inside = (px * px + pz * pz <= radius * radius) & (at_cap > 0)
            t = np.where(inside & (at_cap < t), at_cap, t)
    return t


def _meet_box(m: Array, q: Array, x: Array, y: Array, taper: float) -> Array:
    enter: Array | None = None
    leave: Array | None = None
    for axis in range(3):
        e = m[axis, 0] * x + (m[axis, 1] * y + m[axis, 2])
        e = np.where(np.abs(e) < 1e-9, np.float32(1e-9), e)
        one, two = (-1 - q[axis]) / e, (1 - q[axis]) / e
        near, far = np.minimum(one, two), np.maximum(one, two)
        enter = near if enter is None else np.maximum(enter, near)
        leave = far if leave is None else np.minimum(leave, far)
    assert enter is not None
    assert leave is not None
    return np.where((enter < leave) & (enter > 0), enter, np.float32(np.inf))


_MEET = (_meet_ellipsoid, _meet_box, _meet_frustum)


def _normals(solids: list[Solid], which: NDArray[np.int64], local: Array) -> Array:
    """Outward normals in each solid's own frame (not yet of unit length)."""
    kinds = np.array([s.kind for s in solids])[which]
    normal = local.copy()
    box = kinds == BOX
    if box.any():
        p = local[box]
        axis = np.abs(p).argmax(1)
        flat = np.zeros_like(p)
        rows = np.arange(len(p))
        flat[rows, axis] = np.sign(p[rows, axis])
        normal[box] = flat
    cone = (kinds != BOX) & (kinds != ELLIPSOID)
    if cone.any():
        p = local[cone]
        taper = np.array([s.taper for s in solids], np.float32)[which[cone]]
        slope = (taper - 1) / 2
        side = np.stack([p[:, 0], -slope * ((1 + taper) / 2 + slope * p[:, 1]), p[:, 2]], -1)
        capped = np.abs(p[:, 1]) > 0.999
        capped &= np.sqrt(p[:, 0] * p[:, 0] + p[:, 2] * p[:, 2]) < (1 + taper) / 2 + slope * p[:, 1] - 1e-3
        side[capped] = np.stack([0 * p[capped, 0], np.sign(p[capped, 1]), 0 * p[capped, 0]], -1)
        normal[cone] = side
    return normal
