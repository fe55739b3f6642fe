"""Stores: head, index and shards damaged, exchanged, newer, linked, not files; with the files of others among them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from .bytes import cut, extreme, flip, repeat
from .trial import Case, Refused, Wrong, command
from .values import change, spoil

_STORE = Path("out/store")
_PICTURES = 6
_FOREIGN = "foreign files that stay"


class Stores:
    name = "stores"
    count = 200
    recipes = ("baseline:rgb",)

    def prepare(self, folder: Path) -> None:
        """A store of three shards and two like it, of another recipe and of another dtype."""
        import numpy as np
        from PIL import Image

        (folder / "pictures").mkdir(parents=True)
        for k in range(_PICTURES):
            pixels = np.random.default_rng(k).integers(0, 255, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / f"{k}.png")
        here = os.getcwd()
        os.chdir(folder)
        try:
            _extract("store")
            _extract("recipe", "--set", "stride=4")
            _extract("dtype", "--store-dtype", "float32")
        finally:
            os.chdir(here)

    def case(self, random: Random, seeds: Path) -> Case:
        shutil.copytree(seeds / "pictures", "pictures")
        shutil.copytree(seeds / "store", _STORE)
        Path("outside").mkdir()
        before = _tree(_STORE)
        kind = " + ".join(_damage(random, seeds) for _ in range(random.choice((1, 1, 1, 2))))
        doors: dict[str, Callable[[], object]] = {
            "read": lambda: _read(seeds),
            "verify": lambda: _verify(kind, before, seeds),
            "store": lambda: command("store", str(_STORE)),
            "store --verify": lambda: command("store", str(_STORE), "--verify", good=(0, 1)),
            "extract": lambda: _again(seeds),
        }
        return Case(kind, (str(_STORE), *{f.name for f in _STORE.rglob("*")}), doors)


def _extract(out: str, *options: str) -> None:
    command("extract", "pictures", "-r", "baseline:rgb", "--out", out, "--shard-size", "2", *options)


def _files(role: str) -> list[Path]:
    """The files of a store: its head, its index, or its shards."""
    files = sorted(f for f in _STORE.rglob("*") if f.is_symlink() or f.is_file())
    return [f for f in files if {".json": "head", ".safetensors": "shard"}.get(f.suffix, "index") == role]


def _damage(random: Random, seeds: Path) -> str:
    """Damage one file of a store, or put something beside it; tells what was done."""
    role = random.choice(("head", "index", "index", "shard", "shard", "folder"))
    files = (
        []
        if role == "folder"
        else [f for f in _files(role) if f.is_file() and not f.is_symlink() and f.stat().st_size < 1e6]
    )
    if not files:
        return "folder " + _beside(random, seeds)
    file, data = (choice := random.choice(files)), choice.read_bytes()
    ways: dict[str, Callable[[], bytes | None]] = {
        "flip": lambda: flip(random, data),
        "bit": lambda: _bit(random, data),
        "cut": lambda: cut(random, data),
        "repeat": lambda: repeat(random, data),
        "extreme": lambda: extreme(random, data),
        "empty": lambda: b"",
        "zeros": lambda: bytes(len(data)),
        "noise": lambda: random.randbytes(len(data)),
        "gone": lambda: file.unlink(),
        "exchanged": lambda: _exchange(file, random.choice(files)),
        "copied": lambda: file.with_name(f"copy-{file.name}").write_bytes(data) and None,
        "of another store": lambda: _other(random, file, seeds),
        **{
            what: lambda what=what: _replace(file, what)
            for what in ("fifo", "link", "folder", "endless", "dangling", "huge")
        },
        "mode": lambda: file.chmod(0),
    }
    if role == "head":
        ways |= {
            name: lambda: json.dumps(change(random, json.loads(data)), default=str, skipkeys=True).encode()
            for name in ("json", "json twice", "field")
        }
        ways |= {
            "text": lambda: spoil(random, data.decode()),
            "newer": lambda: data.replace(b'"version": ', b'"version": 9'),
        }
    if role == "index" and file.suffix == ".parquet":
        ways |= {
            "rows": lambda: _rows(random, file),
            "values": lambda: _rows(random, file),
            "newer": lambda: _newer(file),
        }
    way = random.choice(sorted(ways))
    changed = ways[way]()
    if changed is not None:
        file.write_bytes(changed)
    return f"{role} {way}"


def _bit(random: Random, data: bytes) -> bytes:
    """One bit, anywhere."""
    changed = bytearray(data)
    if changed:
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _exchange(one: Path, other: Path) -> None:
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


def _other(random: Random, file: Path, seeds: Path) -> bytes:
    """The file in the same place of another store."""
    twin = seeds / random.choice(("recipe", "dtype")) / file.relative_to(_STORE)
    near = sorted(twin.parent.glob(f"*{file.suffix}"))
    return (twin if twin.exists() else near[0]).read_bytes() if near else b""


def _replace(file: Path, what: str) -> None:
    """Put something that is no regular file in a file's place; a link leads to the same content."""
    outside = Path("outside", file.name).absolute()
    shutil.copy(file, outside)
    size = file.stat().st_size
    file.unlink()
    if what == "fifo":
        os.mkfifo(file)
    elif what == "folder":
        file.mkdir()
        (file / "mine.txt").write_text("mine")
    elif what == "huge":
        with open(file, "wb") as sparse:
            sparse.truncate((1 << 36) + size)
    else:
        os.symlink({"link": outside, "endless": "/dev/zero", "dangling": "nowhere"}[what], file)


