"""One command for a machine with a GPU, under eight minutes:

    python benchmarks/accelerator.py [--small] [--out TABLE.md]

1. Equality: features of every family's tiny pipeline, CPU against the accelerator, in float32 without TF32.
2. Throughput: `extract` of JPEG files with a model of real size and random weights: pictures per second, and how busy
   the accelerator is (nvidia-smi), for one draw and for eight.
3. The effect of each option on the same pictures: precision, pictures in a call, channels_last, regional compile. All
   but the first part run with torch's own settings, of which one lets convolutions of float32 use TF32.
4. Out of memory: calls that are too large are halved; no picture is lost, and features stay the same.
5. A store written from maps in memory: bytes per second.

Without an accelerator everything runs on the CPU; ``--small`` takes the tiny model, as the tests do. A part that would
begin after the time is up is left out, and says so; one that fails says why, and the others go on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffeat.backbones import Backbone
from diffeat.extraction import Extractor, Reading, extract_to_store
from diffeat.features import FeatureMap, list_pictures
from diffeat.geometry import FrameSpec
from diffeat.storage import FeatureStore

ROOT = Path(__file__).parent.parent
#: Seconds after which no part begins.
LIMIT = 420
#: Largest difference that rounding makes, over the largest value.
ROUNDING = 1e-3

Rows = list[tuple[str, str]]


def families() -> tuple[dict[str, Any], Callable[..., Any]]:
    """The tiny pipelines of the tests, and what builds one."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny.pipelines import FAMILIES, build

    return FAMILIES, build


def difference(one: FeatureMap, other: FeatureMap) -> float:
    """The largest, over the largest value."""
    return max(
        float((a.float().cpu() - b.float().cpu()).abs().max() / a.float().abs().max().clamp(min=1e-12))
        for a, b in zip(one.activations.values(), other.activations.values(), strict=True)
    )


def reading(activations: Sequence[str], size: int, **fields: Any) -> Reading:
    base = {"model": "x", "frame": {"mode": "squash", "size": size}, "activations": list(activations)}
    return Reading.from_dict({**base, "trajectory": {"timesteps": [261], "latent": "mean"}, **fields})


