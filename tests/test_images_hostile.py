"""Files that are not what they seem: one line each, nothing run, nothing endless, 1 GB at most."""

from __future__ import annotations

import io
import itertools
import os
import socket
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from diffeat.errors import ImageError, InvalidValueError, printable
from diffeat.features import Picture
from diffeat.files import open_regular, read_bytes
from diffeat.geometry import file_digest, images, open_image
from diffeat.geometry.files import FORMATS
from diffeat.geometry.images import open_stored, stored_size
from diffeat.geometry.orientation import TRANSPOSE, is_stored, upright_array, upright_point, upright_size

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 36, 3), dtype=np.uint8))


def encoded(form: str, image: Image.Image = PHOTO, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*extra: bytes, head: bytes = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)) -> bytes:
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(extra) + pixels + chunk(b"IEND", b"")


BOMB = zlib.compress(b"\0" * 200_000_000)
BROKEN = {
    "short IHDR": png(head=b"\0\0\0\4"),
    "short tRNS": png(chunk(b"tRNS", b"\0")),
    "bomb in iCCP": png(chunk(b"iCCP", b"x\0\0" + BOMB)),
    "bomb in zTXt": png(chunk(b"zTXt", b"x\0\0" + BOMB)),
    "PPM of a word": b"P6\n\x0155 47\n255\n" + b"\0" * 99,
    "PPM of a large number": b"P6 " + b"9" * 5000 + b" 1 255\n",
    "PPM without a size": b"P6",
    "AVIF without an item": encoded("AVIF").replace(b"av01", b"av0x"),
    "TIFF of no size": b"II*\0\x08\0\0\0\0\0\0\0\0\0",
    "WebP cut": encoded("WEBP")[:60],
    "GIF cut": encoded("GIF")[:40],
    "BMP of a strange depth": encoded("BMP")[:28] + b"\x63\0" + encoded("BMP")[30:],
}


@pytest.mark.parametrize("name", BROKEN)
def test_whatever_a_decoder_raises_is_one_line_about_the_file(name: str, tmp_path: Path) -> None:
    for ending in ("png", "eps"):
        path = tmp_path / f"a.{ending}"
        path.write_bytes(BROKEN[name])
        with pytest.raises(ImageError, match=r"a\.(png|eps): ") as error:
            open_image(path)
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "fault", [MemoryError(), RecursionError("deep"), SyntaxError("x"), zlib.error("y"), OverflowError()]
)
def test_any_exception_of_a_decoder_is_ours(fault: Exception, monkeypatch) -> None:
    def load(*_: object) -> None:
        raise fault

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ImageError, match="the bytes given: "):
        open_image(encoded("PNG"))


def test_a_decoder_is_told_by_content_and_only_the_promised_ones_are_tried(tmp_path: Path, monkeypatch) -> None:
    mark = tmp_path / "ran"
    postscript = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n({mark}) (w) file closefile\n"
    forms = {"EPS": postscript.encode(), "TGA": encoded("TGA"), "PCX": encoded("PCX"), "PDF": encoded("PDF")}
    forms |= {form: encoded(form) for form in ("ICO", "DDS", "SGI", "JPEG2000", "IM", "MSP", "SPIDER", "XBM")[:4]}
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    for form, data in forms.items():
        for ending in ("png", form.lower()):
            (tmp_path / f"a.{ending}").write_bytes(data)
            with pytest.raises(ImageError, match="not a picture"):
                open_image(tmp_path / f"a.{ending}")
    assert not mark.exists()
    for form in FORMATS:
        (tmp_path / "a.eps").write_bytes(encoded(form))
        assert open_image(tmp_path / "a.eps").size == PHOTO.size


@pytest.fixture
def strange(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)
        server.bind("socket.png")  # a socket's path must be short
        os.chdir(here)
        yield {"pipe.png": "a pipe", "device.png": "a device", "socket.png": "a socket"}


