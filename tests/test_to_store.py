"""Extraction into a store: resumable to the same bytes, repairing, failures listed, nothing replaced unless asked."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from diffeat.errors import InvalidValueError, StoreError
from diffeat.extraction import extract_to_store
from diffeat.extraction.filling import Unit, fill
from diffeat.features import Picture
from diffeat.features.places.files import LocalFile
from diffeat.storage import FeatureStore
from support.stores import FakeRecipe, FakeSource, content, seen, write_photos


def test_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    paths, source = write_photos(tmp_path / "photos", 7), FakeSource()
    with source.store(tmp_path / "store") as store:
        first = extract_to_store(source, paths, store, shard_size=3)
    before = content(tmp_path / "store")
    with source.store(tmp_path / "store") as store:
        second = extract_to_store(source, paths, store, shard_size=3)
        assert store.names() == [p.as_posix() for p in paths]
        assert store.verify().problems == []
    assert first.extracted == second.present == [p.as_posix() for p in paths]
    assert second.extracted == []
    assert content(tmp_path / "store") == before
    assert len(source.read_names) == 7


def test_stored_features_are_the_extracted_ones(tmp_path: Path) -> None:
    paths, source = write_photos(tmp_path / "photos", 4), FakeSource()
    with source.store(tmp_path / "store") as store:
        extract_to_store(source, paths, store, ["cat", None, "dog", "cat"], shard_size=3)
    direct = source.extract(paths, ["cat", None, "dog", "cat"])
    stored = FeatureStore.open(tmp_path / "store")
    for path, feature in zip(paths, direct, strict=True):
        loaded = stored.load(path.as_posix())
        assert (loaded.frame, loaded.digest, loaded.provenance) == (feature.frame, feature.digest, feature.provenance)
        assert all(torch.equal(loaded[name], values) for name, values in feature.activations.items())
    assert [text for _, text in stored.identities().values()] == ["a photo of a cat", "", "a photo of a dog"] + [
        "a photo of a cat"
    ]


def test_bad_pictures_are_listed_and_tried_again(tmp_path: Path) -> None:
    paths, source = write_photos(tmp_path / "photos", 6), FakeSource()
    good = paths[1].read_bytes()
    paths[1].write_bytes(good[: len(good) // 2])
    paths[4].write_bytes(b"")
    missing = tmp_path / "photos" / "gone.png"
    with source.store(tmp_path / "store") as store:
        summary = extract_to_store(source, [*paths, missing], store, shard_size=4)
        again = extract_to_store(source, [*paths, missing], store, shard_size=4)
    bad = {paths[1].as_posix(), paths[4].as_posix(), missing.as_posix()}
    assert set(summary.failed) == set(again.failed) == bad
    assert all(name in reason for name, reason in summary.failed.items())
    assert len(summary.extracted) == len(again.present) == 4
    assert again.extracted == []
    before = content(tmp_path / "store")
    paths[1].write_bytes(good)
    with source.store(tmp_path / "store") as store:
        mended = extract_to_store(source, [*paths, missing], store, shard_size=4)
        assert mended.extracted == [paths[1].as_posix()]
        assert len(store) == 5
        assert store.verify().problems == []
    assert before.items() <= content(tmp_path / "store").items()


def test_a_run_in_which_all_fails_makes_no_store(tmp_path: Path) -> None:
    source = FakeSource()
    with source.store(tmp_path / "store") as store:
        assert extract_to_store(source, [tmp_path / "mistyped.png"], store).failed
    assert list(tmp_path.iterdir()) == []


def test_another_content_or_text_is_refused_before_anything_runs(tmp_path: Path) -> None:
    paths, source = write_photos(tmp_path / "photos", 7), FakeSource()
    with source.store(tmp_path / "store") as store:
        extract_to_store(source, paths[:6], store, "cat", shard_size=3)
    before, done = content(tmp_path / "store"), len(source.read_names)
    paths[3].write_bytes(paths[0].read_bytes())
    with source.store(tmp_path / "store") as store:
        with pytest.raises(StoreError, match=r"holds 1 of.*003\.png \(the file has changed\).*--replace"):
            extract_to_store(source, paths, store, "cat", shard_size=3)
        with pytest.raises(
            StoreError, match=r"holds 6 of.*000\.png \(text 'a photo of a cat' there, 'a photo of a dog' here\).*3 more"
        ):
            extract_to_store(source, paths, store, "dog", shard_size=3)
    assert content(tmp_path / "store") == before
    assert len(source.read_names) == done


def test_a_picture_is_replaced_when_asked_and_no_other_is_touched(tmp_path: Path) -> None:
    paths, source = write_photos(tmp_path / "photos", 6), FakeSource()
    with source.store(tmp_path / "store") as store:
        extract_to_store(source, paths, store, shard_size=3)
    old, files = seen(tmp_path / "store"), content(tmp_path / "store")
    paths[4].write_bytes(paths[0].read_bytes())
    with source.store(tmp_path / "store") as store:
        one = extract_to_store(source, paths[4:5], store, replace=True, shard_size=3)
        text = extract_to_store(source, paths[1:2], store, "cat", replace=True, shard_size=3)
        unasked = extract_to_store(source, paths[2:4], store, replace=True, shard_size=3)
    assert one.extracted == [paths[4].as_posix()]
    assert text.extracted == [paths[1].as_posix()]
    assert unasked.extracted == []
    new = seen(tmp_path / "store")
    assert list(new) == list(old)
    assert [name for name in old if old[name] != new[name]] == [paths[1].as_posix(), paths[4].as_posix()]
    assert new[paths[4].as_posix()][2] == old[paths[0].as_posix()][2]
    assert new[paths[1].as_posix()][1] == "a photo of a cat"
    assert files.items() <= content(tmp_path / "store").items()
    with source.store(tmp_path / "store") as store:
        extract_to_store(source, paths[1:2], store, None, replace=True)
    assert seen(tmp_path / "store")[paths[1].as_posix()] == old[paths[1].as_posix()]


def test_a_changed_file_that_cannot_be_read_keeps_what_is_stored(tmp_path: Path) -> None:
    paths, source = write_photos(tmp_path / "photos", 3), FakeSource()
    with source.store(tmp_path / "store") as store:
        extract_to_store(source, paths, store)
        old = seen(tmp_path / "store")
        paths[1].write_bytes(b"")
        paths[2].unlink()
        summary = extract_to_store(source, paths, store, replace=True)
    assert list(summary.failed) == [paths[2].as_posix(), paths[1].as_posix()]
    assert seen(tmp_path / "store") == old


def test_more_files_join_an_old_store(tmp_path: Path) -> None:
    paths, source = write_photos(tmp_path / "photos", 6), FakeSource()
    with source.store(tmp_path / "store") as store:
        extract_to_store(source, paths[2:], store, shard_size=2)
        summary = extract_to_store(source, paths, store, shard_size=4)
        assert summary.extracted == [p.as_posix() for p in paths[:2]]
        assert sorted(store.names()) == [p.as_posix() for p in paths]


def test_pictures_bring_their_names_and_texts_and_their_files_are_hashed_once(tmp_path: Path) -> None:
    paths, source, hashed = write_photos(tmp_path / "photos", 3), FakeSource(), []

    def picture(path: Path, text: str | None) -> Picture:
        return Picture(path.name, lambda: path, text=text, digest=lambda: hashed.append(path) or path.name * 3)

    with source.store(tmp_path / "store") as store:
        extract_to_store(source, [picture(p, t) for p, t in zip(paths, ("x", None, "y"), strict=True)], store)
        assert store.identities() == {p.name: (p.name * 3, t) for p, t in zip(paths, ("x", "", "y"), strict=True)}
    assert sorted(hashed) == paths


def test_one_name_for_two_pictures_is_refused_and_a_picture_listed_twice_is_done_once(tmp_path: Path) -> None:
    paths, source = write_photos(tmp_path / "photos", 2), FakeSource()
    with source.store(tmp_path / "store") as store:
        with pytest.raises(InvalidValueError, match=r"Two pictures with different contents are named a\.png"):
            extract_to_store(source, [Picture("a.png", lambda p=p: p) for p in paths], store)
        with pytest.raises(InvalidValueError, match="different texts are named"):
            extract_to_store(source, paths[:1] * 2, store, ["cat", "dog"])
        assert len(extract_to_store(source, paths[:1] * 2, store).extracted) == len(store) == 1


def test_a_text_that_is_not_unicode_fails_alone_and_a_name_is_made_legible(tmp_path: Path) -> None:
    paths, source = write_photos(tmp_path / "photos", 3), FakeSource()
    odd = paths[0].rename(paths[0].with_name("odd\udcff.png"))
    with source.store(tmp_path / "store") as store:
        summary = extract_to_store(source, [odd, *paths[1:]], store, [None, "c\udcff", None])
        assert len(summary.failed) == 1
        assert [Path(name).name for name in store.names()] == ["odd\\xff.png", paths[2].name]


def test_prompts_must_match_the_images(tmp_path: Path) -> None:
    paths, source = write_photos(tmp_path / "photos", 2), FakeSource()
    with source.store(tmp_path / "store") as store, pytest.raises(InvalidValueError, match="2 images and 1 prompts"):
        extract_to_store(source, paths, store, ["cat"])


def test_a_store_of_another_recipe_or_model_is_refused(tmp_path: Path) -> None:
    paths, source = write_photos(tmp_path / "photos", 1), FakeSource()
    with source.store(tmp_path / "store") as store:
        extract_to_store(source, paths, store)
    other = FakeSource(dataclasses.replace(FakeRecipe(), hash="other"))
    with pytest.raises(StoreError, match="hash hash there, other here"):
        other.store(tmp_path / "store")
    with pytest.raises(StoreError, match="fingerprint model there, other here"):
        FakeSource(fingerprint="other").store(tmp_path / "store")


def test_files_that_are_as_they_were_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, source = write_photos(tmp_path / "photos", 5), FakeSource()
    with source.store(tmp_path / "store") as store:
        extract_to_store(source, paths, store, shard_size=3)
    os.utime(paths[1], ns=(1, 1))
    read: list[str] = []
    digest = LocalFile.digest
    monkeypatch.setattr(LocalFile, "digest", lambda file: read.append(file.path.name) or digest(file))
    with source.store(tmp_path / "store") as store:
        assert len(extract_to_store(source, paths, store, shard_size=3).present) == 5
        assert read == [paths[1].name]
        with pytest.raises(StoreError, match="text '' there, 'a photo of a cat' here"):
            extract_to_store(source, paths[:1], store, "cat")


def test_workers_end_where_the_disk_does_not_hold_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(FakeSource):
        def fill(self, store: FeatureStore, units: Any, done: Any, step: Any) -> None:
            fill(FakeSource(self.recipe), store, units, done, step)

        def of(self, recipe: Any) -> Any:
            return self

    source, photos = Elsewhere(FakeRecipe()), write_photos(tmp_path, 6)
    monkeypatch.setattr("diffeat.extraction.estimate.free_bytes", lambda _: 100)
    with FeatureStore.of(tmp_path / "store", source) as store:
        with pytest.raises(StoreError, match=r"The features of 4 more pictures would take .*, and 100 B are free"):
            extract_to_store(source, photos, store, shard_size=2)
        assert len(store) >= 2  # what was written stays
        monkeypatch.setattr("diffeat.extraction.estimate.free_bytes", lambda _: 10**9)
        summary = extract_to_store(source, photos, store, shard_size=2)
    assert len(summary.present) + len(summary.extracted) == 6


def test_no_thread_stays_where_the_end_of_a_run_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, source = write_photos(tmp_path / "photos", 3), FakeSource()
    before, join, interrupts = set(threading.enumerate()), threading.Thread.join, [KeyboardInterrupt]

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name.startswith("diffeat-pack") and interrupts:
            raise interrupts.pop()
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with source.store(tmp_path / "store") as store, pytest.raises(KeyboardInterrupt) as held:
        extract_to_store(source, paths, store, shard_size=1)
    assert held.tb is not None  # who holds what was raised holds all that it passed
    for thread in set(threading.enumerate()) - before:
        join(thread, 1)
        assert not thread.is_alive(), thread.name


def test_a_full_disk_is_told_before_the_next_shard_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, source, tried = write_photos(tmp_path / "photos", 30), FakeSource(), threading.Event()

    def full(*_: Any, **__: Any) -> None:
        tried.set()
        raise StoreError("full")

    def read(pictures: Any, read: Any = source.read) -> Any:
        assert not source.read_names or tried.wait(10)
        time.sleep(0.01)
        return read(pictures)

    monkeypatch.setattr(FeatureStore, "write_packed", full)
    monkeypatch.setattr(source, "read", read)
    pictures = [Picture.of(path) for path in paths]
    units = [Unit(0, tuple(pictures[:1])), Unit(1, tuple(pictures[1:]))]
    with source.store(tmp_path / "store") as store, pytest.raises(StoreError, match="full"):
        fill(source, store, units, lambda row: None, lambda count: None)
    assert len(source.read_names) < 20
