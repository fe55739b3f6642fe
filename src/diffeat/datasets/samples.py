"""Real photographs that lie on every machine where diffeat is installed: those inside scikit-image."""

from __future__ import annotations

from pathlib import Path

from diffeat.files import new_folder, write_picture

#: Photographs inside the scikit-image package itself, which need no download.
SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")


def write_samples(folder: Path, *, force: bool = False) -> list[Path]:
    """Write the photographs as PNG files into ``folder`` (made if missing) and return their paths.

    Raises:
        InvalidValueError: One of them is there already, and may not be replaced (``force``).
    """
    from PIL import Image
    from skimage import data

    new_folder(folder, [f"{name}.png" for name in SAMPLES], force=force)
    return [
        write_picture(Image.fromarray(getattr(data, name)()), folder / f"{name}.png", force=force) for name in SAMPLES
    ]