def test_only_regular_files_are_opened(tmp_path: Path, strange: dict[str, str]) -> None:
    for name, what in strange.items():
        for read in (open_image, open_stored, stored_size, file_digest):
            with pytest.raises(ImageError, match=rf"{name}: cannot read the file \(it is {what}, not a file\)"):
                read(tmp_path / name)
        with pytest.raises(OSError, match=what):
            open_regular(tmp_path / name)
    (tmp_path / "endless.png").symlink_to("/proc/self/mem")
    for path in (tmp_path / "endless.png", "a\0b.png", tmp_path / ("x" * 300 + ".png"), tmp_path / "gone" / "a.png"):
        with pytest.raises(ImageError):
            open_image(path)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(ImageError, match="symbolic links"):
        open_image(tmp_path / "loop.png")
    (tmp_path / "long").write_bytes(b"x" * 11)
    with pytest.raises(InvalidValueError, match="larger than"):
        read_bytes(tmp_path / "long", "list", most=10)


def test_a_stream_without_an_end_is_not_read_to_it(monkeypatch) -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            assert 0 <= size <= 2_000_001, "read without a bound"
            return b"\0" * size

    monkeypatch.setenv("DIFFEAT_PICTURE_GB", "0.002")
    with pytest.raises(ImageError):
        open_image(Endless())  # pyright: ignore[reportArgumentType]


# --- memory --------------------------------------------------------------------------------------

MEASURE = """
import re, sys
from PIL import Image
from diffeat.geometry import open_image, pixel_digest
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
Image.init()
open_image(sys.argv[1])
for path in sys.argv[1:]:
    open("/proc/self/clear_refs", "w").write("5")
    before = peak()
    image = open_image(path)
    if image.width < 9999:
        pixel_digest(image)
    print(peak() - before)
    del image
"""


def measured(*paths: Path, **environment: str) -> list[int]:
    source = str(Path(__file__).parent.parent / "src")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, *map(str, paths)],
        env={**os.environ, "PYTHONPATH": source, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(line) for line in done.stdout.split()]


