"""Pictures sorted into one folder per class: ``root/CLASS/*.jpg``, or ``root/train/CLASS`` and ``root/test/CLASS``."""

from __future__ import annotations

from pathlib import Path

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.labelled import ClassDataset, ClassSample
from diffeat.errors import DatasetError
from diffeat.geometry import find_images

_ALSO = {"train": ("train", "training"), "test": ("test", "val", "validation")}


def read_class_folders(root: str | Path, split: str = "train", *, hold_out: int = 4) -> ClassDataset:
    """Read a split.

    Without folders ``train`` and ``test``, every ``hold_out``-th picture of a class (sorted by name) is a test picture.

    Args:
        root: The folder.
        split: ``train`` or ``test``.
        hold_out: See above.

    Raises:
        DatasetError: No folder, or fewer than two classes with pictures.
    """
    base = Path(root)
    if not base.is_dir():
        raise DatasetError(f"There is no folder {base}. A folder with one folder of pictures per class is wanted.")
    own = next((base / name for name in _ALSO.get(split, (split,)) if (base / name).is_dir()), None)
    folder = own or base
    by_class = {p.name: list(find_images(p)) for p in sorted(folder.iterdir()) if p.is_dir() and p.name[0] != "."}
    by_class = {name: images for name, images in by_class.items() if images}
    if len(by_class) < 2:
        raise DatasetError(
            f"{folder} holds {len(by_class)} folders of pictures; a classification needs two classes at least, one "
            "folder each."
        )
    names = tuple(by_class)
    notes: tuple[str, ...] = ()
    if own is None:
        notes = (f"every {hold_out}th picture of a class is a test picture",)
        test = split == "test"
        by_class = {
            n: [p for i, p in enumerate(images) if (i % hold_out == hold_out - 1) == test]
            for n, images in by_class.items()
        }
    samples = tuple(ClassSample(p, k) for k, name in enumerate(names) for p in by_class[name])
    return ClassDataset("folders", split, samples, names, notes)


CARD = DatasetCard("folders", "classes", read_class_folders, tuple(_ALSO))
