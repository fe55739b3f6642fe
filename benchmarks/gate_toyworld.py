"""GATE on the toy world: which techniques help, and does the verdict predict the downstream gain?

    python -m benchmarks.gate_toyworld --out gate-toyworld            (about an hour on two CPU cores)
    python -m benchmarks.gate_toyworld --out gate-quick --quick       (minutes; too few pictures to mean much)

1. Draws captioned pictures, trains an edge ControlNet and two LoRAs on them (one on all, one overfitted to few).
2. GATE: every technique with null and shuffled twins, on pictures no training saw.
3. GATE's gains against the downstream gain of the same technique (PCK, single view), with their rank correlation.

Training goes on where it was stopped. Everything lies under ``--out``; the report is ``report.html``. What the trained
techniques are worth as views of one recipe is measured by ``views_toyworld.py``.
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

from benchmarks.tables.ditf import difference
from diffeat.backbones import Backbone
from diffeat.datasets.spair import read_spair
from diffeat.datasets.toyworld import CLASSES, Toyworld
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.extraction import Extractor, Recipe
from diffeat.progress import bar
from diffeat.report.gate import to_dict, write_gate_report
from diffeat.report.page import Page
from diffeat.studies.content_shift import GateSettings, gate
from diffeat.studies.content_shift.examples import examples_of
from diffeat.tasks.correspondence.evaluate import evaluate
from diffeat.tasks.correspondence.protocol import get_protocol
from diffeat.techniques import Combination, ControlNet, Guidance, LoRA, Prompt
from tools.zoo.train_controlnet import Settings as ControlNetSettings
from tools.zoo.train_controlnet import train_controlnet
from tools.zoo.train_lora import Settings as LoRASettings
from tools.zoo.train_lora import train_lora

#: Seeds of the world: pictures to train techniques on, and the benchmark's own.
TRAINED_ON, BENCHMARK = 21, 7
SIZE, T = 128, 100
PROTOCOL = get_protocol("spair").replace(name="toyworld", alphas=(0.05, 0.1))


def draw_benchmark(folder: Path, quick: bool) -> Path:
    """Pictures, pairs and parts that no technique is trained on."""
    counts = {"trn": 2, "val": 2, "test": 2} if quick else {"trn": 6, "val": 4, "test": 8}
    return write_toyworld_pairs(
        folder, seed=BENCHMARK, size=SIZE, images=counts, pairs=2 if quick else 30,
        classes=CLASSES[:3] if quick else None,
    )  # fmt: skip


def base_recipe(model: str) -> Recipe:
    """What all techniques are compared on."""
    return Recipe.from_dict(
        {
            "name": "tiny-unet",
            "model": model,
            "frame": {"mode": "squash", "size": SIZE},
            "trajectory": {"timesteps": [T], "latent": "mean"},
            "activations": ["up_blocks.1", "up_blocks.2"],
        }
    )


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
        "controlnet": str(train_controlnet(control, pictures, root / "train-control", device, limit)),
        "lora": str(train_lora(good, pictures, root / "train-lora", device, limit / 4)),
        "overfitted": str(train_lora(tight, pictures, root / "train-overfitted", device, limit / 4)),
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
    data, base = draw_benchmark(root / "toyworld", given.quick), base_recipe(given.model)
    test = read_spair(data, "test")
    backbone = Backbone.from_pretrained(given.model, device=given.device)
    validation = sorted({p for pair in read_spair(data, "val") for p in (pair.source, pair.target)})
    every = sorted({p for pair in test for p in (pair.source, pair.target)} | set(validation))
    classes = sorted({p.parent.name for p in every})
    captions = {str(p): f"a photo of a {p.parent.name}" for p in every}
    wrong = {str(p): f"a photo of a {classes[(classes.index(p.parent.name) + 1) % len(classes)]}" for p in every}
    techniques = techniques_of(files, captions, wrong)
    chosen = validation[:: max(1, len(validation) // (6 if given.quick else 48))]
    settings = GateSettings(strength=0.7, steps=3 if given.quick else 10, seeds=1 if given.quick else 2)
    result = gate(backbone, chosen, techniques, base, settings, bar)
    write_gate_report(result, root / "gate", examples_of(result, backbone, chosen))

    flat = base.replace(fuse={"kind": "concat", "grid": [32, 32]})
    scored = {}
    for name, combination in {"base": Combination(), **techniques}.items():
        held = [t.model_dump() for t in combination if not isinstance(t, Guidance)]  # it does not reach the reading
        recipe = flat.replace(techniques=held or None, name=name)
        scored[name] = evaluate(test, Extractor(recipe, backbone), PROTOCOL, progress=bar)
    gains = {name: difference(name, scored[name], scored["base"]) for name in techniques}
    points = {
        name: (100 * verdict.gain, gains[name].value)
        for name in techniques
        if (verdict := result.deciding(name)) is not None
    }
    rho = _spearman(list(points.values()))

    page = Page("GATE on the toy world", f"model {given.model}, t = {T}, {len(chosen)} pictures for GATE")
    page.heading("Verdicts")
    page.table(*result.table())
    page.heading("Does the verdict predict the downstream gain?")
    page.drawing(scatter_svg(points, rho), "One dot per technique, single view.")
    page.table(
        ["technique", "GATE gain, %", f"PCK@{PROTOCOL.alpha:g} gain, points"],
        [[n, f"{x:+.1f}", f"{y:+.2f} [{gains[n].low:+.2f}, {gains[n].high:+.2f}]"] for n, (x, y) in points.items()],
    )
    page.text(f"{len(test)} pairs; the base has {scored['base'].result.value:.2f}.")
    (root / "report.html").write_text(page.html(), encoding="utf-8")
    summary = {"gate": to_dict(result), "pck": {n: vars(d) for n, d in gains.items()}, "spearman": rho}
    (root / "report.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    print(f"Spearman {rho:+.2f}; report: {root / 'report.html'}")


def _spearman(points: list[tuple[float, float]]) -> float:
    from scipy.stats import spearmanr

    found: Any = spearmanr(*np.asarray(points).T)
    return float(found.statistic)


if __name__ == "__main__":
    main()
