"""One's own pictures: with label maps in ``masks/``, with depth in ``depth/``, or with normals in ``normals/``.

How the folders may lie is in :mod:`~diffeat.datasets.pairing`, what classes may be called in
:mod:`~diffeat.datasets.class_lists`. Without a list of classes they are found: every mask is read, and each number or
colour in them is a class.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.class_lists import NAMES, ClassList, Entry, class_list, read_class_list
from diffeat.datasets.coding import IGNORE, PLAIN, Coding, Colour
from diffeat.datasets.labelled import MaskDataset, MaskSample
from diffeat.datasets.measured import Quantity, TargetDataset, TargetSample
from diffeat.datasets.pairing import all_files, find_pairs
from diffeat.errors import DatasetError, ImageError, InvalidValueError
from diffeat.geometry.images import open_stored

MASKS = ("masks", "mask", "labels", "label", "annotations", "segmentation", "segmentations", "SegmentationClass", "gt")
FOLDERS: dict[Quantity, tuple[str, ...]] = {
    "depth": ("depth", "depths", "depth_map", "gt"),
    "normals": ("normals", "normal", "gt"),
}
_SNIFFED = 64  # masks that are looked at to tell 0 and 255 from labels
_TWO = (0, 255)


def read_folder(
    root: str | Path, split: str = "train", *, classes: str | Path | None = None, void: str | None = None
) -> MaskDataset:
    """Read a part of one's own labelled pictures.

    Masks are palette or grey pictures or ``.npy`` with a number at each pixel, or RGB pictures of the colours in the
    list of classes. Those that hold 0 and 255 alone are read as background and object.

    Args:
        classes: The list of classes; ``classes.txt`` (or as it may be called) in the folder if not given, else found.
        void: What does not count: numbers, colours (#rrggbb) or names, with commas, or ``none``. 255 by default.

    Raises:
        DatasetError: No such folders, files without a picture, or masks that hold no labels.
        InvalidValueError: ``void`` is no number, colour or class.
    """
    found, notes = find_pairs(root, split, MASKS, "mask"), []
    listed = Path(classes) if classes else next((f for n in NAMES if (f := Path(root) / n).is_file()), None)
    masks = [file for _, file in found.pairs]
    if listed is None:
        known, note = _found_classes(all_files(root, MASKS, "mask"), void)
        notes.append(note)
    else:
        known = read_class_list(listed, void)
        if void is None and len(known.names) == 2 and not known.coding.colours and _is_two_valued(masks[:_SNIFFED]):
            known = ClassList(known.names, known.colours, Coding(((0, 0), (255, 1)), void=()))
            notes.append("masks hold 0 and 255 alone: 255 is the second class, not void")
    samples = tuple(MaskSample(image, mask, "", known.coding) for image, mask in found.pairs)
    return MaskDataset("folder", split, samples, known.names, (*found.notes, *notes), known.colours)


def _found_classes(masks: list[Path], void: str | None) -> tuple[ClassList, str]:
    numbers, colours, areas = set[int](), set[Colour](), set[int | Colour]()
    for path in masks:
        stored = PLAIN.read(path)
        for value in distinct(stored):
            (numbers if isinstance(value, int) else colours).add(value)  # pyright: ignore[reportArgumentType]
        areas |= {*distinct(_blocks(stored))}
        if len(colours) > IGNORE or len(numbers) > IGNORE + 1:
            raise DatasetError(
                f"{path} and those before it hold more than {IGNORE} {'colours' if colours else 'numbers'}: they are "
                "no label maps (of cut-outs, save the alpha alone), or were smoothed or once saved with loss. Resize "
                "masks with nearest neighbour and save them as PNG."
            )
    if below := [number for number in sorted(numbers) if number < 0 and str(number) not in (void or "")]:
        raise DatasetError(f"The masks hold {below[0]}; labels are 0 or more. If it does not count, say so: void.")
    if colours and numbers:
        raise DatasetError(f"Some masks hold colours and others numbers; name the classes in {NAMES[0]}.")
    if not colours and void is None and numbers == {*_TWO}:
        entries = [Entry(0, "background"), Entry(255, "object")]
        return class_list(entries, "none"), "masks hold 0 and 255 alone: background and object"
    thin = sorted({*numbers, *colours} - areas)  # pyright: ignore[reportArgumentType]
    told = f"{'colours' if colours else 'numbers'} {', '.join(map(str, thin[:3]))}{' …' if len(thin) > 3 else ''}"
    if len(thin) > len(areas):
        raise DatasetError(
            f"{len(thin)} of {len(numbers) + len(colours)} values in the masks never fill 2×2 pixels ({told}): they "
            "were smoothed when they were resized. Resize masks with nearest neighbour, or, if these are classes, "
            f"name them in {NAMES[0]}."
        )
    if colours:
        entries = [Entry(k, "#{:02x}{:02x}{:02x}".format(*c), c) for k, c in enumerate(sorted(colours))]
    else:
        entries = [Entry(number, f"class {number}") for number in sorted(numbers)]
    note = f"classes are found in {len(masks)} masks; name them in {NAMES[0]}"
    note += f"; {told} never fill 2×2 pixels: were masks smoothed?" if thin else ""
    if not colours and void is None:
        entries = [entry for entry in entries if entry.number != IGNORE]
    if not entries:
        raise DatasetError("The masks hold nothing but void (255): no pixel is labelled.")
    return class_list(entries, void, _palette(masks[0])), note


def distinct(stored: NDArray) -> list[int] | list[Colour]:
    """The numbers, or the colours, that a mask holds."""
    if stored.ndim == 2:
        return [int(v) for v in np.unique(stored)]
    packed = np.unique(stored.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32))
    return [(int(v) >> 16, int(v) >> 8 & 255, int(v) & 255) for v in packed]


def _blocks(stored: NDArray) -> NDArray:
    """The values (n, 1) or colours (n, 1, 3) of blocks of 2×2 pixels of one value; of narrower masks, all."""
    if min(stored.shape[:2]) < 2:
        return stored
    corner = stored[:-1, :-1]
    alike = np.ones(corner.shape[:2], bool)
    for other in (stored[1:, :-1], stored[:-1, 1:], stored[1:, 1:]):
        same = corner == other
        alike &= same if same.ndim == 2 else same.all(-1)
    return corner[alike][:, None]


def _is_two_valued(masks: Iterable[Path]) -> bool:
    values = set[int]()
    for path in masks:
        stored = PLAIN.read(path)
        if stored.ndim == 3 or not {*np.unique(stored)} <= {*_TWO}:
            return False
        values |= {int(v) for v in np.unique(stored)}
    return values == {*_TWO}


def _palette(mask: Path) -> tuple[Colour, ...]:
    """The colours of a palette picture by number; none of others."""
    try:
        flat = open_stored(mask).getpalette("RGB") if mask.suffix != ".npy" else None
    except ImageError:
        return ()
    return tuple(zip(flat[::3], flat[1::3], flat[2::3], strict=True)) if flat else ()


def read_folder_targets(
    root: str | Path, split: str = "train", *, quantity: Quantity, scale: str | float | None = None
) -> TargetDataset:
    """Read a part of one's own pictures with depth or normals.

    Args:
        scale: Of depth: units of the file in one metre. If not given, pictures hold millimetres (1000) and ``.npy``
            files metres (1).

    Raises:
        DatasetError: No such folders, or files without a picture.
        InvalidValueError: A scale that is no positive number.
    """
    found = find_pairs(root, split, FOLDERS[quantity], f"{quantity} file")
    samples = tuple(
        TargetSample(image, file, quantity, _scale(scale, file) if quantity == "depth" else 1.0)
        for image, file in found.pairs
    )
    name = f"folder-{quantity}"
    return TargetDataset(name, split, samples, quantity, unit="m" if quantity == "depth" else "", notes=found.notes)


def _scale(given: str | float | None, file: Path) -> float:
    if given is None:
        return 1.0 if file.suffix == ".npy" or file.suffix.lower() in (".tif", ".tiff") else 1000.0
    try:
        scale = float(given)
    except ValueError:
        scale = 0.0
    if not 0 < scale < float("inf"):
        raise InvalidValueError(f"The scale of depth must be a positive number, got {given!r}.")
    return scale


_SPLITS = ("train", "val", "test")
CLASSES_HELP = "File with a class a line, with its number or colour; classes.txt in the folder if not given."
VOID_HELP = "What does not count in masks: numbers, colours (#rrggbb) or names, with commas, or none; 255 by default."
SCALE_HELP = "Units of a depth file in one metre; 1000 for PNG and 1 for .npy if not given."
CARDS = (
    DatasetCard("folder", "label maps", read_folder, _SPLITS, options={"classes": CLASSES_HELP, "void": VOID_HELP}),
    DatasetCard(
        "folder-depth",
        "depth",
        lambda root, split, scale=None: read_folder_targets(root, split, quantity="depth", scale=scale),
        _SPLITS,
        options={"scale": SCALE_HELP},
    ),
    DatasetCard(
        "folder-normals", "normals", lambda root, split: read_folder_targets(root, split, quantity="normals"), _SPLITS
    ),
)