def _rows(random: Random, file: Path) -> bytes:
    """A part of the index that is a good file, with other rows."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file).read()
    rows = table.to_pylist()
    if rows and random.random() < 0.7:
        row = random.choice(rows)
        name = random.choice(sorted(row))
        value = row[name]
        row[name] = f"{value}x" if isinstance(value, str) else None if value is None else value + 1
    else:
        rows = random.choice((rows[:-1], rows * 2, rows[::-1], []))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), buffer)
    return buffer.getvalue()


def _newer(file: Path) -> bytes:
    """A part of a format of tomorrow."""
    import io

    import pyarrow.parquet as pq

    table = pq.ParquetFile(file).read()
    metadata = {k: b"99" if b"format" in k or b"version" in k else v for k, v in (table.schema.metadata or {}).items()}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()


def _beside(random: Random, seeds: Path) -> str:
    """Files of others in the store's folders, and folders that are none."""
    what = random.choice(
        (_FOREIGN, "links", "index is a link", "shards is a file", "index gone", "shards gone", "temporaries")
    )
    index, shards = _STORE / "index", _STORE / "shards"
    if what == _FOREIGN:
        for folder in (_STORE, index, shards):
            if folder.is_dir():
                for name in ("notes.txt", ".tmp-mine", ".tmp-notes.txt", "mine.parquet", "mine.safetensors", ".hidden"):
                    (folder / name).write_text("mine")
    elif what == "links":
        Path("outside/mine.safetensors").write_text("mine")
        for folder in (index, shards):
            if folder.is_dir():
                for name in (".tmp-link", f"link.{'parquet' if folder == index else 'safetensors'}"):
                    if not os.path.lexists(folder / name):
                        os.symlink(Path("outside/mine.safetensors").absolute(), folder / name)
    elif what == "temporaries":
        for folder in (_STORE, index, shards):
            if folder.is_dir():
                (folder / ".tmp-folder").mkdir(exist_ok=True)
                (folder / ".tmp-folder" / "mine.txt").write_text("mine")
    elif index.is_dir() and not index.is_symlink() and shards.is_dir():
        folder = shards if "shards" in what else index
        if "link" in what:
            folder.rename("outside/index")
            folder.symlink_to(Path("outside/index").absolute())
        else:
            shutil.rmtree(folder)
            if "file" in what:
                folder.write_text("mine")
    return what


