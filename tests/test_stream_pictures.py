"""One picture that cannot be used costs no other, and few are held, whatever the source."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.errors import DiffeatError, ImageError, InvalidValueError
from diffeat.features import Group, Picture, ahead, stream, streaming
from diffeat.geometry import Frame


class Widths:
    """Gives a picture's width; its tables end at 100 pixels."""

    fingerprint = ""

    def __init__(self, follows: bool = True) -> None:
        self.follows = follows
        self.recipe: Any = SimpleNamespace(prompt="", text_for=str)
        self.calls: list[int] = []

    def group(self, picture: Picture) -> Group:
        return Group(None, most=100, follows=self.follows)

    def read(self, pictures: Sequence[Picture]) -> list[int]:
        table = torch.arange(100)
        widths = [int(table[picture.image.width]) for picture in pictures]
        self.calls.append(len(pictures))
        return widths

    def session(self):
        return nullcontext()


def grey(width: int) -> Image.Image:
    return Image.new("RGB", (width, 10))


def test_a_picture_beyond_the_tables_of_a_model_is_a_picture_that_failed() -> None:
    failed: list[DiffeatError] = []
    images = [grey(w) for w in (20, 300, 40)]
    assert list(stream(Widths(), images, on_error=lambda _, e: failed.append(e))) == [20, 40]  # pyright: ignore
    assert isinstance(failed[0], ImageError)
    assert "cannot take a picture of 300×10 pixels (IndexError: index 300" in str(failed[0])
    assert isinstance(failed[0].__cause__, IndexError)
    with pytest.raises(IndexError):  # of a fixed size: all would fail, and it is not the picture's fault
        list(stream(Widths(follows=False), images, on_error=lambda *_: None))  # pyright: ignore


def test_any_bad_picture_ends_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DIFFEAT_PICTURE_GB", "0.001")
    (tmp_path / "no.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    grey(50).save(tmp_path / "caf\udce9 [x].png")
    Image.new("L", (3000, 3000)).save(tmp_path / "large.png")
    bad: list[str] = []
    source: Any = Widths()
    found = stream(
        source, [*sorted(tmp_path.iterdir()), "gone\n.png", grey(7)], on_error=lambda n, e: bad.append(str(e))
    )
    assert list(found) == [50, 7]
    assert ["large.png" in bad[0], "no.png" in bad[1], "gone\\n.png: no such file." in bad[2]] == [True] * 3


def test_pixels_that_wait_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr(streaming, "HELD", 3 * 10 * 10 * 10)
    source: Any = Widths()
    assert list(stream(source, [grey(10)] * 40)) == [10] * 40
    assert max(source.calls) == 11
    assert sum(source.calls) == 40


def test_points_may_be_lists() -> None:
    frame = Frame(original=(640, 480), model=(512, 512), content=(0, 0, 512, 512))
    points = [[-0.5, -0.5], (639.5, 479.5)]
    for method in (frame.points_to_model, frame.points_to_original):
        assert torch.equal(method(points), method(torch.tensor(points)))
    for method in (frame.points_to_grid, frame.points_from_grid):
        assert torch.equal(method(points, (32, 32)), method(torch.tensor(points), (32, 32)))
    assert torch.equal(frame.points_to_model(np.array([3, 4])), frame.points_to_model(torch.tensor([3, 4])))
    for wrong in ([], [1, 2, 3], [[1], [2, 3]], "xy", [["a", "b"]]):
        with pytest.raises(InvalidValueError, match="Points are rows"):
            frame.points_to_grid(wrong, (8, 8))


@pytest.mark.parametrize("bytes_held", [0, 3 * 64 * 64, 10**9])
def test_files_are_opened_ahead_no_further_than_there_is_room(tmp_path, monkeypatch, bytes_held: int) -> None:
    monkeypatch.setattr(ahead, "HELD", bytes_held)
    monkeypatch.setattr(ahead, "THREADS", 3)
    for number in range(40):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / f"{number:02d}.png")
    pictures = [Picture.of(path) for path in sorted(tmp_path.iterdir())]
    most = 0

    def watched(_: Picture) -> None:
        nonlocal most
        most = max(most, sum("image" in vars(p) for p in pictures))

    taken = []
    for picture in ahead.opened_ahead(pictures, watched, lambda: 20):
        taken.append(picture.name)
        vars(picture).pop("image", None)
        time.sleep(0.002)  # the model
    assert taken == [p.name for p in pictures]
    assert most <= min(bytes_held // (3 * 64 * 64) + 1, 23) + 3 + 1  # held, being opened, in the consumer's hands


def test_a_stream_that_is_left_leaves_no_thread_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ahead, "HELD", 0)
    for number in range(10):
        grey(20).save(tmp_path / f"{number}.png")
    source: Any = Widths()
    stream_of = stream(source, [str(p) for p in sorted(tmp_path.iterdir())])
    assert next(stream_of) == 20
    stream_of.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("diffeat-read")]


