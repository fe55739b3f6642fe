"""What words and parts cost, in processor time of one thread (so that other work on the machine does not count).

    OMP_NUM_THREADS=1 python benchmarks/words_speed.py cuts          normalised cuts of a 64×64 grid
    OMP_NUM_THREADS=1 python benchmarks/words_speed.py words         SD 1.5's UNet at 512 px, five words, all layers
    OMP_NUM_THREADS=1 python benchmarks/words_speed.py concepts      a block of FLUX's width at 1024 px, ten concepts

Weights are random. Memory of *words* is what tensors hold at once, beside a forward pass that keeps the probabilities
of all layers; else it is the peak of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


def spent(run: Callable[[], object], times: int = 1) -> float:
    """Seconds of processor time, the least of some runs."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def cuts(side: int, memory: int) -> dict:
    from diffeat.tasks.parts.affinity import affinity_of
    from diffeat.tasks.parts.cuts import normalised_cuts

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    result = {}
    for name, noise in (("regions", 0.5), ("regions and much noise", 1.5), ("a gradient", None)):
        if noise is None:
            features = np.stack([np.cos(k * (x + 2 * y)) for k in range(1, 65)], -1).reshape(-1, 64)
        else:
            centres = rng.normal(size=(8, 640))
            region = (4 * y).astype(int) // 1 * 2 + (2 * x).astype(int)
            features = centres[region.ravel()] + noise * rng.normal(size=(side * side, 640))
        for how, given in (("six parts", {"parts": 6}), ("by the spectrum", {}), ("cost 0.5", {"threshold": 0.5})):
            parts = []

            def run(features=features, given=given, parts=parts) -> None:
                affinity = affinity_of(features.astype(np.float32), memory=memory)
                parts.append(int(normalised_cuts(affinity, **given).labels.max()) + 1)

            result[f"{name}, {how}"] = {"seconds": round(spent(run), 2), "parts": parts[0]}
    return result | {"peak MiB": round(peak())}


def held(run: Callable[[], object]) -> float:
    """MiB, the most that tensors hold at once while something runs, above what they held before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        result = run()
    del result
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return float(np.cumsum([0, *sizes]).max()) / 2**20


@torch.no_grad()
def words() -> dict:
    from real_models import sd15_unet

    from diffeat.activations import Catalogue
    from diffeat.activations.attended import Attended, AttentionTaps
    from diffeat.tasks.words.maps import WordWatch

    unet = sd15_unet()
    inputs = {
        "sample": torch.randn(1, 4, 64, 64),
        "timestep": torch.tensor([261]),
        "encoder_hidden_states": torch.randn(1, 77, 768),
    }
    layers = [a.id for a in Catalogue.of(unet) if a.id.endswith("attn2.map")]
    whole: list[torch.Tensor] = []

    def materialise(attended: Attended) -> torch.Tensor:
        whole.append(attended.text(range(77), mean_heads=False))
        return torch.empty(0)

    def plain() -> None:
        unet(**inputs)

    def read(use: Callable[[Attended], torch.Tensor], end: Callable[[], object] = lambda: None) -> None:
        with AttentionTaps(unet, layers, use, stop=False) as taps:
            taps.run(**inputs)
        end()

    def five_words() -> WordWatch:
        watch = WordWatch(dict.fromkeys(layers, False), [[k] for k in range(1, 6)])
        read(watch, watch.end)
        return watch

    result = {"layers": len(layers), "plain, s": spent(plain), "with five words, s": spent(five_words)}
    least, ours, all_kept = held(plain), held(five_words), held(lambda: read(materialise))
    return result | {
        "ratio": result["with five words, s"] / result["plain, s"],
        "plain, MiB": least,
        "with five words, MiB": ours,
        "all probabilities kept, MiB": all_kept,
        "all probabilities, MiB": sum(m.numel() * m.element_size() for m in whole) / 2**20,
        "ours above plain, % of all kept above plain": 100 * (ours - least) / (all_kept - least),
    }


@torch.no_grad()
def concepts(size: int) -> dict:
    from diffusers import FluxTransformer2DModel

    from diffeat.activations.concepts import ConceptRows, read_concepts
    from diffeat.backbones import Backbone
    from tiny.pipelines import build

    pipeline = build("flux")
    pipeline.transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=0).eval()
    # texts of FLUX's own widths are given: the encoders, which never run, are said to have them
    pipeline.text_encoder.config.projection_dim = pipeline.text_encoder.config.hidden_size = 768
    pipeline.text_encoder_2.config.d_model = 4096
    backbone, side = Backbone.from_pipeline(pipeline), size // 16
    ids = torch.stack(torch.meshgrid(torch.zeros(1), *[torch.arange(float(side))] * 2, indexing="ij"), -1)
    inputs = {
        "hidden_states": torch.randn(1, side * side, 64),
        "encoder_hidden_states": torch.randn(1, 512, 4096),
        "pooled_projections": torch.randn(1, 768),
        "timestep": torch.tensor([0.5]),
        "img_ids": ids.reshape(-1, 3),
        "txt_ids": torch.zeros(512, 3),
        "return_dict": False,
    }
    plain = spent(lambda: backbone.denoiser(**inputs))
    before, scores = peak(), []

    def keep(rows: ConceptRows) -> None:
        scores.append(rows.scores(False))

    ours = spent(lambda: read_concepts(backbone, torch.randn(1, 10, 4096), keep, **inputs))
    matrix = 24 * (side * side) ** 2 * 4 / 2**20
    return {
        "tokens": side * side,
        "plain, s": plain,
        "with ten concepts, s": ours,
        "ratio": ours / plain,
        "peak above plain, MiB": peak() - before,
        "the image's own probabilities, MiB": matrix,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cuts", "words", "concepts"))
    parser.add_argument("--side", type=int, default=64, help="Of the grid that is cut.")
    parser.add_argument("--memory", type=int, default=1024, help="MiB for the graph that is cut.")
    parser.add_argument("--size", type=int, default=1024, help="Pixels, of concepts.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    runs = {
        "cuts": lambda: cuts(asked.side, asked.memory << 20),
        "words": words,
        "concepts": lambda: concepts(asked.size),
    }
    print(json.dumps(runs[asked.what](), indent=1))


if __name__ == "__main__":
    main()
