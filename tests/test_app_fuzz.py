"""Whatever a browser sends, the server answers in words: no fault of its own, no file that was not given."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from PIL import Image

pytest.importorskip("fastapi", reason="the page needs the extra 'app'")
pytest.importorskip("schemathesis", reason="requests are made by schemathesis")
import schemathesis
from starlette.testclient import TestClient

import diffeat
from diffeat.app import session as session_module
from diffeat.app import shelf as shelf_module
from diffeat.app.gallery import Gallery
from diffeat.app.server import application
from diffeat.app.session import Session
from diffeat.app.shelf import Shelf
from diffeat.extraction import Reading, load_source
from diffeat.storage import FeatureStore

PACKAGE = Path(diffeat.__file__).parent
#: What is opened while a request is answered, where somebody listens.
_OPENED: list[Callable[[str, bool], None]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _OPENED and isinstance(arguments[0], str | bytes):
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        _OPENED[-1](os.fsdecode(arguments[0]), bool(flags & (os.O_WRONLY | os.O_RDWR)))


sys.addaudithook(_audit)


class Server:
    """The page over three pictures, a store and a folder for marks, beside secrets that are none of its business."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.given = folder / "given"
        self.out = folder / "out"
        self.given.mkdir()
        for number in range(3):
            Image.new("RGB", (40 + number, 30), (80 * number, 40, 90)).save(self.given / f"{number}.png")
        (folder / "secret.png").write_bytes((self.given / "0.png").read_bytes())
        (self.given / "link.png").symlink_to(folder / "secret.png")
        rgb = load_source("baseline:rgb")
        with FeatureStore.of(folder / "store", rgb) as store:
            store.write_shard(list(rgb.stream([self.given / f"{n}.png" for n in range(3)])))
        gallery = Gallery([str(self.given)])
        self.session = Session(
            Reading.load("tiny-unet").replace(**{"frame.longer": 64, "trajectory.draws": 1}), gallery
        )
        model = self.session.extractor  # loading reads what libraries read of the system
        if quick:  # everything but the model: all recipes give colours
            self.session.source = lambda recipe: model if recipe is next(iter(self.session.offered.values())) else rgb
        shelves = [Shelf(FeatureStore.open(folder / "store"), gallery)]
        app = application(self.session, shelves=shelves, out=self.out)
        self.client = TestClient(app, base_url="http://127.0.0.1:1", raise_server_exceptions=False)
        self.roots = [str(p) for p in (self.given, folder / "store", PACKAGE, sys.prefix, sys.base_prefix)]
        self.ids = [entry.id for entry in gallery.entries()]
        self.codes: Counter[int] = Counter()
        self.slowest = 0.0

    def ask(self, case: Any, chance: random.Random) -> None:
        """Send a request, with names that are there in place of some that are not."""
        body = case.body if isinstance(case.body, dict | list | str | int | float | bool | None) else None
        body, query = self._known(body, chance), self._known(dict(case.query or {}), chance)
        self.send(case.method, case.formatted_path, params=query, **({} if body is None else {"json": body}))

    def _known(self, value: Any, chance: random.Random, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: self._known(v, chance, k) for k, v in value.items()}
        if isinstance(value, list):
            return [self._known(v, chance, key) for v in value]
        names = {
            "picture": self.ids,
            "source": self.ids,
            "target": self.ids,
            "pictures": self.ids,
            "recipe": ["RGB patches", ""],
        }
        names |= {"name": ["0.png", "1.png"], "point": [3.0, 20.5], "activations": ["up_blocks.1", "mid_block"]}
        return chance.choice(names[key]) if key in names and chance.random() < 0.8 else value

    def send(self, method: str, path: str, **how: Any) -> None:
        opened: list[str] = []

        def look(name: str, writes: bool) -> None:
            real = os.path.realpath(name)
            roots = [str(self.out)] if writes else self.roots
            if not any(real == root or real.startswith(root + os.sep) for root in (*roots, "/dev/null")):
                opened.append(real)

        started = time.perf_counter()
        with contextlib.suppress(UnicodeError, ValueError):  # what no client can put into a request
            _OPENED.append(look)
            try:
                answer = self.client.request(method, path, **how)
            finally:
                _OPENED.pop()
            self.slowest = max(self.slowest, time.perf_counter() - started)
            self.codes[answer.status_code] += 1
            told = f"{method} {path} {str(how)[:600]}: {answer.status_code} {answer.text[:300]}"
            assert answer.status_code < 499, told
            assert answer.status_code < 400 or answer.json()["error"], told
            assert not [name for name in opened if name.startswith(str(self.given.parent)) or "secret" in name], told
            assert not [name for name in opened if not name.endswith((".py", ".pyc", ".so"))], (told, opened)


