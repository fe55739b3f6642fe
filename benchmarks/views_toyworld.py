"""What views with techniques are worth beside the same number of denoiser calls spent otherwise, on the toy world.

    python -m benchmarks.views_toyworld --trained gate-toyworld --out views-toyworld

``--trained`` is the folder of ``gate_toyworld.py``, which trains the techniques. Plain draws, timesteps and technique
views are joined by concatenation, mean and trained amalgamation (from training pairs, from training labels) and scored
on test pictures by PCK and by parts found from few labels. The report is ``report.html``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.gate_toyworld import PROTOCOL, SIZE, T, base_recipe, draw_benchmark
from diffeat.backbones import Backbone
from diffeat.bench.ditf import difference
from diffeat.datasets.spair import read_spair
from diffeat.datasets.toyworld.quadrupeds import SPECIES
from diffeat.datasets.toyworld_labels import read_toyworld_parts
from diffeat.extraction import Extractor, Recipe
from diffeat.progress import bar
from diffeat.report.page import Page
from diffeat.studies.selection.score import Score
from diffeat.tasks.correspondence.evaluate import Evaluation, evaluate
from diffeat.tasks.segmentation import Confusion
from diffeat.tasks.segmentation.evaluate import SegmentationOptions, evaluate_segmentation
from diffeat.techniques import ControlNet, LoRA
from diffeat.training.amalgamation import AmalgamateSettings, train_on_labels, train_on_pairs

#: What all other ways are compared with.
BASELINE = "4 draws, mean"


def view_sets(base: Recipe, controlnet: Path, lora_file: Path) -> dict[str, Recipe]:
    """Four denoiser calls a picture (ControlNets not counted), spent in different ways."""
    control = ControlNet(model=str(controlnet)).model_dump()
    lora = LoRA(path=str(lora_file)).model_dump()
    mean = {"kind": "mean", "grid": [32, 32]}
    used = [
        {"name": "plain"},
        {"name": "controlnet", "techniques": [control]},
        {"name": "lora", "techniques": [lora]},
        {"name": "controlnet and lora", "techniques": [control, lora]},
    ]
    draws = [{"name": f"draw {s}", "seed": s} for s in range(4)]
    times = [{"name": f"t = {t}", "timesteps": [t]} for t in (T // 2, T, 2 * T, 3 * T)]
    single = base.replace(fuse={"kind": "concat", "grid": [32, 32]})
    return {
        "one call": single,
        "4 draws, mean": base.replace(views=draws, fuse=mean),
        "4 timesteps, mean": base.replace(views=times, fuse=mean),
        "4 timesteps, concat": base.replace(views=times, fuse={**mean, "kind": "concat"}),
        "4 technique views, mean": base.replace(views=used, fuse=mean),
        "4 technique views, concat": base.replace(views=used, fuse={**mean, "kind": "concat"}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, default=Path("gate-toyworld"))
    parser.add_argument("--out", type=Path, default=Path("views-toyworld"))
    parser.add_argument("--model", default="tiny-unet")
    parser.add_argument("--steps", type=int, default=400, help="training steps of an amalgamation")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    loras = sorted((given.trained / "train-lora").glob("lora-*.safetensors"))
    if not loras:
        parser.error(f"{given.trained} holds no trained techniques; run benchmarks/gate_toyworld.py first.")
    root: Path = given.out
    root.mkdir(parents=True, exist_ok=True)
    data, base = draw_benchmark(root / "toyworld", False), base_recipe(given.model)
    test, train = read_spair(data, "test"), read_spair(data, "trn")
    parts = tuple(read_toyworld_parts(data, split).only(tuple(SPECIES)) for split in ("train", "test"))
    backbone = Backbone.from_pretrained(given.model, device=given.device)
    sets = view_sets(base, given.trained / "train-control" / "controlnet", loras[-1])

    pairs_rows, parts_rows, shown = [], [], []
    for views in ("4 draws, mean", "4 technique views, mean"):
        for released in (False, True):
            how = AmalgamateSettings(steps=given.steps, sparsity=0.1, released=released)
            label = f"{views.removesuffix(', mean')}, amalgamated{' as released' if released else ''}"
            for task in ("pairs", "parts"):
                if task == "pairs":
                    found = train_on_pairs(sets[views], backbone, train, how, progress=bar)
                else:
                    found = train_on_labels(sets[views], backbone, parts[0], how, progress=bar)
                file = root / "weights" / f"{label}-{task}.safetensors".replace(" ", "-").replace(",", "")
                sets[f"{label} ({task})"] = found.recipe(sets[views], file)
                shown.append(f"{label}, on {task}: {found}")
                print(shown[-1], flush=True)
    paired: dict[str, Evaluation] = {}
    parted: dict[str, Score] = {}
    for name in sorted(sets, key=lambda n: n != BASELINE):
        extractor = Extractor(sets[name].replace(name=name), backbone)
        if not name.endswith("(parts)"):
            paired[name] = evaluate(test, extractor, PROTOCOL, progress=bar)
            score = paired[name].result
            row = _row(name, score.value, score.intervals[PROTOCOL.alpha])
            if name != BASELINE:
                less = difference(name, paired[name], paired[BASELINE])
                row[-1] = f"{less.value:+.2f} [{less.low:+.2f}, {less.high:+.2f}]"
            pairs_rows.append(row)
            print("pairs", *row, flush=True)
        if not name.endswith("(pairs)"):
            found = evaluate_segmentation(parts, extractor, SegmentationOptions(classifier="linear"), progress=bar)
            parted[name] = _by_picture(found.splits[0].confusions, len(parts[0].classes))
            row = _row(name, parted[name].value, parted[name].interval())
            if name != BASELINE:
                one, base = parted[name], parted[BASELINE]
                low, high = one.against(base)
                row[-1] = f"{one.value - base.value:+.2f} [{low:+.2f}, {high:+.2f}]"
            parts_rows.append(row)
            print("parts", *row, flush=True)

    page = Page(
        "Four denoiser calls a picture, spent in different ways", f"model {given.model}, t = {T}, {SIZE} pixels"
    )
    page.heading("Correspondence")
    page.table(["features", f"PCK@{PROTOCOL.alpha:g}", f"against {BASELINE}"], pairs_rows)
    page.heading("Parts from few labels")
    page.table(["features", "mIoU", f"against {BASELINE}"], parts_rows)
    page.text("Intervals are 95 % bootstraps over pictures; differences are paired.")
    page.heading("Weights of the views")
    page.code("\n".join(shown))
    (root / "report.html").write_text(page.html(), encoding="utf-8")
    summary = {"pairs": pairs_rows, "parts": parts_rows, "weights": shown}
    (root / "report.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    print(f"Report: {root / 'report.html'}")


def _row(name: str, value: float, interval: tuple[float, float]) -> list[str]:
    return [name, f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]", ""]


def _by_picture(confusions: Sequence[Confusion], classes: int) -> Score:
    counts = np.stack([c.counts.ravel() for c in confusions])
    return Score(counts, lambda sums: 100 * Confusion(classes, sums.reshape(classes, classes)).miou)


if __name__ == "__main__":
    main()
