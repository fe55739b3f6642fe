"""Sources that die, and a driver that can be killed: python -m support.hostile_workers PHOTOS STORE SECONDS."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffeat.distributed.local import LocalHosts
from diffeat.distributed.worker import Task
from diffeat.distributed.workers import Workers
from diffeat.errors import ModelError
from diffeat.extraction import Summary, extract_to_store
from diffeat.features import FeatureMap, Picture
from diffeat.storage import FeatureStore
from diffeat.unheard import give_again
from support.stores import FakeSource


@dataclass
class Hostile(FakeSource):
    """Takes time for a picture; dies at those with ``poison`` in their name, at the first one of all if there is no
    file ``once`` yet.
    """

    seconds: float = 0.0
    poison: str = ""
    once: Path | None = None

    def read(self, pictures: Sequence[Picture]) -> Iterable[FeatureMap]:
        for picture in pictures:
            time.sleep(self.seconds)
            if self.poison and self.poison in picture.name:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.once is not None and not self.once.exists():
                self.once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().read(pictures)


def no_model() -> FakeSource:
    raise ModelError("There is no model here.")


def ends_at_once() -> FakeSource:
    os._exit(3)


def workers(*loads: Callable[[], FakeSource]) -> Workers:
    return Workers(FakeSource().recipe, LocalHosts([Task(load) for load in loads]), loads[0])


def extracted(source: Workers | FakeSource, paths: Sequence[Path], where: Path) -> Summary:
    with FeatureStore.of(where, source) as store:
        return extract_to_store(source, paths, store, shard_size=3)


if __name__ == "__main__":
    give_again()
    load = partial(Hostile, seconds=float(sys.argv[3]))
    try:
        with workers(load, load) as source:
            extracted(source, sorted(Path(sys.argv[1]).iterdir()), Path(sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(130)
