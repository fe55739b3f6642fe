"""Features of a dataset's pictures: each extracted once, kept in a store, read when they are needed."""

from __future__ import annotations

import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar, overload

from PIL import Image

from diffeat.errors import DatasetError
from diffeat.extraction import Summary, extract_to_store
from diffeat.features import FeatureMap, ImageLike, Source
from diffeat.geometry import file_digest, open_image
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore
from diffeat.storage.url import Place, place_of

#: A store, the folder of one (made, or gone on with), or ``None`` for one that is gone afterwards.
Store = str | Place | FeatureStore | None
#: Memory of values that are kept ready: maps at one large grid take hundreds of megabytes.
MOST_BYTES = 4 << 30
V = TypeVar("V")
K = TypeVar("K", bound=Hashable)


class Loads(Protocol):
    """What gives stored features by the picture's name: a feature store, or something that joins its maps."""

    def load(self, key: str, activations: Sequence[str] | None = None) -> FeatureMap: ...


class Kept(OrderedDict[K, V]):
    """The last few values that were made.

    Args:
        most: How many; fewer, two at least, where they take more than ``MOST_BYTES``.
        size: Bytes of a value.
    """

    def __init__(self, most: int, size: Callable[[V], int] = lambda _: 0) -> None:
        super().__init__()
        self._most, self._size = most, size

    def get_or_make(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made if it is not kept."""
        value = self[key] = self.pop(key) if key in self else make()
        while len(self) > self._most or (len(self) > 2 and sum(map(self._size, self.values())) > MOST_BYTES):
            self.popitem(last=False)
        return value


class Features:
    """Features of pictures by path, from a store, with the last few kept ready.

    Args:
        summary: What was extracted and what was there.
        mirrored: Pictures of which there is a copy with left and right exchanged, to the copies.
    """

    def __init__(
        self, store: Loads, summary: Summary | None = None, mirrored: Mapping[Path, Path] | None = None, keep: int = 24
    ) -> None:
        self.summary = summary or Summary()
        self.mirrored = dict(mirrored or {})
        self._store = store
        self._kept: Kept[tuple[str, tuple[str, ...] | None], FeatureMap] = Kept(keep, lambda feature: feature.bytes)

    def load(self, key: str | Path, activations: Sequence[str] | None = None) -> FeatureMap:
        """Features of a picture, by its path."""
        name = Path(key).as_posix()
        chosen = None if activations is None else tuple(activations)
        return self._kept.get_or_make((name, chosen), lambda: self._store.load(name, activations))


@contextmanager
def features_of(
    source: Source[FeatureMap],
    texts: Mapping[Path, str | None],
    store: Store = None,
    *,
    mirror: Sequence[Path] = (),
    dtype: str = "float32",
    keep: int = 24,
    progress: Progress = silent,
) -> Iterator[Features]:
    """Extract every picture that the store does not hold yet, and read them all from there.

    Args:
        texts: Pictures, and the text for each (``None`` is the recipe's own).
        store: Where features rest: a folder (made, or gone on with), an open store, or a temporary folder if not given.
        mirror: Pictures that are also needed with left and right exchanged; the copies are written beside the store.

    Raises:
        DatasetError: A picture cannot be extracted: numbers over the rest would not be comparable.
        StoreError: The store cannot be written, or is of another recipe.
    """
    with ExitStack() as stack:
        if store is None:
            store = Path(stack.enter_context(_temporary())) / "features"
        if not isinstance(store, FeatureStore):
            store = stack.enter_context(FeatureStore.of(store, source, dtype))
        copies = {}
        if mirror:
            beside = store.path.parent if isinstance(store.path, Path) else Path(stack.enter_context(_temporary()))
            copies = mirrored_pictures(mirror, beside / "mirrored")
        texts = {**texts, **{copy: texts[path] for path, copy in copies.items()}}
        summary = extract_to_store(source, list(texts), store, list(texts.values()), progress=progress)
        if summary.failed:
            name, reason = next(iter(summary.failed.items()))
            raise DatasetError(
                f"{len(summary.failed)} of {len(texts)} pictures cannot be used, so there is no comparable number. "
                f"The first is {name}: {reason}"
            )
        yield Features(store, summary, copies, keep)


def each_feature(
    source: Source[FeatureMap],
    images: Sequence[ImageLike],
    text: str | None,
    store: Store = None,
    progress: Progress = silent,
) -> Iterator[FeatureMap]:
    """Features of pictures in their order, all with one text; without a store they are read off and forgotten.

    Args:
        images: Files, or arrays, which are never stored.
    """
    paths = [image for image in images if isinstance(image, Path)]
    if store is None or len(paths) < len(images):
        yield from source.stream(images, text)
        return
    with features_of(source, dict.fromkeys(paths, text), store, keep=0, progress=progress) as features:
        for path in paths:
            yield features.load(path)


def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="diffeat-")


@overload
def feature_folder(folder: Path, source: Source[FeatureMap]) -> Path: ...
@overload
def feature_folder(folder: str | Place, source: Source[FeatureMap]) -> Place: ...
def feature_folder(folder: str | Place, source: Source[FeatureMap]) -> Place:
    """Where the features of a source rest inside a folder of results."""
    return place_of(folder) / f"features-{source.recipe.hash[:12]}"


def mirrored_pictures(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Write mirrored copies (left and right exchanged, PNG) where they are missing; original path to copy, whose name
    tells the path and the content."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = {}
    for path in paths:
        told = hashlib.sha256(f"{path.as_posix()}|{file_digest(path)}".encode()).hexdigest()[:12]
        copy = folder / f"{path.stem}-{told}.png"
        if not copy.exists():
            part = copy.with_suffix(".part")
            open_image(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(part, format="PNG")
            part.replace(copy)
        copies[path] = copy
    return copies
