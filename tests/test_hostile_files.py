"""A sample of what ``benchmarks/fuzz.py`` tries: inputs are read, or refused in one line, and nothing else happens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.hostile.models import Models
from benchmarks.hostile.pictures import Pictures
from benchmarks.hostile.recipes import Recipes
from benchmarks.hostile.stores import Stores
from benchmarks.hostile.trial import GOOD, Case, Hang, Part, Refused, Wrong, Yard, try_case
from benchmarks.hostile.workers import findings, table
from diffeat.errors import ImageError

SAMPLES: list[tuple[Part, range]] = [
    (Pictures(large=False), range(100, 200)),
    (Recipes(extracts=False), range(24)),
    (Stores(), range(10)),
    (Models(families=("sd15",)), range(2)),
]


@pytest.mark.parametrize(("part", "cases"), SAMPLES, ids=[part.name for part, _ in SAMPLES])
def test_a_sample_of_hostile_files(part: Part, cases: range, tmp_path: Path) -> None:
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    part.prepare(seeds)
    yard = Yard(tmp_path / "yard")
    records = [try_case(part, 0, index, yard, seeds, seconds=60) for index in cases]
    assert {record.outcome for record in records} <= set(GOOD), findings(records)
    assert len({record.kind for record in records}) > len(records) // 4, "hardly any variety"


def _allocate() -> None:
    assert len(bytearray(1 << 30)) == sum(1 for _ in [0]) << 30  # all of it is written to


def _raise(error: BaseException) -> Callable[[], None]:
    def door() -> None:
        raise error

    return door


def _write(name: str) -> Callable[[], object]:
    return lambda: Path(name).write_text("x")


OUTCOMES = {
    "ok": lambda: None,
    "refused": _raise(ImageError("x.png: cannot be read.")),
    "traceback": _raise(KeyError("x.png")),
    "wrong": _raise(Wrong("x.png is read as another")),
    "memory": _allocate,
    "touched": _write("../canary/x"),
}


@pytest.mark.parametrize(
    ("outcome", "door"),
    [
        *OUTCOMES.items(),
        ("message", _raise(ImageError("cannot be read."))),
        ("message", _raise(Refused(f"x.png: {'x' * 500}"))),
        ("hang", _raise(Hang())),
        ("touched", lambda: shutil.rmtree("../home")),
        ("touched", _write("x.png")),
        ("ok", lambda: (Path("out").mkdir(), _write("out/x")())),
    ],
)
def test_every_outcome_is_told(outcome: str, door: Callable[[], object], tmp_path: Path) -> None:
    class One:
        name, count, recipes = "one", 1, ()

        def prepare(self, folder: Path) -> None: ...

        def case(self, random: object, seeds: Path) -> Case:
            return Case("a kind", ("x.png",), {"door": door})

    record = try_case(One(), 0, 0, Yard(tmp_path), tmp_path)
    assert (record.outcome, record.kind) == (outcome, "a kind")
    assert outcome in table([record])


def test_a_case_depends_on_its_seed_and_number_alone(tmp_path: Path) -> None:
    part, seeds = Pictures(large=False), tmp_path / "seeds"
    seeds.mkdir()
    part.prepare(seeds)

    def made(index: int) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        yard = Yard(tmp_path / "yard")
        try_case(part, 0, index, yard, seeds, begin=lambda _: files.update(_regular(yard.root / "case")))
        return files

    first = [made(index) for index in range(100, 105)]
    assert [made(index) for index in reversed(range(100, 105))] == first[::-1]
    assert len({files.get(name) for files in first for name in files}) > 3


def _regular(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
