"""What a dense head learns from: pieces of pictures by number, and their features, stored or read anew."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffeat.datasets.labelled import MaskSample
from diffeat.datasets.measured import TargetSample
from diffeat.errors import DatasetError, InvalidValueError
from diffeat.extraction import extract_to_store
from diffeat.features import Failed, FeatureMap, Group, Picture, Source, Streams
from diffeat.geometry import Frame, file_digest, open_image
from diffeat.geometry.images import stored_size
from diffeat.geometry.orientation import upright_size
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore
from diffeat.tasks.dense.options import DenseOptions
from diffeat.training.heads.cuts import Cut, drawn
from diffeat.training.heads.truth import Data, Truth

T = TypeVar("T")
#: Batches that are made ready while one is learned from.
_AHEAD = 3


@dataclass(frozen=True)
class Example:
    """A piece of a picture; ``known`` is what is known of its pixels, where it was read to make the cut."""

    sample: MaskSample | TargetSample
    cut: Cut
    known: NDArray | None = None

    @property
    def name(self) -> str:
        """Of its features in a store."""
        path = self.sample.image.as_posix()
        return path if self.cut.plain else f"{path} #{self.cut.key}"

    def picture(self) -> Picture:
        """What is shown to the model; opened when it is needed."""
        path, cut = self.sample.image, self.cut
        if cut.plain:
            return Picture.of(path)

        def digest() -> str:
            return hashlib.sha256(f"{file_digest(path)} {cut.key}".encode()).hexdigest()

        return Picture(self.name, lambda: cut.image(open_image(path)), digest=digest)


class Examples:
    """Examples by number: a pure function of the seed, so that a training that goes on sees what it would have seen.

    Args:
        side: Of crops in pixels; ``None`` for whole pictures.
    """

    def __init__(self, data: Data, truth: Truth, options: DenseOptions, side: int | None) -> None:
        self.data, self.truth, self.options, self.side = data, truth, options, side
        self._orders: dict[int, NDArray] = {}

    def __getitem__(self, number: int) -> Example:
        """The example of this number, from 0, without end; every picture comes once before any comes again."""
        turn, place = divmod(number, len(self.data))
        order = self._orders.get(turn)
        if order is None:
            order = np.random.default_rng((self.options.seed, turn)).permutation(len(self.data))
            self._orders = {**{t: o for t, o in self._orders.items() if t >= turn - 1}, turn: order}
        return self.drawn(int(order[place]), turn % self.options.draws if self.options.draws else turn)

    def drawn(self, which: int, draw: int) -> Example:
        sample = self.data[which]
        rng = np.random.default_rng((self.options.seed, which, draw, 1))
        size = size_of(sample.image)
        known = None
        if self.options.most < 1 and self.side is not None and self.truth.target == "labels":
            known = self.truth.read(sample)
        return Example(sample, drawn(size, self.options, self.side, rng, known), known)

    def all_draws(self) -> Iterator[Example]:
        """Those that are stored: every draw of every picture, once."""
        seen = set[str]()
        for which in range(len(self.data)):
            for draw in range(self.options.draws):
                example = self.drawn(which, draw)
                if example.name not in seen:
                    seen.add(example.name)
                    yield example

    def known(self, example: Example) -> Tensor:
        known = self.truth.read(example.sample) if example.known is None else example.known
        return self.truth.cut(known, example.cut)


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of an upright picture; its pixels are not read."""
    return upright_size(*stored_size(path))