def operations(server: Server) -> list[Any]:
    schema = schemathesis.openapi.from_dict(server.client.get("/openapi.json").json())
    return [result.ok() for result in schema.get_all_operations()]


def fuzzed(server: Server, examples: int, start: int = 0) -> None:
    """So many requests of every endpoint, the same ones every time."""
    for operation in operations(server):
        _fuzzed(server, operation, examples, start)


def _fuzzed(server: Server, operation: Any, examples: int, start: int) -> None:
    chance = random.Random(start)

    @seed(start)
    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        server.ask(case, chance)

    check()


def damaged(count: int, start: int = 0) -> Iterator[bytes]:
    """Files to upload: pictures with bytes changed, cut off or repeated."""
    chance = random.Random(start)
    for _ in range(count):
        file = io.BytesIO()
        Image.new("RGB", (chance.randint(1, 40), 9), (200, 10, 10)).save(
            file, chance.choice(["PNG", "JPEG", "GIF", "WEBP"])
        )
        data = bytearray(file.getvalue())
        for _ in range(chance.randint(0, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        yield bytes(data[: chance.randint(0, len(data))] if chance.random() < 0.3 else data)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    return Server(tmp_path_factory.mktemp("fuzz"), quick=True)


def test_every_endpoint_answers_whatever_it_is_asked(server: Server) -> None:
    fuzzed(server, examples=6)
    for data in damaged(12):
        server.send("POST", "/api/pictures", params={"name": "x.png"}, content=data)
    assert server.codes[200] > 20, server.codes  # not all is refused
    assert len(operations(server)) > 15
    assert not list(server.given.glob("*.tmp"))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff\xfe", b'{"asked": NaN}', b"null", b"[" * 20_000, b'"\\ud800"']
)
def test_bodies_that_are_no_json_are_refused(server: Server, body: bytes) -> None:
    for path in ("/api/click", "/api/transfer", "/api/stores/0/nearest"):
        server.send("POST", path, content=body, headers={"Content-Type": "application/json"})


@pytest.mark.slow
def test_many_requests_with_a_model_leave_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 2,000 requests after those that fill what is kept, which is bounded: small bounds are full at once."""
    psutil = pytest.importorskip("psutil")
    for module in (session_module, shelf_module):
        for name in ("FEATURES", "TARGETS"):
            monkeypatch.setattr(module, name, 2 << 20)
    monkeypatch.setattr("diffeat.app.bounds.PASSES", 64)  # as many requests as can be in little time
    torch.set_num_threads(1)
    server = Server(tmp_path, quick=False)
    process = psutil.Process()

    def memory() -> float:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # what the C library holds for later is no growth
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        return process.memory_info().rss / 1e6

    fuzzed(server, examples=40)
    warm, before = memory(), sum(server.codes.values())
    for round in range(1, 4):
        fuzzed(server, examples=40, start=round)
        for data in damaged(60, start=round):
            server.send("POST", "/api/pictures", params={"name": "x.png"}, content=data)
        for entry in server.session.gallery.entries():
            server.session.gallery.remove(entry.id)
    done, grown = sum(server.codes.values()) - before, memory() - warm
    print(f"{done} requests, {grown:+.1f} MB of {warm:.0f} MB, slowest {server.slowest:.2f} s, {dict(server.codes)}")
    assert done > 2000
    assert grown < 40


def test_the_audit_sees_what_is_opened(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []
    _OPENED.append(lambda name, writes: seen.append((name, writes)))
    (tmp_path / "a").write_text("x")
    _OPENED.pop()
    assert (str(tmp_path / "a"), True) in seen
