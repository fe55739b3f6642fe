"""One hostile input, tried by diffeat's public doors in a place that is watched: what came of it, and where."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Protocol
from unittest.mock import patch

import typer

SECONDS = 10
MEGABYTES = 1000
_LENGTH = 400

#: What can come of a case, from good to bad; only the first two are right.
OUTCOMES = ("ok", "refused", "message", "traceback", "hang", "memory", "wrong", "touched", "crash")
GOOD = OUTCOMES[:2]


class Hang(BaseException):
    """Raised by the alarm; no handler of exceptions may take it."""


class Wrong(Exception):
    """It worked, and gave what it must not give."""


class Message(Exception):
    """Refused, but not in the form that is promised: the complaint, and the text."""


class Refused(Exception):
    """The command line said in one line why not."""


Door = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """An input in the current folder.

    Attributes:
        kind: Group and mutation, such as ``"png flip"``.
        names: Words of which a refusal must hold at least one.
        doors: What to try, by name; each is called once.
    """

    kind: str
    names: tuple[str, ...]
    doors: dict[str, Door]


class Part(Protocol):
    """A kind of input.

    Attributes:
        name: What the command line calls it.
        count: Cases of a full run.
        recipes: What its doors extract by.
    """

    name: ClassVar[str]
    count: ClassVar[int]
    recipes: ClassVar[tuple[str, ...]]

    def prepare(self, folder: Path) -> None:
        """Write what all cases are made of; called once."""
        ...

    def case(self, random: Random, seeds: Path) -> Case:
        """Write one input into the current folder, which is empty. What doors write goes under ``out``."""
        ...


@dataclass
class Record:
    """What came of a case."""

    index: int
    kind: str = ""
    outcome: str = "ok"
    door: str = ""
    place: str = ""
    message: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0


class Yard:
    """Where cases are tried: a current folder, HOME and TMPDIR, a canary, and programs that tell they were run.

    Args:
        root: A new folder; gets ``case`` (the current folder), ``home``, ``tmp``, ``canary`` and ``bin``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        for name in ("case", "home", "tmp", "canary", "bin"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "canary" / "keep.txt").write_text("not to be touched")
        for program in ("gs", "djpeg", "sh-canary"):
            script = self.root / "bin" / program
            script.write_text(f'#!/bin/sh\n: > "{self.root}/canary/$(basename "$0")-was-run"\nexit 1\n')
            script.chmod(0o755)
        code = f"import pathlib\npathlib.Path({str(self.root)!r}, 'canary', 'code-was-run').touch()\n"
        (self.root / "bin" / "diffeat_canary.py").write_text(f"{code}\ndef run(*_, **__):\n    return 'a cat'\n")

    @contextlib.contextmanager
    def entered(self) -> Iterator[Path]:
        """The empty folder ``case`` as the current one; settings are put back at the end."""
        before, paths, old = dict(os.environ), list(sys.path), os.getcwd()
        os.environ.update(HOME=str(self.root / "home"), TMPDIR=str(self.root / "tmp"), DIFFEAT_CANARY=str(self.canary))
        os.environ["PATH"] = f"{self.root / 'bin'}{os.pathsep}{before.get('PATH', '')}"
        sys.path.insert(0, str(self.root / "bin"))
        sys.modules.pop("diffeat_canary", None)
        empty(self.root / "case")
        tempfile.tempdir = None  # it remembers TMPDIR
        os.chdir(self.root / "case")
        try:
            yield self.root / "case"
        finally:
            os.chdir(old)
            sys.path[:] = paths
            for name in set(os.environ) - set(before):
                del os.environ[name]
            os.environ.update(before)
            tempfile.tempdir = None

    @property
    def canary(self) -> Path:
        return self.root / "canary"

    def state(self) -> dict[str, tuple[int, ...]]:
        """Every file but those under ``case/out``: kind, size, time of change."""
        found = {}
        for folder, folders, names in os.walk(self.root):
            if folder == str(self.root / "case") and "out" in folders:
                folders.remove("out")
            folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith("torchinductor")]
            for name in (*folders, *names):
                file = os.path.join(folder, name)
                status = os.lstat(file)
                times = () if stat.S_ISDIR(status.st_mode) else (status.st_size, status.st_mtime_ns)
                found[os.path.relpath(file, self.root)] = (status.st_mode, *times)
        return found

    def restore(self) -> None:
        """Empty what cases may have written to."""
        for name in ("home", "tmp", "canary"):
            (self.root / name).mkdir(exist_ok=True)
            empty(self.root / name)
        (self.canary / "keep.txt").write_text("not to be touched")


