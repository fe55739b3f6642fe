"""Two chosen sets of activations on pictures that neither was chosen by, side by side.

    diffeat toyworld write toy --pairs 2
    diffeat select toy/JPEGImages -m tiny-unet --size 128 --budget 400 --dataset toyworld-parts --root toy --samples \
        16 --limit 8 --draws 2 --most 4 --out plain.yaml                     (and again with --heads --out heads.yaml)
    python -m benchmarks.words_selection heads.yaml plain.yaml --root toy

Each set is learned from by a linear classifier of pixels and scored on test pictures; intervals are of 95 %, by
resampling test pictures, that of the difference both sets' together.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from diffeat.datasets.registry import open_dataset
from diffeat.evaluation import bootstrap
from diffeat.extraction import from_recipe
from diffeat.progress import bar
from diffeat.tasks.segmentation import SegmentationOptions, evaluate_segmentation
from diffeat.tasks.segmentation.confusion import class_iou


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path, nargs=2)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=40, help="To learn from, and as many to score.")
    asked = parser.parse_args()
    splits = ("train", "test")
    data = [open_dataset("toyworld-parts", asked.root, s, kind="label maps").limited(asked.pictures) for s in splits]
    found = [
        evaluate_segmentation(tuple(data), from_recipe(path), SegmentationOptions(classifier="linear"), progress=bar)
        for path in map(str, asked.recipes)
    ]
    tables = [np.stack([c.table for c in result.splits[0].confusions]) for result in found]
    side = tables[0].shape[-1]

    def miou(sums: np.ndarray) -> np.ndarray:
        return 100 * np.nanmean(class_iou(sums.reshape(-1, side, side)), axis=1)

    one, other = (t.reshape(len(t), -1) for t in tables)
    result = {str(p): [r.value, *r.interval()] for p, r in zip(asked.recipes, found, strict=True)}
    more = [found[0].value - found[1].value, *bootstrap(one, miou, paired=other, over_classes=True)]
    print(json.dumps(result | {"the first more than the second": more}, indent=1))


if __name__ == "__main__":
    main()
