"""A store of a million pictures: opening, reading, going on with it, exporting.

    python benchmarks/store_million.py FOLDER [--pictures 1000000] [--files 100000] [--per-shard 16]

The store is synthetic: tiny maps, written as compacting leaves them, with a file on disk for each
of the first ``--files`` pictures. Every figure is of a process of its own, in seconds of the CPU and by the clock, with
the memory it took beyond what its imports had taken. Exporting is measured on maps of real size (1280×32×32, float16).
What was read is compared with what was written.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec
from diffeat.storage import FeatureStore, export, stamp_of
from diffeat.storage.exports import FORMS
from diffeat.storage.head import Head
from diffeat.storage.index import Index
from diffeat.storage.layout import IndexName, place, sha256_of, shard_file
from diffeat.storage.rows import schema, to_parquet
from diffeat.storage.settle import settle, sum_up
from diffeat.storage.shard import encoded, safetensors_bytes

REAL = 16  # pictures per shard where maps are of real size
FRAME = FrameSpec("squash", size=512).frame((480, 640))
HEAD = Head({"synthetic": True}, "synthetic", "float16", "model")


def name(number: int) -> str:
    return f"train/n{number % 1000:08d}/n{number % 1000:08d}_{number}.JPEG"


def picture(number: int) -> FeatureMap:
    maps = {"up_blocks.1": torch.arange(8.0).reshape(2, 2, 2) + number % 1000}
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return FeatureMap(maps, FRAME, name(number), digest, {"model": "synthetic", "prompt": ""})


def write_store(folder: Path, pictures: int, files: int, per_shard: int) -> None:
    """The store, and files of the pictures, which are old as far as their times tell.

    The rows are those that the store's own writer makes of one picture, with what tells pictures apart put in their
    place by columns.
    """
    import pyarrow as pa

    where = folder / "store"
    for part in (folder / "photos", where / "shards"):
        part.mkdir(parents=True)
    for number in range(files):
        (folder / "photos" / f"{number}").write_bytes(b"picture")
        os.utime(folder / "photos" / f"{number}", (1e9, 1e9))
    maps = [encoded(picture(n), "", HEAD.dtype) for n in range(1000)]
    like = maps[0][0][0]
    columns: dict[str, list[object]] = {field: [] for field in schema().names}
    for position in range(-(-pictures // per_shard)):
        numbers = range(position * per_shard, min(pictures, (position + 1) * per_shard))
        tensors = {f"{place}/{like.activation}": maps[n % 1000][0][1][""] for place, n in enumerate(numbers)}
        chunks = safetensors_bytes(tensors, {"diffeat": str(position)})
        shard = sha256_of(chunks)
        with open(shard_file(where, shard), "wb") as file:
            file.writelines(chunks)
        columns["shard"] += [shard] * len(numbers)
        columns["position"] += [position] * len(numbers)
        columns["size"] += [sum(map(len, chunks))] * len(numbers)
        columns["row"] += range(len(numbers))
    columns["image"] = [name(n) for n in range(pictures)]
    columns["digest"] = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(pictures)]
    columns["stamp"] = [stamp_of(folder / "photos" / f"{n}") if n < files else f"{n}-1" for n in range(pictures)]
    for field in ("minimum", "maximum", "abs_max", "crc"):
        values = [getattr(each[0][0], field) for each in maps]
        columns[field] = [values[n % 1000] for n in range(pictures)]
    for field, values in columns.items():
        columns[field] = values or [getattr(like, field)] * pictures
    table, index = pa.table(columns, schema()), Index()
    for start in range(0, pictures, 1 << 16):
        rows = table.slice(start, 1 << 16)
        data = to_parquet(rows, HEAD.recipe_hash)
        part = IndexName.of(0, "old", [data])
        place(where, (part.within(where), [data]))
        index.add(rows, part)
    replace(HEAD, parts=index.late).write(where)
    sum_up(where, HEAD, index, alone=True)
    time.sleep(3)
    settle(where, HEAD, Index.read(where, HEAD), index.shards)


def open_to_read(folder: Path, pictures: int, files: int) -> Iterator[str]:
    store = FeatureStore.open(folder / "store")
    assert len(store) == pictures
    yield "open to read"
    chosen = random.Random(0).sample(range(pictures), 2000)
    store.load(name(chosen[0]))
    yield "the first map by name"
    for number in chosen:
        assert store.load(name(number)).tensor[0, 0, 0] == number % 1000
    yield f"{len(chosen)} random maps by name"
    for number in chosen:
        assert store.load(number).image == name(number)
    yield f"{len(chosen)} random maps by number"
    assert len(store.names()) == pictures
    yield "all names"


def find_alike(folder: Path, pictures: int, files: int) -> Iterator[str]:
    """Names by the page, pooled features of all, and the nearest of some; what is pooled is removed before."""
    store = FeatureStore.open(folder / "store")
    shutil.rmtree(folder / "store" / "pooled", ignore_errors=True)
    assert store.find("*_77.JPEG").names == [name(77)]
    yield "open, and find a name by its pattern"
    assert store.find("n00000123/", start=10, most=50).total == len(range(123, pictures, 1000))
    yield "a page of names by a part of them"
    pooled = store.pooled()
    yield "pool all features"
    again = FeatureStore.open(folder / "store").pooled()
    yield "open anew what is pooled"
    for number in random.Random(1).sample(range(pictures), 20):
        found = again.nearest(name(number), 5)
        assert all(similar.cosine > 1 - 1e-5 for similar in found)  # a thousandth of all are the same
    yield f"the 5 nearest of 20 pictures, {'exactly' if pooled.exact else 'by faiss'}"


def open_to_write(folder: Path, pictures: int, files: int) -> Iterator[str]:
    store = FeatureStore.open_to_write(folder / "store", HEAD)
    assert name(3) in store
    yield "open to write"
    store.close()
    yield "and close"


def resume(folder: Path, pictures: int, files: int) -> Iterator[str]:
    with FeatureStore.open_to_write(folder / "store", HEAD) as store:
        stamps = {name(n): stamp_of(folder / "photos" / f"{n}") for n in range(files)}
        yield f"look at {files} files"
        known = store.known(stamps)
        assert len(known) == files
        assert len(store.whole(known)) == files
        yield "find them all stored, in whole shards"
    yield "and close"


def export_each(folder: Path, pictures: int, files: int) -> Iterator[str]:
    features = [
        FeatureMap({"up_blocks.1": torch.randn(1280, 32, 32).half()}, FRAME, f"{n}.jpg", f"{n}", {}) for n in range(192)
    ]
    size = sum(feature.bytes for feature in features) / 1e6
    yield ""
    with FeatureStore.create(folder / "real", HEAD.recipe, HEAD.recipe_hash, "float16") as store:
        for position in range(0, len(features), REAL):
            store.write_shard(features[position : position + REAL], position=position // REAL)
        yield f"write {size:.0f} MB"
    for form in FORMS:
        yield ""
        export(folder / "real", folder / form, form)
        yield f"export {size:.0f} MB as {form}"
        shutil.rmtree(folder / form)


ACTS: dict[str, Callable[[Path, int, int], Iterator[str]]] = {
    act.__name__: act for act in (open_to_read, find_alike, open_to_write, resume, export_each)
}


def memory() -> float:
    """Megabytes of this process, those of mapped files that were looked at included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--per-shard", type=int, default=16)
    parser.add_argument("--act", choices=ACTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    options = (arguments.folder, arguments.pictures, arguments.files)
    if arguments.act is None:
        if not arguments.folder.exists():
            arguments.folder.mkdir(parents=True)
            write_store(*options, arguments.per_shard)
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        print(f"{'':44}{'CPU s':>9}{'clock s':>9}{'MB more':>9}")
        for act in ACTS:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--act", act], check=True)
        return
    import pyarrow.parquet  # noqa: F401

    import diffeat.backbones.card  # noqa: F401

    torch.set_num_threads(1)
    before, cpu, clock = memory(), time.process_time(), time.perf_counter()
    for done in ACTS[arguments.act](*options):
        if done:
            spent = time.process_time() - cpu, time.perf_counter() - clock
            print(f"{done:44}{spent[0]:9.3f}{spent[1]:9.3f}{memory() - before:9.0f}", flush=True)
        cpu, clock = time.process_time(), time.perf_counter()


if __name__ == "__main__":
    main()
