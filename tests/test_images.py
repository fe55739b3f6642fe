"""Opening pictures: every odd kind gives upright opaque RGB, every broken one a clear message."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import ImageError
from diffeat.geometry import file_digest, find_images, noise_key, open_image, pixel_digest

RED, GREEN = (255, 0, 0), (0, 255, 0)


@pytest.fixture
def photo() -> Image.Image:
    y, x = np.mgrid[0:24, 0:36]
    return Image.fromarray(np.stack([x * 7, y * 10, (x + y) * 4], -1).astype(np.uint8))


def values(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


# --- kinds of pictures ---------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "ppm"])
def test_lossless_files_are_exact(photo, tmp_path, ending) -> None:
    photo.save(tmp_path / f"a.{ending}")
    assert np.array_equal(values(open_image(tmp_path / f"a.{ending}")), values(photo))


def test_every_kind_of_source_gives_the_same_picture(photo, tmp_path) -> None:
    path = tmp_path / "a.png"
    photo.save(path)
    array = np.asarray(photo)
    with open(path, "rb") as file:
        sources = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), file, photo]
        sources += [array, array / 255.0, (array / 255).astype(np.float32), array.astype(np.uint16) * 257]
        assert {pixel_digest(open_image(source)) for source in sources} == {pixel_digest(photo)}


def test_one_pixel_is_a_picture(tmp_path) -> None:
    Image.new("RGB", (1, 1), RED).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").size == (1, 1)


def test_cmyk_is_converted(photo, tmp_path) -> None:
    photo.convert("CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    assert np.abs(values(open_image(tmp_path / "a.jpg")) - values(photo)).mean() < 3


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, ending) -> None:
    deep = np.array([[0, 128, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a.{ending}")
    assert values(open_image(tmp_path / f"a.{ending}"))[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert values(open_image(deep))[0, :, 1].tolist() == [0, 0, 1, 128, 255]


def test_big_endian_16_bit() -> None:
    image = Image.frombytes("I;16B", (2, 1), np.array([0x0101, 0xFFFF], dtype=">u2").tobytes())
    assert values(open_image(image))[0, :, 0].tolist() == [1, 255]


@pytest.mark.parametrize(
    ("grey", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),  # a share of white
        ([0.0, 100.0, 255.0], [0, 100, 255]),  # already 8 bit
        ([-2.0, 0.0, 2.0], [0, 128, 255]),  # stretched
        ([1000.0, 1000.0, 1000.0], [0, 0, 0]),
    ],
)
def test_float_tiff(tmp_path, grey, expected) -> None:
    Image.fromarray(np.array([grey], dtype=np.float32)).save(tmp_path / "a.tif")
    assert values(open_image(tmp_path / "a.tif"))[0, :, 2].tolist() == expected


def test_32_bit_integers(tmp_path) -> None:
    Image.fromarray(np.array([[0, 1, 200]], dtype=np.int32)).save(tmp_path / "a.tif")
    assert values(open_image(tmp_path / "a.tif"))[0, :, 0].tolist() == [0, 1, 200]


def test_nan_pixels_are_refused(tmp_path) -> None:
    Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif.*NaN"):
        open_image(tmp_path / "a.tif")


def test_palette_with_and_without_transparency(tmp_path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "holes.png", transparency=1)
    assert values(open_image(tmp_path / "plain.png"))[0].tolist() == [list(RED), list(GREEN)]
    assert values(open_image(tmp_path / "holes.png"))[0].tolist() == [list(RED), [255, 255, 255]]


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (255, 0, 0, 51)), ("LA", (0, 51)), ("PA", None)])
def test_alpha_lies_over_white(mode, colour) -> None:
    if mode == "PA":
        image = Image.new("RGBA", (1, 1), (0, 0, 0, 51)).convert("PA")
        image.putalpha(51)
        expected = [204] * 3
    else:
        image = Image.new(mode, (1, 1), colour)
        expected = [255, 204, 204] if mode == "RGBA" else [204] * 3
    assert values(open_image(image))[0, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["RGBa", "La"])
def test_premultiplied_alpha(mode) -> None:
    image = Image.new("RGBA" if mode == "RGBa" else "LA", (1, 1)).convert(mode)
    assert values(open_image(image))[0, 0].tolist() == [255] * 3


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_an_animation_gives_its_first_frame(tmp_path, ending) -> None:
    path = tmp_path / f"a.{ending}"
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=50,
        **({"lossless": True} if ending == "webp" else {}),
    )
    assert Image.open(path).n_frames == 2  # type: ignore[attr-defined]
    assert values(open_image(path))[3, 3].tolist() == list(RED)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
def test_exif_orientation_turns_the_picture(photo, tmp_path, orientation, ending) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    photo.save(path, exif=exif, **({"quality": 100, "subsampling": 0} if ending == "jpg" else {}))
    upright = values(open_image(path))
    # the EXIF standard: what the 0th row and 0th column of the stored picture are
    stored = values(photo)
    expected = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored.transpose(1, 0, 2)[:, ::-1],
        7: stored.transpose(1, 0, 2)[::-1, ::-1],
        8: stored.transpose(1, 0, 2)[::-1],
    }[orientation]
    assert upright.shape == expected.shape
    assert np.abs(upright - expected).max() <= (12 if ending == "jpg" else 0)


def test_a_damaged_exif_block_does_not_cost_the_picture(photo, tmp_path) -> None:
    photo.save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7fgarbage")
    assert open_image(tmp_path / "a.jpg").size == photo.size


def test_the_source_picture_is_left_alone(photo) -> None:
    before = photo.tobytes()
    open_image(photo).paste(RED, (0, 0, 5, 5))
    assert photo.tobytes() == before


# --- broken ones ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_files(tmp_path, ending, share) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    image.save(tmp_path / f"whole.{ending}")
    data = (tmp_path / f"whole.{ending}").read_bytes()
    path = tmp_path / f"cut.{ending}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=rf"cut\.{ending}"):
        open_image(path)


def test_corrupt_png(photo, tmp_path) -> None:
    photo.save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    middle = data.index(b"IDAT") + 12
    data[middle : middle + 200] = os.urandom(200)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match="truncated or corrupt"):
        open_image(tmp_path / "a.png")


def test_zero_bytes(tmp_path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ImageError, match=r"a\.jpg: the file is empty"):
        open_image(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="empty"):
        open_image(b"")


def test_text_is_no_picture(tmp_path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(ImageError, match="not a picture"):
        open_image(tmp_path / "a.jpg")


def test_missing_folder_and_forbidden(tmp_path, monkeypatch) -> None:
    with pytest.raises(ImageError, match="no such file"):
        open_image(tmp_path / "a.png")
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").touch()
    monkeypatch.setattr("os.open", refuse)  # the superuser may read everything, so refuse by hand
    with pytest.raises(ImageError, match="no permission"):
        open_image(tmp_path / "a.png")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(photo, tmp_path, monkeypatch) -> None:
    photo.save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(ImageError, match=r"a\.png: declares 864 pixels.*limit of 800.*MAX_IMAGE_PIXELS"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 9), np.uint8), "channel-first"),
        (np.zeros((8,), np.uint8), "shape 8 "),
        (np.zeros((0, 8), np.uint8), "0×8"),
        (np.full((4, 4), 2.0), r"\[0, 1\]"),
        (np.full((4, 4), np.nan), r"\[0, 1\]"),
        (np.zeros((4, 4), np.int64), "int64"),
    ],
)
def test_wrong_arrays(array, message) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(array)


def test_wrong_type() -> None:
    with pytest.raises(ImageError, match="A dict is not a picture"):
        open_image({})  # type: ignore[arg-type]


# --- files ---------------------------------------------------------------------------------------


def test_find_images_searches_folders_and_lists_what_it_skips(tmp_path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.webp", "sub/notes.txt", ".hidden/d.png", "._b.png", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path, tmp_path / "b.png", tmp_path / "sub" / "notes.txt", Path("gone.png")])
    named = [os.path.relpath(p, tmp_path) for p in found[:3]]
    assert named == ["a.JPG", "b.png", "sub/c.webp"]
    assert list(found)[3:] == [tmp_path / "sub" / "notes.txt", Path("gone.png")]
    assert len(found) == 5
    assert {p.name: reason for p, reason in found.skipped} == {
        "notes.txt": "not a picture by its name (.txt)",
        "README": "not a picture by its name (no ending)",
        "._b.png": "hidden file",
    }
    assert list(find_images(str(tmp_path / "sub"))) == [tmp_path / "sub" / "c.webp"]


def test_digests(photo, tmp_path) -> None:
    photo.save(tmp_path / "a.png")
    photo.save(tmp_path / "a.bmp")
    assert file_digest(tmp_path / "a.png") != file_digest(tmp_path / "a.bmp")
    assert pixel_digest(open_image(tmp_path / "a.png")) == pixel_digest(open_image(tmp_path / "a.bmp"))
    wide, tall = (Image.new("RGB", size) for size in ((4, 2), (2, 4)))
    assert pixel_digest(wide) != pixel_digest(tall)
    with pytest.raises(ImageError, match=r"gone\.png"):
        file_digest(tmp_path / "gone.png")


@pytest.mark.parametrize(
    ("width", "height", "every"), [(1024, 1024, 1), (1025, 1024, 2), (3000, 2000, 6), (4096, 512, 2)]
)
def test_the_noise_of_a_large_picture_is_keyed_by_some_of_its_rows(width: int, height: int, every: int) -> None:
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    told = struct.pack("<II", width, height) + values[::every].tobytes()
    key = noise_key(Image.fromarray(values))
    assert key == hashlib.sha256(told).hexdigest()
    assert (key == pixel_digest(Image.fromarray(values))) == (every == 1)
