"""Real photographs that lie on every machine where diffeat is installed: those inside scikit-image.

Twelve of them come with masks of what they show, drawn by us: outlines in ``sample_masks.json``, and a seam of void
where an outline passes between pixels. They are written as a user's own folder would lie, ``images/`` and ``masks/``.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffeat.datasets.coding import IGNORE, colour_map
from diffeat.files import new_folder, write_files, write_picture

if TYPE_CHECKING:
    from PIL import Image

#: Photographs inside the scikit-image package itself, which need no download.
SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")
#: Those with masks, and under which terms scikit-image has them.
LABELLED = {
    "astronaut": "NASA, public domain",
    "camera": "Lav Varshney, CC0",
    "cell": "Paul Müller and others, CC0",
    "chelsea": "Stéfan van der Walt, CC0",
    "clock": "Stéfan van der Walt, public domain",
    "coffee": "Rachel Michetti, CC0",
    "coins": "Brooklyn Museum, no known copyright restrictions",
    "grass": "CC0Textures, CC0",
    "hubble_deep_field": "NASA, public domain",
    "immunohistochemistry": "Center for Microscopy and Molecular Imaging, no known copyright restrictions",
    "retina": "Häggström, WikiJournal of Medicine 2014, CC0",
    "rocket": "SpaceX, public domain",
}
#: What the masks tell apart, with the colours in which they are drawn.
CLASSES = {"background": (0, 0, 0), "subject": (220, 60, 40)}


def write_samples(folder: Path, *, force: bool = False) -> list[Path]:
    """Write the photographs as PNG files into ``folder`` (made if missing) and return their paths.

    Raises:
        InvalidValueError: One of them is there already, and may not be replaced (``force``).
    """
    new_folder(folder, [f"{name}.png" for name in SAMPLES], force=force)
    return [write_picture(photo(name), folder / f"{name}.png", force=force) for name in SAMPLES]


def write_labelled_samples(folder: Path, *, force: bool = False) -> list[Path]:
    """Write photographs with masks: ``images``, ``masks`` (palette pictures), ``classes.txt``, ``credits.txt``.

    The result is read by ``open_dataset("folder", folder, "train")``.

    Returns:
        The paths of the photographs.

    Raises:
        InvalidValueError: One of the files is there already, and may not be replaced (``force``).
    """
    texts = {
        "classes.txt": "".join(f"{' '.join(map(str, colour))} {name}\n" for name, colour in CLASSES.items()),
        "credits.txt": "".join(f"{name}: {terms}\n" for name, terms in LABELLED.items()),
    }
    parts = folder / "images", folder / "masks"
    new_folder(folder, texts, force=force)
    for part in parts:
        new_folder(part, [f"{name}.png" for name in LABELLED], force=force)
    outlines = json.loads(files("diffeat.datasets").joinpath("sample_masks.json").read_text(encoding="utf-8"))
    written = []
    for name in LABELLED:
        picture = photo(name)
        written.append(write_picture(picture, parts[0] / f"{name}.png", force=force))
        write_picture(_mask(outlines[name], picture.size), parts[1] / f"{name}.png", force=force)
    write_files(folder, list(texts), list(texts.values()), force=force)
    return written


def photo(name: str) -> Image.Image:
    """One of the photographs, by its name."""
    from PIL import Image
    from skimage import data

    return Image.fromarray(getattr(data, name)())


def _mask(outlines: dict[str, list[list[int]]], size: tuple[int, int]) -> Image.Image:
    from PIL import Image, ImageDraw

    drawn = Image.new("L", size)
    for kind, label in (("subject", 1), ("holes", 0)):
        for outline in outlines[kind]:
            ImageDraw.Draw(drawn).polygon(outline, fill=label)
    labels = np.array(drawn)
    seam = np.zeros(labels.shape, bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        edge = labels[one] != labels[other]
        seam[one] |= edge
        seam[other] |= edge
    labels[seam] = IGNORE
    picture = Image.fromarray(labels, "P")
    palette = [*CLASSES.values(), *colour_map()[len(CLASSES) :]]
    picture.putpalette(bytes(value for colour in palette for value in colour))
    return picture
