"""Replacing, compacting and merging keep what every name stands for, in whatever order they come."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffeat.errors import StoreError
from diffeat.extraction import extract_to_store
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec
from diffeat.storage import FeatureStore, compact, merge
from support.stores import FakeSource, content, seen, write_photos

FRAME = FrameSpec("squash", size=64).frame((8, 8))


def picture(name: int, version: int) -> FeatureMap:
    return FeatureMap({"a": torch.full((2, 2, 2), 100.0 * version + name)}, FRAME, f"{name}", f"{name}.{version}", {})


def write(path: Path, pictures: list[tuple[int, int]], dtype: str = "int8") -> None:
    with FeatureStore.open_or_create(path, {"a": 1}, "h", dtype) as store:
        store.write_shard([picture(*p) for p in pictures], [f"text {v}" for _, v in pictures])


shards = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=4, unique_by=lambda p: p[0]),
    min_size=1,
    max_size=5,
)


@settings(max_examples=10, deadline=None)
@given(shards, st.integers(1, 4), st.lists(st.booleans(), min_size=5, max_size=5))
def test_replacing_and_compacting_keep_the_last_of_every_name(tmp_path_factory, written, shard_size, compacted) -> None:
    """A dictionary is the model: it keeps the place of a key whose value is replaced, as a store does."""
    where, model = tmp_path_factory.mktemp("s") / "store", {}
    for pictures, now in zip(written, compacted, strict=False):
        write(where, pictures)
        model |= {str(name): (f"{name}.{version}", f"text {version}") for name, version in pictures}
        if now:
            compact(where, shard_size)
        store = FeatureStore.open(where)
        assert store.identities() == model
        for name, (digest, _) in model.items():
            number, version = map(int, digest.split("."))
            assert store.load(name).tensor.flatten()[0] == pytest.approx(100.0 * version + number, rel=0.01)
    values = seen(where)
    compact(where, shard_size)
    assert list(seen(where).items()) == list(values.items())
    report = FeatureStore.open(where).verify()
    assert (report.problems, report.replaced, report.pictures) == ([], 0, len(model))


@settings(max_examples=10, deadline=None)
@given(shards, shards, st.booleans())
def test_merging_keeps_what_both_hold_or_refuses(tmp_path_factory, one, two, compacted) -> None:
    folder = tmp_path_factory.mktemp("s")
    for name, written in (("one", one), ("two", two)):
        for pictures in written:
            write(folder / name, pictures)
    if compacted:
        compact(folder / "one", 2)
    left, right = seen(folder / "one"), seen(folder / "two")
    before = content(folder)
    if any(left[name] != right[name] for name in left.keys() & right.keys()):
        with pytest.raises(StoreError, match="stand for different pictures"):
            merge([folder / "one", folder / "two"], folder / "both")
        assert content(folder) == before
        return
    store = merge([folder / "one", folder / "two"], folder / "both")
    assert seen(folder / "both") == {**left, **right}
    assert store.verify().problems == []
    done = content(folder)
    merge([folder / "one", folder / "two"], folder / "both")
    assert content(folder) == done
    assert before.items() <= done.items()


def test_compacting_gives_space_back_and_joins_small_shards(tmp_path: Path) -> None:
    source, photos = FakeSource(), write_photos(tmp_path / "photos", 9)
    for paths, text in ((photos[:4], None), (photos[4:6], None), (photos[6:], None), (photos[1:2], "cat")):
        with source.store(tmp_path / "store") as store:
            extract_to_store(source, paths, store, text, replace=True, shard_size=4)
    before = seen(tmp_path / "store")
    assert FeatureStore.open(tmp_path / "store").verify().replaced == 0
    done = compact(tmp_path / "store", 4)
    assert (done.pictures, done.shards) == (9, 3)
    assert list(seen(tmp_path / "store").items()) == list(before.items())
    assert len(list((tmp_path / "store" / "shards").iterdir())) == 3
    with source.store(tmp_path / "store") as store:  # and goes on
        assert len(extract_to_store(source, photos[2:], store, shard_size=4).present) == 7
        extract_to_store(source, photos[:1], store, "dog", replace=True)
    again = seen(tmp_path / "store")
    assert list(again) == list(before)
    assert {name for name in again if again[name] != before[name]} == {photos[0].as_posix()}


def test_full_shards_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "s", [(0, 0), (1, 0), (2, 0)])
    write(tmp_path / "s", [(3, 0)])
    before = content(tmp_path / "s" / "shards")
    compact(tmp_path / "s", 3)
    assert content(tmp_path / "s" / "shards") == before


def test_another_run_or_another_recipe_stops_it(tmp_path: Path) -> None:
    write(tmp_path / "one", [(0, 0)])
    write(tmp_path / "two", [(1, 0)], "float32")
    with FeatureStore.open_to_write(tmp_path / "one"):
        with pytest.raises(StoreError, match="Another run is writing"):
            compact(tmp_path / "one")
        with pytest.raises(StoreError, match="Another run is writing"):
            merge([tmp_path / "one"], tmp_path / "one")
    with pytest.raises(StoreError, match="cannot be merged: dtype is float32 there, int8 here"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_a_conflict_is_named(tmp_path: Path) -> None:
    write(tmp_path / "one", [(0, 0), (1, 1)])
    write(tmp_path / "two", [(0, 0), (1, 2)])
    with pytest.raises(StoreError, match=r"1 names stand.*: 1 \(other contents in .*one and .*two\)"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