def large(folder: Path) -> list[Path]:
    """1200×1000 pictures of every format and of every kind of memory that one takes."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (100, 120, 3), dtype=np.uint8)).resize((1200, 1000), 0)
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: list[tuple[str, Image.Image, dict]] = [
        (ending[0], noise, {"speed": 10, "method": 0}) for ending in FORMATS.values()
    ]
    kinds += [("jpg", noise, {"progressive": True}), ("jpg", noise, {"exif": turned}), ("tif", noise, {"exif": turned})]
    kinds += [("jpg", noise.convert("CMYK"), {"progressive": True}), ("png", noise.convert("RGBA"), {})]
    kinds += [
        ("webp", noise, {"lossless": True, "method": 0, "quality": 0}),
        ("avif", noise, {"subsampling": "4:4:4", "speed": 10}),
    ]
    kinds += [("tif", noise.convert("L").convert("F"), {}), ("tif", noise, {"compression": "tiff_lzw"})]
    grey = np.asarray(noise.convert("L"), dtype=np.uint16) * 257
    kinds += [("png", Image.fromarray(grey), {}), ("tif", Image.fromarray(grey), {})]
    paths = []
    for number, (ending, image, options) in enumerate(kinds):
        paths.append(folder / f"{number:02d}.{ending}")
        image.save(paths[-1], **options)
    plain = folder / "plain.ppm"
    plain.write_bytes(b"P3 200 100 255 " + b"255 7 77 " * 20_000)
    return [*paths, plain]


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks of memory cannot be measured here")
def test_what_is_estimated_is_what_is_taken_and_13200_pixels_squared_fit(tmp_path: Path, monkeypatch) -> None:
    paths = large(tmp_path)
    square = tmp_path / "square.ppm"
    square.write_bytes(b"P6 13200 13200 255\n")
    os.truncate(square, 19 + 3 * 13200**2)  # 174 million black pixels that take no place on the disk
    *peaks, most = measured(*paths, square)
    assert 0.6e9 < most < 1e9
    for path, peak in zip(paths, peaks, strict=True):
        estimates: list[float] = []
        monkeypatch.setattr(images, "_afford", lambda *_, estimates=estimates: estimates.append(_[-1]))
        open_image(path)
        assert peak < max(estimates) + 1e7, path


def test_a_picture_that_takes_too_much_is_refused_before_it_is_decoded(monkeypatch) -> None:
    # 36×24 grey pixels that lie in one enormous tile
    tags = {256: 36, 257: 24, 258: 8, 259: 8, 262: 1, 277: 1, 322: 60000, 323: 60000, 324: 8, 325: 9}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    tile = zlib.compress(b"")
    tiff = b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + struct.pack("<H", len(tags)) + entries + bytes(4)
    with pytest.raises(ImageError, match=r"36×24 pixels would take 14\.4 GB to read, more than 1 GB.*_GB=15"):
        open_image(tiff)
    data = encoded("PNG")
    monkeypatch.setenv("DIFFEAT_PICTURE_GB", "0.000001")
    with pytest.raises(ImageError, match=r"36×24 pixels would take 0\.0 GB"):
        open_image(data)
    monkeypatch.setenv("DIFFEAT_PICTURE_GB", "much")
    with pytest.raises(ImageError, match="must be a number of gigabytes, got 'much'"):
        open_image(data)


# --- fuzz ----------------------------------------------------------------------------------------

SEEDS = [
    *(encoded(form) for form in FORMATS),
    *(encoded("PNG", PHOTO.convert(mode)) for mode in ("P", "LA", "1")),
    *(encoded("TIFF", compression=c) for c in ("tiff_lzw", "tiff_deflate", "packbits")),
    b"P3 4 4 255 " + b"7 " * 48,
]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=5), st.integers(0, 5)), min_size=1, max_size=4),
)
def test_a_damaged_file_gives_a_picture_or_one_line(data: bytes, edits: list[tuple[float, bytes, int]]) -> None:
    for place, insert, cut in edits:
        at = int(place**3 * len(data))  # heads are where it hurts
        data = data[:at] + insert + data[at + cut :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert open_image(data).mode == "RGB"
        except ImageError as error:
            assert str(error).isprintable()  # noqa: PT017


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_messages_are_one_line_and_say_everything(text: str) -> None:
    shown = str(ImageError(text))
    assert shown == printable(text)
    assert not any(c < " " or "\x7f" <= c < "\xa0" or "\ud800" <= c <= "\udfff" for c in shown)
    shown.encode()
    kept = "".join(c for c in text if c.isprintable())
    assert all(c in shown for c in kept)


# --- turned pictures -----------------------------------------------------------------------------


@given(st.sampled_from([1, *TRANSPOSE]), st.integers(1, 7), st.integers(1, 7))
def test_points_sizes_and_arrays_turn_as_pixels_do(orientation: int, width: int, height: int) -> None:
    stored = np.arange(width * height, dtype=np.uint8).reshape(height, width)
    image = Image.fromarray(stored)
    seen = np.asarray(image.transpose(TRANSPOSE[orientation]) if orientation > 1 else image)
    assert (upright_array(stored, orientation) == seen).all()
    assert upright_size((width, height), orientation) == seen.shape[::-1]
    for x, y in itertools.product(range(width), range(height)):
        right, down = upright_point((x, y), (width, height), orientation)
        assert seen[int(down), int(right)] == stored[y, x]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", [1, *TRANSPOSE])
def test_the_stored_size_is_told_from_the_seen_one(form: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a"
    path.write_bytes(encoded(form, exif=exif))
    assert stored_size(path) == ((36, 24), orientation)
    assert open_image(path).size == upright_size((36, 24), orientation)


def test_annotations_are_stored_or_seen_where_the_sizes_tell() -> None:
    assert is_stored((36, 24), (36, 24), 6, "a") is True
    assert is_stored((24, 36), (36, 24), 6, "a") is False
    assert is_stored((36, 24), (36, 24), 1, "a") is False
    assert is_stored(None, (36, 24), 1, "a") is False
    for size, orientation in (((36, 24), 3), ((24, 24), 6), (None, 8)):
        with pytest.raises(Exception, match=r"a\.jpg: an EXIF tag turns the picture.*without the tag"):
            is_stored(size, size or (36, 24), orientation, "a.jpg")


def test_a_file_without_end_is_not_read_to_be_named(tmp_path: Path) -> None:
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ImageError, match="1099"):
        _ = Picture.of(tmp_path / "sparse.png").digest
