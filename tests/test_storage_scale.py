"""Stores of many parts, by URL, as data sets of PyTorch, and in the forms of other programs."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from uuid import uuid4

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from diffeat.errors import InvalidValueError, StoreError, UnknownNameError
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec
from diffeat.storage import FeatureStore, compact, export, index, merge, stamp_of
from diffeat.storage import settle as settling
from diffeat.storage.exports import FORMS
from diffeat.storage.index import Index
from diffeat.storage.url import Url
from support.stores import content, seen

FRAME = FrameSpec("squash", size=64).frame((8, 8))


def picture(number: int, version: int = 0) -> FeatureMap:
    generator = torch.Generator().manual_seed(100 * number + version)
    maps = {name: torch.randn(shape, generator=generator) for name, shape in (("up.1", (2, 3, 4)), ("mid", (1, 2, 2)))}
    return FeatureMap(maps, FRAME, f"p/{number:03d}.png", f"{number}.{version}", {"n": number % 3})


def opened(place: Path | str, **options: bool) -> FeatureStore:
    return FeatureStore.open_or_create(place, {"a": 1}, "h", "float16", **options)


def write(place: Path | str, numbers: range, version: int = 0) -> None:
    with opened(place) as store:
        for number in numbers:
            store.write_shard([picture(number, version)], [f"text {version}"], position=number)


@pytest.fixture(scope="module", autouse=True)
def _few() -> Iterator[None]:
    """Eight parts are many here; nothing waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "MANY", 8)
        patch.setattr(settling, "MANY", 8)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    write(tmp_path_factory.getbasetemp() / "scale", range(10))
    return tmp_path_factory.getbasetemp() / "scale"


@pytest.fixture
def bucket() -> str:
    return f"memory://{uuid4()}/store"


# --- summaries -----------------------------------------------------------------------------------

_WRITES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=14)


@settings(max_examples=15, deadline=None)
@given(_WRITES, st.integers(1, 13))
def test_a_summary_tells_what_its_parts_tell(tmp_path_factory: pytest.TempPathFactory, writes, cut) -> None:
    """Rows read from the parts alone are the reference; a summary at any moment, and parts after it, change nothing."""
    folder = tmp_path_factory.mktemp("s")
    with opened(folder / "s") as store:
        for position, (number, version) in enumerate(writes):
            store.write_shard([picture(number, version), picture(number + 10)], ["a", "b"], position=position % 4)
            if position == cut:
                store.consolidate()
    store = FeatureStore.open(folder / "s")
    parts = Index()
    for name in index.index_names(folder / "s"):
        if name.kind == "new":
            parts.add(index.read_part(folder / "s", name, "h"), name)
    summed = store.index()
    assert (summed.summary is not None) == (cut < len(writes) or len(list((folder / "s" / "index").iterdir())) >= 8)
    assert summed.names() == parts.names()
    assert [summed.at(i) for i in range(len(summed))] == [parts.rows(name) for name in parts.names()]
    assert summed.shards == parts.shards
    assert summed.table()[0].to_pylist() == parts.table()[0].to_pylist()
    assert [summed.named(d) for d in ("1.0", "1.2", "x")] == [parts.named(d) for d in ("1.0", "1.2", "x")]
    assert store.verify().problems == []


def test_many_parts_are_summed_up_unasked_and_however_it_came_about_with_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one", range(20))
    for numbers in (range(9), range(9, 11), range(11, 20)):
        write(tmp_path / "several", numbers)
    assert [p.suffix for p in (tmp_path / "one" / "index").iterdir()].count(".arrow") == 1
    assert content(tmp_path / "several") == content(tmp_path / "one")
    assert FeatureStore.open(tmp_path / "one").index().late == 0


