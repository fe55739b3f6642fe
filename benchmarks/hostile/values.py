"""Ways to damage what is written as text: JSON and YAML, as text and as values."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

from .bytes import cut, flip, repeat

#: Values of the wrong type, out of every range, or hard to print.
POOL: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, 1000, 1001, 10**6, 10**9, 2**63, 10**30, -(10**30), 1e308, -0.0),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        " ",
        "x",
        "0",
        "nan",
        "1e400",
        "🐈",
        "a\nb",
        "\x1b[31m",
        "[/x]",
        "{}",
        "{}{}",
    ),
    *(
        "../..",
        "/dev/zero",
        "/etc/passwd",
        "fifo",
        "folder",
        "x" * 100_000,
        "%s",
        [],
        {},
        [[]],
        [None],
        [1, 2],
        {"a": 1},
    ),
    *({"kind": "x"}, {"kind": None}, {1: 2}, [1] * 50_000, list(range(50_000)), {"x" * 5000: 1}, [0.1, "a", None]),
)
_NAMES = ("kind", "modle", "name", "x" * 1000, "", "parts", "techniques", "__class__", "prompt", "ö", "captioner")


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values of nested mappings and lists, but not that of the whole."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path for key, value in inner for path in ((*at, key), *places(value, (*at, key)))]


def put(data: Any, path: tuple[Any, ...], value: Any) -> None:
    """Put a value at a path."""
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


def get(data: Any, path: tuple[Any, ...]) -> Any:
    """The value at a path."""
    for key in path:
        data = data[key]
    return data


def change(random: Random, data: Any) -> Any:
    """A copy with one to three values replaced, exchanged, wrapped, misnamed, added or gone."""
    data = copy.deepcopy(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        paths = places(data)
        if not paths:
            return random.choice(POOL)
        path = random.choice(paths)
        what = random.randrange(8)
        if what < 3:
            put(data, path, random.choice(POOL))
        elif what == 3:
            put(data, path, copy.deepcopy(get(data, random.choice(paths))))
        elif what == 4:
            put(
                data,
                path,
                random.choice(([get(data, path)], {"a": get(data, path)}, str(get(data, path)), nest(random))),
            )
        else:
            holder = get(data, path[:-1])
            if what == 5:
                del holder[path[-1]]
            elif isinstance(holder, dict) and what == 6:
                holder[random.choice(_NAMES)] = random.choice((holder[path[-1]], random.choice(POOL)))
            elif isinstance(holder, dict):
                key = str(path[-1])
                at = random.randrange(len(key) or 1)
                holder[random.choice((key[:at] + key[at + 1 :], key + "s", key.upper()))] = holder.pop(path[-1])
            else:
                holder[:] = holder * random.choice((2, 3, 1000))
    return data


def nest(random: Random) -> Any:
    """Lists or mappings in each other, deep."""
    inner: Any = 1
    for _ in range(random.choice((10, 50, 120))):
        inner = [inner] if random.random() < 0.5 else {"a": inner}
    return inner


def spoil(random: Random, text: str) -> bytes:
    """Text with lines, indents, or bytes that are damaged."""
    data, what = text.encode(), random.randrange(6)
    if what < 3:
        return (flip, cut, repeat)[what](random, data)
    lines = text.split("\n")
    at = random.randrange(len(lines))
    if what == 3:
        lines[at] = (
            random.choice(
                ("", "\t", "  ", "    - ", "\x00", "\ufeff", "%", "&a *a", "!!binary x", "<<: *a", "? ", "- - -")
            )
            + lines[at]
        )
    elif what == 4:
        lines.insert(at, random.choice(lines))
    else:
        return random.choice((b"\xff\xfe", b"\xef\xbb\xbf", b"\x00")) + data
    return "\n".join(lines).encode()
