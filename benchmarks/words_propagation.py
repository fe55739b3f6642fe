"""Labels carried through videos by cosines of features and by attention between frames, side by side.

    python -m benchmarks.words_propagation --out words-propagation.json

Videos of the toy world (all labels exact), the embedded UNet, one timestep and draw for all ways. Features are those of
`tiny-dift`; attention is that of queries on the keys of earlier frames, of every self-attention of `up_blocks.2` and of
its heads. What is best of many is chosen on half of the videos and told of the other half; intervals are of 95 %, by
resampling videos, and those of differences resample both ways' videos together.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from diffeat.datasets.davis import read_davis, write_toyworld_videos
from diffeat.evaluation import bootstrap
from diffeat.extraction import Extractor
from diffeat.tasks.propagation import Propagation, PropagationOptions, evaluate_videos

BLOCK = "up_blocks.2.attentions.{}.transformer_blocks.0.attn1"


def more(result: Propagation, other: Propagation) -> list[float]:
    """How much better than another way on the same videos, and the interval of that."""
    units = [[(100 * s.jf, 1) for s in r.scores] for r in (result, other)]
    videos = [s.video for s in result.scores]
    interval = bootstrap(units[0], lambda sums: sums[:, 0] / sums[:, 1], groups=videos, paired=units[1])
    return [result.value - other.value, *interval]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="Of the model's image, pixels.")
    parser.add_argument("--walk", action="store_true", help="Read under inversion instead of noise.")
    asked = parser.parse_args()
    source = Extractor.from_recipe("tiny-dift")
    path = {"kind": "inversion", "steps": 10, "save": [8]} if asked.walk else {"timesteps": [100], "draws": 1}
    recipe = source.recipe.replace(frame={"mode": "squash", "size": [asked.size] * 2}, trajectory=path)
    ways = {"features": (list(recipe.activations), {})}
    for k in (0, 1):
        module = BLOCK.format(k)
        heads = source.backbone.denoiser.get_submodule(module).heads
        for head in ("", *(f"[{h}]" for h in range(heads))):
            own = {"kernel": "attention", "temperature": 1.0, "topk": 15}
            ways[f"attention of {module}{head}"] = ([f"{module}.q{head}", f"{module}.k{head}"], own)
    table, features = {}, None
    with tempfile.TemporaryDirectory() as folder:
        root = write_toyworld_videos(Path(folder) / "v", videos=asked.videos, frames=asked.frames, size=128)
        data = read_davis(root)
        for name, (activations, own) in ways.items():
            reader = source.of(recipe.replace(activations=activations))
            result = evaluate_videos(data, reader, PropagationOptions(**own))
            halves = [
                replace(result, scores=tuple(s for s in result.scores if (int(s.video[-2:]) % 2) == part))
                for part in (0, 1)
            ]
            table[name] = {
                "chosen on": halves[0].value,
                "J&F": halves[1].value,
                "interval": list(halves[1].interval()),
                "all": result.value,
            }
            features = features or halves[1]  # which are measured first
            table[name]["more than features"] = more(halves[1], features)
            print(name, table[name], flush=True)
    asked.out.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
