"""Overhead of ``diffeat.read`` over the same stock forward cut at the same place by hand.

    python benchmarks/read_overhead.py [--rounds 9] [--threads 1]

Stable Diffusion 1.5's UNet at real size, random weights, 256 px. Runs alternate; CPU time of the process is compared,
which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from real_models import sd15_unet

import diffeat

ACTIVATION = "up_blocks.1"


class _Stop(Exception):
    pass


@torch.no_grad()
def by_hand(unet, **inputs) -> torch.Tensor:
    kept = []

    def hook(module, args, output):
        kept.append(output)
        raise _Stop

    handle = unet.get_submodule(ACTIVATION).register_forward_hook(hook)
    try:
        unet(**inputs)
    except _Stop:
        pass
    finally:
        handle.remove()
    return kept[0]


@torch.no_grad()
def ours(unet, **inputs) -> torch.Tensor:
    return diffeat.read(unet, [ACTIVATION], **inputs)[ACTIVATION]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    unet = sd15_unet()
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "sample": torch.randn(1, 4, 32, 32, generator=generator),
        "timestep": torch.tensor([261]),
        "encoder_hidden_states": torch.randn(1, 77, 768, generator=generator),
    }
    assert torch.equal(by_hand(unet, **inputs), ours(unet, **inputs)), "the tensors differ"
    seconds: dict[str, list[float]] = {"by hand": [], "diffeat.read": []}
    for _ in range(args.rounds):
        for name, call in (("by hand", by_hand), ("diffeat.read", ours)):
            start = time.process_time()
            call(unet, **inputs)
            seconds[name].append(time.process_time() - start)
    for name, values in seconds.items():
        print(f"{name:14s} median {statistics.median(values):.4f} s  min {min(values):.4f} s  max {max(values):.4f} s")
    ratios = [b / a for a, b in zip(seconds["by hand"], seconds["diffeat.read"], strict=True)]
    print(f"equal bit for bit; overhead, median of paired ratios: {100 * (statistics.median(ratios) - 1):+.2f} %")


if __name__ == "__main__":
    main()
