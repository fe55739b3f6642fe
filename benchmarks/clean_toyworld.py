"""Clean features (``diffeat train clean``) beside the mean of noisy draws, at equal and at eight times their cost.

    python -m benchmarks.clean_toyworld OUT [--steps 400] [--rates 1e-5 1e-4]

A copy of the model is trained on toy pictures of the training split, which nobody else reads. All rows match one
activation of the test pictures: the plain model with one draw and with eight, the plain model that is shown the clean
latent, and the trained copies. Each plain row reads at the timestep that is best for it on the validation pairs; the
copies are told the one that is best for the plain model on clean latents. Differences are paired, with intervals over
pictures. Stop it when you like: the same command goes on. The report is ``OUT/bench.html``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.tables.rows import BenchRow, RowSource, pair_score, score_rows, write_rows
from benchmarks.tables.toyworld import PROTOCOL, SEED, SIZE, TIMESTEPS
from diffeat.datasets.spair import read_spair
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.extraction import Extractor, Reading
from diffeat.progress import bar
from diffeat.training.clean import CleanSettings, train_clean

DRAWS = 8


def plain_recipes(model: str, activation: str) -> dict[str, Reading]:
    """The rows without training, at no timestep yet."""
    base = Reading.from_dict(
        {
            "name": model,
            "model": model,
            "template": "a photo of a {}",
            "frame": {"mode": "keep", "longer": SIZE},
            "trajectory": {"timesteps": [TIMESTEPS[0]], "latent": "mean"},
            "activations": [activation],
        }
    )
    return {
        "1 draw": base,
        f"{DRAWS} draws, mean": base.replace(**{"trajectory.draws": DRAWS}),
        "clean latent, not trained": base.replace(**{"trajectory.kind": "clean"}),
    }


def best_timestep(recipe: Reading, name: str, extractor: Extractor, data: Path, folder: Path) -> float:
    """By the validation pairs."""
    several = Extractor(recipe.replace(**{"trajectory.timesteps": list(TIMESTEPS)}), extractor.backbone)
    keys: dict[str, str | None] = {f"{name}, {m}": m for m in several.map_names}
    rows = score_rows([RowSource(lambda: several, keys, "category")], read_spair(data, "val"), PROTOCOL, folder, bar)
    for row in rows:
        print(row.name, row.evaluation.result.headline, flush=True)
    return max(zip(TIMESTEPS, rows, strict=True), key=lambda pair: pair[1].evaluation.result.value)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="tiny-unet")
    parser.add_argument("--activation", default="up_blocks.2.resnets.0", help="the best single one of tiny-unet")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 1e-4])
    parser.add_argument("--images", type=int, default=10, help="test pictures per class")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    root: Path = given.out
    images = {"trn": 12, "val": 4, "test": given.images}
    data = write_toyworld_pairs(root / "toyworld", seed=SEED, size=SIZE, images=images, pairs=30, progress=bar)
    plain = plain_recipes(given.model, given.activation)
    extractor = Extractor.from_recipe(plain["1 draw"], device=given.device)
    file = root / "timesteps.json"
    if not file.is_file():
        best = {name: best_timestep(recipe, name, extractor, data, root / "val") for name, recipe in plain.items()}
        file.write_text(json.dumps(best), encoding="utf-8")
    best = json.loads(file.read_text(encoding="utf-8"))
    chosen = {name: recipe.replace(**{"trajectory.timesteps": [best[name]]}) for name, recipe in plain.items()}
    told = chosen["clean latent, not trained"]
    learned = sorted((data / "JPEGImages").glob("*/trn_*"))
    sources = [
        RowSource(lambda r=r: Extractor(r, extractor.backbone), {_named(name, r): None}, "category")
        for name, r in chosen.items()
    ]
    notes = [f"trained on {len(learned)} pictures of the training split, {given.steps} steps of 8 pictures"]
    for rate in given.rates:
        folder = root / f"clean-{rate:g}"
        if not (folder / "recipe.yaml").is_file():
            began = time.monotonic()
            settings = CleanSettings(steps=given.steps, rate=rate)
            made = train_clean(
                Extractor(told, extractor.backbone), learned, folder, settings,
                prompts=[file.parent.name for file in learned], progress=bar,
            )  # fmt: skip
            (folder / "outcome.txt").write_text(f"{made}\n", encoding="utf-8")
            print(made, f"{time.monotonic() - began:.0f} s", flush=True)
        notes.append(f"rate {rate:g}: {(folder / 'outcome.txt').read_text(encoding='utf-8').strip()}")
        recipe = Reading.load(folder / "recipe.yaml")
        name = _named(f"clean latent, trained at {rate:g}", recipe)
        sources.append(
            RowSource(lambda r=recipe: Extractor.from_recipe(r, device=given.device), {name: None}, "category")
        )
    rows = score_rows(sources, read_spair(data, "test"), PROTOCOL, root / "test", bar)
    differences = [line for before in (0, 1) for line in against(rows, rows[before])]
    write_rows(root, "Toy world: clean features", rows, [*notes, *differences], force=True)
    (root / "differences.json").write_text(json.dumps(differences, indent=1), encoding="utf-8")
    print((root / "bench.md").read_text(encoding="utf-8"))


def against(rows: list[BenchRow], base: BenchRow) -> list[str]:
    """The difference of each other row from one, paired."""
    score, lines = pair_score(base.evaluation.records, PROTOCOL), []
    for row in rows:
        if row is not base:
            other = pair_score(row.evaluation.records, PROTOCOL)
            low, high = other.against(score)
            lines.append(f"{row.name}, against {base.name}: {other.value - score.value:+.1f} [{low:+.1f}, {high:+.1f}]")
    return lines


def _named(name: str, recipe: Reading) -> str:
    return f"{name}, t = {recipe.trajectory.timesteps[0]:g}"


if __name__ == "__main__":
    main()
