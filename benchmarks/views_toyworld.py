"""What views with techniques are worth beside the same number of denoiser calls spent otherwise, on the toy world.

    python -m benchmarks.views_toyworld --trained gate-toyworld --out views-toyworld

``--trained`` is the folder of ``gate_toyworld.py``, which trains the techniques. Plain draws, timesteps and technique
views are joined by concatenation, mean and the three trained amalgamations of GATE (weights of pictures from training
pairs; of levels and of pixels from training labels), ours and as released, and scored on test pictures by PCK and by
parts found from few labels. The report is ``report.html``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gate_toyworld import BENCHMARK, PROTOCOL, SIZE, T, base_recipe, draw_benchmark
from benchmarks.tables.ditf import difference
from diffeat.backbones import Backbone
from diffeat.datasets.labelled import MaskDataset
from diffeat.datasets.pairs import PairDataset
from diffeat.datasets.spair import read_spair
from diffeat.datasets.toyworld.quadrupeds import SPECIES
from diffeat.datasets.toyworld_labels import read_toyworld_parts
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.extraction import Extractor, Recipe, Views
from diffeat.features import Picture
from diffeat.progress import bar
from diffeat.report.page import Page
from diffeat.studies.selection.score import Score
from diffeat.tasks.correspondence.evaluate import evaluate
from diffeat.tasks.segmentation import Confusion
from diffeat.tasks.segmentation.evaluate import SegmentationOptions, evaluate_segmentation
from diffeat.techniques import ControlNet, LoRA
from diffeat.training import amalgamation
from diffeat.training.amalgamated import PUBLISHED
from diffeat.training.amalgamation import train_on_labels, train_on_pairs

#: What all other ways are compared with.
BASELINE = "4 draws, mean"
#: Parts are found by a linear classifier, or by an ensemble on some of the pixels.
OPTIONS = {
    "segmentation": SegmentationOptions(classifier="linear"),
    "label-scarce": SegmentationOptions(classifier="ensemble", pixels=300),
}
MEASURES = {
    "correspondence": f"PCK@{PROTOCOL.alpha:g}",
    "segmentation": "mIoU, linear classifier",
    "label-scarce": "mIoU, ensemble of pixel classifiers",
}


def view_sets(base: Recipe, controlnet: Path, lora_file: Path, side: int) -> dict[str, Recipe]:
    """Four denoiser calls a picture (ControlNets not counted), spent in different ways."""
    control = ControlNet(model=str(controlnet)).model_dump()
    lora = LoRA(path=str(lora_file)).model_dump()
    mean = {"kind": "mean", "grid": [side, side]}
    used = [
        {"name": "plain"},
        {"name": "controlnet", "techniques": [control]},
        {"name": "lora", "techniques": [lora]},
        {"name": "controlnet and lora", "techniques": [control, lora]},
    ]
    draws = [{"name": f"draw {s}", "seed": s} for s in range(4)]
    times = [{"name": f"t = {t}", "timesteps": [t]} for t in (T // 2, T, 2 * T, 3 * T)]
    single = base.replace(fuse={"kind": "concat", "grid": [side, side]})
    return {
        "one call": single,
        "4 draws, mean": base.replace(views=draws, fuse=mean),
        "4 timesteps, mean": base.replace(views=times, fuse=mean),
        "4 timesteps, concat": base.replace(views=times, fuse={**mean, "kind": "concat"}),
        "4 technique views, mean": base.replace(views=used, fuse=mean),
        "4 technique views, concat": base.replace(views=used, fuse={**mean, "kind": "concat"}),
    }


class Read:
    """Views of pictures, each read once whatever is made of them."""

    def __init__(self, views: Views) -> None:
        self._views, self._read = views, dict[str, Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._views, name)

    def read(self, pictures: Sequence[Picture]) -> Iterator[Any]:
        """Of pictures of one group."""
        new = [p for p in pictures if p.key not in self._read]
        self._read.update(zip([p.key for p in new], self._views.read(new) if new else (), strict=True))
        return iter([self._read[p.key] for p in pictures])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, default=Path("gate-toyworld"))
    parser.add_argument("--out", type=Path, default=Path("views-toyworld"))
    parser.add_argument("--model", default="tiny-unet")
    parser.add_argument("--steps", type=int, default=400, help="training steps of an amalgamation")
    parser.add_argument(
        "--small", action="store_true", help="animals alone, 4 pictures to train, 5 to test, half the grid"
    )
    parser.add_argument("--task", choices=[*PUBLISHED], nargs="+", default=[*PUBLISHED])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    loras = sorted((given.trained / "train-lora").glob("lora-*.safetensors"))
    if not loras:
        parser.error(f"{given.trained} holds no trained techniques; run benchmarks/gate_toyworld.py first.")
    root: Path = given.out
    root.mkdir(parents=True, exist_ok=True)
    if given.small:
        drawn = write_toyworld_pairs(
            root / "toyworld",
            seed=BENCHMARK,
            size=SIZE,
            classes=tuple(SPECIES),
            images={"trn": 4, "val": 2, "test": 5},
            pairs=12,
        )
    else:
        drawn = draw_benchmark(root / "toyworld", False)
    base = base_recipe(given.model)
    test, train = read_spair(drawn, "test"), read_spair(drawn, "trn")
    learned, scored = (read_toyworld_parts(drawn, split).only(tuple(SPECIES)) for split in ("train", "test"))
    parts = learned, scored
    backbone = Backbone.from_pretrained(given.model, device=given.device)
    sets = view_sets(base, given.trained / "train-control" / "controlnet", loras[-1], 16 if given.small else 32)
    read = {name: Read(Extractor(recipe, backbone)._views) for name, recipe in sets.items()}
    stacks = amalgamation._stacks
    known: dict[Any, Any] = {}

    def once(recipe: Any, backbone: Backbone, texts: Mapping[Path, Any], *how: Any) -> Any:
        """The trainings of one recipe read its pictures once."""
        key = (recipe.hash, tuple(texts.items()), how[0])
        return known.get(key) or known.setdefault(key, stacks(recipe, backbone, texts, *how))

    amalgamation._stacks = once

    shown: list[str] = []
    tables: dict[str, list[list[str]]] = {}
    for task in given.task:
        published = PUBLISHED[task]
        ways, scores = dict(sets), dict[str, Any]()
        for views in ("4 draws, mean", "4 technique views, mean"):
            for released in (False, True):
                how = replace(published, convolve=False, steps=given.steps, sparsity=0 if released else 0.1)
                how = replace(how, released=released, assigners=min(how.assigners, 4))
                learn, data = (train_on_pairs, train) if task == "correspondence" else (train_on_labels, parts[0])
                label = f"{views.removesuffix(', mean')}, amalgamated{' as released' if released else ''}"
                found = learn(sets[views], backbone, data, how, progress=bar)
                file = root / "weights" / f"{label}-{task}.safetensors".replace(" ", "-").replace(",", "")
                ways[label] = found.recipe(sets[views], file)
                read[label] = read[views]
                shown.append(f"{task}, {label}: {found}")
                print(shown[-1], flush=True)
        rows = tables[task] = []
        for name in sorted(ways, key=lambda n: n != BASELINE):
            extractor = Extractor(ways[name].replace(name=name), backbone)
            extractor._views = read[name]  # pyright: ignore[reportAttributeAccessIssue]
            rows.append(_scored(task, name, extractor, test, parts, scores))
            print(task, *rows[-1], flush=True)

    page = Page(
        "Four denoiser calls a picture, spent in different ways", f"model {given.model}, t = {T}, {SIZE} pixels"
    )
    for task, rows in tables.items():
        page.heading(task.capitalize())
        page.table(["features", MEASURES[task], f"against {BASELINE}"], rows)
    page.text("Intervals are 95 % bootstraps over pictures; differences are paired.")
    page.heading("Weights of the views")
    page.code("\n".join(shown))
    (root / "report.html").write_text(page.html(), encoding="utf-8")
    (root / "report.json").write_text(json.dumps({**tables, "weights": shown}, indent=1), encoding="utf-8")
    print(f"Report: {root / 'report.html'}")


def _scored(
    task: str,
    name: str,
    extractor: Extractor,
    test: PairDataset,
    parts: tuple[MaskDataset, MaskDataset],
    scores: dict[str, Any],
) -> list[str]:
    """A row; the baseline comes first, the others are compared with it."""
    if task == "correspondence":
        scores[name] = evaluate(test, extractor, PROTOCOL, progress=bar)
        score = scores[name].result
        row = _row(name, score.value, score.intervals[PROTOCOL.alpha])
        less = None if name == BASELINE else difference(name, scores[name], scores[BASELINE])
        return row if less is None else [*row[:-1], f"{less.value:+.2f} [{less.low:+.2f}, {less.high:+.2f}]"]
    found = evaluate_segmentation(parts, extractor, OPTIONS[task], progress=bar)
    one = scores[name] = _by_picture(found.splits[0].confusions, len(parts[0].classes))
    row, base = _row(name, one.value, one.interval()), scores[BASELINE]
    low, high = one.against(base)
    return row if name == BASELINE else [*row[:-1], f"{one.value - base.value:+.2f} [{low:+.2f}, {high:+.2f}]"]


def _row(name: str, value: float, interval: tuple[float, float]) -> list[str]:
    return [name, f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]", ""]


def _by_picture(confusions: Sequence[Confusion], classes: int) -> Score:
    """Mean over the classes that occur in some test picture: any other has an IoU of 0 as soon as one pixel is taken
    for it, which moves the mean of a dozen by a twelfth."""
    counts = np.stack([c.counts.ravel() for c in confusions])
    occurs = counts.sum(0).reshape(classes, classes).any(1)

    def of_sums(sums: np.ndarray) -> float:
        return 100 * float(np.nanmean(Confusion(classes, sums.reshape(classes, classes)).iou[occurs]))

    return Score(counts, of_sums)


if __name__ == "__main__":
    main()
