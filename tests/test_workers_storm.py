"""Workers and drivers are killed at random moments, again and again: the store ends as that of one quiet process."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from support.hostile_workers import Hostile, extracted, workers
from support.stores import FakeSource, content, write_photos

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_photos(tmp_path_factory.mktemp("photos"), 120)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> dict[str, bytes]:
    where = tmp_path_factory.mktemp("stores") / "alone"
    extracted(FakeSource(), photos, where)
    return content(where)


def test_workers_are_killed_at_twenty_random_moments(
    tmp_path: Path, photos: list[Path], alone: dict[str, bytes]
) -> None:
    chance, kills, over = random.Random(11), 0, threading.Event()
    load = partial(Hostile, seconds=0.02)
    with workers(load, load) as source:

        def kill() -> None:
            """After every third shard, at a random moment of the work that follows. A unit that lost its worker goes
            to the next one at once: kills after every shard would hit it again and again, as a deadly picture does."""
            nonlocal kills
            before = 0
            while not over.is_set():
                done = sum(1 for _ in tmp_path.glob("*/index/*"))
                if abs(done - before) < 3 or not source.ready:
                    time.sleep(0.01)
                    continue
                before = done
                time.sleep(chance.uniform(0, 0.1))
                with contextlib.suppress(IndexError, ProcessLookupError):
                    os.kill(chance.choice(source.ready).process, signal.SIGKILL)
                    kills += 1

        other = threading.Thread(target=kill)
        other.start()
        try:
            for run in range(40):
                where = tmp_path / f"{run}"
                assert not extracted(source, photos, where).failed
                assert content(where) == alone
                if kills >= 20:
                    break
        finally:
            over.set()
            other.join()
    assert kills >= 20


def driver(photos: list[Path], store: Path) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "support.hostile_workers", str(photos[0].parent), str(store), "0.05"]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, start_new_session=True
    )


def ended(session: int) -> bool:
    """Whether no process of a session is left."""
    for _ in range(100):
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def begun(store: Path, shards: int) -> None:
    while not (store / "index").exists() or len(os.listdir(store / "index")) < shards:
        time.sleep(0.02)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_the_driver_is_stopped_and_started_again(
    stop: signal.Signals, tmp_path: Path, photos: list[Path], alone: dict[str, bytes]
) -> None:
    """By Ctrl-C, which all processes of the terminal get, or killed alone; its workers end with it."""
    store = tmp_path / "s"
    for shards in (3, 8, 15):
        process = driver(photos, store)
        begun(store, shards)
        os.killpg(process.pid, stop) if stop == signal.SIGINT else process.kill()
        said = process.communicate()[1]
        assert process.returncode == (130 if stop == signal.SIGINT else -stop)
        assert b"Traceback" not in said, said.decode()
        assert ended(process.pid)
    last = driver(photos, store)
    assert last.communicate()[1] == b""
    assert last.returncode == 0
    assert content(store) == alone
