"""Workers: the same bytes as one process, whatever happens to them; work at which they die ends too."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from diffeat.distributed.schedule import DEATHS, DEPTH, Schedule
from diffeat.distributed.simulate import Costs, simulate
from diffeat.errors import InvalidValueError, ModelError, StoreError
from diffeat.extraction import extract_to_store
from diffeat.extraction.filling import Row, Unit
from diffeat.features import Picture
from diffeat.storage import FeatureStore
from support.hostile_workers import Hostile, ends_at_once, extracted, no_model, workers
from support.stores import FakeSource, content, write_photos

# --- the schedule, without processes -------------------------------------------------------------


def unit(position: int, names: str = "abcd") -> Unit:
    return Unit(position, tuple(Picture(f"{name}{position}", Path) for name in names))


def run(schedule: Schedule, workers: int, dies: Callable[[Unit], bool]) -> tuple[list[Row], list[Unit]]:
    """Workers in turn, each doing the first unit in its hands; those given to each, and what was reported."""
    hands: dict[int, list[Unit]] = {number: [] for number in range(workers)}
    rows: list[Row] = []
    done: list[Unit] = []
    for _ in range(10_000):
        if schedule.over:
            return rows, done
        for number, hand in hands.items():
            while (given := schedule.take(number)) is not None:
                hand.append(given)
            if not hand:
                continue
            first = hand.pop(0)
            if dies(first):
                rows += schedule.lost(number, "killed")
                hand.clear()
                continue
            done.append(first)
            row = schedule.finished(number, Row(first.position, tuple(p.name for p in first.pictures)))
            rows += [row] if row else []
    raise AssertionError("it never ends")


def test_every_unit_is_done_once_and_the_last_ones_are_shared_out() -> None:
    schedule = Schedule(map(unit, range(20)))
    taken = [schedule.take(0) for _ in range(DEPTH + 1)]
    assert [t and t.position for t in taken] == [0, 1, 2, None]
    rows, done = run(Schedule(map(unit, range(20))), 3, lambda _: False)
    assert sorted(row.position for row in rows) == sorted(u.position for u in done) == list(range(20))
    end = Schedule(map(unit, range(3)))
    assert [bool(end.take(worker)) for worker in (0, 0, 1, 1)] == [True, False, True, False]


def test_a_picture_at_which_workers_die_is_listed_and_costs_no_other() -> None:
    rows, done = run(Schedule(map(unit, range(8))), 2, lambda u: any(p.name == "c3" for p in u.pictures))
    by_position = {row.position: row for row in rows}
    assert len(rows) == len(by_position) == 8
    assert by_position[3].extracted == ("a3", "b3", "d3")
    assert list(by_position[3].failed) == ["c3"]
    assert f"{DEATHS} workers ended at this picture" in by_position[3].failed["c3"]
    assert all(len(row.extracted) == 4 and not row.failed for p, row in by_position.items() if p != 3)
    whole = Counter(u.position for u in done if not u.trial)
    assert set(whole.values()) == {1}


def test_a_lone_picture_and_pictures_that_only_kill_together_end_too() -> None:
    deaths: Counter[int] = Counter()

    def dies(u: Unit) -> bool:
        bad = u.position == 0 or (u.position == 1 and len(u.pictures) > 1)
        deaths[u.position] += bad
        return bad

    rows, _ = run(Schedule([unit(0, "a"), unit(1), unit(2)]), 2, dies)
    by_position = {row.position: row for row in rows}
    assert list(by_position[0].failed) == ["a0"]
    assert deaths[0] == DEATHS
    assert list(by_position[1].failed) == ["a1", "b1", "c1", "d1"]
    assert "at no picture alone" in by_position[1].failed["a1"]
    assert by_position[2].extracted == ("a2", "b2", "c2", "d2")


@pytest.mark.parametrize("seed", range(3))
def test_chance_kills_lose_nothing(seed: int) -> None:
    chance = random.Random(seed)
    rows, _ = run(Schedule(map(unit, range(60))), 4, lambda _: chance.random() < 0.1)
    assert sorted(row.position for row in rows) == list(range(60))
    assert not any(row.failed for row in rows)


# --- processes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = write_photos(tmp_path_factory.mktemp("photos"), 20)
    paths[7].write_bytes(b"")
    return paths


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    where = tmp_path_factory.mktemp("stores") / "alone"
    extracted(FakeSource(), photos, where)
    return where


def test_workers_write_what_one_process_writes(tmp_path: Path, photos: list[Path], alone: Path) -> None:
    """Two of three can work: one has no model, and says so in a line. A second run has nothing to do; a third is after
    a picture was mended, which joins without the workers being started anew."""
    with workers(Hostile, no_model, Hostile) as source:
        first = extracted(source, photos, tmp_path / "s")
        assert content(tmp_path / "s") == content(alone)
        assert first.extracted == [p.as_posix() for i, p in enumerate(photos) if i != 7]
        assert list(first.failed) == [photos[7].as_posix()]
        again = extracted(source, [p for p in photos if p != photos[7]], tmp_path / "s")
        assert again.extracted == []
        assert len(again.present) == 19
        more = write_photos(tmp_path / "more", 2, first=50)
        assert len(extracted(source, more, tmp_path / "s").extracted) == 2
        with FeatureStore.of(tmp_path / "s", source) as store, pytest.raises(InvalidValueError, match="cannot be sent"):
            extract_to_store(source, [Picture("own", lambda: photos[0])], store)
    assert FeatureStore.open(tmp_path / "s").verify().problems == []


def test_a_picture_that_kills_is_listed_and_a_worker_that_was_killed_comes_back(
    tmp_path: Path, photos: list[Path]
) -> None:
    load = partial(Hostile, poison="004")
    with workers(load, load) as source:
        summary = extracted(source, photos[:7], tmp_path / "s")
    assert list(summary.failed) == [photos[4].as_posix()]
    assert "it was killed" in summary.failed[photos[4].as_posix()]
    extracted(FakeSource(), [p for p in photos[:7] if p != photos[4]], tmp_path / "other")
    assert len(summary.extracted) == len(FeatureStore.open(tmp_path / "s")) == 6


def test_no_worker_that_can_load_the_model_is_one_line_and_makes_no_store(tmp_path: Path, photos: list[Path]) -> None:
    with workers(no_model, no_model) as source, pytest.raises(ModelError, match=r"^There is no model here\.$"):
        extracted(source, photos, tmp_path / "s")
    with (
        workers(ends_at_once) as source,
        pytest.raises(ModelError, match="3 times it ended while it was loading.*code 3"),
    ):
        extracted(source, photos, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_worker_with_another_model_is_left_out(
    tmp_path: Path, photos: list[Path], alone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with workers(Hostile, partial(Hostile, fingerprint="other")) as source:
        extracted(source, photos, tmp_path / "s")
        kept = source.fingerprint
    if kept == "model":
        assert content(tmp_path / "s") == content(alone)
    assert FeatureStore.open(tmp_path / "s").head.weights == kept


def test_a_second_driver_is_refused(tmp_path: Path, photos: list[Path]) -> None:
    refused: list[str] = []

    def second() -> None:
        while not (tmp_path / "s" / "shards").exists():
            time.sleep(0.01)
        try:
            extracted(FakeSource(), photos, tmp_path / "s")
        except StoreError as error:
            refused.append(str(error))

    other = threading.Thread(target=second)
    other.start()
    with workers(partial(Hostile, seconds=0.05)) as source:
        extracted(source, photos, tmp_path / "s")
    other.join()
    assert "Another run is writing to the store" in refused[0]


# --- the queueing model --------------------------------------------------------------------------


@pytest.mark.parametrize(("units", "count"), [(1, 4), (64, 4), (65, 4), (1000, 64)])
def test_a_simulated_run_ends_when_the_busiest_worker_does(units: int, count: int) -> None:
    assert simulate(units, count, Costs(1.0, start=3.0)).seconds == 3 + -(-units // count)


@pytest.mark.parametrize(("write", "driver"), [(0.02, 0.0), (0.0, 0.03), (0.001, 0.002), (0.05, 0.01)])
def test_a_simulated_run_comes_near_to_its_bound(write: float, driver: float) -> None:
    units, count = 4000, 64
    outcome = simulate(units, count, Costs(1.0, write, driver, spread=0.1))
    bound = units * max(1 / count, write, driver)
    assert bound * 0.99 <= outcome.seconds <= bound * 1.06 + 3
    assert outcome.storage == pytest.approx(units * write / outcome.seconds)
    assert outcome.workers <= 1.0
