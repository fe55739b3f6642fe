"""DAVIS: videos with object masks, as they lie on disk, and the toy world written the same way.

Layout (DAVIS 2016 and 2017): ``JPEGImages/480p/<sequence>/00000.jpg``, ``Annotations/480p/<sequence>/00000.png``
(palette pictures, 0 is background, the others are objects; 0 and 255 alone are DAVIS 2016's background and its one
object), ``ImageSets/2017/val.txt`` (names of sequences) or, of DAVIS 2016, ``ImageSets/480p/val.txt`` (a picture and
its annotation in each line).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffeat.datasets.card import DatasetCard, Samples
from diffeat.datasets.coding import colour_map
from diffeat.datasets.labelled import fitted
from diffeat.datasets.pairs import inside, parsed, read_lines
from diffeat.errors import DatasetError, ImageError, UnknownNameError, did_you_mean
from diffeat.files import new_folder, write_files
from diffeat.geometry.images import open_stored
from diffeat.progress import Progress, silent

if TYPE_CHECKING:
    from diffeat.datasets.toyworld import Toyworld

PAGE = "https://davischallenge.org"


@dataclass(frozen=True)
class Video:
    """A sequence.

    Attributes:
        name: Of the sequence.
        frames: Picture files, in order.
        masks: Annotation of each frame, ``None`` where there is none; the first is always there.
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path | None, ...]

    @property
    def first_mask(self) -> NDArray[np.uint8]:
        """The object numbers that are propagated; raises as :meth:`mask`, and DatasetError where there are none."""
        if (numbers := self.mask(0)) is None:
            raise DatasetError(f"The first frame of {self.name!r} has no mask; there is nothing to propagate.")
        return numbers

    def mask(self, number: int) -> NDArray[np.uint8] | None:
        """Object numbers ``(H, W)`` of a frame as it is seen, ``None`` where there are none.

        Raises:
            DatasetError: As :func:`read_mask`, or they do not fit the frame, as of label maps.
            ImageError: The frame cannot be read.
        """
        path = self.masks[number]
        return None if path is None else fitted(read_mask(path), path, self.frames[number])


@dataclass(frozen=True)
class VideoDataset(Samples[Video]):
    """The sequences of a split."""

    name: str
    split: str
    samples: tuple[Video, ...]
    notes: tuple[str, ...] = ()
    _word = "videos"

    def only(self, names: Sequence[str]) -> VideoDataset:
        """Some sequences.

        Raises:
            UnknownNameError: No sequence of a name.
        """
        there = [video.name for video in self]
        for name in names:
            if name not in there:
                raise UnknownNameError(f"{self.name} {self.split} has no video {name!r}. {did_you_mean(name, there)}")
        return replace(self, samples=tuple(video for video in self if video.name in names))


def read_davis(root: str | Path, split: str = "val", year: str = "2017", resolution: str = "480p") -> VideoDataset:
    """The sequences of a split.

    Args:
        root: Folder that holds ``JPEGImages``.
        split: ``train``, ``val``, … as in ``ImageSets``.
        year: Folder of the split file.
        resolution: ``480p`` or ``Full-Resolution``.

    Raises:
        DatasetError: The dataset is missing or incomplete; says what is not there.
    """
    top = Path(root)
    lists = [top / "ImageSets" / folder / f"{split}.txt" for folder in (year, resolution)]
    listing = next((path for path in lists if path.is_file()), None)
    if listing is None:
        there = sorted(p.stem for p in (top / "ImageSets" / year).glob("*.txt"))
        near = did_you_mean(split, there)
        hint = f"{near} " if near else ""
        raise DatasetError(f"There is no {lists[0]}. {hint}Give DAVIS' folder as root (--root). It comes from {PAGE}")
    listed: dict[str, set[str]] = {}
    for name, frame in parsed(listing, "DAVIS", PAGE, lambda p: read_lines(p, _listed)):
        listed.setdefault(name, set()).update([frame] if frame else [])
    if not listed:
        raise DatasetError(f"{listing} lists no sequence.")
    pictures = top / "JPEGImages" / resolution
    places = parsed(listing, "DAVIS", PAGE, lambda _: [inside(pictures, name) for name in listed])
    return VideoDataset("davis", split, tuple(_video(top, place, listed[place.name]) for place in places))


def _listed(words: list[str]) -> tuple[str, str]:
    """Sequence and, in the lists of DAVIS 2016, frame of a line."""
    path = PurePosixPath(words[0])
    if len(path.parts) == 1:
        return words[0], ""
    if "JPEGImages" not in path.parts:
        raise ValueError("neither the name of a sequence nor a picture below JPEGImages")
    return path.parent.name, path.name


def _video(top: Path, pictures: Path, listed: set[str]) -> Video:
    name, resolution = pictures.name, pictures.parent.name
    frames = sorted(pictures.glob("*.jpg"))
    if not frames:
        raise DatasetError(f"There are no frames in {pictures}; the dataset is half unpacked or of another resolution.")
    if missing := sorted(listed - {frame.name for frame in frames}):
        raise DatasetError(
            f"{pictures} is half unpacked: {len(missing)} frames are missing, the first is {missing[0]}."
        )
    folder = top / "Annotations" / resolution / name
    masks = tuple(file if (file := folder / f"{frame.stem}.png").is_file() else None for frame in frames)
    if masks[0] is None:
        raise DatasetError(f"The first frame of {name!r} has no mask in {folder}; there is nothing to propagate.")
    return Video(name, tuple(frames), masks)


