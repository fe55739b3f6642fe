"""Workers that are actors of a Ray cluster: as those of one machine, and a machine may be lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from diffeat.distributed.cluster import RayHosts
from diffeat.distributed.workers import Workers, start_workers
from diffeat.errors import ModelError
from diffeat.extraction import Recipe
from support.hostile_workers import Hostile, extracted
from support.stores import FakeSource, content, write_photos

ray: Any = pytest.importorskip("ray")


@pytest.fixture(autouse=True, scope="module")
def _tests_can_be_imported_by_workers() -> Iterator[None]:
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return write_photos(tmp_path / "photos", 20)


def started(start: Callable[[], Any]) -> Any:
    """Ray allows itself half a minute, which a busy machine may not have."""
    for attempt in range(3):
        try:
            return start()
        except Exception as error:
            ray.shutdown()
            reason = f"Ray does not start on a machine as busy as this: {error}"
            time.sleep(attempt)
    pytest.skip(reason)


def test_no_cluster_is_one_line() -> None:
    with pytest.raises(ModelError, match=r"no Ray cluster at '127.0.0.1:1' \(ConnectionRefused.*`ray start --head`"):
        start_workers(Recipe.load("baseline:rgb"), ray="127.0.0.1:1")


@pytest.fixture(scope="module")
def here(_tests_can_be_imported_by_workers: None) -> Iterator[None]:
    """A cluster of this machine, joined by now."""
    memory = {"num_cpus": 2, "object_store_memory": 80 << 20}
    started(lambda: ray.init("local", include_dashboard=False, log_to_driver=False, **memory))
    yield
    ray.shutdown()


def joined(address: str, count: int, **how: Any) -> Workers:
    load = partial(Hostile, **how)
    return Workers(FakeSource().recipe, RayHosts.join(address, count, load, "cpu"), load)


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_actors_write_what_one_process_writes(count: int, tmp_path: Path, photos: list[Path], here: None) -> None:
    """Of two, one is killed in between."""
    photos[7].write_bytes(b"")
    extracted(FakeSource(), photos, tmp_path / "alone")
    with joined("auto", count, once=tmp_path / "killed" if count == 2 else None) as source:
        summary = extracted(source, photos, tmp_path / "s")
        assert extracted(source, photos[:3], tmp_path / "s").present == [p.as_posix() for p in photos[:3]]
    assert (tmp_path / "killed").exists() == (count == 2)
    assert list(summary.failed) == [photos[7].as_posix()]
    assert content(tmp_path / "s") == content(tmp_path / "alone")
    assert ray.is_initialized()  # it was not ours to leave


def test_threads_are_those_that_a_process_would_have(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = {}
    for asked in ("", "1"):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        threads[asked] = RayHosts.join("auto", 1, FakeSource, "cpu")._task.threads
    assert threads == {"": int(ray.cluster_resources()["CPU"]), "1": 1}


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    ray.shutdown()  # the one that was here
    memory = {"object_store_memory": 80 << 20, "num_cpus": 1}
    cluster = started(lambda: Cluster(initialize_head=True, head_node_args=memory))
    cluster.second = started(lambda: cluster.add_node(**memory))
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_a_node_is_lost(tmp_path: Path, cluster: Any) -> None:
    paths = write_photos(tmp_path / "photos", 300)
    extracted(FakeSource(), paths, tmp_path / "alone")

    def lose() -> None:
        while not (tmp_path / "s" / "index").exists() or len(os.listdir(tmp_path / "s" / "index")) < 10:
            time.sleep(0.05)
        cluster.remove_node(cluster.second, allow_graceful=False)

    other = threading.Thread(target=lose)
    with joined(cluster.address, 2, seconds=0.05) as source:
        other.start()
        summary = extracted(source, paths, tmp_path / "s")
    other.join()
    assert not summary.failed
    assert content(tmp_path / "s") == content(tmp_path / "alone")
