"""How long the page waits: a cached click, a new timestep, a new picture; by HTTP, on this machine's processor.

    python benchmarks/app_latency.py [--model tiny-unet | --sd15 FOLDER] [--size 512] [--dtype float32] [--clicks 40]

``--sd15`` writes a pipeline of Stable Diffusion 1.5's shape with random weights into the folder, once. The server runs
as ``diffeat app`` does, in a thread of this process; times are of whole requests, as a browser here sees them.
A click is compared with what ``diffeat.match`` gives.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import statistics
import struct
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

import diffeat
from diffeat.app.gallery import Gallery
from diffeat.app.server import application, serve
from diffeat.app.session import Session
from diffeat.extraction import Reading

PICTURES = 4


class Browser:
    """Requests to the server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, body: Any = None) -> bytes:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)) as connection:
            connection.request(method, f"/api/{path}", data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        assert answer.status == 200, content[:300]
        return content


class Spent(NamedTuple):
    """Seconds of the clock, and of the processor: what the clock would tell of one thread on a machine left alone."""

    clock: float
    cpu: float


def timed(act: Callable[[], Any]) -> Spent:
    clock, cpu = time.perf_counter(), time.process_time()
    act()
    return Spent(time.perf_counter() - clock, time.process_time() - cpu)


def header(packet: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<I", packet[:4])
    return json.loads(packet[4 : 4 + length])


def noise(seed: int) -> bytes:
    """A picture that was never there."""
    file = io.BytesIO()
    small = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), np.uint8)
    Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-unet")
    parser.add_argument("--sd15", type=Path, help="folder of the random model of that shape; written if missing")
    parser.add_argument("--size", type=int, help="longer side of the model's image; the recipe's if not given")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--clicks", type=int, default=40)
    parser.add_argument("--changes", type=int, default=5, help="new timesteps, and new pictures")
    args = parser.parse_args()
    reading = Reading.load("tiny-dift" if args.model == "tiny-unet" else args.model).replace(**{"trajectory.draws": 1})
    if args.sd15 is not None:
        from real_models import write

        path = write("sd15", args.sd15, getattr(torch, args.dtype))
        reading = reading.replace(model=str(path), frame={"mode": "squash", "size": 512}, activations=["up_blocks.1"])
    if args.size:
        reading = reading.replace(frame={"mode": "squash", "size": args.size})
    session = Session(reading, Gallery(), computing={"dtype": args.dtype})
    loaded = timed(lambda: session.extractor)
    ready, stop, ports = threading.Event(), threading.Event(), list[int]()
    hear = lambda port: (ports.append(port), ready.set())  # noqa: E731
    threading.Thread(target=serve, args=(application(session), "127.0.0.1", 0, hear, stop), daemon=True).start()
    ready.wait()
    browser = Browser(ports[0])
    ids = [p["id"] for p in json.loads(browser.ask("GET", f"pictures?limit={PICTURES}"))["pictures"]]
    asked: dict[str, Any] = {"recipe": reading.name}
    first = timed(lambda: browser.ask("POST", "features", {"asked": asked, "picture": ids[0]}))
    for id in ids:
        browser.ask("POST", "features", {"asked": asked, "picture": id})
    points = np.random.default_rng(0).uniform(5, 200, (args.clicks, 2)).round(1).tolist()
    click = {"asked": asked, "source": ids[0], "pictures": ids}
    once = timed(lambda: browser.ask("POST", "click", {**click, "point": [9, 9]}))
    clicks = [timed(lambda p=p: browser.ask("POST", "click", {**click, "point": p})) for p in points]
    _check(session, browser, ids, click)
    steps = [{**asked, "timesteps": [t]} for t in range(300, 300 + args.changes)]
    times = [timed(lambda s=s: browser.ask("POST", "features", {"asked": s, "picture": ids[0]})) for s in steps]

    def new_picture(seed: int) -> None:
        told = json.loads(browser.ask("POST", "pictures?name=new.png", noise(seed)))
        browser.ask("POST", "features", {"asked": asked, "picture": told["id"]})

    pictures = [timed(lambda s=s: new_picture(s)) for s in range(args.changes)]
    shape = "×".join(
        map(str, header(browser.ask("POST", "features", {"asked": asked, "picture": ids[0]}))["maps"][0]["shape"])
    )
    stop.set()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    heads = ("model", "map", "seconds", "model ready", "first picture", "first click", "cached click (95 %)")
    print(f"| {' | '.join((*heads, 'new timestep', 'new picture'))} |")
    print("|---|---|---|--:|--:|--:|--:|--:|--:|")
    name = "SD 1.5's shape, random" if args.sd15 else reading.model
    for kind in range(2):
        ordered = sorted(spent[kind] for spent in clicks)
        cells = [f"{loaded[kind]:.1f} s", f"{first[kind]:.2f} s", f"{1000 * once[kind]:.0f} ms"]
        cells += [f"{1000 * statistics.median(ordered):.0f} ms ({1000 * ordered[int(0.95 * len(ordered))]:.0f})"]
        cells += [f"{statistics.median(spent[kind] for spent in several):.2f} s" for several in (times, pictures)]
        print(f"| {name}, {args.dtype} | {shape} | of the {('clock', 'processor')[kind]} | {' | '.join(cells)} |")


def _check(session: Session, browser: Browser, ids: list[str], click: dict[str, Any]) -> None:
    """The place that the page tells is the one that Python finds."""
    told = header(browser.ask("POST", "click", {**click, "point": [50, 60]}))["matches"][1]
    first = next(iter(session.offered.values()))
    one, other = session.source(first).extract([session.gallery[id].picture() for id in ids[:2]])
    found = diffeat.match(one, other, [[50, 60]])
    assert [told["x"], told["y"]] == found.target[0].tolist()


if __name__ == "__main__":
    main()
