"""What a camera does to a picture: exposure, white balance, contrast, vignetting, blur, sensor noise, JPEG."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffeat.datasets.toyworld.exact import exp, mean, normal, power

Array = NDArray[np.floating]
_NODES = 1024


def blur(picture: Array, sigma: float) -> Array:
    """Gaussian blur over the two picture axes, cut off at four deviations; the border is continued."""
    if sigma <= 0.15:
        return picture
    reach = int(4 * sigma + 0.5)
    steps = np.arange(reach + 1)
    weights = exp(-0.5 * steps * steps / (sigma * sigma))
    weights = (weights / (2 * sum(weights[1:].tolist()) + 1)).astype(np.float32)
    for _ in range(2):  # down, then across as down in the transposed picture
        wide = np.pad(picture, ((reach, reach), (0, 0), (0, 0)), mode="edge")
        size = len(picture)
        picture = weights[0] * picture
        for k in range(1, reach + 1):
            picture += weights[k] * (wide[reach - k :][:size] + wide[reach + k :][:size])
        picture = picture.transpose(1, 0, 2)
    return picture


def _curve(picture: Array, exponent: float) -> Array:
    """``picture ** exponent`` from a table over the square root, where it is smooth; to 1e-5 of the brightest value."""
    top = max(float(picture.max()), 1e-6)
    nodes = np.arange(_NODES + 2) / _NODES
    table = (power(nodes * nodes, exponent) * power(top, exponent)).astype(np.float32)
    at = np.sqrt(np.maximum(picture, 0) / np.float32(top)) * np.float32(_NODES)
    low = at.astype(np.int32)
    return table[low] + (at - low.astype(np.float32)) * (table[1:] - table[:-1])[low]


def develop(picture: Array, rng: np.random.Generator, strength: float = 1.0) -> NDArray[np.uint8]:
    """A float picture ``(h, w, 3)`` in about [0, 1] to 8 bits, through a drawn camera of a given bad temper."""
    size = picture.shape[0]
    picture = blur(picture, float(rng.uniform(0, 0.9)) * strength if rng.random() < 0.4 else 0.0)
    picture = _curve(picture, 1 / 1.3)  # towards the tone curve of a camera
    balance = exp(normal(rng, 0, 0.07 * strength, 3)).astype(np.float32)
    picture = picture * balance * np.float32(exp(normal(rng, 0, 0.14 * strength)))
    if rng.random() < 0.5:
        axis = np.linspace(-1, 1, size, dtype=np.float32)
        radius = (axis * axis)[:, None] + (axis * axis)[None, :]
        picture = picture * (1 - np.float32(rng.uniform(0, 0.25) * strength) * radius)[..., None]
    picture = _curve(picture, float(exp(normal(rng, 0, 0.16 * strength))))
    contrast = np.float32(exp(normal(rng, 0, 0.13 * strength)))
    middle = np.float32(mean(picture))
    picture = (picture - middle) * contrast + middle
    if rng.random() < 0.08 * strength:
        grey = (picture[..., :1] + picture[..., 1:2] + picture[..., 2:]) / 3
        picture = grey + (picture - grey) * np.float32(rng.uniform(0, 0.4))
    noise = float(rng.uniform(0, 0.03)) * strength
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    # beyond 3.65 numpy asks the C library for logarithms
    picture = picture + np.clip(grain, -3.6, 3.6) * np.float32(noise)
    image = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.random() < 0.3 * strength:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(55, 93)))
        image = np.asarray(Image.open(buffer)).copy()
    return image
