"""Ways to damage a file: anywhere, or where its format keeps lengths, sizes and checksums."""

from __future__ import annotations

import struct
import zlib
from random import Random

from .samples import chunk

_EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def flip(random: Random, data: bytes) -> bytes:
    """Turn one to sixty-four bits, half of the time near the beginning."""
    changed = bytearray(data)
    reach = min(len(changed), random.choice((64, len(changed))))
    for _ in range(random.choice((1, 1, 2, 4, 16, 64)) if reach else 0):
        changed[random.randrange(reach)] ^= 1 << random.randrange(8)
    return bytes(changed)


def cut(random: Random, data: bytes) -> bytes:
    """End early, lose a piece, or go on with zeros."""
    at = random.randrange(len(data) + 1)
    lost = random.choice((1, 2, 7, 100))
    return random.choice(
        (data[:at], data[: at // 20], data[:at] + data[at + lost :], data[:at] + bytes(len(data) - at))
    )


def repeat(random: Random, data: bytes) -> bytes:
    """Twice the same piece, or pieces exchanged."""
    a, b = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return random.choice((data[:b] + data[a:], data[:a] + data[b:] + data[a:b], data * 2))


def extreme(random: Random, data: bytes) -> bytes:
    """A number of two, four or eight bytes becomes very small or very large."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 3))):
        form = random.choice("<>") + random.choice("HIIQ")
        size = struct.calcsize(form)
        reach = min(len(changed), random.choice((64, 64, len(changed))))
        if reach > size:
            struct.pack_into(form, changed, random.randrange(reach - size), random.choice(_EXTREMES) & (256**size - 1))
    return bytes(changed)


def digits(random: Random, data: bytes) -> bytes:
    """A number written in digits becomes another."""
    words = data[:200].split(b" ") if b" " in data[:200] else data[:200].split(b"\n")
    sep = b" " if b" " in data[:200] else b"\n"
    at = random.randrange(len(words))
    words[at] = random.choice((b"0", b"-1", b"1e9", b"999999999", b"9" * 5000, b"", b"nan", b"0x10", b"\xff", b"1.5"))
    return sep.join(words) + data[200:]


def png(random: Random, data: bytes) -> bytes:
    """A PNG's chunks changed, with checksums that are right."""
    chunks = _chunks(data)
    if not chunks:
        return extreme(random, data)
    at = random.randrange(len(chunks))
    kind, body = chunks[at]
    what = random.randrange(6)
    if what == 0:
        chunks.insert(random.randrange(len(chunks)), (kind, body))
    elif what == 1:
        chunks[at] = (kind, random.choice((extreme, flip, cut))(random, body))
    elif what == 2:
        del chunks[at]
    elif what == 3:
        names = (
            b"IHDR",
            b"tRNS",
            b"PLTE",
            b"iCCP",
            b"zTXt",
            b"iTXt",
            b"tEXt",
            b"eXIf",
            b"acTL",
            b"fcTL",
            b"fdAT",
            b"gAMA",
            b"cHRM",
            b"pHYs",
            b"IEND",
            b"\xff\0ab",
        )
        body = random.choice(
            (
                b"",
                bytes(1),
                bytes(3),
                random.randbytes(random.choice((1, 4, 13, 26, 300))),
                b"a\0\0" + zlib.compress(b"b" * 10**6),
            )
        )
        chunks.insert(random.randrange(len(chunks)), (random.choice(names), body))
    elif what == 4:
        head = bytearray(chunks[0][1].ljust(13, b"\0"))
        head[random.randrange(len(head))] = random.choice((0, 1, 2, 3, 4, 6, 7, 16, 127, 255))
        chunks[0] = (b"IHDR", bytes(head[: random.choice((13, 13, 13, 8, 1, 20))]))
    else:
        chunks[at] = (random.choice(chunks)[0], body)
    made = [chunk(kind, body) for kind, body in chunks]
    if random.random() < 0.2:
        made[at % len(made)] = extreme(random, made[at % len(made)])
    return data[:8] + b"".join(made)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while data.startswith(b"\x89PNG") and at + 12 <= len(data):
        size = struct.unpack_from(">I", data, at)[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


def tiff(random: Random, data: bytes) -> bytes:
    """Entries of a TIFF's directory: tag, type, count or value."""
    order = "<" if data[:2] == b"II" else ">"
    changed, at = bytearray(data), struct.unpack_from(f"{order}I", data, 4)[0]
    if at + 2 > len(data):
        return extreme(random, data)
    entries = struct.unpack_from(f"{order}H", data, at)[0]
    for _ in range(random.choice((1, 1, 2, 4))):
        entry = at + 2 + 12 * random.randrange(max(entries, 1))
        offset, form = random.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I")))
        small = random.randrange(300 if form == "H" else 20)
        if entry + offset + 4 <= len(changed):
            value = random.choice((*_EXTREMES, small, small, small)) & (0xFFFF if form == "H" else 0xFFFFFFFF)
            struct.pack_into(order + form, changed, entry + offset, value)
    return bytes(changed)


def riff(random: Random, data: bytes) -> bytes:
    """Chunks of a WebP: sizes, order, names; the outer size stays right half of the time."""
    chunks, at = [], 12
    while at + 8 <= len(data):
        size = struct.unpack_from("<I", data, at + 4)[0]
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    if not chunks:
        return extreme(random, data)
    k = random.randrange(len(chunks))
    kind, body = chunks[k]
    what = random.randrange(4)
    if what == 0:
        chunks.insert(random.randrange(len(chunks) + 1), (kind, body))
    elif what == 1:
        chunks[k] = (kind, random.choice((extreme, flip, cut))(random, body))
    elif what == 2:
        del chunks[k]
    else:
        chunks[k] = (random.choice((b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"EXIF", b"ICCP", b"ALPH")), body)
    inner = b"".join(n + struct.pack("<I", len(b)) + b + b"\0" * (len(b) % 2) for n, b in chunks)
    made = b"RIFF" + struct.pack("<I", len(inner) + 4) + b"WEBP" + inner
    return made if random.random() < 0.5 else extreme(random, made)


def boxes(random: Random, data: bytes) -> bytes:
    """Sizes and names of the boxes of AVIF and JPEG 2000."""
    places = [i for i in range(4, len(data) - 4) if data[i : i + 4].isalnum() and data[i - 4 : i - 2] == b"\0\0"]
    if not places:
        return extreme(random, data)
    changed, at = bytearray(data), random.choice(places)
    if random.random() < 0.6:
        struct.pack_into(">I", changed, at - 4, random.choice((*_EXTREMES, 7, 8, 9, len(data), random.randrange(999))))
    else:
        other = random.choice(places)
        changed[at : at + 4] = data[other : other + 4]
    return bytes(changed)


def segments(random: Random, data: bytes) -> bytes:
    """Markers of a JPEG: lengths, sizes, and the segments themselves."""
    places = [i for i in range(len(data) - 4) if data[i] == 0xFF and data[i + 1] not in (0, 0xFF)]
    at = random.choice(places or [0])
    size = struct.unpack_from(">H", data, at + 2)[0]
    changed = bytearray(data)
    what = random.randrange(4)
    if what == 0:
        struct.pack_into(">H", changed, at + 2, random.choice((0, 1, 2, 3, 0xFFFF, size + 1, max(size, 1) - 1)))
    elif what == 1:
        return data[:at] + data[at : at + 2 + size] * random.choice((2, 50)) + data[at + 2 + size :]
    elif what == 2:
        changed[at + 1] = random.choice((0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xD9, 0xFE))
    else:
        body = random.choice((flip, extreme))(random, data[at + 4 : at + 2 + size])
        changed[at + 4 : at + 4 + len(body)] = body
    return bytes(changed)


#: What knows a format, by the ending of its samples.
FORMED = {
    "png": png,
    "tif": tiff,
    "webp": riff,
    "avif": boxes,
    "jp2": boxes,
    "jpg": segments,
    "pnm": digits,
    "eps": digits,
    "text": digits,
}
ANYWHERE = {"flip": flip, "cut": cut, "repeat": repeat, "extreme": extreme}
