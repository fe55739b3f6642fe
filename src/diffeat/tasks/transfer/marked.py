"""Pictures with what is marked in them as a folder that the commands read.

::

    images/NAME.png   the pictures, upright
    marks/NAME.json   points and boxes               diffeat transfer images/NAME.png marks/NAME.json PICTURES
    masks/NAME.png    labels, 0 is background        diffeat transfer images/NAME.png masks/NAME.png PICTURES
    id2label.json     what labels are called         diffeat eval folder, diffeat train segmentation folder
    pairs.csv         points that two pictures share diffeat eval csv, diffeat train hyperfeatures csv
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffeat.datasets.coding import IGNORE, colour_map
from diffeat.datasets.csv_pairs import BOX, COLUMNS
from diffeat.errors import InvalidValueError, shown
from diffeat.tasks.transfer.annotation import Annotation

_SIZES = ("source_width", "source_height", "target_width", "target_height")


@dataclass(frozen=True)
class Marked:
    """A picture and what is marked in it.

    Attributes:
        name: Of the picture; folders and ending are left out.
        image: Upright.
    """

    name: str
    image: Image.Image = field(repr=False)
    annotation: Annotation


def marked_files(
    pictures: Sequence[Marked], pairs: Sequence[tuple[int, int]] = (), classes: Sequence[str] = ()
) -> dict[str, bytes]:
    """The files of such a folder by their names.

    Args:
        pairs: Numbers of a source and a target picture; their points of one name belong together, and a box of the
            target, if it has one, says how large its object is.
        classes: Names of the labels of masks from 1; numbered where there are none.

    Raises:
        InvalidValueError: A mark lies outside its picture, two pictures of a pair share no point, a mask has a label
            without a name, or two classes have one.

    Example:
        >>> cat = Marked("cat.jpg", Image.new("RGB", (8, 6)), Annotation({"eye": (2.5, 3)}))
        >>> dog = Marked("dog.jpg", Image.new("RGB", (9, 9)), Annotation({"eye": (4, 4.25)}))
        >>> files = marked_files([cat, dog], [(0, 1)])
        >>> list(files)
        ['images/cat.png', 'marks/cat.json', 'images/dog.png', 'marks/dog.json', 'pairs.csv']
        >>> files["pairs.csv"].decode().splitlines()[1]
        'images/cat.png,images/dog.png,2.5,3,4,4.25,8,6,9,9,,,,'
    """
    files: dict[str, bytes] = {}
    stems = _stems([picture.name for picture in pictures])
    masks = [picture.annotation.mask for picture in pictures if picture.annotation.mask is not None]
    for stem, picture in zip(stems, pictures, strict=True):
        marks = picture.annotation
        marks.check(picture.image.size)
        files[f"images/{stem}.png"] = _png(picture.image.convert("RGB"))
        if marks.points or marks.boxes:
            told = {"points": dict(marks.points), "boxes": dict(marks.boxes)}
            files[f"marks/{stem}.json"] = json.dumps(told, indent=1).encode()
        if marks.mask is not None:
            files[f"masks/{stem}.png"] = _png(_palette_picture(marks.mask))
    if masks:
        files["id2label.json"] = _class_list(classes, max(int(mask.max()) for mask in masks)).encode()
    if pairs:
        files["pairs.csv"] = _rows(pictures, stems, pairs).encode()
    return files


def _stems(names: Sequence[str]) -> list[str]:
    """Names of files, each once, also where capitals do not count."""
    stems: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w-]+", "_", PurePosixPath(name.replace("\\", "/")).stem).strip("_")[:80] or "picture"
        stem, count = plain, 1
        while stem.lower() in {taken.lower() for taken in stems}:
            count += 1
            stem = f"{plain}-{count}"
        stems.append(stem)
    return stems


def _rows(pictures: Sequence[Marked], stems: Sequence[str], pairs: Sequence[tuple[int, int]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *_SIZES, *BOX])
    for one, other in dict.fromkeys(pairs):
        source, target = pictures[one], pictures[other]
        common = [name for name in source.annotation.points if name in target.annotation.points]
        if not common:
            raise InvalidValueError(
                f"{shown(source.name)} and {shown(target.name)} share no point: points of one name belong together."
            )
        box = next(iter(target.annotation.boxes.values()), ("",) * len(BOX))
        for name in common:
            places = (*source.annotation.points[name], *target.annotation.points[name])
            names = (f"images/{stems[one]}.png", f"images/{stems[other]}.png")
            numbers = [f"{v:g}" if v == round(v) else repr(float(v)) for v in places]
            writer.writerow([*names, *numbers, *source.image.size, *target.image.size, *box])
    return text.getvalue()


def _class_list(classes: Sequence[str], highest: int) -> str:
    if highest >= IGNORE:
        raise InvalidValueError(f"Labels of masks go from 1 to {IGNORE - 1}, got {highest}.")
    if classes and len(classes) < highest:
        raise InvalidValueError(f"A mask has label {highest}, but only {len(classes)} classes are named.")
    names = ["background", *(classes or [f"class {number}" for number in range(1, highest + 1)])]
    if len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise InvalidValueError("Every class needs a name of its own; background is 0.")
    return json.dumps(dict(enumerate(names)), ensure_ascii=False, indent=1)


def _palette_picture(mask: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(mask, mode="P")
    picture.putpalette(bytes(v for colour in colour_map() for v in colour))
    return picture


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