@dataclass(frozen=True)
class Batch:
    """Some examples: maps ``(b, c, h, w)`` by name, what is known of each (…, h, w), and their frames."""

    maps: Mapping[str, Tensor]
    truth: Sequence[Tensor]
    frames: Sequence[Frame]

    def scored(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (b, k, h, w) enlarged, and what is known at the same pixels.

        Pieces of one size are compared at their own pixels, others at those of the model's image.
        """
        first = self.frames[0]
        device = scores.device
        if all(frame == first for frame in self.frames):
            return first.map_to_original(scores.float()), torch.stack(list(self.truth)).to(device)
        width, height = first.model
        fill = 255 if self.truth[0].dtype == torch.uint8 else float("nan")
        pairs = zip(self.frames, self.truth, strict=True)
        known = [frame.map_from_original(t, mode="nearest", fill=fill) for frame, t in pairs]
        enlarged = torch.nn.functional.interpolate(scores.float(), size=(height, width), mode="bilinear")
        return enlarged, torch.stack(known).to(device)


def batch_of(features: Sequence[FeatureMap], truth: Sequence[Tensor], names: Sequence[str]) -> Batch:
    shapes = {tuple(f[name].shape for name in names) for f in features}
    if len(shapes) > 1:
        raise InvalidValueError(
            "Pictures have maps of several sizes, which make no batch: show squares of them (--crop square), or give "
            "the recipe a frame of one size."
        )
    return Batch({n: torch.stack([f[n] for f in features]) for n in names}, truth, [f.frame for f in features])


class Fresh:
    """Batches whose features are read as they are needed, with pictures opened ahead."""

    def __init__(self, examples: Examples, source: Source[FeatureMap], prompt: str | None) -> None:
        self._examples, self._source, self._prompt = examples, source, prompt

    def ready(self, numbers: Sequence[int]) -> tuple[list[Picture], list[Tensor]]:
        """Pictures and what is known of them, opened."""
        examples = [self._examples[n] for n in numbers]
        pictures = [example.picture() for example in examples]
        for picture in pictures:
            _ = picture.image
        return pictures, [self._examples.known(e) for e in examples]

    def batch(self, ready: tuple[list[Picture], list[Tensor]], names: Sequence[str]) -> Batch:
        pictures, truth = ready
        return batch_of(self._source.extract(pictures, self._prompt), truth, names)


class Stored:
    """Batches whose features lie in a store; every draw of every picture is read into it once."""

    def __init__(
        self,
        examples: Examples,
        source: Source[FeatureMap],
        prompt: str | None,
        store: FeatureStore,
        progress: Progress = silent,
    ) -> None:
        self._examples = examples
        pictures = [example.picture() for example in examples.all_draws()]
        summary = extract_to_store(source, pictures, store, prompt, progress=progress)
        if summary.failed:
            name, reason = next(iter(summary.failed.items()))
            raise DatasetError(f"{len(summary.failed)} of {len(pictures)} pictures cannot be used: {name}: {reason}")
        self._pickled, self._local = pickle.dumps(store), threading.local()

    def ready(self, numbers: Sequence[int]) -> tuple[list[FeatureMap], list[Tensor]]:
        """Features and what is known of them, read; each thread has a reader of its own."""
        if not hasattr(self._local, "reader"):
            self._local.reader = pickle.loads(self._pickled)
        examples = [self._examples[n] for n in numbers]
        return [self._local.reader.load(e.name) for e in examples], [self._examples.known(e) for e in examples]

    def batch(self, ready: tuple[list[FeatureMap], list[Tensor]], names: Sequence[str]) -> Batch:
        return batch_of(*ready, names)


Feed = Fresh | Stored


def ahead(make: Callable[[int], T], numbers: Sequence[int]) -> Iterator[T]:
    """``make`` of each number, in their order, a few of them made ready in other threads."""
    with ThreadPoolExecutor(2, "examples") as pool:
        waiting = deque[Any]()
        try:
            for number in numbers:
                waiting.append(pool.submit(make, number))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Remembered(Streams[FeatureMap]):
    """A source whose features are kept in a store, and read from it the next time."""

    def __init__(self, source: Source[FeatureMap], store: FeatureStore) -> None:
        self.recipe, self.fingerprint = source.recipe, source.fingerprint
        self._source, self._store = source, store

    @property
    def precision(self) -> str:
        return self._source.precision

    @property
    def map_names(self) -> tuple[str, ...]:
        return self._source.map_names

    def session(self) -> AbstractContextManager[Any]:
        return self._source.session()

    def group(self, picture: Picture) -> Group:
        return self._source.group(picture)

    def read(self, pictures: Sequence[Picture]) -> Iterator[FeatureMap | Failed]:
        """Features that are stored, and those that are read now."""
        known = self._store.identities() if len(self._store) else {}
        texts = {p.name: self.recipe.text_for(None) if p.text is None else p.text for p in pictures}
        new = [p for p in pictures if known.get(p.name) != (p.digest, texts[p.name])]
        fresh = dict(zip((p.name for p in new), self._source.read(new), strict=True)) if new else {}
        whole = [f for f in fresh.values() if isinstance(f, FeatureMap)]
        if whole:
            here = [replace(f, activations={n: m.cpu() for n, m in f.activations.items()}) for f in whole]
            self._store.write_shard(here, [texts[f.image] for f in here], position=len(self._store))
        for picture in pictures:
            yield fresh[picture.name] if picture.name in fresh else self._store.load(picture.name)
