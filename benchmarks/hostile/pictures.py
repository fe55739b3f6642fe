"""Pictures: damaged in every format, under wrong names, not regular files, very large; each beside a good one."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from . import samples
from .bytes import ANYWHERE, FORMED
from .trial import Case, Door, Wrong, command

_ENDINGS = ("png", "jpg", "tif", "gif", "webp", "ppm", "bmp", "eps", "ps", "svg", "txt", "jp2", "avif", "PNG", "")
_NAMES = (
    "[red]x[/x].png",
    "a\nb.png",
    "-x.png",
    "*.png",
    "a" * 251 + ".png",
    "\x1b[31mred.png",
    "übel 😀.png",
    "%s{}.png",
)


class Pictures:
    """
    Args:
        large: With very large pictures among them, which take their time.
    """

    name = "pictures"
    count = 20_000
    recipes = ("baseline:rgb",)

    def __init__(self, large: bool = True) -> None:
        self._large = large

    def prepare(self, folder: Path) -> None:
        samples.write(folder, self._large)
        if extra := os.environ.get("DIFFEAT_FUZZ_SEEDS"):
            for file in sorted(p for p in Path(extra).rglob("*") if p.is_file() and p.stat().st_size < 1e6):
                (folder / "small" / f"given-{file.stem}.given").write_bytes(file.read_bytes())

    def case(self, random: Random, seeds: Path) -> Case:
        from PIL import Image

        Image.new("RGB", (8, 6), (200, 100, 0)).save("good.png")
        draw = random.random()
        if draw < 0.02:
            kind, name = _special(random)
        elif draw < 0.025 and self._large:
            kind, name = _large(random, seeds)
        else:
            kind, name = _damaged(random, _small(seeds))
        where = os.fsdecode(name)
        names = (where, where[:20], os.fsencode(where).decode("utf-8", "backslashreplace"), repr(where)[1:-1])
        doors: dict[str, Door] = {"open_image": lambda: _open(where), "stream": lambda: _stream(where)}
        if draw < 0.025:
            doors["extract"] = lambda: command(
                "extract",
                "--recipe",
                "baseline:rgb",
                "--size",
                "64",
                "--out",
                "out",
                "good.png",
                "--",
                where,
                good=(0, 1),
            )
        return Case(kind, names, doors)


def _damaged(random: Random, small: dict[str, bytes]) -> tuple[str, str]:
    """A sample of a format, damaged in one or two ways."""
    # every format is as likely, however many samples it has
    by_ending: dict[str, list[str]] = {}
    for name in small:
        by_ending.setdefault(name.rpartition(".")[2], []).append(name)
    format = random.choice(sorted(by_ending))
    data = small[random.choice(by_ending[format])]
    ways: dict[str, Any] = {**ANYWHERE, **({"formed": FORMED[format]} if format in FORMED else {})}
    way = random.choice([*ways, *(["formed"] * 3 if format in FORMED else []), "splice", "ending"])
    ending = format
    if way == "splice":
        other = small[random.choice(sorted(small))]
        data = data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]
    elif way == "ending":
        ending = random.choice(_ENDINGS)
        data = data if random.random() < 0.7 else ANYWHERE["flip"](random, data)
    else:
        data = ways[way](random, data)
        if random.random() < 0.2 and data:
            data = random.choice(list(ANYWHERE.values()))(random, data)
    name = f"hostile.{random.choice((ending, ending, 'png'))}"
    Path(name).write_bytes(data)
    return f"{format} {way}", name


def _large(random: Random, seeds: Path) -> tuple[str, str]:
    file = random.choice(sorted((seeds / "large").iterdir()))
    os.symlink(file, file.name)
    return f"large {file.name}", file.name


def _special(random: Random) -> tuple[str, str | bytes]:
    """Not a regular file, or one with a name or a size out of the ordinary."""
    name: str | bytes = "special.png"
    kinds = (
        "fifo",
        "socket",
        "zero",
        "random",
        "stdin",
        "folder",
        "dangling",
        "loop",
        "empty",
        "sparse",
        "tty",
        "missing",
        "mem",
        "bytes-name",
        "long-path",
        *_NAMES,
    )
    kind = random.choice(kinds)
    links = {
        "zero": "/dev/zero",
        "random": "/dev/urandom",
        "stdin": "/dev/stdin",
        "dangling": "nowhere.png",
        "loop": "special.png",
        "tty": "/dev/tty",
        "mem": "/proc/self/mem",
    }
    if kind == "fifo":
        os.mkfifo(name)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(name)
    elif kind in links:
        os.symlink(links[kind], name)
    elif kind == "folder":
        os.mkdir(name)
    elif kind == "empty":
        Path(name).touch()
    elif kind == "sparse":
        with open(name, "wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n")
            file.truncate(1 << 40)
    elif kind == "bytes-name":
        name = b"not-\xff-utf8.png"
        Path(os.fsdecode(name)).write_bytes(b"no picture")
    elif kind == "long-path":
        name = "/".join(["d" * 200] * 30) + "/x.png"
    elif kind in _NAMES:
        name = kind
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(random.choice((b"no picture", b"\x89PNG\r\n\x1a\n")))
        kind = f"name {kind[:12]!r}"
    return f"special {kind}", name


def _open(name: str) -> None:
    """The geometry's opening: RGB, of some size."""
    from diffeat.geometry import open_image

    image = open_image(name)
    last = image.crop((0, image.height - 1, image.width, image.height))  # all of it would be what takes the memory
    if image.mode != "RGB" or min(image.size) < 1 or len(last.tobytes()) != 3 * image.width:
        raise Wrong(f"a picture of mode {image.mode}, {image.size}")


def _stream(name: str) -> None:
    """A stream over it and two good pictures: these are read, whatever becomes of it."""
    from diffeat.errors import DiffeatError
    from diffeat.features.places.look import LISTS  # such a file stands for as many pictures as it has lines

    refused: list[DiffeatError] = []
    features = list(
        _source().stream([Path("good.png"), Path(name), Path("good.png")], on_error=lambda _, e: refused.append(e))
    )
    if (
        [n for n, _ in features].count("good.png") != 2
        or features[0] != features[-1]
        or len(features) + len(refused) < 3
        or (len(features) + len(refused) > 3 and not name.endswith(LISTS))
    ):
        raise Wrong(f"read: {features}, refused: {[str(e) for e in refused]}")
    if refused:
        raise refused[0]


@lru_cache(1)
def _source() -> Any:
    """The cheapest source that there can be: the pictures' own digests."""
    from diffeat.features import Group, Streams

    class Digests(Streams[tuple[str, str]]):
        fingerprint = ""
        recipe: Any = None

        def group(self, picture: Any) -> Any:
            return Group(picture.name)

        def read(self, pictures: Any) -> Any:
            return [(picture.name, picture.key) for picture in pictures]

    return Digests()


@lru_cache(1)
def _small(seeds: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((seeds / "small").iterdir())}


PART = Pictures()