def test_lost_and_damaged_files_of_a_summed_index_are_noticed_and_made_again(where: Path, tmp_path: Path) -> None:
    here = shutil.copytree(where, tmp_path / "s")
    whole, right = content(here), seen(here)
    for file in sorted((here / "index").iterdir())[::3]:
        for damage in (lambda file=file: file.unlink(), lambda file=file: file.write_bytes(b"PAR1")):
            damage()
            os.utime(here / "checked")  # whatever its time tells
            problems = FeatureStore.open(here).verify().problems
            noticed = any(file.name.split("-")[-1][:64] in problem for problem in problems)
            assert noticed or (file.suffix == ".arrow" and not file.exists())  # nothing is lost with a summary
            assert seen(here) == right
            with opened(here) as store:
                assert len(store) == 10
            assert content(here) == whole


def test_a_store_without_room_for_its_summary_is_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("diffeat.storage.summary._write", full)
        write(tmp_path / "s", range(10))
        with opened(tmp_path / "s") as store, pytest.raises(StoreError, match="the disk is full"):
            store.consolidate()
    assert not list((tmp_path / "s" / "index").glob("*.arrow"))
    assert not list(tmp_path.rglob(".tmp*"))
    assert len(FeatureStore.open(tmp_path / "s")) == 10


# --- what needs no reading -----------------------------------------------------------------------


def test_files_that_are_as_they_were_are_known_and_nothing_is_read(tmp_path: Path, monkeypatch) -> None:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        file.write_bytes(b"picture")
    assert stamp_of(files[0]) == ""  # it could change within the tick of its time
    for file in files:
        os.utime(file, ns=(10**18, 10**18))
    stamps = {f"p/00{number}.png": stamp_of(file) for number, file in enumerate(files)}
    with opened(tmp_path / "s") as store:
        store.write_packed([store.packed(picture(n), "text", stamps[f"p/00{n}.png"]) for n in range(2)])
    os.utime(files[1], ns=(10**18, 10**18 + 1))
    stamps["p/001.png"] = stamp_of(files[1])
    for file in (tmp_path / "s").rglob("*"):
        os.utime(file, ns=(10**18, 10**18 + 10**10 * (file.name == "checked")))
    store = FeatureStore.open(tmp_path / "s")
    assert store.known(stamps) == {"p/000.png": ("0.0", "text")}
    with monkeypatch.context() as patch:
        patch.setattr(settling, "check", lambda *_: pytest.fail("a shard was read"))
        assert store.whole(["p/000.png", "p/001.png", "nobody"]) == {"p/000.png", "p/001.png"}
    (shard,) = (tmp_path / "s" / "shards").iterdir()
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + b"x")
    assert store.whole(["p/000.png"]) == set()


# --- data sets of PyTorch ------------------------------------------------------------------------


def test_a_data_set_by_number_and_name(where: Path) -> None:
    store = FeatureStore.open(where)
    maps = store.dataset("up.1")
    assert (len(maps), maps.names) == (10, [picture(n).image for n in range(10)])
    assert torch.equal(maps[3], picture(3)["up.1"].half())
    assert torch.equal(maps[-1], maps["p/009.png"])
    assert torch.equal(maps["p/004.png", (1, 0, 2, 3)], maps[4][:, 1:3, :3])
    assert store.dataset(["mid", "up.1"])[2].keys() == {"mid", "up.1"}
    assert store.dataset("mid", (0, 0, 1, 2), torch.float32)[0].shape == (1, 1, 2)
    array = store.dataset("mid", numpy=True)[5]
    assert array.dtype == np.float16
    assert np.array_equal(array, picture(5)["mid"].half().numpy())
    assert torch.equal(maps[cast(int, np.int64(3))], maps[3])
    assert torch.equal(maps[cast(int, torch.tensor(3))], maps[3])
    with pytest.raises(UnknownNameError, match="10 pictures, no number 10"):
        maps[10]
    with pytest.raises(InvalidValueError, match="by its number or name, not by 1.5"):
        maps[cast(int, 1.5)]
    with pytest.raises(UnknownNameError, match="no activation 'up.2'"):
        store.dataset("up.2")[0]


