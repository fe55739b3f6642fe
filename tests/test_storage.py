"""Feature stores: what goes in comes out, what is damaged is said, what is wrong is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffeat.errors import InvalidValueError, NonFiniteError, StoreError, UnknownNameError
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec
from diffeat.storage import FeatureStore
from diffeat.storage.formats import FORMATS, encode

RECIPE = {"model": "tiny", "trajectory": {"timesteps": [261], "draws": 8}}


def feature(number: int, shapes=((4, 3, 5), (2, 7, 6))) -> FeatureMap:
    generator = torch.Generator().manual_seed(number)
    return FeatureMap(
        activations={f"up_blocks.{i}": torch.randn(s, generator=generator) for i, s in enumerate(shapes)},
        frame=FrameSpec("pad", size=64).frame((30 + number, 20)),
        image=f"folder/{number}.png",
        digest=f"{number:064x}",
        provenance={"prompt": "a photo", "model": "tiny"},
    )


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture
def store(tmp_path):
    with FeatureStore.create(tmp_path / "store", RECIPE, "hash") as made:
        yield made


# --- there and back ------------------------------------------------------------------------------


def test_what_goes_in_comes_out(store) -> None:
    features = [feature(i) for i in range(5)]
    store.write_shard(features[:3], position=0)
    store.write_shard(features[3:], position=1)
    for opened in (store, FeatureStore.open(store.path)):
        assert opened.keys() == [f.digest for f in features]
        assert opened.names() == [f.image for f in features]
        assert opened.activations() == ["up_blocks.0", "up_blocks.1"]
        assert len(opened) == 5
        assert features[2].digest in opened
        assert "nobody" not in opened
        for expected, found in zip(features, opened, strict=True):
            assert (found.frame, found.image, found.digest) == (
                expected.frame,
                expected.image,
                expected.digest,
            )
            assert found.provenance == expected.provenance
            for name, values in expected.activations.items():
                assert torch.equal(found[name], values)
        assert torch.equal(opened.load(features[4].image)["up_blocks.0"], features[4]["up_blocks.0"])


def test_one_activation_and_one_window(store) -> None:
    store.write_shard([feature(0)])
    found = store.load(feature(0).digest, ["up_blocks.1"], window=(2, 1, 4, 3))
    assert list(found.activations) == ["up_blocks.1"]
    assert torch.equal(found.tensor, feature(0)["up_blocks.1"][:, 2:6, 1:4])
    assert found.provenance["window"] == [2, 1, 4, 3]
    for window in [(5, 0, 3, 3), (-1, 0, 2, 2), (0, 0, 0, 1), (0, 4, 2, 3)]:
        with pytest.raises(InvalidValueError, match=r"not inside up_blocks\.1, a grid of 7×6"):
            store.load(feature(0).digest, ["up_blocks.1"], window=window)


shapes = st.lists(st.tuples(*[st.integers(1, 6)] * 3), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(shapes=st.lists(shapes, min_size=1, max_size=4), dtype=st.sampled_from(["float32", "float16", "bfloat16"]))
def test_ragged_shapes_come_back_rounded_to_the_dtype(tmp_path_factory, shapes, dtype) -> None:
    features = [feature(i, s) for i, s in enumerate(shapes)]
    with FeatureStore.create(tmp_path_factory.mktemp("s"), {}, "h", dtype) as store:
        store.write_shard(features)
        found = list(FeatureStore.open(store.path))
        assert not store.verify().problems
    for expected, got in zip(features, found, strict=True):
        for name, values in expected.activations.items():
            assert torch.equal(got[name], values.to(getattr(torch, dtype)))


@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False), min_size=1, max_size=24),
    st.integers(1, 4),
)
def test_int8_error_is_at_most_half_a_step(values, channels) -> None:
    maps = torch.tensor(values * channels).reshape(channels, 1, -1)
    maps = maps * torch.logspace(-3, 3, channels)[:, None, None]
    restored = FORMATS["int8"].decode(encode(maps, FORMATS["int8"], "x")[0])
    bound = maps.abs().amax((1, 2), keepdim=True) / 254
    assert ((restored - maps).abs() <= bound * (1 + 1e-4) + 1e-37).all()


def test_int8_in_a_store(tmp_path) -> None:
    with FeatureStore.create(tmp_path, {}, "h", "int8") as store:
        store.write_shard([feature(0)])
        found = store.load(feature(0).digest)
        window = store.load(feature(0).digest, ["up_blocks.0"], (1, 1, 2, 2))
        assert not store.verify().problems
    assert found["up_blocks.0"].dtype == torch.float32
    assert (found["up_blocks.0"] - feature(0)["up_blocks.0"]).abs().max() < 0.02
    assert torch.equal(window.tensor, found["up_blocks.0"][:, 1:3, 1:3])


def test_a_name_written_again_replaces_one_picture_and_touches_no_other(store) -> None:
    store.write_shard([feature(0), feature(1), feature(2)], ["a", "b", "c"])
    before = content(store.path)
    other = dataclasses.replace(feature(7), image=feature(1).image)
    store.write_shard([other], ["d"], position=5)
    for opened in (store, FeatureStore.open(store.path)):
        assert opened.names() == [feature(i).image for i in range(3)]
        assert opened.identities() == {
            feature(0).image: (feature(0).digest, "a"),
            other.image: (other.digest, "d"),
            feature(2).image: (feature(2).digest, "c"),
        }
        assert torch.equal(opened.load(other.image)["up_blocks.0"], feature(7)["up_blocks.0"])
        assert torch.equal(opened.load(feature(2).image)["up_blocks.0"], feature(2)["up_blocks.0"])
        assert feature(1).digest not in opened
        assert not opened.verify().problems
    assert before.items() <= content(store.path).items()
    store.write_shard([feature(1)], ["b"])
    assert store.identities()[other.image] == (feature(1).digest, "b")


def test_a_picture_is_known_by_the_tail_of_its_path(store, tmp_path, monkeypatch) -> None:
    store.write_shard([feature(0), dataclasses.replace(feature(1), image="0.png")])
    monkeypatch.chdir(tmp_path)
    assert store.name_of("folder/0.png") == store.name_of(tmp_path / "folder" / "0.png") == "folder/0.png"
    assert store.name_of("/elsewhere/folder/0.png") == "folder/0.png"
    assert store.name_of("other/0.png") == store.name_of("./0.png") == "0.png"
    assert store.name_of("folder/1.png") is None


def test_a_store_is_made_by_its_first_shard(tmp_path) -> None:
    where = tmp_path / "deep" / "store"
    with FeatureStore.open_or_create(where, RECIPE, "hash") as store:
        assert store.names() == []
    assert list(tmp_path.iterdir()) == []
    with FeatureStore.open_or_create(where, RECIPE, "another") as store:
        store.write_shard([feature(0)])
    with pytest.raises(StoreError, match="another recipe"):
        FeatureStore.open_or_create(where, RECIPE, "hash")


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_a_store_that_was_read_goes_to_other_processes(store, start) -> None:
    store.write_shard([feature(0), feature(1)])
    store.load(feature(0).image)
    again = pickle.loads(pickle.dumps(store))
    assert torch.equal(again.load(feature(1).image)["up_blocks.0"], feature(1)["up_blocks.0"])
    with pytest.raises(StoreError, match="read only"):
        again.write_shard([feature(2)])
    with multiprocessing.get_context(start).Pool(1) as pool:
        assert pool.map(store.load, [feature(1).image])[0].digest == feature(1).digest
        store.close()  # although a forked child has the folder open
        FeatureStore.open_or_create(store.path, RECIPE, "hash").close()


def test_a_forked_child_does_not_write_by_its_parents_right(store) -> None:
    def write() -> None:
        with contextlib.suppress(StoreError):
            store.write_shard([feature(0)])

    child = multiprocessing.get_context("fork").Process(target=write)
    child.start()
    child.join()
    assert content(store.path).keys() == {"store.json"}


def test_maps_that_share_memory_are_stored(store) -> None:
    one = feature(0)
    one.activations["up_blocks.1"] = one.activations["up_blocks.0"]
    store.write_shard([one])
    assert torch.equal(store.load(one.image)["up_blocks.1"], one["up_blocks.0"])


def test_the_same_features_give_the_same_bytes(tmp_path) -> None:
    for name in "ab":
        with FeatureStore.create(tmp_path / name, RECIPE, "hash", "bfloat16") as store:
            store.write_shard([feature(0), feature(1)], position=3)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_bytes_do_not_depend_on_the_process(tmp_path) -> None:
    for name, seed in (("a", "1"), ("b", "2")):
        worker = Path(__file__).with_name("storage_worker.py")
        subprocess.run(
            [sys.executable, worker, tmp_path / name, "2"],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
    assert content(tmp_path / "a") == content(tmp_path / "b")


# --- feature maps --------------------------------------------------------------------------------


def test_the_only_map() -> None:
    assert feature(0, [(1, 2, 3)]).tensor.shape == (1, 2, 3)
    with pytest.raises(InvalidValueError, match="2 maps, not one"):
        _ = feature(0).tensor
    with pytest.raises(UnknownNameError, match=r"Did you mean 'up_blocks\.0'"):
        feature(0)["up_block.0"]


# --- values that do not fit ----------------------------------------------------------------------


def test_float16_overflow_is_refused(tmp_path) -> None:
    big = feature(0)
    big.activations["up_blocks.1"][0, 0, 0] = 7e4
    with FeatureStore.create(tmp_path, {}, "h", "float16") as store:
        with pytest.raises(NonFiniteError, match=r"0\.png: up_blocks\.1 reaches 70000.*bfloat16"):
            store.write_shard([big])
        assert set(content(tmp_path)) == {"store.json"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(store, value) -> None:
    broken = feature(0)
    broken.activations["up_blocks.0"][0, 0, 0] = value
    with pytest.raises(NonFiniteError, match=r"up_blocks\.0 holds NaN or infinite"):
        store.write_shard([broken])


def test_only_float_maps_are_stored(store) -> None:
    with pytest.raises(InvalidValueError, match=r"float map \(C, h, w\)"):
        store.write_shard([feature(0, [(2, 3)])])
    with pytest.raises(InvalidValueError, match="no maps"):
        store.write_shard([feature(0, [])])
    with pytest.raises(InvalidValueError, match="without pictures"):
        store.write_shard([])
    with pytest.raises(InvalidValueError, match="not Unicode"):
        store.write_shard([dataclasses.replace(feature(0), image="\udc80.png")])


# --- stores that do not suit ---------------------------------------------------------------------


def test_another_recipe_is_named_by_its_differences(tmp_path) -> None:
    FeatureStore.create(tmp_path / "s", RECIPE, "one").close()
    other = json.loads(json.dumps(RECIPE))
    other["trajectory"]["timesteps"] = [100]
    with pytest.raises(StoreError, match=r"trajectory\.timesteps is \[261\] there, \[100\] here"):
        FeatureStore.open_or_create(tmp_path / "s", other, "two")
    with pytest.raises(StoreError, match="dtype is float32 there, int8 here"):
        FeatureStore.open_or_create(tmp_path / "s", RECIPE, "one", "int8")
    with FeatureStore.open_or_create(tmp_path / "s", RECIPE, "one") as same:
        assert same.recipe == RECIPE


def test_folders_that_are_no_stores(tmp_path) -> None:
    assert not FeatureStore.is_store(tmp_path)
    with pytest.raises(StoreError, match="not a feature store"):
        FeatureStore.open(tmp_path)
    with pytest.raises(StoreError, match="not a feature store"):
        FeatureStore.open(tmp_path / "gone")
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"not empty \(it holds 'thesis\.tex'\)"):
        FeatureStore.create(tmp_path, {}, "h")
    with pytest.raises(StoreError, match="is a file"):
        FeatureStore.create(tmp_path / "thesis.tex", {}, "h")
    with pytest.raises(InvalidValueError, match="Did you mean 'float16'"):
        FeatureStore.create(tmp_path / "new", {}, "h", "float61")


def test_two_writers_are_kept_apart(store) -> None:
    with pytest.raises(StoreError, match="Another run is writing"):
        FeatureStore.open_or_create(store.path, RECIPE, "hash")
    reader = FeatureStore.open(store.path)
    with pytest.raises(StoreError, match="open to read only"):
        reader.write_shard([feature(0)])
    store.close()
    FeatureStore.open_or_create(store.path, RECIPE, "hash").close()


def test_unknown_names(store) -> None:
    store.write_shard([feature(0)])
    with pytest.raises(UnknownNameError, match=r"Did you mean 'folder/0\.png'"):
        store.load("folder/0.jpg")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'up_blocks\.0'"):
        store.load("folder/0.png", ["up_blocks0"])


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "disk is full.*Nothing.*lost.*Make room"),
        (errno.EROFS, "no permission"),
        (errno.EIO, "again"),
    ],
)
def test_a_failing_disk_loses_nothing(store, monkeypatch, number, message) -> None:
    store.write_shard([feature(0)])
    before = content(store.path)

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match=message):
            store.write_shard([feature(1)])
        with pytest.raises(StoreError, match=message):
            FeatureStore.create(store.path.parent / "other", {}, "h")
    assert content(store.path) == before
    store.write_shard([feature(1)])
    assert len(store) == 2


def test_a_file_size_limit_is_met_cleanly(tmp_path) -> None:
    """A real refusal by the kernel, half-way through a shard."""
    worker = Path(__file__).with_name("storage_worker.py")
    result = subprocess.run(
        [sys.executable, worker, tmp_path / "s", "3", "--largest", "4096"], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "StoreError: Cannot write to the store" in result.stderr
    assert "allowed file size" in result.stderr
    assert set(content(tmp_path / "s")) == {"store.json"}


def test_the_listing_tells_what_is_there(store) -> None:
    store.write_shard([feature(0), feature(1, [(4, 9, 9)])])
    text = store.listing()
    assert "2 pictures · 3 maps · 1 shards" in text
    assert "3×5, 9×9" in text
    assert "folder/1.png" in text
    assert all(len(line) <= 110 for line in text.splitlines()[3:])
    store.write_shard([dataclasses.replace(feature(2), image="a\nb.png")])
    assert "a\\nb.png" in store.listing()


def test_an_empty_store_can_be_listed_and_checked(store) -> None:
    assert "0 pictures" in store.listing()
    assert not store.verify().problems
    assert list(store) == []


#: The largest error of each format, as a share of a channel's largest magnitude: of float32, half a unit in the last
#: place of the halves, half a step of int8. A format that is not here fails the contract below.
ERRORS = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8, "int8": 1 / 254}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_keeps_maps_within_its_error_and_reads_windows(name: str, tmp_path: Path) -> None:
    """A contract over everything registered: through a store, whole and in part."""
    values = (
        torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(1))
        * torch.tensor([1e-3, 1, 50, 0, 7])[:, None, None]
    )
    feature = replace_maps(values)
    with FeatureStore.create(tmp_path / "s", {"a": 1}, "h", dtype=name) as store:
        store.write_shard([feature])
    again = FeatureStore.open(tmp_path / "s")
    whole = again.load(feature.digest)["x"]
    limit = values.abs().amax(dim=(1, 2), keepdim=True) * ERRORS[name] * (1 + 1e-5)
    assert ((whole.float() - values).abs() <= limit).all()
    assert torch.equal(again.load(feature.digest, window=(1, 2, 3, 4))["x"], whole[:, 1:4, 2:6])
    assert again.verify().problems == []
    with pytest.raises(NonFiniteError):
        encode(values.masked_fill(values == values[0, 0, 0], float("nan")), FORMATS[name], "x")


def replace_maps(values: torch.Tensor) -> FeatureMap:
    """A picture with one map."""
    return FeatureMap({"x": values}, FrameSpec(size=64).frame((64, 64)), "a.png", "d" * 64, {})


def test_a_shard_is_the_file_that_safetensors_writes() -> None:
    import safetensors.torch

    from diffeat.storage.shard import safetensors_bytes

    tensors = {
        "10/a": torch.ones(2, 1, dtype=torch.int8),
        '2/ä "x"\\': torch.randn(2, 3).bfloat16(),
        "0/b": torch.randn(3, 2, 5).half(),
        "0/a": torch.randn(1, 1, 1),
        "e": torch.empty(0, 3, 3),
    }
    metadata = {"diffeat": '{"names":["ü\\n"]}'}
    assert b"".join(safetensors_bytes(tensors, metadata)) == safetensors.torch.save(tensors, metadata)
