"""GATE on the toy world, from training to tables, in one command.

    python benchmarks/gate_toyworld.py --out gate-toyworld            (about an hour on two CPU cores)
    python benchmarks/gate_toyworld.py --out gate-quick --quick       (minutes; too few pictures to mean much)

1. Draws captioned pictures, trains an edge ControlNet and two LoRAs on them (one on all, one overfitted to few).
2. GATE: every technique with null and shuffled twins, on pictures no training saw.
3. GATE's gains against the downstream gain of the same technique (PCK, single view), with their rank correlation.
4. Amalgamated views against the same number of denoiser calls spent on plain draws and on timesteps, by PCK and by
   parts found from few labels.

A killed run goes on where it stopped. Everything lies under ``--out``; the report is ``report.html``.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffeat.backbones import Backbone
from diffeat.content_shift import GateSettings, gate
from diffeat.content_shift.amalgamate import AmalgamateSettings, train_on_labels, train_on_pairs
from diffeat.datasets.spair import read_spair
from diffeat.datasets.toyworld import CLASSES, Toyworld
from diffeat.datasets.toyworld_labels import read_toyworld_parts
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.extraction import Extractor, Recipe
from diffeat.extraction.techniques import Combination, ControlNet, Guidance, LoRA, Prompt
from diffeat.progress import bar
from diffeat.report.gate import to_dict, verdict_rows, write_gate_report
from diffeat.report.page import Page
from diffeat.tasks.correspondence.evaluate import evaluate
from diffeat.tasks.correspondence.protocol import get_protocol
from diffeat.tasks.segmentation.evaluate import evaluate_segmentation
from diffeat.zoo.train_controlnet import Settings as ControlNetSettings
from diffeat.zoo.train_controlnet import train_controlnet
from diffeat.zoo.train_lora import Settings as LoRASettings
from diffeat.zoo.train_lora import train_lora

#: Seeds of the world: pictures to train techniques on, and the benchmark's own.
TRAINED_ON, BENCHMARK = 21, 7
SIZE, T = 128, 100
PROTOCOL = get_protocol("spair").replace(name="toyworld", alphas=(0.05, 0.1))


def draw_captioned(folder: Path, count: int) -> Path:
    """Pictures with ``captions.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob("*.png"))) < count or not (folder / "captions.csv").is_file():
        world, rows = Toyworld(TRAINED_ON, SIZE), []
        for i in bar(range(count), total=count, desc="draw"):
            sample = world.sample(i)
            Image.fromarray(sample.image).save(folder / f"{i:05d}.png")
            rows.append((f"{i:05d}.png", sample.caption))
        with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("image", "prompt"), *rows])
    return folder


def train_techniques(given: argparse.Namespace, root: Path) -> dict[str, str]:
    """The ControlNet's folder and the two LoRA files; what is trained already is left alone."""
    counts = {"pictures": 24, "control": 12, "lora": 6} if given.quick else {
        "pictures": 600, "control": 1500, "lora": 400
    }  # fmt: skip
    pictures = draw_captioned(root / "pictures", counts["pictures"])
    model, device, limit = given.model, given.device, given.minutes * 60
    control = ControlNetSettings(model=model, size=SIZE, steps=counts["control"], save_every=50)
    good = LoRASettings(model=model, size=SIZE, steps=counts["lora"], save_every=50)
    tight = replace(good, limit=4, rank=32, alpha=32, rate=2e-3, convolutions=True, seed=1)
    return {
        "controlnet": str(train_controlnet(control, pictures, root / "train-control", device, True, limit)),
        "lora": str(train_lora(good, pictures, root / "train-lora", device, True, limit / 4)),
        "overfitted": str(train_lora(tight, pictures, root / "train-overfitted", device, True, limit / 4)),
    }


def techniques_of(files: dict[str, str], captions: dict[str, str], wrong: dict[str, str]) -> dict[str, Combination]:
    """What GATE is asked about."""
    control = ControlNet(model=files["controlnet"])
    lora = LoRA(path=files["lora"])
    return {
        "ControlNet": Combination([control]),
        "ControlNet, half": Combination([control.at(0.5)]),
        "LoRA": Combination([lora]),
        "LoRA, overfitted": Combination([LoRA(path=files["overfitted"])]),
        "true class as text": Combination([Prompt(captions=captions)]),
        "wrong class as text": Combination([Prompt(captions=wrong)]),
        "guidance 5": Combination([Guidance(scale=5), Prompt(captions=captions)]),
        "ControlNet + LoRA": Combination([control, lora]),
    }


def view_sets(base: Recipe, files: dict[str, str]) -> dict[str, Recipe]:
    """Four denoiser calls a picture (ControlNets not counted), spent in different ways."""
    control = ControlNet(model=files["controlnet"]).model_dump()
    lora = LoRA(path=files["lora"]).model_dump()
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


