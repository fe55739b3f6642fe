"""A text for every picture, from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from diffeat.errors import InvalidValueError, did_you_mean


def read_prompts(file: Path, images: Sequence[Path]) -> list[str | None]:
    """Texts for ``images`` from a CSV file with the columns ``image`` (file name or path) and ``prompt``.

    Returns:
        One text per image; ``None`` (the recipe's own prompt) for images that the file does not name.

    Raises:
        InvalidValueError: If the file is missing, has other columns, or names none of the images.
    """
    if not file.is_file():
        raise InvalidValueError(f"There is no prompt file {str(file)!r}.")
    with file.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        columns = reader.fieldnames or []
        for needed in ("image", "prompt"):
            if needed not in columns:
                raise InvalidValueError(
                    f"{file} needs a column {needed!r}; it has {', '.join(columns) or 'none'}. "
                    f"{did_you_mean(needed, columns)}".rstrip()
                )
        texts = {row["image"]: row["prompt"] for row in reader}
    found = [texts.get(str(image), texts.get(image.name)) for image in images]
    if images and not any(found):
        raise InvalidValueError(f"{file} names none of the {len(images)} images (first image: {images[0].name}).")
    return found
