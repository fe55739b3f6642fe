"""What a camera does to a picture: exposure, white balance, contrast, vignetting, blur, sensor noise, JPEG."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Array = NDArray[np.floating]


def blur(picture: Array, sigma: float) -> Array:
    """Gaussian blur over the two picture axes."""
    return np.asarray(gaussian_filter(picture, (sigma, sigma, 0), mode="nearest")) if sigma > 0.15 else picture


def develop(picture: Array, rng: np.random.Generator, strength: float = 1.0) -> NDArray[np.uint8]:
    """A float picture ``(h, w, 3)`` in about [0, 1] to 8 bits, through a drawn camera of a given bad temper."""
    size = picture.shape[0]
    picture = blur(picture, float(rng.uniform(0, 0.9)) * strength if rng.random() < 0.4 else 0.0)
    picture = np.clip(picture, 0, None) ** np.float32(1 / 1.3)  # towards the tone curve of a camera
    balance = np.exp(rng.normal(0, 0.07 * strength, 3)).astype(np.float32)
    picture = picture * balance * np.float32(np.exp(rng.normal(0, 0.14 * strength)))
    if rng.random() < 0.5:
        axis = np.linspace(-1, 1, size, dtype=np.float32)
        radius = axis[:, None] ** 2 + axis[None, :] ** 2
        picture = picture * (1 - np.float32(rng.uniform(0, 0.25) * strength) * radius)[..., None]
    picture = np.clip(picture, 0, None) ** np.float32(np.exp(rng.normal(0, 0.16 * strength)))
    contrast = np.float32(np.exp(rng.normal(0, 0.13 * strength)))
    middle = picture.mean()
    picture = (picture - middle) * contrast + middle
    if rng.random() < 0.08 * strength:
        grey = picture.mean(-1, keepdims=True)
        picture = grey + (picture - grey) * np.float32(rng.uniform(0, 0.4))
    noise = float(rng.uniform(0, 0.03)) * strength
    picture = picture + rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(noise)
    image = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.random() < 0.3 * strength:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(55, 93)))
        image = np.asarray(Image.open(buffer)).copy()
    return image