def read_mask(path: str | Path) -> NDArray[np.uint8]:
    """Object numbers ``(H, W)`` of a palette or grey picture; one that holds nothing but 0 and 255 has one object.

    Raises:
        DatasetError: The picture has colours instead of numbers, or cannot be read.
    """
    try:
        picture = open_stored(path)
    except ImageError as error:
        raise DatasetError(f"A mask cannot be read. {error}") from error
    numbers = np.array(picture)
    if picture.mode in ("RGB", "RGBA") and (numbers[..., :3] == numbers[..., :1]).all():
        numbers = numbers[..., 0]  # grey, as some of DAVIS 2016
    elif picture.mode not in ("P", "L", "1"):
        raise DatasetError(f"{path} is a picture of mode {picture.mode}; masks are palette or grey pictures.")
    numbers = numbers.astype(np.uint8)
    return numbers // 255 if np.isin(numbers, (0, 255)).all() else numbers


def write_mask(path: str | Path, mask: NDArray[np.uint8]) -> None:
    """Write object numbers as a palette picture, in DAVIS' colours."""
    picture = Image.fromarray(mask, mode="P")
    picture.putpalette(bytes(v for colour in colour_map() for v in colour))
    picture.save(path)


def write_toyworld_videos(
    folder: str | Path,
    *,
    videos: int = 3,
    frames: int = 12,
    size: int = 128,
    seed: int = 7,
    progress: Progress = silent,
) -> Path:
    """Write toy-world videos in the layout of DAVIS: two figures that cross a moving backdrop, one before the other.

    Args:
        folder: Made if missing; sequences that are there are left alone.
        videos: How many.
        frames: Of each.
        size: Side in pixels.
        seed: Which world.

    Returns:
        The folder.

    Raises:
        InvalidValueError: The folder holds other videos.
    """
    root = Path(folder)
    names = [f"toy-{k:02d}" for k in range(videos)]
    listed, listing = root / "ImageSets" / "2017" / "val.txt", "\n".join(names) + "\n"
    if not (listed.is_file() and listed.read_text(encoding="utf-8") == listing):
        new_folder(listed.parent, [listed.name])
    for k, name in enumerate(progress(names, total=videos, desc="videos")):
        _write_video(root, name, frames, size, seed * 1000 + k)
    if not (listed.is_file() and listed.read_text(encoding="utf-8") == listing):
        write_files(listed.parent, [listed.name], [listing])
    return root


def _write_video(root: Path, name: str, frames: int, size: int, seed: int) -> None:
    from diffeat.datasets.toyworld import Toyworld

    pictures, masks = root / "JPEGImages" / "480p" / name, root / "Annotations" / "480p" / name
    if len(list(masks.glob("*.png"))) == frames:
        return
    for place in (pictures, masks):
        place.mkdir(parents=True, exist_ok=True)
    world, large = Toyworld(seed, size), Toyworld(seed + 1, 2 * size)
    rng = np.random.default_rng(seed)
    backdrop = Image.fromarray(large.sample(0).image)
    figures = [_cut_out(world, start) for start in (10, 200)]
    start, speed = rng.uniform(-0.1, 0.1, (2, 2)), rng.uniform(0.25, 0.45, (2, 2)) * np.array([[1, 0.3], [-1, 0.3]])
    for t in range(frames):
        share = t / max(frames - 1, 1)
        left, top = (round(size * v * share) for v in (0.5, 0.25))
        picture = backdrop.crop((left, top, left + size, top + size))
        numbers = np.zeros((size, size), np.uint8)
        for k, (image, shape) in enumerate(figures):
            x, y = (round(size * v) for v in start[k] + speed[k] * (share - 0.5))
            scale = 0.75 + 0.2 * share * (1 if k else -1)
            side = round(size * scale)
            small, cut = image.resize((side, side), Image.Resampling.BICUBIC), shape.resize((side, side))
            corner = (x + (size - side) // 2, y + (size - side) // 2)
            picture.paste(small, corner, cut)
            layer = Image.new("L", (size, size))
            layer.paste(cut, corner)
            numbers[np.array(layer) > 127] = k + 1
        picture.save(pictures / f"{t:05d}.jpg", quality=95, subsampling=0)
        write_mask(masks / f"{t:05d}.png", numbers)


def _cut_out(world: Toyworld, start: int) -> tuple[Image.Image, Image.Image]:
    """The next whole figure that fills a good part of its picture, and its shape."""
    for index in range(start, start + 100):
        sample = world.sample(index)
        shape = sample.parts > 0
        if not sample.truncated and not sample.occluded and 0.08 < shape.mean() < 0.5:
            return Image.fromarray(sample.image), Image.fromarray((shape * 255).astype(np.uint8))
    raise DatasetError(f"No whole figure among 100 pictures of the toy world from {start} on.")


CARD = DatasetCard(
    "davis",
    "videos",
    read_davis,
    ("train", "val", "test-dev"),
    scored="val",
    page=PAGE,
    options={
        "year": "Of DAVIS' list of sequences, 2016 or 2017 (the default); of VOC, 2012 by default.",
        "resolution": "480p (the default) or Full-Resolution.",
    },
)
