"""Real photographs that lie on every machine where diffeat is installed: those inside scikit-image."""

from __future__ import annotations

from pathlib import Path

#: Photographs inside the scikit-image package itself, which need no download.
SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")


def write_samples(folder: Path) -> list[Path]:
    """Write the photographs as PNG files into ``folder`` (made if missing) and return their paths."""
    from PIL import Image
    from skimage import data

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in SAMPLES:
        path = folder / f"{name}.png"
        Image.fromarray(getattr(data, name)()).save(path)
        paths.append(path)
    return paths
