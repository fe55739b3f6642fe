"""CamVid, and whatever lies as it does.

* ``train``, ``trainannot``, ``val``, ``valannot``, ``test``, ``testannot`` (SegNet's): numbers 0…10, 11 is void;
* ``train``, ``train_labels``, … or ``images`` and ``labels`` with ``class_dict.csv``, ``label_colors.txt`` or
  ``codes.txt``: colours, or numbers, of that list.
"""

from __future__ import annotations

from pathlib import Path

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.class_lists import NAMES, read_class_list
from diffeat.datasets.coding import IGNORE, Coding
from diffeat.datasets.labelled import MaskDataset, with_pictures
from diffeat.datasets.own_folder import CLASSES_HELP, VOID_HELP, read_folder
from diffeat.datasets.pairing import pairs_of
from diffeat.datasets.pairs import need
from diffeat.errors import DatasetError

PAGE = "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid"
CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
COLOURS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
_SEGNET = Coding(tuple((k, k) for k in range(len(CLASSES))), void=(len(CLASSES), IGNORE))
_ENDINGS = ("annot", "_labels", "labels", "_annot", "_masks")


def read_camvid(
    root: str | Path, split: str = "test", *, classes: str | Path | None = None, void: str | None = None
) -> MaskDataset:
    """Read a split; arguments and errors as of :func:`~diffeat.datasets.own_folder.read_folder`."""
    base = need(Path(root), "CamVid", PAGE)
    files = next((p for ending in _ENDINGS if (p := base / f"{split}{ending}").is_dir()), None)
    if files is None or not (base / split).is_dir():
        data = read_folder(base, split, classes=classes, void=void)
        return MaskDataset("camvid", split, data.samples, data.classes, data.notes, data.colours)
    found = pairs_of(base / split, files, "label map")
    listed = Path(classes) if classes else next((f for n in NAMES if (f := base / n).is_file()), None)
    if listed is not None:
        known = read_class_list(listed, void)
        names, colours, coding = known.names, known.colours, known.coding
    elif void is not None:
        raise DatasetError(f"{base} has no list of classes ({NAMES[0]}), so void cannot be told.")
    else:
        names, colours, coding = CLASSES, COLOURS, _SEGNET
    samples = with_pictures("camvid", list(found.pairs), coding, files, PAGE)
    return MaskDataset("camvid", split, samples, names, found.notes, colours)


CARD = DatasetCard(
    "camvid",
    "label maps",
    read_camvid,
    ("train", "val", "test"),
    page=PAGE,
    options={"classes": CLASSES_HELP, "void": VOID_HELP},
)
