"""Matching at full resolution: time and peak memory against the straightforward procedure.

    python benchmarks/matching.py

Target 640×480, features 1280×48×48, 20 points. The straightforward procedure upsamples both maps to their pictures,
normalises and takes the argmax. Each procedure runs in a process of its own; memory is the highest resident size
beyond that of the process holding the inputs. Both must predict the same points.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

SIZE, GRID, CHANNELS, POINTS = (640, 480), (48, 48), 1280, 20


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randn(CHANNELS, *GRID, generator=generator) for _ in range(2))
    x = torch.randint(SIZE[0], (POINTS,), generator=generator)
    y = torch.randint(SIZE[1], (POINTS,), generator=generator)
    return source, target, torch.stack((x, y), 1)


def straightforward(source: torch.Tensor, target: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    def upsampled(features: torch.Tensor) -> torch.Tensor:
        return F.interpolate(features[None], size=SIZE[::-1], mode="bilinear", align_corners=False)[0]

    vectors = F.normalize(upsampled(source)[:, points[:, 1], points[:, 0]].T, dim=1)
    best = (vectors @ F.normalize(upsampled(target), dim=0).flatten(1)).argmax(1)
    return torch.stack((best % SIZE[0], best // SIZE[0]), 1)


def ours(source: torch.Tensor, target: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    from diffeat import FeatureMap, match
    from diffeat.geometry import FrameSpec

    frame = FrameSpec("squash", 768).frame(SIZE)
    return match(FeatureMap({"f": source}, frame), FeatureMap({"f": target}, frame), points).target.long()


def reset_peak() -> None:
    """Set the kernel's high-water mark of this process to its present size, where it can be set."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak() -> int:
    try:
        with open("/proc/self/status") as file:
            return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, repeats: int, threads: int) -> None:
    torch.set_num_threads(threads)
    run = {"straightforward": straightforward, "diffeat": ours}[name]
    data = inputs()
    if name == "diffeat":  # imports are not matching
        small = [t[:8, :6, :6].contiguous() for t in data[:2]]
        ours(small[0], small[1], data[2])
    else:
        torch.randn(8, 8) @ torch.randn(8, 8)
    reset_peak()
    before = peak()
    seconds, predicted = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        predicted = run(*data)
        seconds.append(time.perf_counter() - start)
    assert predicted is not None
    print(json.dumps({"seconds": min(seconds), "bytes": peak() - before, "predicted": predicted.tolist()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", choices=["straightforward", "diffeat"], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        measure(chosen.measure, 5 if chosen.measure == "diffeat" else 3, chosen.threads)
        return
    found = {}
    for name in ("straightforward", "diffeat"):
        command = [sys.executable, __file__, "--measure", name, "--threads", str(chosen.threads)]
        text = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout
        found[name] = json.loads(text)
        print(f"{name:16} {found[name]['seconds'] * 1e3:9.1f} ms {found[name]['bytes'] / 2**20:9.1f} MiB")
    slow, fast = found["straightforward"], found["diffeat"]
    same = slow["predicted"] == fast["predicted"]
    print(
        f"{slow['seconds'] / fast['seconds']:.0f} times faster, {slow['bytes'] / max(1, fast['bytes']):.0f} times less "
        f"memory, predictions {'identical' if same else 'DIFFER'}"
    )
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    main()
