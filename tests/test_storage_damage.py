"""Damage is noticed and repaired by extracting again; what diffeat did not make, or cannot read, is never removed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffeat.errors import DiffeatError, StoreError
from diffeat.extraction import extract_to_store
from diffeat.storage import FeatureStore, compact
from diffeat.storage.head import FORMAT_VERSION, Head
from diffeat.storage.index import Index
from diffeat.storage.layout import IndexName
from diffeat.storage.rows import Row, table_of, to_parquet
from support.stores import FakeSource, content, seen, write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_photos(tmp_path_factory.mktemp("photos"), 12)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    where = tmp_path_factory.mktemp("stores") / "store"
    extract(photos, where)
    return where


@pytest.fixture
def where(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "store")


def extract(photos: list[Path], where: Path, text: str | None = None, **options: bool) -> None:
    source = FakeSource()
    with source.store(where) as store:
        extract_to_store(source, photos, store, text, shard_size=2, **options)


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    file.write_bytes(data)


def files(where: Path, folder: str) -> list[Path]:
    return sorted((where / folder).iterdir())


def flips(folder: str, count: int, where: Path) -> Iterator[tuple[Path, int]]:
    chance = random.Random(folder)
    for number in range(count):
        file = files(where, folder)[number % len(files(where, folder))]
        yield file, chance.randrange(8 * file.stat().st_size)


# --- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "count"), [("shards", 6), ("index", 12)])
def test_every_flipped_bit_is_noticed_and_repaired_by_extracting_again(
    where: Path, photos: list[Path], folder: str, count: int
) -> None:
    whole, right = content(where), seen(where)
    for file, bit in flips(folder, count, where):
        flip(file, bit)
        problems = FeatureStore.open(where).verify().problems
        assert any(file.name in problem for problem in problems), (file, bit)
        store = FeatureStore.open(where)
        for name in right:  # a number that is read is right
            with contextlib.suppress(StoreError):
                read = [value for v in store.load(name).activations.values() for value in v.flatten().tolist()]
                assert read == right[name][2]
        extract(photos, where)
        assert content(where) == whole


def test_every_flipped_bit_of_the_head_is_an_error(where: Path) -> None:
    head = where / "store.json"
    whole = head.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), 300):
        flip(head, bit)
        with pytest.raises(StoreError):
            FeatureStore.open(where)
        head.write_bytes(whole)


def test_the_index_of_a_compacted_store_stands_twice(where: Path) -> None:
    right = seen(where)
    compact(where)
    whole = content(where)
    for file, bit in flips("index", 8, where):
        flip(file, bit)
        assert any(file.name in problem for problem in FeatureStore.open(where).verify().problems)
        assert seen(where) == right
        file.write_bytes(whole[str(file.relative_to(where))])
    for file in files(where, "index"):
        flip(file, 100)
    with pytest.raises(StoreError, match="has changed"):
        seen(where)


def test_a_damaged_index_of_a_compacted_store_is_written_anew_by_compacting(where: Path) -> None:
    right = seen(where)
    compact(where)
    for file in files(where, "index")[:1]:
        flip(file, 99)
    compact(where)
    assert seen(where) == right
    assert FeatureStore.open(where).verify().problems == []


def test_pictures_of_a_damaged_shard_that_are_not_asked_for_stay_listed(where: Path, photos: list[Path]) -> None:
    store = FeatureStore.open(where)
    names = store.names()
    shard = store.index().rows(names[0])[0].shard
    flip(where / "shards" / f"{shard}.safetensors", 9999)
    extract(photos[:1], where)
    (problem,) = FeatureStore.open(where).verify().problems
    assert names[1] in problem
    assert names[0] not in problem
    assert FeatureStore.open(where).names() == names
    extract(photos, where)
    assert FeatureStore.open(where).verify().problems == []


def test_lost_shards_and_parts_are_made_again(where: Path, photos: list[Path]) -> None:
    whole = content(where)
    for folder in ("shards", "index"):
        files(where, folder)[2].unlink()
        assert len(FeatureStore.open(where).verify().problems) == 1
        extract(photos, where)
        assert content(where) == whole


def test_what_a_damaged_part_had_replaced_does_not_come_back(where: Path, photos: list[Path]) -> None:
    old = set(files(where, "index"))
    extract(photos[:1], where, "cat", replace=True)
    (part,) = set(files(where, "index")) - old
    flip(part, 1234)
    with pytest.raises(StoreError, match=r"has changed.*Run the same extraction again"):
        FeatureStore.open(where).load(photos[0].as_posix())
    with pytest.raises(StoreError, match="has changed"):
        compact(where)
    extract(photos[:1], where, "cat", replace=True)
    assert seen(where)[photos[0].as_posix()][1] == "a photo of a cat"


# --- what is not ours -----------------------------------------------------------------------------


def test_a_users_files_are_never_touched(where: Path, photos: list[Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.safetensors"
    elsewhere.write_bytes(b"mine")
    (where / "shards" / f"{'0' * 64}.safetensors").symlink_to(elsewhere)
    (where / "index" / f"7-new-{'0' * 64}.parquet").symlink_to(elsewhere)
    for name in (
        ".tmp-mine",
        ".tmp-notes.txt-host-1",
        "shards/model.safetensors",
        "shards/.tmp-x",
        "index/table.parquet",
    ):
        (where / name).write_bytes(b"mine")
    (where / "index" / ".tmp-a-host-1-0123abcd").mkdir()
    before = content(where)
    extract(photos, where, "cat", replace=True)
    compact(where)
    after = content(where)
    assert {name for name, data in before.items() if data == b"mine"} <= after.keys()
    assert elsewhere.read_bytes() == b"mine"
    assert (where / "index" / ".tmp-a-host-1-0123abcd").is_dir()


@pytest.mark.parametrize("held", [["shards/a.safetensors"], ["index/a.parquet"], ["notes.txt"], [".tmp-mine"]])
def test_a_users_folder_is_no_place_for_a_store(tmp_path: Path, photos: list[Path], held: list[str]) -> None:
    for name in held:
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(b"mine")
    with pytest.raises(StoreError, match="not a feature store"):
        extract(photos, tmp_path / "mine")
    assert content(tmp_path / "mine") == dict.fromkeys(held, b"mine")


def test_a_lost_head_is_said_and_nothing_adopted(where: Path, photos: list[Path]) -> None:
    (where / "store.json").unlink()
    before = content(where)
    for attempt in (lambda: extract(photos, where), lambda: FeatureStore.open(where), lambda: compact(where)):
        with pytest.raises(StoreError, match=r"store\.json.*is lost.*another folder"):
            attempt()
    assert content(where) == before


def test_a_head_of_another_epoch_is_refused_and_nothing_removed(where: Path, photos: list[Path]) -> None:
    old = (where / "store.json").read_bytes()
    compact(where)
    (where / "store.json").write_bytes(old)
    before = content(where)
    for attempt in (lambda: extract(photos, where), lambda: seen(where), lambda: compact(where)):
        with pytest.raises(StoreError, match="does not belong to the index"):
            attempt()
    assert content(where) == before


def part(where: Path, data: bytes) -> Path:
    file = IndexName.of(0, "new", [data]).within(where)
    file.write_bytes(data)
    return file


def rows(where: Path) -> list[Row]:
    return Index.read(where, Head.read(where)).rows(FeatureStore.open(where).names()[0])


def test_parts_of_a_newer_format_or_another_recipe_stop_every_act(
    where: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffeat.storage.rows

    with monkeypatch.context() as patch:
        patch.setattr(diffeat.storage.rows, "FORMAT_VERSION", FORMAT_VERSION + 1)
        newer = to_parquet(table_of(rows(where)), "hash")
    other = to_parquet(table_of(rows(where)), "another")
    for data, message in ((newer, "format version 3; this.*Update"), (other, "another recipe"), (b"PAR1", "no part")):
        file = part(where, data)
        before = content(where)
        for attempt in (lambda: extract(photos, where), lambda: seen(where), lambda: compact(where)):
            with pytest.raises(StoreError, match=message):
                attempt()
        assert FeatureStore.open(where).verify().problems
        assert content(where) == before
        file.unlink()


def test_files_that_may_not_be_read_stop_every_act(
    where: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the tests may read everything: the refusal is the system's in name only."""
    before, regular = content(where), os.open
    for folder in ("index", "shards"):
        forbidden = str(files(where, folder)[0])

        def guarded(file, *arguments, forbidden=forbidden, **named):
            if str(file) == forbidden:
                raise PermissionError(13, "Permission denied")
            return regular(file, *arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", guarded)
            with pytest.raises(StoreError, match=r"cannot be read \(Permission denied\)"):
                extract(photos, where)
            assert any("Permission denied" in problem for problem in FeatureStore.open(where).verify().problems)
        assert content(where) == before


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_opened(where: Path, photos: list[Path], kind: str) -> None:
    make = {"pipe": os.mkfifo, "device": lambda file: os.symlink("/dev/zero", file), "folder": os.mkdir}[kind]
    for file in (files(where, "shards")[0], files(where, "index")[0], where / "store.json"):
        aside = file.rename(file.with_name("aside"))
        make(file)
        for attempt in (lambda: seen_all(where), lambda: extract(photos, where)):
            with pytest.raises(StoreError, match="not a (regular )?file"):
                attempt()
        os.rmdir(file) if kind == "folder" else file.unlink()
        aside.rename(file)
    assert len(seen(where)) == 12


def seen_all(where: Path) -> None:
    for _ in FeatureStore.open(where):
        pass


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"null", b"1", b"[" * 100_000, b"\xff\xfe", b'{"version": 2}', b'{"version": "2"}',
        b'{"version": true}', b'{"version": 9}', b'{"version": 1}', b'{"version": NaN}', b"9" * 5000,
        json.dumps({"version": 2, "recipe": [], "recipe_hash": 1, "dtype": {}, "weights": 0, "epoch": -1}).encode(),
        Head({}, "h", "float61").to_bytes(), Head({}, "h", "float32", epoch=-1).to_bytes(),
    ],
)  # fmt: skip
def test_hostile_heads_are_one_line(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "store.json").write_bytes(text)
    for attempt in (FeatureStore.open, lambda path: FeatureStore.open_or_create(path, {}, "h"), compact):
        with pytest.raises(StoreError) as error:
            attempt(tmp_path)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500
    assert content(tmp_path) == {"store.json": text}


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float61"}, {"row": -1}, {"row": 7}, {"channels": 99}, {"frame": "{"}, {"frame": "[]"},
        {"frame": "{}"}, {"frame": "3"}, {"provenance": "{"}, {"provenance": "3"}, {"shard": "../../x"}, {"crc": -1},
        {"activation": "z"},
    ],
)  # fmt: skip
def test_hostile_rows_are_one_line(where: Path, change: dict[str, object]) -> None:
    """Rows that another program wrote, under a name that tells their digest."""
    evil = [dataclasses.replace(row, generation=9, **change) for row in rows(where)]
    part(where, to_parquet(table_of(evil), "hash"))
    assert FeatureStore.open(where).verify().problems
    with pytest.raises(DiffeatError) as error:
        seen_all(where)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["index", "shards"])
def test_a_store_is_not_written_through_a_link(tmp_path: Path, name: str) -> None:
    photos, where = write_photos(tmp_path / "photos", 2), tmp_path / "store"
    with FeatureStore.of(where, FakeSource()) as store:
        extract_to_store(FakeSource(), photos[:1], store)
    shutil.move(where / name, tmp_path / "elsewhere")
    (where / name).symlink_to(tmp_path / "elsewhere")
    before = content(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is a link"), FeatureStore.of(where, FakeSource()) as store:
        extract_to_store(FakeSource(), photos, store)
    assert content(tmp_path / "elsewhere") == before
