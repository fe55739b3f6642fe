"""Small pictures of every format that Pillow writes, and of some that it only reads."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin


def _pixels(mode: str, width: int = 40, height: int = 30) -> Image.Image:
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(height) * 4, np.arange(width) * 3)[..., None] + rng.integers(
        0, 40, (height, width, 4)
    )
    picture = Image.fromarray(np.clip(smooth, 0, 255).astype(np.uint8), "RGBA")
    if mode in ("I;16", "I", "F"):
        grey = np.asarray(picture.convert("L"))
        return Image.fromarray(
            {"I;16": grey * np.uint16(257), "I": grey * np.int32(9999), "F": grey / np.float32(255)}[mode]
        )
    return (
        picture.convert("RGB").convert(mode)
        if mode in ("CMYK", "YCbCr", "LAB", "HSV", "P", "1")
        else picture.convert(mode)
    )


def _saved(mode: str, format: str, size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    file = BytesIO()
    _pixels(mode, *size).save(file, format, **options)
    return file.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a picture"
    return exif


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, *extra: bytes, interlaced: bool = False) -> bytes:
    """A PNG of zeros, small for its size."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row, packer, data = bytes(1 + (width * channels * depth + 7) // 8), zlib.compressobj(1), b""
    for _ in range(height):
        data += packer.compress(row)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    palette = [chunk(b"PLTE", bytes(range(48)))] if colour == 3 else []
    body = [chunk(b"IHDR", head), *extra, *palette, chunk(b"IDAT", data + packer.flush()), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def samples() -> dict[str, bytes]:
    """Files by name; the ending is the format's."""
    frames = {"save_all": True, "append_images": [_pixels("RGB").rotate(90 * k) for k in (1, 2)], "duration": 50}
    text = PngImagePlugin.PngInfo()
    text.add_text("title", "x" * 50)
    text.add_text("compressed", "y" * 200, zip=True)
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    profile = {"icc_profile": bytes(128) + b"acsp" * 20}
    jpeg = {
        "plain": _saved("RGB", "JPEG"),
        "progressive": _saved("RGB", "JPEG", progressive=True),
        "grey": _saved("L", "JPEG"),
        "cmyk": _saved("CMYK", "JPEG"),
        "exif": _saved("RGB", "JPEG", exif=_exif(6), comment=b"hello", **profile),
        "fine": _saved("RGB", "JPEG", subsampling=0, quality=98, restart_marker_rows=1),
    }
    pngs = {mode: _saved(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")}
    pngs |= {
        "text": _saved("RGB", "PNG", pnginfo=text, exif=_exif(8), dpi=(72, 72), **profile),
        "palette-transparent": _saved("P", "PNG", transparency=b"\x00\x80\xff"),
        "rgb-transparent": _saved("RGB", "PNG", transparency=(1, 2, 3)),
        "interlaced": png(17, 9, 8, 2, interlaced=True),
        "rgb16": png(17, 9, 16, 2),
        "rgba16": png(17, 9, 16, 6),
        "grey-4": png(17, 9, 4, 0),
        "apng": _saved("RGB", "PNG", **frames),
    }
    tiff = {
        f"{mode}-{c}": _saved(mode, "TIFF", compression=c)
        for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
        for mode in ("RGB", "L", "1")
    }
    tiff |= {f"1-{c}": _saved("1", "TIFF", compression=c) for c in ("group3", "group4")}
    tiff |= {mode.lower(): _saved(mode, "TIFF") for mode in ("RGBA", "CMYK", "I;16", "I", "F", "P", "LAB", "YCbCr")}
    tiff |= {
        "jpeg": _saved("RGB", "TIFF", compression="jpeg"),
        "pages": _saved("RGB", "TIFF", **frames),
        "turned": _saved("RGB", "TIFF", exif=_exif(5)),
    }
    groups = {
        "jpg": jpeg,
        "png": pngs,
        "tif": tiff,
        "webp": {
            "lossy": _saved("RGB", "WEBP"),
            "lossless": _saved("RGBA", "WEBP", lossless=True, exif=_exif(3)),
            "frames": _saved("RGB", "WEBP", **frames),
        },
        "avif": {
            "rgb": _saved("RGB", "AVIF"),
            "rgba": _saved("RGBA", "AVIF", exif=_exif(6)),
            "frames": _saved("RGB", "AVIF", **frames),
        },
        "jp2": {m: _saved(m, "JPEG2000") for m in ("RGB", "L", "RGBA")}
        | {"raw": _saved("RGB", "JPEG2000", no_jp2=True)},
        "gif": {m: _saved(m, "GIF") for m in ("L", "P")} | {"frames": _saved("P", "GIF", **frames)},
        "bmp": {m: _saved(m, "BMP") for m in ("1", "L", "P", "RGB", "RGBA")},
        "pnm": {m: _saved(m, "PPM") for m in ("1", "L", "RGB", "I;16", "F")}
        | {
            "plain": b"P3\n4 2\n255\n" + b"1 2 3 " * 8,
            "plain-grey": b"P2 # note\n4 2 15\n" + b"7 " * 8,
            "plain-bits": b"P1\n4 2\n" + b"10" * 4,
            "pam": b"P7\nWIDTH 4\nHEIGHT 2\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n" + bytes(range(32)),
        },
        "tga": {m: _saved(m, "TGA") for m in ("L", "P", "RGB", "RGBA")}
        | {"rle": _saved("RGB", "TGA", compression="tga_rle")},
        "eps": {"rgb": _saved("RGB", "EPS"), "program": POSTSCRIPT},
        "text": {
            "csv": b"image,prompt\na.png,a cat\n" * 9,
            "html": b"<!DOCTYPE html><html><svg/></html>\n" * 9,
            "xbm": _saved("1", "XBM"),
            "xpm": XPM,
        },
        "other": {
            **{f: _saved("RGB", f) for f in ("ICO", "ICNS", "IM", "PCX", "SGI", "DDS", "QOI", "PDF", "MPO")},
            "msp": _saved("1", "MSP"),
            "spider": _saved("F", "SPIDER"),
            "blp": _saved("P", "BLP"),
            "psd": PSD,
            "fits": FITS,
            "sun": struct.pack(">8I", 0x59A66A95, 4, 2, 24, 24, 1, 0, 0) + bytes(24),
            "wmf": WMF,
            "fli": struct.pack("<IHHHHHHI", 200, 0xAF12, 1, 40, 30, 8, 3, 70) + bytes(180),
            "dcx": struct.pack("<III", 0x3ADE68B1, 12, 0),
            "gbr": struct.pack(">5I4s2I", 31, 2, 4, 2, 1, b"GIMP", 10, 0) + b"abc" + bytes(8),
            "iptc": b"\x1c\x03\x14\x00\x01\x01" * 8,
            "mcidas": struct.pack(">64I", *([0, 4] + [1] * 62)) + bytes(99),
            "pcd": bytes(2048) + b"PCD_" + bytes(3000),
            "hdf": b"\x89HDF\r\n\x1a\n" + bytes(90),
            "grib": b"GRIB" + bytes(3) + b"\1" + bytes(90),
            "bufr": b"BUFR" + bytes(90),
        },
    }
    return {
        f"{name.lower().replace(';', '')}.{ending}": data
        for ending, files in groups.items()
        for name, data in files.items()
    }


#: Would write a file, were it run.
POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 30
%%EndComments
(../canary/postscript-was-run) (w) file dup (x) writestring closefile
0 0 40 30 rectfill showpage
%%EOF
"""
XPM = b"""/* XPM */
static char *x[] = {
"4 2 2 1",
"a c #ff0000",
"b c #00ff00",
"abab",
"baba"
};
"""
PSD = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 2, 4, 8, 3) + struct.pack(">III", 0, 0, 0) + b"\0\0" + bytes(24)
FITS = b"".join(
    card.ljust(80)
    for card in (
        b"SIMPLE  =                    T",
        b"BITPIX  =                    8",
        b"NAXIS   =                    2",
        b"NAXIS1  =                    4",
        b"NAXIS2  =                    2",
        b"END",
    )
).ljust(2880) + bytes(2880)
WMF = struct.pack("<IHhhhhHIH", 0x9AC6CDD7, 0, 0, 0, 40, 30, 72, 0, 0) + b"\x01\x00\x09\x00" + bytes(60)


def large() -> Iterator[tuple[str, bytes]]:
    """Small files of very large pictures, as they are met and as they are made to harm."""
    yield "grey16-9400.png", png(9400, 9400, 16, 0)
    yield "grey16-13200.png", png(13200, 13200, 16, 0)
    yield "palette-13200.png", png(13200, 13200, 8, 3, chunk(b"tRNS", b"\0"))
    yield "rgba-9400.png", png(9400, 9400, 8, 6)
    yield "bits-30000.png", png(30000, 30000, 1, 0)
    yield "wide.png", png(2_000_000, 40, 8, 0)
    yield "high.png", png(1, 500_000, 8, 0)
    black = Image.new("L", (9400, 9400))
    for name, options in (("jpg", {}), ("tif", {"compression": "tiff_lzw"}), ("gif", {})):
        file = BytesIO()
        black.save(file, {"jpg": "JPEG", "tif": "TIFF", "gif": "GIF"}[name], **options)
        yield f"grey-9400.{name}", file.getvalue()
    for mode, kind in (("F", "tif"), ("I", "tif")):
        file = BytesIO()
        Image.new(mode, (9400, 9400)).save(file, "TIFF", compression="tiff_lzw")
        yield f"{mode}-9400.{kind}", file.getvalue()
    bomb = zlib.compress(bytes(400 << 20), 1)
    for kind, start in ((b"iCCP", b"a\0\0"), (b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")):
        yield f"bomb-{kind.decode()}.png", png(8, 8, 8, 2, chunk(kind, start + bomb))


def write(folder: Path, with_large: bool = True) -> None:
    """Write all samples below ``small`` and ``large``."""
    for name, files in (("small", samples().items()), ("large", large() if with_large else ())):
        (folder / name).mkdir()
        for file, data in files:
            (folder / name / file).write_bytes(data)