def _tree(folder: Path) -> dict[str, str]:
    """What lies in a folder: digests of files, targets of links."""
    tree = {}
    for entry in sorted(folder.rglob("*")):
        status = entry.lstat()
        content = f"{stat.S_IFMT(status.st_mode)}"
        if entry.is_symlink():
            content += os.readlink(entry)
        elif stat.S_ISREG(status.st_mode) and status.st_size < 1 << 30:
            content += hashlib.sha256(entry.read_bytes()).hexdigest()
        tree[str(entry.relative_to(folder))] = content
    return tree


@lru_cache(1)
def _maps(seeds: Path) -> dict[str, Any]:
    """The features that are in the store, by the pictures' file names."""
    from diffeat.storage import FeatureStore

    return {
        Path(feature.image).name: next(iter(feature.activations.values()))
        for feature in FeatureStore.open(seeds / "store")
    }


def _right(seeds: Path) -> set[str]:
    """The pictures whose features are read, all of them as they were stored.

    Raises:
        Wrong: Others are read.
    """
    import torch

    from diffeat.errors import DiffeatError
    from diffeat.storage import FeatureStore

    expected, right, errors = _maps(seeds), set(), []
    with FeatureStore.open(_STORE) as store:
        for name in store.names():
            try:
                (values,) = store.load(name).activations.values()
            except DiffeatError as error:
                errors.append(error)
                continue
            if Path(name).name not in expected or not torch.equal(values, expected[Path(name).name]):
                raise Wrong(f"other features than were stored are read for {name}")
            right.add(Path(name).name)
    if errors:
        raise errors[0]
    return right


def _read(seeds: Path) -> None:
    """Reading gives what was stored or refuses, and changes nothing."""
    before = _tree(_STORE)
    try:
        _right(seeds)
    finally:
        if _tree(_STORE) != before:
            raise Wrong("reading changed the store")


def _verify(kind: str, original: dict[str, str], seeds: Path) -> None:
    """Every change of the store's own files is noticed."""
    from diffeat.storage import FeatureStore

    with FeatureStore.open(_STORE) as store:
        problems = store.verify().problems
    if any("\n" in problem or len(problem) > 400 for problem in problems):
        raise Wrong(f"a problem of several lines, or a long one: {problems}")
    now = _tree(_STORE)
    twin = seeds / "store"
    changed = sorted(n for n in original if now.get(n) != original[n] and not _same(_STORE / n, twin / n))
    head = _STORE / "store.json"
    if changed == ["store.json"] and head.is_file():
        same = json.loads(head.read_bytes()) == json.loads((seeds / "store" / "store.json").read_bytes())
        changed = [] if same else changed
    both_gone = {Path(name).stem for name in changed if name not in now}
    changed = [
        name
        for name in changed
        if Path(name).stem not in both_gone or name in now or sum(Path(n).stem == Path(name).stem for n in changed) == 1
    ]
    if changed and not problems:
        raise Wrong(f"not noticed by verify: {changed}")


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same, one of them perhaps behind a link."""
    if one.is_dir() and other.is_dir():
        return True
    return one.is_file() and one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def _again(seeds: Path) -> None:
    """Extracting again repairs the store, or refuses and changes nothing; what others own stays."""
    before = _tree(_STORE)
    original = _tree(seeds / "store")
    foreign = {
        k: v
        for k, v in before.items()
        if k not in original and ("mine" in k or "notes" in k or "hidden" in k or "link" in k)
    }
    try:
        _extract(str(_STORE))
    except Refused:
        if _tree(_STORE) != before:
            raise Wrong(
                f"refused, and changed the store: {sorted(set(_tree(_STORE).items()) ^ set(before.items()))}"
            ) from None
        raise
    now = _tree(_STORE)
    if lost := [k for k, v in foreign.items() if now.get(k) != v]:
        raise Wrong(f"files of others are gone or changed: {lost}")
    if (right := _right(seeds)) != set(_maps(seeds)):
        raise Wrong(f"extracted again, it has {sorted(right)} only")
    from diffeat.storage import FeatureStore

    with FeatureStore.open(_STORE) as store:
        problems = [p for p in store.verify().problems if not any(Path(name).name in p for name in foreign)]
    if problems:
        raise Wrong(f"extracted again, it is not whole: {problems}")


PART = Stores()
