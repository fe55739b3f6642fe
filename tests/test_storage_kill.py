"""A writer killed without warning, again and again, must end with the very bytes of one that never was."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from diffeat.storage import FeatureStore

SHARDS = 150
KILLS = 20


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def run_once(path: Path, kill_after: float | None) -> bool:
    """Write in a child process (forked: it starts in no time); ``True`` if it ended by itself and well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.path.insert(0, str(Path(__file__).parent))
            import storage_worker

            sys.argv = ["storage_worker.py", str(path), str(SHARDS)]
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            storage_worker.main()
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFEXITED(status)


def test_killed_and_resumed_equals_uninterrupted(tmp_path) -> None:
    started = time.perf_counter()
    assert run_once(tmp_path / "whole", None)
    whole_run = time.perf_counter() - started
    rng = random.Random(7)
    killed, seen = 0, set()
    store = tmp_path / "killed"
    for _ in range(10 * KILLS):
        if killed == KILLS:
            break
        if run_once(store, rng.uniform(0, whole_run / 6)):
            # it was through before the kill: take some shards away, so that there is work to interrupt
            for file in sorted((store / "index").iterdir())[:: rng.randint(2, 5)]:
                file.unlink()
            continue
        killed += 1
        seen.add(len(content(store)))
        if FeatureStore.is_store(store):
            reader = FeatureStore.open(store)  # whatever is in the index is whole, at any moment
            assert sum(1 for _ in reader) == len(reader)
    assert killed == KILLS
    assert len(seen) > 3  # the kills hit different moments
    assert run_once(store, None)
    assert content(store) == content(tmp_path / "whole")
    assert not FeatureStore.open(store).verify().problems
