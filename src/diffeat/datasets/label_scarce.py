"""Few pictures with fine part labels, in the layout of ddpm-segmentation (Baranchuk et al., ICLR 2022).

``real/train`` and ``real/test`` hold pictures and, under the same name, label maps as ``.npy``. The category of every
picture is what the data set shows, so that the text of ``--prompts category`` is "a photo of a horse".
"""

from __future__ import annotations

from pathlib import Path

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.labelled import MaskDataset, MaskSample
from diffeat.datasets.pairs import need
from diffeat.errors import DatasetError, UnknownNameError, did_you_mean
from diffeat.geometry.files import IMAGE_SUFFIXES

PAGE = "https://github.com/yandex-research/ddpm-segmentation"
#: What the pictures of each dataset show, and the names of its labels in their order ("part: detail").
LABELS: dict[str, tuple[str, str]] = {
    "horse21": (
        "horse",
        "background, person, back, barrel, bridle, chest, ear, eye, forelock, head, hoof, leg, mane, muzzle, neck, "
        "nostril, tail, thigh, saddle, shoulder, leg protection",
    ),
    "cat15": (
        "cat",
        "background, back, belly, chest, leg, paw, head, ear, eye, mouth, tongue, nose, tail, whiskers, neck",
    ),
    "ffhq34": (
        "face",
        "background, head, cheek, chin, ear, ear: helix, ear: lobule, eye: bottom lid, eye: eyelashes, eye: iris, "
        "eye: pupil, eye: sclera, eye: tear duct, eye: top lid, eyebrow, forehead, frown, hair, hair: sideburns, jaw, "
        "moustache, mouth: inferior lip, mouth: oral commissure, mouth: superior lip, mouth: teeth, neck, nose, "
        "nose: ala, nose: bridge, nose: tip, nose: nostril, philtrum, temple, wrinkles",
    ),
    "bedroom28": (
        "bedroom",
        "background, bed, bed: footboard, bed: headboard, bed: side rail, carpet, ceiling, chandelier or ceiling fan "
        "blade, curtain, cushion, floor, table or dresser, table or dresser: top, picture or mirror, pillow, "
        "lamp: column, lamp: shade, wall, window, curtain rod, window: frame, chair, picture or mirror: frame, plinth, "
        "door or door frame, pouf, wardrobe, plant, table stuff",
    ),
    "ade-bedroom30": (
        "bedroom",
        "wall, bed, floor, table, lamp, ceiling, painting, windowpane, pillow, curtain, cushion, door, chair, cabinet, "
        "chest, mirror, rug, armchair, book, sconce, plant, wardrobe, clock, light, flower, vase, fan, box, shelf, "
        "television",
    ),
    "celeba19": (
        "face",
        "background, cloth, earring, eyeglasses, hair, hat, left brow, left ear, left eye, lower lip, mouth, neck, "
        "necklace, nose, right brow, right ear, right eye, skin, upper lip",
    ),
}


def read_label_scarce(root: str | Path, name: str, split: str = "train") -> MaskDataset:
    """Read the pictures of a split that have labels.

    Args:
        root: The dataset's folder (which holds ``real``), or ``real`` itself.
        name: One of :data:`LABELS`.
        split: ``train`` or ``test``.

    Raises:
        DatasetError: A folder is missing or holds no labelled picture.
        UnknownNameError: No such dataset or split.
    """
    if name not in LABELS:
        raise UnknownNameError(f"No label-scarce dataset {name!r}. {did_you_mean(name, LABELS)}".rstrip())
    if split not in ("train", "test"):
        raise UnknownNameError(f"{name} has no split {split!r}: train or test.")
    base = Path(root)
    folder = need(base / "real" / split if (base / "real").is_dir() else base / split, name, PAGE)
    pictures = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    shown, labels = LABELS[name]
    found = tuple(MaskSample(p, p.with_suffix(".npy"), shown) for p in pictures if p.with_suffix(".npy").is_file())
    if not found:
        raise DatasetError(
            f"{folder} holds {len(pictures)} pictures and no label map of the same name (.npy). {name} comes from "
            f"{PAGE}"
        )
    missing = len(pictures) - len(found)
    notes = (f"{missing} pictures without labels are left out ({split})",) if missing else ()
    return MaskDataset(name, split, found, tuple(labels.split(", ")), notes)


CARDS = tuple(
    DatasetCard(
        name,
        "label maps",
        lambda root, split, name=name: read_label_scarce(root, name, split),
        ("train", "test"),
        page=PAGE,
    )
    for name in LABELS
)
