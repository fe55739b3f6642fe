"""What words and parts cost, in processor time of one thread (so that other work on the machine does not count).

    OMP_NUM_THREADS=1 python benchmarks/words_speed.py cuts          normalised cuts of a 64×64 grid
    OMP_NUM_THREADS=1 python benchmarks/words_speed.py words         SD 1.5's UNet at 512 px, five words, all layers
    OMP_NUM_THREADS=1 python benchmarks/words_speed.py concepts      a block of FLUX's width at 1024 px, ten concepts

Weights are random. Peak memory is that of the process; of *words* also what materialising all probabilities costs.
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


@torch.no_grad()
def words() -> dict:
    from real_models import sd15_unet

    from diffeat.activations import Catalogue
    from diffeat.activations.attended import Attended, AttentionTaps

    unet = sd15_unet()
    inputs = {
        "sample": torch.randn(1, 4, 64, 64),
        "timestep": torch.tensor([261]),
        "encoder_hidden_states": torch.randn(1, 77, 768),
    }
    layers = [a.id for a in Catalogue.of(unet) if a.id.endswith("attn2.map")]
    plain = spent(lambda: unet(**inputs))
    before = peak()
    whole = 0

    def use(attended: Attended) -> torch.Tensor:
        nonlocal whole
        batch, heads, n, m = attended.call.shape
        whole += 4 * batch * heads * n * m
        return attended.text([1, 2, 3, 4, 5])

    def read() -> None:
        with AttentionTaps(unet, layers, use, stop=False) as taps:
            taps.run(**inputs)

    ours = spent(read)
    return {
        "layers": len(layers),
        "plain, s": plain,
        "with five words, s": ours,
        "ratio": ours / plain,
        "peak above plain, MiB": peak() - before,
        "all cross-attention probabilities, MiB": whole / 2**20,
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