def photos(folder: Path, count: int) -> Path:
    """JPEG files of 640×480 pixels."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (15, 20, 3), np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{i:04d}.jpg", quality=90)
    return folder


def equality(device: str, names: Sequence[str]) -> Rows:
    """Features of each family on the CPU and on the accelerator, without TF32."""
    from diffeat.activations import Catalogue

    torch.backends.cudnn.allow_tf32 = False

    _, build = families()
    pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)) for i in range(2)]
    rows = []
    for name in names:
        sides = []
        for where in ("cpu", device):
            backbone = Backbone.from_pipeline(build(name).to(where), name=name)
            activations = [a.id for a in Catalogue.of(backbone) if a.kind in ("block", "resnet", "output")]
            activations = activations or [next(iter(Catalogue.of(backbone))).id]
            sides.append(Extractor(reading(activations[-3:], 64), backbone, batch_size=1).extract(pictures))
        worst = max(difference(a, b) for a, b in zip(*sides, strict=True))
        rows.append((name, f"{worst:.1e}{'' if worst < ROUNDING else '  NOT EQUAL'}"))
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    return rows


def model(device: str, small: bool, dtype: torch.dtype = torch.float32) -> tuple[Backbone, list[str], int]:
    """A model with random weights, what is read of it, and the size of its pictures."""
    if small:
        return Backbone.from_pipeline(families()[1]("sd15").to(device), name="sd15"), ["up_blocks.1"], 64
    sys.path.insert(0, str(Path(__file__).parent))
    from real_models import MODELS

    build, activations = MODELS["sd15"]
    return Backbone.from_pipeline(build(dtype).to(device), name="sd15"), activations[:1], 512


@contextmanager
def busy(device: str) -> Iterator[Callable[[], str]]:
    """How busy the accelerator is meanwhile, as nvidia-smi sees it."""
    seen: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.25):
            command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return
            seen.append(float(done.stdout.split()[0]))

    thread = threading.Thread(target=look, daemon=True)
    if device != "cpu":
        thread.start()
    try:
        yield lambda: f"{np.mean(seen):.0f} % busy" if seen else "not told"
    finally:
        over.set()


def seconds(run: Callable[[], Any], device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def throughput(device: str, small: bool, folder: Path, count: int) -> Rows:
    """Files to store, warm."""
    backbone, activations, size = model(device, small, torch.float32 if device == "cpu" else torch.bfloat16)
    pictures = list(list_pictures(photos(folder / "photos", count)))
    rows = []
    for draws in (1, 8):
        path = {"timesteps": [261], "latent": "mean", "draws": draws}
        source = Extractor(reading(activations, size, trajectory=path), backbone)
        source.extract(pictures[: count // 4])
        with FeatureStore.of(folder / f"store-{draws}", source) as store, busy(device) as told:
            spent = seconds(lambda run=source, to=store: extract_to_store(run, pictures, to), device)
            rate = told()
        what = f"{count} files of 640×480 → {size} px → store, {draws} {'draw' if draws == 1 else 'draws'}"
        rows.append((what, f"{count / spent:.1f} pictures/s; accelerator {rate}"))
    return rows


def options(device: str, small: bool, folder: Path, count: int) -> Rows:
    """Each option against the plain run in bfloat16, and that against float32."""
    images = [Image.open(path).convert("RGB") for path in sorted(photos(folder / "photos", count).iterdir())[:count]]
    batch = min(16, count)
    rows: Rows = []

    def plain(dtype: torch.dtype) -> tuple[Backbone, Reading, list[FeatureMap], float]:
        backbone, activations, size = model(device, small, dtype)
        backbone.pipeline.to(dtype)
        recipe = reading(activations, size)
        source = Extractor(recipe, backbone, batch_size=batch)
        features = source.extract(images)
        spent = seconds(lambda: source.extract(images), device)
        rows.append((f"{dtype}, {batch} rows a call".removeprefix("torch."), f"{count / spent:.1f} pictures/s"))
        return backbone, recipe, features, spent

    *_, exact, base = plain(torch.float32)
    backbone, recipe, expected, half = plain(torch.bfloat16)
    worst = max(difference(a, b) for a, b in zip(exact, expected, strict=True))
    rows.append(("bfloat16 against float32", f"{base / half:.2f}×, differs by {worst:.1e}"))

    def against(name: str, size: int = batch) -> None:
        source = Extractor(recipe, backbone, batch_size=size)
        features = source.extract(images)
        spent = seconds(lambda: source.extract(images), device)
        worst = max(difference(a, b) for a, b in zip(expected, features, strict=True))
        rows.append((f"bfloat16, {name}", f"{half / spent:.2f}×, differs by {worst:.1e}"))

    against("1 row a call", 1)
    denoiser: Any = backbone.denoiser
    denoiser.to(memory_format=torch.channels_last)
    against("channels_last")
    if device != "cpu":
        denoiser.compile_repeated_blocks(dynamic=False)
        against("channels_last, regional compile")
    return rows


def halving(device: str, small: bool, folder: Path, count: int) -> Rows:
    """A denoiser that has memory for two rows, asked for all at once; on a GPU memory itself is short, too."""
    images = [Image.open(path).convert("RGB") for path in sorted(photos(folder / "photos", count).iterdir())[:count]]
    backbone, activations, size = model(device, small)
    recipe = reading(activations, size)
    expected = Extractor(recipe, backbone, batch_size=1).extract(images)
    calls: list[int] = []

    def short(_: object, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows = len(next(v for v in (*arguments, *named.values()) if isinstance(v, torch.Tensor) and v.ndim > 1))
        if rows > 2:
            raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB")
        calls.append(rows)

    handle = backbone.denoiser.register_forward_pre_hook(short, with_kwargs=True)
    features = Extractor(recipe, backbone, batch_size=count).extract(images)
    handle.remove()
    worst = max(difference(a, b) for a, b in zip(expected, features, strict=True))
    rows = [(f"{count} rows asked for, room for 2", f"{sum(calls)} rows in {len(calls)} calls, differs by {worst:.1e}")]
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved() + 2 * 2**30
        torch.cuda.set_per_process_memory_fraction(min(1.0, held / torch.cuda.get_device_properties(0).total_memory))
        many = images * max(1, 64 // count)
        features = Extractor(recipe, backbone, batch_size=len(many)).extract(many)
        torch.cuda.set_per_process_memory_fraction(1.0)
        worst = max(difference(a, b) for a, b in zip(expected * (len(many) // count), features, strict=True))
        rows.append((f"{len(many)} rows asked for, 2 GiB free", f"{len(features)} pictures, differs by {worst:.1e}"))
    return rows


def writing(folder: Path, count: int, side: int) -> Rows:
    """Maps of 1280 channels to a store on this disk."""
    frame = FrameSpec("squash", size=8 * side).frame((8 * side, 8 * side))
    values = torch.randn(1280, side, side, generator=torch.Generator().manual_seed(0)).half()
    content = {"name": "written"}
    with FeatureStore.open_or_create(folder / "written", content, "0" * 64, dtype="float16") as store:
        start = time.perf_counter()
        for first in range(0, count, 16):
            names = [f"{i}" for i in range(first, min(first + 16, count))]
            store.write_shard([FeatureMap({"map": values}, frame, n, n) for n in names], position=first // 16)
        spent = time.perf_counter() - start
    return [(f"{count} maps of 1280×{side}×{side} float16", f"{count * values.nbytes / spent / 1e6:.0f} MB/s")]


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="The tiny model, few pictures.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--families", nargs="*", help="For the equality; all of them if not given.")
    parser.add_argument("--out", type=Path, help="Markdown file to write.")
    asked = parser.parse_args(arguments)
    device, small, begun = asked.device, asked.small, time.perf_counter()
    count = 4 if small else 16 if device == "cpu" else 256
    few = min(count, 16)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    lines = [f"# {name}, PyTorch {torch.__version__}", ""]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parts: dict[str, Callable[[], Rows]] = {
            f"CPU against {device}, largest difference": partial(equality, device, asked.families or [*families()[0]]),
            "Throughput": partial(throughput, device, small, folder, count),
            "Options": partial(options, device, small, folder, few),
            "Out of memory": partial(halving, device, small, folder, few),
            "Writing a store": partial(writing, folder, 16 if small else 256, 8 if small else 32),
        }
        for title, part in parts.items():
            if time.perf_counter() - begun > LIMIT:
                rows: Rows = [("left out", "the time is up")]
            else:
                try:
                    rows = part()
                except Exception as error:
                    traceback.print_exc()
                    rows = [("FAILED", f"{type(error).__name__}: {error}".splitlines()[0])]
            lines += [f"## {title}", "", "| | |", "|---|---|", *(f"| {what} | {says} |" for what, says in rows), ""]
            print("\n".join(lines[-len(rows) - 5 :]), flush=True)
    text = "\n".join([*lines, f"{time.perf_counter() - begun:.0f} s in all."])
    if asked.out is not None:
        asked.out.write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