def test_a_data_set_goes_to_workers(where: Path) -> None:
    maps = pickle.loads(pickle.dumps(FeatureStore.open(where).dataset("mid", dtype=torch.float32)))
    batches = list(DataLoader(maps, batch_size=4, num_workers=2))
    assert torch.equal(torch.cat(batches), torch.stack([maps[number] for number in range(10)]))


# --- other programs ------------------------------------------------------------------------------


def read_numpy(out: Path) -> dict[str, np.ndarray]:
    return {file.relative_to(out).as_posix(): np.load(file) for file in out.rglob("*.npy")}


def read_safetensors(out: Path) -> dict[str, np.ndarray]:
    return {
        f"{file.relative_to(out).with_suffix('').as_posix()}/{name}.npy": values.numpy()
        for file in out.rglob("*.safetensors")
        for name, values in safetensors.torch.load_file(file).items()
    }


def read_webdataset(out: Path) -> dict[str, np.ndarray]:
    found, names = {}, {}
    with tarfile.open(out / "000000.tar") as tar:
        for member in tar:
            data, (key, _, ending) = tar.extractfile(member), member.name.partition(".")
            assert data
            if ending == "json":
                names[key] = json.load(data)["image"]
            else:
                found[f"{names[key]}/{ending}"] = np.load(io.BytesIO(data.read()))
    return found


def read_parquet(out: Path) -> dict[str, np.ndarray]:
    return {
        f"{row['image']}/{name}.npy": np.load(io.BytesIO(row[name]))
        for row in pq.read_table(out / "000000.parquet").to_pylist()
        for name in ("up.1", "mid")
    }


READERS = {
    "numpy": read_numpy, "safetensors": read_safetensors, "webdataset": read_webdataset, "parquet": read_parquet,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_is_exported_is_what_is_stored(form: str, where: Path, tmp_path: Path) -> None:
    """A contract over every form: a form without a reader here fails."""
    assert export(where, tmp_path / "out", form) == 10
    expected = {
        f"{picture(n).image}/{name}.npy": values.half().numpy()
        for n in range(10)
        for name, values in picture(n).activations.items()
    }
    found = READERS[form](tmp_path / "out")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], values) for name, values in expected.items())
    with pytest.raises(InvalidValueError, match="is there already"):
        export(where, tmp_path / "out", form)


def test_exports_stay_inside_their_folder_and_appear_whole(tmp_path: Path, monkeypatch) -> None:
    names = ["/etc/passwd", "../../up.png", "etc/passwd"]
    with opened(tmp_path / "s") as store:
        store.write_shard([FeatureMap(picture(i).activations, FRAME, n, n, {}) for i, n in enumerate(names[:2])])
    export(tmp_path / "s", tmp_path / "out", "numpy", ["mid"])
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.npy")}
    assert files == {"etc/passwd/mid.npy", "__/__/up.png/mid.npy"}
    with opened(tmp_path / "s") as store:
        store.write_shard([FeatureMap(picture(2).activations, FRAME, names[2], "2", {})], position=1)
    with pytest.raises(StoreError, match="would have one file"):
        export(tmp_path / "s", tmp_path / "again", "safetensors")
    with pytest.raises(InvalidValueError, match="Did you mean 'numpy'"):
        export(tmp_path / "s", tmp_path / "again", "nunpy")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(StoreError, match="takes about .* 10 B left"):
        export(tmp_path / "s", tmp_path / "again", "webdataset")
    monkeypatch.undo()
    monkeypatch.setattr(tarfile.TarInfo, "tobuf", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(StoreError, match="the disk is full. The store is as it was"):
        export(tmp_path / "s", tmp_path / "again", "webdataset")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "s"]


# --- object stores -------------------------------------------------------------------------------


