"""Cases in worker processes that may hang, crash or be killed, and the table of what came of them."""

from __future__ import annotations

import csv
import multiprocessing
import os
import resource
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, fields
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

from .trial import GOOD, OUTCOMES, Part, Record, Yard, command, try_case

_SPAWN = multiprocessing.get_context("spawn")
_KEPT = 20
_START = 600  # seconds until a worker has imported everything, on a busy machine
_GONE = 120  # seconds after which a worker will not come back, not even for its own alarm


def get_part(name: str) -> Part:
    """The part of a name, which is its module's."""
    return import_module(f"{__package__}.{name}").PART


def _work(pipe: Connection, name: str, seed: int, root: Path, seeds: Path) -> None:
    """Try the cases whose numbers come through the pipe."""
    null = os.open(os.devnull, os.O_WRONLY)  # also for what decoders print
    os.dup2(null, 1), os.dup2(null, 2)
    part, yard = get_part(name), Yard(root)
    with yard.entered():
        _warm_up(*part.recipes)  # a first case is not to wait for imports, nor to be stopped in one
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (6 << 30), -1))  # the machine is not to suffer
    pipe.send(None)
    while (index := pipe.recv()) is not None:
        record = try_case(part, seed, index, yard, seeds, begin=pipe.send)
        if record.outcome == "hang":  # a busy machine, perhaps
            record = try_case(part, seed, index, yard, seeds)
        pipe.send(record)


def _warm_up(*recipes: str) -> None:
    """Extract a picture in the current folder, so that all is imported that will be."""
    from PIL import Image

    Image.new("RGB", (8, 6)).save("good.png")
    for recipe in recipes:
        command("extract", "good.png", "-r", recipe, "--out", f"out/{recipe}")
        command("store", f"out/{recipe}", "--verify")


class _Worker:
    """A process that tries cases, made anew when it does not come back."""

    def __init__(self, part: Part, seed: int, root: Path, seeds: Path) -> None:
        self._settings = (part.name, seed, root, seeds)
        self.root = root
        self._process = None

    def _start(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self._pipe, end = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_work, args=(end, *self._settings), daemon=True)
        self._process.start()
        end.close()
        if not self._pipe.poll(_START):
            raise RuntimeError("a worker did not start")
        self._pipe.recv()

    def run(self, index: int) -> Record:
        """What came of a case; a worker that is gone or silent is a crash or a hang."""
        if self._process is None:
            self._start()
        self._pipe.send(index)
        record = Record(index, "?")
        try:
            record = self._pipe.recv()
            if self._pipe.poll(_GONE):
                record = self._pipe.recv()
            else:
                record.outcome, record.message = "hang", "does not come back for the alarm"
        except EOFError:
            record.outcome = "crash"
        if record.outcome in ("hang", "crash"):  # what was stopped in the middle is not to be used again
            self._process.kill()
            self._process.join()
            record.message = record.message or f"the process ended with {self._process.exitcode}"
            self._process = None
        return record

    def stop(self) -> None:
        if self._process is not None:
            self._pipe.send(None)
            self._process.join(10)
            self._process.kill()


def run(part: Part, indices: range, seed: int, out: Path, workers: int = 1) -> list[Record]:
    """Try cases; failures are kept under ``out/PART``, the first twenty with their files.

    Args:
        indices: Numbers of the cases; a case depends on its number and the seed only.
    """
    folder = out / part.name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "failures").mkdir(parents=True)
    seeds = folder / "seeds"
    seeds.mkdir()
    part.prepare(seeds)
    todo, records, lock = iter(indices), [], threading.Lock()

    def numbers() -> Iterator[int]:
        while True:
            with lock:
                index = next(todo, None)
            if index is None:
                return
            yield index

    def loop(number: int) -> None:
        worker = _Worker(part, seed, folder / f"yard-{number}", seeds)
        for index in numbers():
            record = worker.run(index)
            with lock:
                records.append(record)
                bad = [r for r in records if r.outcome not in GOOD]
                if record in bad and len(bad) <= _KEPT:
                    _keep(worker.root / "case", folder / "failures" / f"{index}-{record.outcome}")
                if len(records) % max(len(indices) // 20, 1) == 0:
                    print(f"{part.name}: {len(records)} of {len(indices)}, {len(bad)} failures", flush=True)
                    _write(folder, records)
        worker.stop()

    threads = [threading.Thread(target=loop, args=(n,)) for n in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for yard in folder.glob("yard-*"):
        shutil.rmtree(yard, ignore_errors=True)
    _write(folder, records)
    return records


def _write(folder: Path, records: list[Record]) -> None:
    """Write what there is by now."""
    records.sort(key=lambda record: record.index)
    with open(folder / "cases.csv", "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Record)])
        writer.writeheader()
        writer.writerows(asdict(record) for record in records)
    (folder / "table.md").write_text(table(records) + "\n\n" + findings(records), encoding="utf-8")


def _keep(case: Path, target: Path) -> None:
    """Take a case's folder away as it is, whatever it holds."""
    if case.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        os.rename(case, target)
        case.mkdir()


def table(records: list[Record]) -> str:
    """Markdown: cases by group (the first word of their kind) and outcome, with the slowest and the largest."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.kind.partition(" ")[0], []).append(record)
    lines = [f"| | cases | {' | '.join(OUTCOMES)} | most s | most MB |", "|---|" + "--:|" * (len(OUTCOMES) + 3)]
    for name, members in [*sorted(groups.items()), ("**all**", records)]:
        counts = Counter(record.outcome for record in members)
        slow, large = max(r.seconds for r in members), max(r.megabytes for r in members)
        cells = " | ".join(str(counts[outcome] or "") for outcome in OUTCOMES)
        lines.append(f"| {name} | {len(members)} | {cells} | {slow:.1f} | {large:.0f} |")
    return "\n".join(lines)


def findings(records: list[Record]) -> str:
    """Markdown: the failures, those of one place and kind of error together, the most frequent first."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        if record.outcome not in GOOD:
            error = record.message.split(":")[0].split(" | ")[0][:60]
            groups.setdefault((record.outcome, record.place, error), []).append(record)
    lines = []
    for (outcome, where, _), members in sorted(groups.items(), key=lambda item: -len(item[1])):
        kinds = ", ".join(f"{kind} {n}" for kind, n in Counter(r.kind for r in members).most_common(4))
        numbers = ", ".join(str(r.index) for r in members[:4])
        first = members[0]
        lines.append(
            f"- **{outcome}** ×{len(members)} at `{where}` by {first.door} (cases {numbers}; {kinds}): "
            f"`{first.message[:300]!r}`"
        )
    return "\n".join(lines) or "No failures."
