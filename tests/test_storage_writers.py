"""Several processes write one store side by side; whoever wants it alone waits until they are done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from diffeat.errors import StoreError
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec
from diffeat.storage import FeatureStore, compact, merge
from support.stores import content, seen

FRAME = FrameSpec("squash", size=64).frame((8, 8))
FORK = multiprocessing.get_context("fork")


def picture(number: int) -> FeatureMap:
    return FeatureMap({"a": torch.full((2, 2, 2), float(number))}, FRAME, f"{number:03d}", f"{number}", {})


def opened(path: Path, *, shared: bool = True) -> FeatureStore:
    return FeatureStore.open_or_create(path, {"a": 1}, "h", shared=shared)


def write(path: Path, positions: range, *, shared: bool = True) -> None:
    with opened(path, shared=shared) as store:
        for position in positions:
            store.write_shard([picture(2 * position), picture(2 * position + 1)], position=position)


def test_side_by_side_they_write_what_one_writes_alone(tmp_path: Path) -> None:
    """Nobody made the store before; shards overlap; one is killed in between, and his shards are written again."""
    write(tmp_path / "one", range(12), shared=False)
    workers = [FORK.Process(target=write, args=(tmp_path / "many", r)) for r in (range(8), range(4, 12), range(12))]
    for worker in workers:
        worker.start()
    os.kill(workers[2].pid or 0, signal.SIGKILL)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers[:2]] == [0, 0]
    write(tmp_path / "many", range(12))
    assert content(tmp_path / "many") == content(tmp_path / "one")
    assert seen(tmp_path / "many") == seen(tmp_path / "one")


def hold(path: Path, shared: bool, pipe: Connection) -> None:
    with opened(path, shared=shared):
        pipe.send(None)
        pipe.recv()


@pytest.mark.parametrize("end", ["share", "close"])
def test_who_shares_waits_for_one_who_has_the_store_alone_for_a_moment(tmp_path: Path, end: str, monkeypatch) -> None:
    """He is making it, or the last to leave it: he is done while the other asks a second time."""
    write(tmp_path / "s", range(2))
    other, asked = opened(tmp_path / "s", shared=False), []

    def wait(seconds: float) -> None:
        asked.append(seconds)
        getattr(other, end)()

    monkeypatch.setattr("diffeat.storage.atomic.time.sleep", wait)
    write(tmp_path / "s", range(2, 4))
    other.close()
    assert len(asked) == 1
    assert len(FeatureStore.open(tmp_path / "s")) == 8


def test_acts_on_the_whole_store_are_refused_while_others_write(tmp_path: Path) -> None:
    write(tmp_path / "s", range(2))
    here, there = FORK.Pipe()
    other = FORK.Process(target=hold, args=(tmp_path / "s", True, there))
    other.start()
    here.recv()
    unfinished = tmp_path / "s" / "shards" / ".tmp-x.safetensors-host-1-0123abcd"
    unfinished.write_bytes(b"his")
    before = content(tmp_path / "s")
    for act in (
        lambda: compact(tmp_path / "s"),
        lambda: opened(tmp_path / "s", shared=False),
        lambda: merge([tmp_path / "s"], tmp_path / "s"),
    ):
        with pytest.raises(StoreError, match="Another run is writing to the store"):
            act()
    write(tmp_path / "s", range(2))
    assert content(tmp_path / "s") == before  # what may be his is not removed
    here.send(None)
    other.join()
    write(tmp_path / "s", range(2))  # the last to leave tidies
    assert not unfinished.exists()


def test_who_writes_alone_lets_others_in_when_he_shares(tmp_path: Path) -> None:
    with opened(tmp_path / "s", shared=False) as store:
        store.share()
        assert store.names() == []
        with opened(tmp_path / "s") as other:
            other.write_shard([picture(1)])
        assert store.names() == []
        store.refresh()
        assert store.names() == ["001"]
        store.write_shard([picture(2)], position=1)
    with opened(tmp_path / "s", shared=False), pytest.raises(StoreError, match="writing alone to the store"):
        opened(tmp_path / "s")
    with pytest.raises(StoreError, match="another recipe"):
        FeatureStore.open_or_create(tmp_path / "s", {"a": 2}, "other", shared=True)


def test_a_lock_is_let_go_where_the_interpreter_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path / "store", shared=False)
    store.write_shard([picture(0)])
    with monkeypatch.context() as ending:
        ending.setitem(sys.modules, "fcntl", None)  # nothing can be imported there
        store.close()
    opened(tmp_path / "store", shared=False).close()
