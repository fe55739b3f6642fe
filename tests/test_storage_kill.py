"""Whatever moment a writer dies at: nothing that was stored is lost, nothing is stale, and running again ends well."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diffeat.errors import StoreError
from diffeat.extraction import extract_to_store
from diffeat.storage import FeatureStore, compact, merge
from support.stores import FakeSource, content, failing, killed, seen, write_photos


def extract(paths: list[Path], where: Path, text: str | None = None, **options: bool) -> None:
    source = FakeSource()
    with source.store(where) as store:
        extract_to_store(source, paths, store, text, shard_size=2, **options)


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """Processes die here, machines do not: nothing waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_photos(tmp_path_factory.mktemp("photos"), 5)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """Four pictures, of which one was replaced."""
    where = tmp_path_factory.mktemp("stores") / "stored"
    extract(photos[:4], where)
    extract([photos[1]], where, "dog", replace=True)
    return where


Act = Callable[[Path], object]


def acts(photos: list[Path], stored: Path) -> dict[str, tuple[Act, Path | None]]:
    """Acts by name, and the store that each begins with."""
    return {
        "extract": (lambda where: extract(photos, where), None),
        "replace": (lambda where: extract(photos[:3], where, "cat", replace=True), stored),
        "compact": (lambda where: compact(where, shard_size=3), stored),
        "merge": (lambda where: merge([stored, stored.parent / "other"], where), None),
    }


@pytest.fixture(params=["extract", "replace", "compact", "merge"])
def case(request: pytest.FixtureRequest, photos: list[Path], stored: Path) -> tuple[str, Act, Path | None]:
    if request.param == "merge" and not (stored.parent / "other").exists():
        extract([photos[4], photos[3]], stored.parent / "other")
    return (request.param, *acts(photos, stored)[request.param])


def begin(place: Path, start: Path | None) -> Path:
    if start is not None:
        shutil.copytree(start, place)
    return place


def check(where: Path, name: str, before: dict, after: dict) -> None:
    """A reader sees, of every picture, what was before or what is after; and where nothing changes, all of it."""
    now = seen(where)
    assert now.keys() >= before.keys()
    assert all(now[key] in (before.get(key), after[key]) for key in now)
    if name == "compact":
        assert list(now) == list(before)


#: Every third operation shows all kinds of them; the slow tests take each.
EVERY = pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])


@EVERY
def test_killed_at_every_operation(
    case: tuple[str, Act, Path | None], every: int, tmp_path: Path, stored: Path
) -> None:
    name, act, start = case
    whole = begin(tmp_path / "whole", start)
    before = seen(whole)
    act(whole)
    after, files = seen(whole), content(whole)
    assert after != before or name == "compact"
    untouched = content(stored)
    for operation in itertools.count(1, every):
        where = begin(tmp_path / f"{operation}", start)
        if not killed(lambda where=where: act(where), operation):
            break
        check(where, name, before, after)
        act(where)
        assert list(seen(where).items()) == list(after.items())
        assert FeatureStore.open(where).verify().problems == []
        if name != "compact":  # which counts how often it was done
            assert content(where) == files
        shutil.rmtree(where)
    assert operation > 15
    assert content(stored) == untouched


@EVERY
@pytest.mark.parametrize("case", ["replace", "compact"], indirect=True)
def test_failing_at_every_operation(case: tuple[str, Act, Path | None], every: int, tmp_path: Path) -> None:
    name, act, start = case
    whole = begin(tmp_path / "whole", start)
    before = seen(whole)
    act(whole)
    after = seen(whole)
    for operation in itertools.count(1, every):
        where = begin(tmp_path / f"{operation}", start)
        raised = failing(lambda where=where: act(where), operation, errno.ENOSPC)
        if raised is None and seen(where) == after and operation > 15:
            break
        assert raised is None or isinstance(raised, StoreError), operation
        check(where, name, before, after)
        act(where)
        assert seen(where) == after
        shutil.rmtree(where)


def test_killed_at_any_time(tmp_path: Path, photos: list[Path]) -> None:
    """Not between operations but within them: a signal that nobody can catch, at random moments."""
    paths = write_photos(tmp_path / "photos", 40)
    started = time.perf_counter()
    extract(paths, tmp_path / "whole")
    took = time.perf_counter() - started
    chance, kills, where = random.Random(7), 0, tmp_path / "killed"
    for _ in range(60):
        child = os.fork()
        if child == 0:
            extract(paths, where)
            os._exit(0)
        time.sleep(chance.uniform(0, took / 4))
        os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            kills += 1
            assert len(seen(where)) % 2 == 0  # whole shards, which can be read
        else:
            assert content(where) == content(tmp_path / "whole")
            shutil.rmtree(where)
        if kills == 20:
            break
    assert kills
    extract(paths, where)
    assert content(where) == content(tmp_path / "whole")
