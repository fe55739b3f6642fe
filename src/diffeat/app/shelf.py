"""A feature store that the page looks through: names, likeness, and the click on what is stored."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

from diffeat.app.cache import Cache
from diffeat.app.gallery import Entry, Gallery
from diffeat.app.line import Line, while_wanted
from diffeat.app.session import shown_size
from diffeat.errors import InvalidValueError, shown
from diffeat.features import FeatureMap
from diffeat.storage import FeatureStore, Pooled
from diffeat.tasks.correspondence import Lattice, Matching, Target

#: Bytes of features that are kept, of pictures prepared to be searched, and pictures that are pooled when asked.
FEATURES, TARGETS, POOLED = 1 << 28, 1 << 28, 20_000
#: Pictures of the gallery that are looked for in the store.
_MOST_SHOWN = 50_000


class Shelf:
    """
    Args:
        store: Opened to read.
        gallery: Where its pictures may be seen.

    Attributes:
        line: Where pooling waits, of which there is one at a time.
    """

    def __init__(self, store: FeatureStore, gallery: Gallery) -> None:
        self.store = store
        self.line = Line()
        self._gallery = gallery
        self._features: Cache[FeatureMap] = Cache(FEATURES)
        self._targets: Cache[Target] = Cache(TARGETS)
        self._pooled: dict[str | None, Pooled] = {}
        self._entries: dict[str, Entry] | None = None
        self._reading = threading.Lock()

    @property
    def name(self) -> str:
        """What people call it: the last part of its path."""
        return self.store.path.name or str(self.store.path)

    def entry(self, name: str) -> Entry | None:
        """The picture of the gallery that a stored one was read from, if it is there."""
        with self._reading:
            if self._entries is None:
                given = [e for e in self._gallery.entries()[:_MOST_SHOWN] if e.path]
                self._entries = {n: e for e in given if (n := self.store.name_of(e.path)) is not None}
            return self._entries.get(name)

    def features(self, name: str) -> FeatureMap:
        """All maps of a stored picture in float32. Raises as :meth:`FeatureStore.load`."""
        features = self._features.get(name)
        if features is None:
            with self._reading:
                stored = self.store.load(self.store.named(name))
            features = replace(stored, activations={n: m.float() for n, m in stored.activations.items()})
            self._features.put(name, features, features.bytes)
        return features

    def target(self, name: str, map: str | None, *, most: int | None = None) -> Target:
        """A stored picture ready to be searched, at ``most`` pixels where it has more."""
        features = self.features(name)
        original = features.frame.original
        size = original if most is None else shown_size(original, most)
        key = (name, map, size)
        target = self._targets.get(key)
        if target is None:
            target = Target(features, None if size == original else Matching(Lattice(size)), map)
            self._targets.put(key, target, 4 * size[0] * size[1] + features.bytes)
        return target

    def pooled(self, map: str | None) -> Pooled:
        """Pooled features; what is not pooled yet is held in memory.

        Raises:
            InvalidValueError: That is too much for a page.
        """
        if map not in self._pooled:
            self._pooled[map] = self.store.pooled(map, keep=False, progress=self._bounded)
        return self._pooled[map]

    def _bounded(self, items: Sequence[int], total: int, desc: str) -> Iterator[int]:
        if total > POOLED:
            raise InvalidValueError(
                f"{total:,} pictures of {self.name} were never compared, which takes a while the first time. Run "
                f"diffeat store nearest {shown(str(self.store.path))} with the name of any picture; then it is quick."
            )
        yield from while_wanted(items)
