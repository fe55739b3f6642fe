"""Dense heads on the toy world: each of them on a model's features, against raw colours and the same model at random.

    python benchmarks/heads_toyworld.py OUT [--model tiny-unet] [--steps 1500] [--images 400] [--quick]

Parts (labels), depth and normals. Rows: the closed-form linear probe, and the heads linear, fpn and upernet on frozen
features, and the linear head with a LoRA of the denoiser; columns: the model, the model with random weights, RGB
patches. Heads are chosen on validation pictures and scored on test pictures that no training saw, with 95% intervals
over pictures drawn anew. Everything goes to OUT, with OUT/table.md; run again with the same OUT, it goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from diffeat import Extractor, Recipe
from diffeat.backbones import Backbone
from diffeat.datasets.registry import DATASETS, open_dataset
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.extraction import load_source
from diffeat.features import FeatureMap, Source
from diffeat.progress import bar
from diffeat.report.heads import write_training
from diffeat.report.page import markdown_table
from diffeat.tasks.dense import DenseOptions, maps_apart
from diffeat.tasks.segmentation import SegmentationOptions, evaluate_segmentation
from diffeat.training.heads.train import scores_of, train_dense
from diffeat.training.heads.truth import truth_of

HEADS: dict[str, dict[str, Any]] = {
    "linear": {},
    "fpn": {"head": "fpn", "channels": 128},
    "upernet": {"head": "upernet", "channels": 128, "blocks": "constant"},
    "linear, lora tuned": {"tune": "lora", "tune_rate": 1e-4, "steps": 600},
}
TARGETS = {"parts": "toyworld-parts", "depth": "toyworld-depth", "normals": "toyworld-normals"}


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
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--images", type=int, default=400, help="pictures to learn from")
    parser.add_argument("--only", nargs="*", default=list(HEADS), choices=HEADS)
    parser.add_argument("--quick", action="store_true", help="a few pictures and steps, to see that it runs")
    args = parser.parse_args()
    images, steps, held_out = (24, 30, 12) if args.quick else (args.images, args.steps, 200)
    toy, args.out = args.out / "toy", args.out
    if not (toy / "toyworld.json").is_file():
        per_class = max(1, images // 20)
        write_toyworld_pairs(toy, images={"trn": per_class, "val": 4, "test": max(2, held_out // 20)}, pairs=2)
    recipe = maps_apart(Recipe.load(args.model))
    columns = sources(recipe)
    tables = []
    for target, name in TARGETS.items():
        if name not in DATASETS:
            print(f"{name} is not there; left out")
            continue
        kind = DATASETS[name].kind
        train, val, test = (
            open_dataset(name, toy, split, kind=kind).limited(most)
            for split, most in (("train", images), ("val", 40), ("test", held_out))
        )
        rows: dict[str, list[str]] = {}
        if target == "parts":
            options = SegmentationOptions(classifier="linear", pixels=2000)
            rows["closed-form linear probe"] = [
                f"{r.value:.1f} {r.interval()}"
                for r in (
                    evaluate_segmentation(
                        (train, test), source, options, store=args.out / f"probe-{column}", progress=bar
                    )
                    for column, source in columns.items()
                )
            ]
        for head in args.only:
            cells = []
            for column, source in columns.items():
                own = {"steps": steps, "every": max(1, steps // 4), "lovasz": 0.5, **HEADS[head]}
                if args.quick:
                    own |= {"steps": steps, "every": steps}
                if own.get("tune") and not isinstance(source, Extractor):
                    cells.append("–")
                    continue
                live = Extractor(source.recipe, Backbone.from_pretrained(recipe.model)) if own.get("tune") else source
                if own.get("tune") and column == "random weights":
                    cells.append("–")
                    continue
                run = args.out / f"{target}-{head.replace(', ', '-').replace(' ', '-')}-{column.replace(' ', '-')}"
                outcome = train_dense(
                    live, train, run, DenseOptions(**own), validation=val,
                    features=args.out / f"features-{target}", progress=bar, force=True,
                )  # fmt: skip
                write_training(outcome, force=True)
                scores, _ = scores_of(outcome.predictor, truth_of(train), test)
                low, high = scores.interval()
                cells.append(f"{scores.value:.3g} [{low:.3g}, {high:.3g}]")
                print(target, head, column, cells[-1], flush=True)
            rows[head] = cells
        quoted = {"parts": "mIoU", "depth": "AbsRel (less is better)", "normals": "mean angle (less is better)"}[target]
        header = [f"{target}, {quoted}", *columns]
        tables.append(markdown_table(header, [[row, *cells] for row, cells in rows.items()]))
        (args.out / f"{target}.json").write_text(json.dumps({"columns": list(columns), "rows": rows}, indent=1))
        (args.out / "table.md").write_text("\n\n".join(tables) + "\n")
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