def empty(folder: Path) -> None:
    """Remove all that a folder holds, whatever it is."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


def try_case(
    part: Part,
    seed: int,
    index: int,
    yard: Yard,
    seeds: Path,
    *,
    seconds: float = SECONDS,
    begin: Callable[[Record], object] = lambda _: None,
) -> Record:
    """Make the case of this seed and number and try it; in the main thread, for the alarm. Never raises.

    Args:
        begin: Called when the case is made, before it is tried.
    """
    record = Record(index)
    with yard.entered():
        case = part.case(Random(f"{part.name} {seed} {index}"), seeds)
        record.kind = case.kind
        begin(record)
        before = yard.state()
        for name, door in case.doors.items():
            _try(record, name, door, case.names, seconds)
            if record.outcome == "hang":
                break
        changed = {k for k, v in yard.state().items() ^ before.items()} - {"case/out"}
        if changed:
            record.outcome, record.place = "touched", ""
            record.message = f"{sorted(changed)[:5]} after: {record.message}"
            yard.restore()
    return record


def _try(record: Record, name: str, door: Door, names: tuple[str, ...], seconds: float) -> None:
    from diffeat.errors import DiffeatError

    def ring(*_: object) -> None:
        if _clock() - start > seconds:
            raise Hang

    low, start = _memory(reset=True), _clock()
    previous = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)  # again and again
        try:
            door()
            outcome, error = "ok", None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Hang as hang:
        outcome, error = "hang", hang
    except MemoryError as memory:
        outcome, error = "memory", memory
    except Wrong as wrong:
        outcome, error = "wrong", wrong
    except Message as message:
        outcome, error = "message", message
    except Refused as refused:
        complaint = manners(str(refused), names)
        outcome, error = ("message", Message(complaint, str(refused))) if complaint else ("refused", refused)
    except DiffeatError as refused:
        complaint = manners(str(refused), names)
        outcome, error = ("message", Message(complaint, str(refused))) if complaint else ("refused", refused)
        error.__traceback__ = refused.__traceback__
    except BaseException as other:
        outcome, error = "traceback", other
    finally:
        signal.signal(signal.SIGALRM, previous)
    peak = (_memory() - low) / 1e6
    record.seconds, record.megabytes = max(record.seconds, _clock() - start), max(record.megabytes, peak)
    if outcome in GOOD and peak > MEGABYTES:
        outcome, error = "memory", MemoryError(f"{peak:.0f} MB; then {outcome}: {error}")
    if OUTCOMES.index(outcome) > OUTCOMES.index(record.outcome):  # the worst of the doors counts
        record.outcome, record.door, record.place = outcome, name, place(error)
        kind = "" if isinstance(error, (Wrong, Message, Refused, DiffeatError)) else f"{type(error).__name__}: "
        record.message = f"{kind}{' | '.join(map(str, error.args)) if error else ''}"[:600]


def manners(message: str, names: tuple[str, ...]) -> str:
    """What is wrong with a refusal's form; empty when nothing is."""
    if any(c in message.strip() for c in "\n\r\x1b\0"):
        return "several lines, or control characters"
    name = max((name for name in names if name in message), key=len, default="")
    if len(message) - len(name) > _LENGTH:
        return f"{len(message)} characters"
    if not any(name in message for name in names):
        return f"names none of {', '.join(names)}"
    return ""


def command(*arguments: str, good: tuple[int, ...] = (0,)) -> None:
    """Run the command line in this process.

    Args:
        good: Exit codes that are right without a message.

    Raises:
        Refused: With the one line that says why.
        Message: It was refused in another form.
    """
    module = import_module("diffeat.cli.main")
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["diffeat", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), patch.object(module, "app", _app()):
            module.main()
        exit_code = 0
    except SystemExit as error:
        exit_code = error.code if isinstance(error.code, int) else 1 if error.code else 0
    finally:
        sys.argv = argv
    text = err.getvalue()
    if "Traceback (most recent call last)" in text + out.getvalue():
        raise Message("prints a traceback", text[-1000:])
    lines = [line for line in text.splitlines() if line.strip()]
    if exit_code in good and not any(line.startswith("Error: ") for line in lines):
        return
    if len(lines) != 1 or not lines[0].startswith("Error: "):
        raise Message(f"exit code {exit_code}, {len(lines)} lines on standard error", text[:1000])
    if exit_code not in (1, 2):
        raise Message(f"exit code {exit_code}", text)
    raise Refused(lines[0].removeprefix("Error: "))


@lru_cache(1)
def _app() -> Any:
    """The commands, which typer would make anew for every call."""
    return typer.main.get_command(import_module("diffeat.cli.main").app)


def place(error: BaseException | None) -> str:
    """The deepest line of diffeat that an error went through, and the deepest of all."""
    if error is None or error.__traceback__ is None:
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{frame.filename}:{frame.lineno}" for frame in frames]
    own = [w.rpartition("/diffeat/")[2] for w in where if "/src/diffeat/" in w or "/site-packages/diffeat/" in w]
    last = "/".join(where[-1].split("/")[-2:]) if where else ""
    return own[-1] + ("" if last.endswith(own[-1].split("/")[-1]) else f" ({last})") if own else last


def _clock() -> float:
    """Seconds that pass while this thread runs or sleeps, but not while it waits for a busy processor."""
    try:
        waited = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        waited = 0.0
    return time.perf_counter() - waited


def _memory(reset: bool = False) -> float:
    """Bytes that this process holds (after a reset of the peak), or held at most since."""
    field = "VmRSS" if reset else "VmHWM"
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux: nothing is measured
        return 0.0
    return float(status.partition(f"{field}:")[2].split()[0]) * 1024
