"""Pictures of a store that are alike, against all pairs in float64; names against Python's own patterns."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from diffeat.cli.main import app
from diffeat.errors import InvalidValueError, StoreError, UnknownNameError
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec
from diffeat.storage import FeatureStore, Similar, compact, pooling, similar
from support.stores import content

PADDED = FrameSpec("pad", size=64).frame((80, 40))
NAMES = ("up.1", "mid")


def picture(number: int, version: int = 0, name: str = "") -> FeatureMap:
    generator = torch.Generator().manual_seed(1000 * version + number)
    maps = {"up.1": 10 * torch.randn(5, 8, 8, generator=generator), "mid": torch.randn(3, 4, 4, generator=generator)}
    return FeatureMap(maps, PADDED, name or f"p/{number:03d}.png", f"{number}.{version}", {"recipe_hash": "h"})


def opened(folder: Path | str, **options: bool) -> FeatureStore:
    return FeatureStore.open_or_create(folder, {"a": 1}, "h", **options)


def fill(folder: Path | str, numbers: range, version: int = 0, per_shard: int = 4) -> None:
    with opened(folder) as store:
        for start in range(numbers.start, numbers.stop, per_shard):
            part = range(start, min(start + per_shard, numbers.stop))
            store.write_shard([picture(n, version) for n in part], position=start)


def expected(store: FeatureStore, query: FeatureMap, activations: tuple[str, ...] = NAMES) -> dict[str, float]:
    """The mean over maps of the cosines of means over the rows of cells that hold the picture."""

    def means(feature: FeatureMap) -> list[np.ndarray]:
        maps = [feature[name].double().numpy() for name in activations]
        return [m[:, m.shape[1] // 4 : -m.shape[1] // 4].mean((1, 2)) for m in maps]  # 80×40 in a square

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    return {f.image: float(np.mean([cosine(a, b) for a, b in zip(means(query), means(f), strict=True)])) for f in store}


def check(found: list[Similar], cosines: dict[str, float], k: int) -> None:
    best = sorted(cosines.items(), key=lambda item: -item[1])[:k]
    assert [name for name, _ in found] == [name for name, _ in best]
    assert [c for _, c in found] == pytest.approx([c for _, c in best], abs=2e-6)


def same(one: list[Similar], other: list[Similar]) -> bool:
    return [s.name for s in one] == [s.name for s in other] and [s.cosine for s in one] == pytest.approx(
        [s.cosine for s in other], abs=2e-6
    )


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("similar") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        fill(folder, range(30))
        fill(folder, range(7, 11), version=1)
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(pooling, "_PART_BYTES", 100)  # several files
    monkeypatch.setattr(similar, "_BLOCK_BYTES", 256)  # several blocks


def features_of(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(folder).items() if not name.startswith("pooled")}


def test_the_nearest_are_those_of_all_pairs_and_nothing_else_of_the_store_changes(where: Path) -> None:
    before = features_of(where)
    store = FeatureStore.open(where)
    every = {f.image: f for f in store}
    for name in ("p/000.png", "p/008.png", "p/029.png"):
        cosines = expected(store, every[name])
        assert cosines.pop(name) == pytest.approx(1)
        check(store.nearest(name, 7), cosines, 7)
        check(store.nearest(store.names().index(name), 7), cosines, 7)
        check(store.nearest(every[name].digest, 7), cosines, 7)
        check(store.nearest(every[name], 7), {name: 1.0, **cosines}, 7)
    strange = picture(99)
    check(store.nearest(strange, 50), expected(store, strange), 50)
    check(store.pooled("mid", keep=False).nearest(strange, 3), expected(store, strange, ("mid",)), 3)
    assert features_of(where) == before
    assert len(list((where / "pooled").iterdir())) > 4
    assert store.verify().problems == []
    told = FeatureStore.open(where).pooled(progress=pytest.fail)  # nothing is left to pool
    assert told.exact
    assert told.width == 8
    check(told.nearest(strange), expected(store, strange), 10)


def test_equals_are_told_in_the_order_of_the_store_and_zeros_are_like_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        same = [picture(1, name=f"{name}.png") for name in "cab"]
        zero = FeatureMap({k: 0 * v for k, v in same[0].activations.items()}, PADDED, "zero.png", "z")
        store.write_shard([zero, *same, picture(2)])
        assert [s.name for s in store.nearest("a.png", 2)] == ["c.png", "b.png"]
        assert store.nearest("zero.png", 9) == [Similar(n, 0.0) for n in ("c.png", "a.png", "b.png", "p/002.png")]


def test_what_is_written_replaced_and_compacted_is_pooled_anew_and_only_that(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(12))
    read: list[int] = []

    def counted(items, total: int, desc: str):
        read.append(total)
        return items

    with opened(tmp_path / "s") as store:
        store.pooled(progress=counted)
        store.write_shard([picture(3, version=2), picture(20)], position=50)
        pooled = store.pooled(progress=counted)
        assert read == [12, 12, 2, 2]  # of either map
        check(pooled.nearest("p/003.png", 5), _without(expected(store, picture(3, version=2)), "p/003.png"), 5)
        assert same(store.nearest("p/020.png", 3), pooled.nearest("p/020.png", 3))
        store.write_shard([picture(21)], position=51)
        assert "p/021.png" in dict(store.nearest("p/020.png", 50))  # not the pictures of before
        with pytest.raises(UnknownNameError, match=r"'p/021.png' was stored after"):
            pooled.nearest("p/021.png")
    (tmp_path / "s" / "pooled" / "notes.txt").write_text("mine")
    whole = FeatureStore.open(tmp_path / "s").nearest("p/002.png", 20)
    compact(tmp_path / "s", shard_size=5)
    there = {file.name for file in (tmp_path / "s" / "pooled").iterdir()}
    assert there == {"notes.txt"}  # every shard was written anew
    assert same(FeatureStore.open(tmp_path / "s").nearest("p/002.png", 20), whole)
    assert len(list((tmp_path / "s" / "pooled").iterdir())) > 2
    compact(tmp_path / "s", shard_size=5)
    FeatureStore.open(tmp_path / "s").pooled(progress=pytest.fail)  # shards that stayed keep what was pooled


def _without(cosines: dict[str, float], name: str) -> dict[str, float]:
    return {other: cosine for other, cosine in cosines.items() if other != name}


def test_a_stopped_pooling_is_gone_on_with_and_damage_is_mended(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(12))

    def stopped(items, total: int, desc: str):
        yield from items[:9]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureStore.open(tmp_path / "s").pooled("up.1", progress=stopped)
    left: list[int] = []
    FeatureStore.open(tmp_path / "s").pooled("up.1", progress=lambda items, total, desc: left.append(total) or items)
    assert left == [4]
    right = content(tmp_path / "s")
    files = sorted((tmp_path / "s" / "pooled").iterdir())
    files[0].write_bytes(b"ARROW1")
    data = bytearray(files[1].read_bytes())
    data[len(data) // 2] ^= 1
    files[1].write_bytes(data)
    (tmp_path / "s" / "pooled" / f"{'0' * 64}.arrow").symlink_to(files[0])
    problems = FeatureStore.open(tmp_path / "s").verify().problems
    assert len(problems) == 3
    assert all("Delete it" in problem for problem in problems)
    (tmp_path / "s" / "pooled" / f"{'0' * 64}.arrow").unlink()
    files[1].unlink()
    FeatureStore.open(tmp_path / "s").pooled("up.1")
    assert content(tmp_path / "s") == right


def test_a_folder_that_cannot_be_written_is_compared_all_the_same(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(12))
    (tmp_path / "s" / "pooled").write_text("no folder")
    store = FeatureStore.open(tmp_path / "s")
    check(store.nearest(picture(99), 4), expected(store, picture(99)), 4)
    assert (tmp_path / "s" / "pooled").read_text() == "no folder"


def test_a_store_by_url_and_one_with_a_summary_give_the_same(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(12))
    with opened(tmp_path / "s") as store:
        right = store.nearest("p/002.png", 5)
        store.consolidate()
        store.write_shard([picture(3)])
        assert same(store.nearest("p/002.png", 5), right)
    url = f"memory://{tmp_path.name}/similar"
    fill(url, range(12))
    for _ in range(2):
        assert same(FeatureStore.open(url).nearest("p/002.png", 5), right)


def test_wrong_questions_are_told_from_others(where: Path, tmp_path: Path) -> None:
    store = FeatureStore.open(where)
    with pytest.raises(UnknownNameError, match=r"no picture 'p/00.png'\. Did you mean 'p/0"):
        store.nearest("p/00.png")
    with pytest.raises(InvalidValueError, match="by its number or name, not by 1.5"):
        store.nearest(cast(int, 1.5))
    with pytest.raises(UnknownNameError, match="no number 30"):
        store.nearest(30)
    with pytest.raises(UnknownNameError, match="no activation 'up'"):
        store.pooled("up")
    with pytest.raises(InvalidValueError, match="One picture or more"):
        store.nearest(0, 0)
    other = picture(1)
    other.provenance["recipe_hash"] = "x"
    with pytest.raises(InvalidValueError, match="by another recipe"):
        store.nearest(other)
    with pytest.raises(InvalidValueError, match="no pictures to compare"):
        FeatureStore.create(tmp_path / "empty", {}, "h").nearest(0)
    with opened(tmp_path / "odd") as odd:
        odd.write_shard([FeatureMap({"x": torch.ones(c, 2, 2)}, PADDED, f"{c}", f"{c}") for c in (1, 2)])
        with pytest.raises(StoreError, match="different channels"):
            odd.nearest(0)


def test_above_a_hundred_thousand_faiss_is_asked_and_its_candidates_are_compared_exactly(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similar, "EXACT", 3)
    pooled = FeatureStore.open(where).pooled()
    assert pooled.exact == (find_spec("faiss") is None)

    class Index:  # all of the lists are looked through: what it gives is what is in it
        def __init__(self, vectors: np.ndarray) -> None:
            self.vectors = vectors

        def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            order = np.argsort(-self.vectors @ queries[0])[:k]
            return np.empty((1, k)), np.r_[order[::-1], -1][None]  # -1: fewer were found

    monkeypatch.setattr(similar.Pooled, "exact", False)
    monkeypatch.setattr(similar.Pooled, "_built", lambda self: Index(self.vectors(np.arange(len(self)))))
    check(pooled.nearest(picture(99), 4), expected(FeatureStore.open(where), picture(99)), 4)


@pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")
def test_faiss_finds_the_nearest(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "EXACT", 3)
    store = FeatureStore.open(where)
    assert not store.pooled().exact
    check(store.nearest(picture(99), 4), expected(store, picture(99)), 4)


@pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")
def test_faiss_and_the_exact_search_agree_where_all_lists_are_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.randn(900, 16, 1, 1, generator=torch.Generator().manual_seed(0))  # 30 lists, of which 32 are probed
    with opened(tmp_path / "many") as store:
        store.write_shard([FeatureMap({"x": v}, PADDED, f"{n}", f"{n}") for n, v in enumerate(values)])
        exact = [store.pooled().nearest(n, 5) for n in range(0, 900, 90)]
        monkeypatch.setattr(similar, "EXACT", 3)
        pooled = store.pooled()
        assert not pooled.exact
        assert [pooled.nearest(n, 5) for n in range(0, 900, 90)] == exact


_LETTERS = st.text(st.sampled_from("abA.%_\\/ é\n"), max_size=5)


@settings(max_examples=30, deadline=None)
@given(st.lists(_LETTERS, min_size=1, max_size=8, unique=True), st.lists(st.sampled_from("abA.%_\\*?é"), max_size=4))
def test_names_are_found_as_patterns_and_as_parts(tmp_path_factory, names: list[str], letters: list[str]) -> None:
    text = "".join(letters)
    with opened(tmp_path_factory.mktemp("n") / "s") as store:
        store.write_shard([picture(n, name=f"x{name}") for n, name in enumerate(names)])
        store.write_shard([picture(0, name="late")])
        wild = "*" in text or "?" in text
        right = [n for n in store.names() if (fnmatchcase(n, text) if wild else text.lower() in n.lower())]
        assert store.find(text) == (right, len(right))
        assert store.find(text, 1, 2) == (right[1:3], len(right))
        with pytest.raises(InvalidValueError, match="A page begins"):
            store.find(text, -1)


def test_the_command_line_finds_names_and_nearest_pictures(where: Path, tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["store", *words])
        return result.exit_code, result.output if result.exception is None or result.exit_code == 0 else str(
            result.exception
        )

    assert run("find", str(where), "00?", "--limit", "2")[1].splitlines()[-1] == "0 of 0 names, from 0"
    assert run("find", str(where), "*00?.png", "--limit", "2")[1].splitlines()[:2] == ["p/000.png", "p/001.png"]
    code, out = run("nearest", str(where), "p/004.png", "-k", "3", "-a", "mid")
    best = FeatureStore.open(where).pooled("mid").nearest("p/004.png", 3)
    assert (code, out.splitlines()) == (0, [f"{s.cosine:7.4f}  {s.name}" for s in best])
    assert "no picture 'nothing.png'" in run("nearest", str(where), "nothing.png")[1]
    assert (
        "--recipe would be ignored: 'p/004.png' is in the store"
        in run("nearest", str(where), "p/004.png", "-r", "x")[1]
    )
    (tmp_path / "new.png").write_bytes(b"x")
    assert "needs a recipe" in run("nearest", str(where), str(tmp_path / "new.png"))[1]
    assert "is not the store's" in run("nearest", str(where), str(tmp_path / "new.png"), "-r", "tiny-unet")[1]