def scatter_svg(points: dict[str, tuple[float, float]], rho: float) -> str:
    """GATE's gain against the downstream gain."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="#c8ccd2", lw=1)
    axes.axvline(0, color="#c8ccd2", lw=1)
    for n, (name, (x, y)) in enumerate(points.items()):
        axes.plot(x, y, "o", ms=8, color=f"C{n}", label=name, alpha=0.85)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    axes.set(xlabel="GATE: less shift by Img2Img, %", ylabel="PCK gain, points", title=f"Spearman ρ = {rho:+.2f}")
    axes.margins(0.15)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gate-toyworld"))
    parser.add_argument("--model", default="tiny-unet")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--minutes", type=float, default=30, help="most minutes for the ControlNet; LoRAs a quarter each"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    root: Path = given.out
    root.mkdir(parents=True, exist_ok=True)
    files = train_techniques(given, root)
    counts = {"trn": 2, "val": 2, "test": 2} if given.quick else {"trn": 6, "val": 4, "test": 8}
    data = write_toyworld_pairs(
        root / "toyworld", seed=BENCHMARK, size=SIZE, images=counts, pairs=2 if given.quick else 30,
        classes=CLASSES[:3] if given.quick else None,
    )  # fmt: skip
    test, train = read_spair(data, "test"), read_spair(data, "trn")
    backbone = Backbone.from_pretrained(given.model, device=given.device)
    base = Recipe.from_dict(
        {
            "name": "tiny-unet",
            "model": given.model,
            "frame": {"mode": "squash", "size": SIZE},
            "trajectory": {"timesteps": [T], "latent": "mean"},
            "activations": ["up_blocks.1", "up_blocks.2"],
        }
    )
    validation = sorted({p for pair in read_spair(data, "val") for p in (pair.source, pair.target)})
    every = sorted({p for pair in (*test, *train) for p in (pair.source, pair.target)} | set(validation))
    classes = sorted({p.parent.name for p in every})
    captions = {str(p): f"a photo of a {p.parent.name}" for p in every}
    wrong = {str(p): f"a photo of a {classes[(classes.index(p.parent.name) + 1) % len(classes)]}" for p in every}
    techniques = techniques_of(files, captions, wrong)
    chosen = validation[:: max(1, len(validation) // (6 if given.quick else 48))]
    settings = GateSettings(strength=0.7, steps=3 if given.quick else 10, seeds=1 if given.quick else 2)
    result = gate(backbone, chosen, techniques, base, settings, bar)
    write_gate_report(result, backbone, chosen, root / "gate")

    flat = base.replace(fuse={"kind": "concat", "grid": [32, 32]})
    scores: dict[str, float] = {}
    for name, combination in {"base": Combination(), **techniques}.items():
        recipe = flat.replace(techniques=[t.model_dump() for t in combination] or None, name=name)
        scores[name] = evaluate(test, Extractor(recipe, backbone), PROTOCOL, progress=bar).result.value
    points = {
        name: (100 * verdict.gain, scores[name] - scores["base"])
        for name in techniques
        if (verdict := result.deciding(name)) is not None
    }
    rho = _spearman(list(points.values()))

    sets = view_sets(base, files)
    pairs_rows, parts_rows = [], []
    parts = read_toyworld_parts(data, "train"), read_toyworld_parts(data, "test")
    shown = []
    steps = 20 if given.quick else 1500
    for views in ("4 draws, mean", "4 technique views, mean"):
        for released in (False, True):
            how = AmalgamateSettings(steps=steps, sparsity=0.1, released=released)
            label = f"{views.removesuffix(', mean')}, amalgamated{' as released' if released else ''}"
            for task, trained in (
                ("pairs", lambda r, h: train_on_pairs(r, backbone, train, h, progress=bar)),
                ("parts", lambda r, h: train_on_labels(r, backbone, parts[0], h, progress=bar)),
            ):
                found = trained(sets[views], how)
                file = root / "weights" / f"{label}-{task}.safetensors".replace(" ", "-").replace(",", "")
                sets[f"{label} ({task})"] = found.recipe(sets[views], file)
                shown.append(f"{label}, on {task}: {found}")
    for name, recipe in sets.items():
        extractor = Extractor(recipe.replace(name=name), backbone)
        if not name.endswith("(parts)"):
            score = evaluate(test, extractor, PROTOCOL, progress=bar).result
            low, high = score.intervals[PROTOCOL.alpha]
            pairs_rows.append([name, f"{score.value:.2f}", f"{low:.2f} to {high:.2f}"])
        if not name.endswith("(pairs)"):
            parted = evaluate_segmentation(*parts, extractor, classifier="linear", progress=bar)
            low, high = parted.interval()
            parts_rows.append([name, f"{parted.mean:.2f}", f"{low:.2f} to {high:.2f}"])

    page = Page("GATE on the toy world", f"model {given.model}, t = {T}, {len(chosen)} pictures for GATE")
    page.heading("Verdicts")
    page.table(*verdict_rows(result))
    page.heading("Does the verdict predict the downstream gain?")
    page.drawing(scatter_svg(points, rho), "One dot per technique, single view.")
    page.table(
        ["technique", "GATE gain, %", "PCK gain, points"],
        [[n, f"{x:+.1f}", f"{y:+.2f}"] for n, (x, y) in points.items()],
    )
    page.heading("Equal budgets: four denoiser calls a picture")
    page.table(["features", f"PCK@{PROTOCOL.alpha:g}", "interval"], pairs_rows)
    page.table(["features", "parts, mIoU", "interval"], parts_rows)
    page.heading("Weights of the views")
    page.code("\n".join(shown))
    (root / "report.html").write_text(page.html(), encoding="utf-8")
    summary = {"gate": to_dict(result), "pck": scores, "spearman": rho, "pairs": pairs_rows, "parts": parts_rows}
    (root / "report.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    for table in (pairs_rows, parts_rows):
        print("\n".join("  ".join(row) for row in table), end="\n\n")
    print(f"Spearman {rho:+.2f}; report: {root / 'report.html'}")


def _spearman(points: list[tuple[float, float]]) -> float:
    from scipy.stats import spearmanr

    found: Any = spearmanr(*np.asarray(points).T)
    return float(found.statistic)


if __name__ == "__main__":
    main()
