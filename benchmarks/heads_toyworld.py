"""Dense heads on the toy world: each of them on a model's features, against raw colours and the same model at random.

    python benchmarks/heads_toyworld.py OUT [--model tiny-unet] [--steps 1500] [--images 400] [--quick]

Parts and classes (labels of pixels), depth and normals. Rows: the closed-form linear probe, the heads linear, fpn and
upernet on frozen features, and the linear head with a LoRA of the denoiser; columns: the model, the model with random
weights, RGB patches. Heads are chosen on validation pictures and scored on test pictures that no training saw, with
95% intervals over pictures drawn anew. Everything goes to OUT, with OUT/table.md; run again with the same OUT, it goes
on: what is scored is kept in OUT/scores.json.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from diffeat import Extractor, Recipe
from diffeat.backbones import Backbone
from diffeat.datasets import MaskDataset
from diffeat.datasets.labelled import MaskSample
from diffeat.datasets.registry import DATASETS, open_dataset
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.extraction import load_source
from diffeat.features import FeatureMap, Source
from diffeat.progress import bar
from diffeat.report.heads import write_training
from diffeat.report.page import markdown_table
from diffeat.tasks.dense import DenseOptions, maps_apart
from diffeat.tasks.predictors.evaluate import evaluate_head
from diffeat.tasks.segmentation import SegmentationOptions, evaluate_segmentation
from diffeat.training import train_dense

HEADS: dict[str, dict[str, Any]] = {
    "linear": {},
    "fpn": {"head": "fpn", "channels": 64},
    "upernet": {"head": "upernet", "channels": 64, "blocks": "constant"},
    "linear, lora tuned": {"tune": "lora", "tune_rate": 1e-4},
}
PROBE = "closed-form linear probe"
QUOTED = {
    "parts": "mIoU",
    "classes": "mIoU",
    "depth": "AbsRel (less is better)",
    "normals": "mean angle (less is better)",
}


def opened(target: str, toy: Path, split: str) -> Any:
    """A split of the toy world; classes are those of the figure at its pixels, and the backdrop."""
    if target != "classes":
        name = f"toyworld-{target}"
        return open_dataset(name, toy, split, kind=DATASETS[name].kind)
    parts = cast(MaskDataset, open_dataset("toyworld-parts", toy, split, kind="label maps"))
    names = sorted({sample.category for sample in parts})
    samples = []
    for sample in parts:
        mask = toy / "classes" / sample.category / f"{sample.image.stem}.png"
        if not mask.is_file():
            mask.parent.mkdir(parents=True, exist_ok=True)
            figure = sample.labels(len(parts.classes)) > 0
            Image.fromarray(figure.astype(np.uint8) * (1 + names.index(sample.category))).save(mask)
        samples.append(MaskSample(sample.image, mask, sample.category))
    return MaskDataset("toyworld figures", split, tuple(samples), ("backdrop", *names))


def sources(recipe: Recipe) -> dict[str, Source[FeatureMap]]:
    """The model, the model with random weights of the same spread, and colours."""
    trained = load_source(recipe)
    assert isinstance(trained, Extractor)
    random = Backbone.from_pretrained(recipe.model)
    torch.manual_seed(0)
    for module in random.denoiser.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return {
        recipe.name: trained,
        "random weights": Extractor(recipe.replace(name="random-weights"), random),
        "RGB patches": load_source("baseline:rgb"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="tiny-unet", help="recipe")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures, drawn and read")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--tuned-steps", type=int, default=600, help="of the tuned backbone, which reads everything anew"
    )
    parser.add_argument("--images", type=int, default=400, help="pictures to learn from")
    parser.add_argument("--test", type=int, default=200, help="pictures to score on")
    parser.add_argument("--targets", nargs="*", default=list(QUOTED), choices=QUOTED)
    parser.add_argument("--only", nargs="*", default=[PROBE, *HEADS], choices=[PROBE, *HEADS])
    parser.add_argument("--quick", action="store_true", help="a few pictures and steps, to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.size, args.images, args.steps, args.tuned_steps, args.test = 64, 20, 8, 2, 20
    out, toy = args.out, args.out / "toy"
    if not (toy / "toyworld.json").is_file():
        counts = {"trn": max(1, args.images // 20), "val": 2, "test": max(1, args.test // 20)}
        write_toyworld_pairs(toy, size=args.size, images=counts, pairs=2)
    recipe = maps_apart(Recipe.load(args.model).replace(**{"frame.longer": args.size}))
    columns = sources(recipe)
    kept = out / "scores.json"
    scored: dict[str, str] = json.loads(kept.read_text()) if kept.is_file() else {}
    for row in args.only:
        for target in args.targets:
            for column, source in columns.items():
                name = f"{target}, {row}, {column}"
                if name in scored:
                    continue
                cell = (
                    probed(args, target, column, source) if row == PROBE else headed(args, target, row, column, source)
                )
                scored[name] = cell
                print(f"{name}: {cell}", flush=True)
                kept.write_text(json.dumps(scored, indent=1))
                (out / "table.md").write_text(tables(args.targets, list(columns), scored))
    print(tables(args.targets, list(columns), scored))


def probed(args: argparse.Namespace, target: str, column: str, source: Source[FeatureMap]) -> str:
    """Of the closed-form probe."""
    if target not in ("parts", "classes"):
        return "–"
    train, test = (
        opened(target, args.out / "toy", split).limited(most)
        for split, most in (("train", args.images), ("test", args.test))
    )
    options = SegmentationOptions(classifier="linear", pixels=2000)
    store = args.out / f"probe-{column.replace(' ', '-')}"
    result = evaluate_segmentation((train, test), source, options, store=store, progress=bar)
    return f"{result.value:.1f} {result.interval()}"


def headed(args: argparse.Namespace, target: str, head: str, column: str, source: Source[FeatureMap]) -> str:
    """Of a trained head."""
    own = {"lovasz": 0.5, **HEADS[head]}
    steps = args.tuned_steps if "tune" in own else args.steps
    own |= {"steps": steps, "every": max(1, steps // 4)}
    if "tune" in own:
        if not isinstance(source, Extractor):
            return "–"
        source = Extractor(source.recipe, copy.deepcopy(source.backbone))
    train, val, test = (
        opened(target, args.out / "toy", split).limited(most)
        for split, most in (("train", args.images), ("val", 40), ("test", args.test))
    )
    run = args.out / "-".join([target, *head.replace(",", "").split(), *column.split()])
    outcome = train_dense(
        source,
        train,
        run,
        DenseOptions(**own),
        validation=val,
        features=args.out / f"features-{column.replace(' ', '-')}",
        progress=bar,
        force=True,
    )
    write_training(outcome, force=True)
    scores = evaluate_head(outcome.predictor, test).scores
    low, high = scores.interval()
    return f"{scores.value:.3g} [{low:.3g}, {high:.3g}]"


def tables(targets: Sequence[str], columns: Sequence[str], scored: Mapping[str, str]) -> str:
    """One for each target, in Markdown."""
    shown = []
    for target in targets:
        rows = [[row, *(scored.get(f"{target}, {row}, {c}", "") for c in columns)] for row in (PROBE, *HEADS)]
        rows = [row for row in rows if any(cell not in ("", "–") for cell in row[1:])]
        shown.append(markdown_table([f"{target}, {QUOTED[target]}", *columns], rows))
    return "\n\n".join(shown) + "\n"


if __name__ == "__main__":
    main()
