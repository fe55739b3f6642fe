"""How often GATE's verdicts are right, on a denoiser whose answers are known: the table of docs/content-shift.md.

``python benchmarks/gate_verdicts.py`` judges each technique in 400 GATEs of 6, 24 and 64 pictures drawn anew from a
bank of 2,000, with two draws of noise, at a signal of 0.3: ``x_t = 0.3 x_0 + 0.95 noise``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from diffeat.studies.content_shift import judge

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from oracles.exact_posterior import ExactPosterior, shapes_bank

TECHNIQUES = {
    "all": "edges, class and domain",
    "edges": "edges",
    "prompt": "class",
    "domain": "domain",
    "null": "null",
    "other draw": "other noise (no effect)",
    "wrong prompt": "wrong class",
    "shuffled edges": "edges of another picture",
    "guidance": "guidance 7.5",
}
SIZES = (6, 24, 64)
SIGNAL, SEEDS = 0.3, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gates", type=int, default=400)
    parser.add_argument("--bank", type=int, default=2000)
    options = parser.parse_args()
    toy = ExactPosterior(shapes_bank(options.bank))
    everything = torch.arange(options.bank)
    base = toy.shifts(everything, SEEDS, SIGNAL).numpy()
    print("| technique | true gain | " + " | ".join(f"n = {n}" for n in SIZES) + " |")
    print("|---|--:|" + "--:|" * len(SIZES))
    for technique, title in TECHNIQUES.items():
        shifts = toy.shifts(everything, SEEDS, SIGNAL, technique).numpy()
        rng = np.random.default_rng(0)
        cells = []
        for size in SIZES:
            calls = []
            for number in range(options.gates):
                chosen = rng.choice(options.bank, size, replace=False)
                pair = base[chosen], shifts[chosen]
                if technique == "other draw":  # two draws are equally good only over all noise
                    names = ("base", technique)
                    pair = tuple(toy.shifts(torch.tensor(chosen), SEEDS, SIGNAL, n, seed=number).numpy() for n in names)
                calls.append(judge(*pair).call)
            helps, hurts = (100 * calls.count(call) / options.gates for call in ("helps", "hurts"))
            cells.append(f"{helps:.1f} / {hurts:.1f} %")
        gain = 0 if technique == "other draw" else 100 * (1 - shifts.mean() / base.mean())
        print(f"| {title} | {gain:+.0f} % | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