class Sizes(Widths):
    """Pictures of one width share calls, three at most; ``seen`` are the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def group(self, picture: Picture) -> Group:
        return Group(picture.image.width, most=3)

    def read(self, pictures: Sequence[Picture]) -> list[int]:
        self.seen.append([picture.image.width for picture in pictures])
        return [100 * picture.image.width + picture.image.getpixel((0, 0))[0] for picture in pictures]  # pyright: ignore


def numbered(widths: Sequence[int]) -> list[Picture]:
    images = [Image.new("RGB", (width, 10), (number, 0, 0)) for number, width in enumerate(widths)]
    return [Picture(str(number), lambda image=image: image) for number, image in enumerate(images)]


class Framed(Widths):
    """Reads pictures in a frame, and notes how many bytes they hold; ``opened`` counts how often a file was."""

    frame = Frame(original=(600, 400), model=(8, 8), content=(0, 0, 8, 8))

    def __init__(self, frames: bool) -> None:
        super().__init__()
        self.frames, self.held = frames, 0

    def group(self, picture: Picture) -> Group:
        assert picture.size == (600, 400)
        return Group(None, most=4, frames=(self.frame,) if self.frames else ())

    def read(self, pictures: Sequence[Picture]) -> list[int]:
        self.held = max(self.held, *(picture.bytes_held for picture in pictures))
        return [int(picture.levels(self.frame)[0, 0, 0]) for picture in pictures]


@pytest.mark.parametrize("frames", [True, False])
def test_pixels_are_let_go_of_when_the_image_of_the_model_is_made(tmp_path, monkeypatch, frames: bool) -> None:
    for number in range(9):
        Image.new("RGB", (600, 400), (number, 0, 0)).save(tmp_path / f"{number}.png")
    opened: list[str] = []
    load = Image.open
    monkeypatch.setattr(Image, "open", lambda file, *rest, **options: opened.append("") or load(file, *rest, **options))
    source: Any = Framed(frames)
    assert list(stream(source, [str(tmp_path)])) == list(range(9))
    assert len(opened) == 9  # once each
    assert source.held == (3 * 8 * 8 if frames else 3 * 600 * 400)


def test_pixels_that_no_file_gives_again_are_kept() -> None:
    source: Any = Framed(True)
    pictures = [Picture(str(n), lambda n=n: Image.new("RGB", (600, 400), (n, 0, 0))) for n in range(3)]
    assert list(stream(source, pictures)) == [0, 1, 2]
    assert source.held == 3 * 8 * 8 + 3 * 600 * 400


def test_pictures_of_one_size_share_calls_though_others_stand_between() -> None:
    source: Any = Sizes()
    widths = [5, 7, 5, 7, 5, 9, 7, 5]
    assert list(stream(source, numbered(widths))) == [100 * w + n for n, w in enumerate(widths)]
    assert source.seen == [[5, 5, 5], [7, 7, 7], [9], [5]]


def test_a_window_ends_with_its_part_and_after_sixteen_pictures() -> None:
    source: Any = Sizes()
    pictures = numbered([5, 7, 5, 7])
    for number, picture in enumerate(pictures):
        picture.apart = number // 2
    assert list(stream(source, pictures)) == [500, 701, 502, 703]
    assert source.seen == [[5], [7], [5], [7]]
    source = Sizes()
    taken = []
    for result in stream(source, numbered([9, *[5] * 40])):
        taken.append((result, len(source.seen)))
    assert [result for result, _ in taken] == [900, *(500 + n for n in range(1, 41))]
    assert taken[0][1] <= 16 // 3 + 2  # the first is not kept waiting until all are read


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("stage", ["list", "read", "write"])
def test_whatever_ends_an_extraction_ends_its_threads(tmp_path, monkeypatch, stage: str, error: type) -> None:
    from diffeat.extraction import filling
    from diffeat.storage import FeatureStore
    from support.stores import FakeSource, write_photos

    source, done = FakeSource(), []
    paths = write_photos(tmp_path / "photos", 9)

    def broken(*_: object, **__: object) -> Any:
        raise error("stopped")

    def units():
        yield filling.Unit(0, tuple(map(Picture.of, paths[:4])))
        if stage == "list":
            broken()
        yield filling.Unit(1, tuple(map(Picture.of, paths[4:])))

    if stage == "read":
        read = source.read
        monkeypatch.setattr(
            source, "read", lambda pictures: broken() if len(source.read_names) >= 6 else list(read(pictures))
        )
    if stage == "write":
        monkeypatch.setattr(FeatureStore, "write_packed", broken)
    with source.store(tmp_path / "store") as store, pytest.raises(error, match="stopped"):
        filling.fill(source, store, units(), done.append, lambda _: None)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("diffeat-")]
    if FeatureStore.is_store(tmp_path / "store"):  # a shard that waited to be written need not be
        assert len(FeatureStore.open(tmp_path / "store")) in (0, 4)