def test_a_store_by_url_holds_the_files_of_one_on_disk(where: Path, bucket: str, tmp_path: Path) -> None:
    write(bucket, range(10))
    store = FeatureStore.open(bucket)
    assert [f.digest for f in store] == [f"{n}.0" for n in range(10)]
    assert torch.equal(store.load("p/004.png", ["up.1"], (0, 1, 2, 2)).tensor, picture(4)["up.1"].half()[:, :2, 1:3])
    assert store.verify().problems == []
    merge([bucket], tmp_path / "back")
    shards = {name: data for name, data in content(where).items() if name.startswith("shards")}
    assert shards.items() <= content(tmp_path / "back").items()
    write(bucket, range(4, 6), version=1)
    assert FeatureStore.open(bucket).identities(["p/004.png"]) == {"p/004.png": ("4.1", "text 1")}
    with pytest.raises(StoreError, match="cannot be compacted"):
        compact(bucket)


def test_two_drivers_on_an_object_store_do_no_harm(bucket: str) -> None:
    """There are no locks: both write the same objects, and nothing is ever removed; another recipe is refused."""
    first, second = opened(bucket), opened(bucket)
    other = FeatureStore.open_or_create(bucket, {"a": 2}, "other", "float16")
    for number in range(12):
        for store in (first, second) if number % 3 else (second,):
            store.write_shard([picture(number)], ["text 0"], position=number)
    with pytest.raises(StoreError, match="another recipe: a is 1 there, 2 here"):
        other.write_shard([picture(0)])
    first.close()
    second.close()
    store = FeatureStore.open(bucket)
    assert store.names() == [picture(n).image for n in range(12)]
    assert store.verify().problems == []


def test_a_cut_object_and_a_full_object_store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    write(bucket, range(3))
    system = MemoryFileSystem()
    shard = next(path for path in system.find(bucket) if "shards" in path)
    system.pipe_file(shard, system.cat_file(shard)[:-1])
    store = opened(bucket)
    assert len(store.whole(store.names())) == 2
    with pytest.raises(StoreError, match="truncated or damaged"):
        list(store)

    def full(*_: object, **__: object) -> None:
        raise OSError("QuotaExceeded: no space")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", full)
    with pytest.raises(StoreError, match=r"Cannot write to the store memory:.*QuotaExceeded.*Nothing.*is lost"):
        store.write_shard([picture(7)])
    assert len(FeatureStore.open(bucket)) == 3


def test_urls_that_cannot_be_used_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="There is no protocol 's4'"):
        FeatureStore.open("s4://bucket/features")
    with pytest.raises(StoreError, match=r"memory:///nobody is not a feature store: it has no store\.json"):
        FeatureStore.open("memory://nobody")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(StoreError, match="redentials.*AWS_ACCESS_KEY_ID") as error:
        FeatureStore.open("s3://bucket/without-credentials")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_store_on_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol itself, by moto's server on this machine."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem().mkdir("bucket")
        write("s3://bucket/features", range(10))
        test_two_drivers_on_an_object_store_do_no_harm("s3://bucket/two")
        store = pickle.loads(pickle.dumps(FeatureStore.open("s3://bucket/features")))
        assert torch.equal(store.load("p/004.png")["up.1"], picture(4)["up.1"].half())
        assert store.verify().problems == []
        with pytest.raises(StoreError, match="s3://nobody"):
            opened("s3://nobody/features").write_shard([picture(0)])
    finally:
        server.stop()


def test_no_bucket_is_made_for_a_name_that_may_be_misspelt() -> None:
    class Buckets(MemoryFileSystem):
        protocol = ("s3", "s3a")
        store, pseudo_dirs = {}, [""]

        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            pytest.fail(f"{path} is made")

    objects = Buckets(skip_instance_cache=True)
    Url(objects, "/bucket/features/store.json").write([b"{}"])
    assert objects.cat("/bucket/features/store.json") == b"{}"
