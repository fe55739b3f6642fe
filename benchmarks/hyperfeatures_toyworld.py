"""Diffusion Hyperfeatures on the toy world with the embedded model, from nothing to a page, in one command.

    python -m benchmarks.hyperfeatures_toyworld OUT [--model tiny-unet] [--steps 1000] [--quick]

1. Single maps: every layer at every step, cosine matching without training; the best on the validation pairs is taken.
2. One step: an aggregation network over all layers of one pass at t = -1.
3. All steps: an aggregation network over all layers at five of twenty inversion steps.
   All three are scored on pictures of the test split, which no training saw, with intervals; differences are paired.
4. What the network mixes, and accuracy against cost when only the strongest pairs are kept.
5. Transfer: the network reads pictures while they are generated, and by inverting them afterwards like photos; both
   must find the same points.
6. Inversion of photographs and back: the error that is left, by the number of steps.

Everything goes to OUT, with OUT/report.html and OUT/report.json. Run again with the same OUT, it goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tables.rows import choosing, pair_score, with_choosing
from diffeat import Extractor, Recipe
from diffeat.datasets.registry import open_dataset
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.extraction.joins.hyperfeatures import fuse_maps
from diffeat.features import FeatureMap
from diffeat.geometry import open_image
from diffeat.progress import bar
from diffeat.report.hyperfeatures import (
    curve_rows,
    curve_svg,
    heat_svg,
    mixing_heat_svg,
    round_trip_svg,
    strongest_words,
    training_svg,
)
from diffeat.report.match_picture import match_picture
from diffeat.report.page import Page
from diffeat.tasks.correspondence import get_protocol, match
from diffeat.tasks.correspondence.keypoints import PairRecord, pck
from diffeat.training.hyperfeatures.maps import Described, MapSource
from diffeat.training.hyperfeatures.prepare import explicit, prepare
from diffeat.training.hyperfeatures.prune import curve
from diffeat.training.hyperfeatures.recipes import catalogue_at_size, network_of
from diffeat.training.hyperfeatures.run import Storage, TrainingData, train_hyperfeatures
from diffeat.training.hyperfeatures.score import records
from diffeat.training.hyperfeatures.train import TrainSettings
from diffeat.training.loop import read_log

PROTOCOL = get_protocol("spair-point")
ROUND_TRIP = (5, 10, 20, 50, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="tiny-unet", help="alias or pipeline directory")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of each network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="three classes and 60 steps, to see that it runs")
    args = parser.parse_args()
    demo = Demo(args.out, args.model, 60 if args.quick else args.steps, args.seed, args.quick)
    demo.run()


class SingleMap:
    """One raw map of every picture, in the form in which a feature store gives features."""

    def __init__(self, source: MapSource, layer: int, step: int) -> None:
        self._source, self._layer, self._step = source, layer, step

    def load(self, key: str, activations: Sequence[str] | None = None) -> FeatureMap:
        """The map of a picture, by its path."""
        maps = self._source.maps(Path(key))
        return FeatureMap({"map": maps.layers[self._layer][self._step]}, maps.frame, key)


class Demo:
    """The parts, each adding to the page and to the numbers."""

    def __init__(self, out: Path, model: str, steps: int, seed: int, quick: bool) -> None:
        self.out, self.model, self.steps, self.seed = out, model, steps, seed
        out.mkdir(parents=True, exist_ok=True)
        root = write_toyworld_pairs(
            out / "world",
            seed=11,
            classes=["cat", "horse", "car"] if quick else None,
            images={"trn": 4, "val": 3, "test": 3} if quick else {"trn": 8, "val": 3, "test": 6},
            pairs=8 if quick else 30,
            progress=bar,
        )
        self.pairs = {split: open_dataset("toyworld", root, split) for split in ("trn", "val", "test")}
        self.page = Page("Diffusion Hyperfeatures on the toy world", f"model {model}, {steps} training steps")
        self.numbers: dict[str, Any] = {"model": model, "steps": steps, "seed": seed, "seconds": {}}

    def run(self) -> None:
        """All parts, with the time of each."""
        for part in (self.networks, self.mixture, self.transfer, self.round_trip):
            start = time.perf_counter()
            part()
            self.numbers["seconds"][part.__name__] = round(time.perf_counter() - start, 1)
            (self.out / "report.html").write_text(self.page.html(), encoding="utf-8")
            (self.out / "report.json").write_text(json.dumps(self.numbers, indent=1), encoding="utf-8")
        print(json.dumps(self.numbers["seconds"]))
        print(f"Report: {self.out / 'report.html'}")

    # ---- accuracy

    def networks(self) -> None:
        every = Recipe.load("hyperfeatures-tiny").replace(model=self.model, fuse=None)
        one = every.replace(trajectory={"kind": "inversion", "steps": 1, "save": [0], "latent": "mean"})
        self.extractor = explicit(Extractor.from_recipe(every))
        self.trained = self._train("all", self.extractor)
        one_step = explicit(Extractor(one, self.extractor.backbone))
        self._train("one-step", one_step)
        self.records = {
            "single map": self._best_single_map(),
            "one step": self._test_records("one-step", one_step),
            "all steps": self._test_records("all", self.extractor),
        }
        results = {name: pck(records, PROTOCOL) for name, records in self.records.items()}
        self.page.heading("Accuracy on pictures that no training saw")
        self.page.text(str(PROTOCOL), "soft")
        alphas = PROTOCOL.alphas
        rows = [[name, *(r.cell(a) for a in alphas)] for name, r in results.items()]
        self.page.table(["features", *PROTOCOL.columns()], rows)
        lines = [self._difference(a, b) for a, b in (("single map", "one step"), ("one step", "all steps"))]
        self.page.bullets(lines)
        print("\n".join([*(f"{name}: {result.headline}" for name, result in results.items()), *lines]))
        self.numbers["test"] = {name: result.to_dict()["averages"] for name, result in results.items()}
        for name in ("all", "one-step"):
            rows_of_log = read_log(self.out / name / "log.csv")
            measure = f"{PROTOCOL.measure()}, per point"
            self.page.drawing(
                training_svg(rows_of_log, f"{measure} (%)"), f"Training, {name}: loss (blue), validation (red)."
            )

    def _train(self, name: str, extractor: Extractor):
        settings = TrainSettings(
            steps=self.steps,
            seed=self.seed,
            flip=0.5,
            dense=1.0,
            validate_every=max(20, self.steps // 6),
            projection=128,
        )
        outcome = train_hyperfeatures(
            extractor,
            TrainingData(self.pairs["trn"], self.pairs["val"], PROTOCOL),
            self.out / name,
            settings,
            storage=Storage(self.out / "features"),
            progress=bar,
        )
        self.numbers[f"seconds per training step, {name}"] = outcome.trained.seconds
        return outcome

    def _test_records(self, name: str, extractor: Extractor) -> list[PairRecord]:
        """Errors of a trained network on the test pairs."""
        network = network_of(Recipe.load(self.out / name / "recipe.yaml"))
        with prepare(extractor, [self.pairs["test"]], self.out / "features", progress=bar) as ready:
            described = Described(ready.source, lambda maps: fuse_maps(network, maps.layers, maps.grid))
            return records(self.pairs["test"], described, PROTOCOL)[0]

    def _best_single_map(self) -> list[PairRecord]:
        """Errors on the test pairs of the map that is best on the validation pairs."""
        network = network_of(Recipe.load(self.trained.recipe))
        counts = len(network.config.steps), len(network.config.channels)
        datasets = [self.pairs["val"], self.pairs["test"]]
        with prepare(self.extractor, datasets, self.out / "features", progress=bar) as ready:
            tried = [SingleMap(ready.source, k, s) for k in range(counts[1]) for s in range(counts[0])]
            validation = [records(self.pairs["val"], one, PROTOCOL)[0] for one in tried]
            values = np.array([pck(r, PROTOCOL, replicates=0).value for r in validation]).reshape(counts[1], counts[0])
            layer, step = divmod(int(values.argmax()), counts[0])
            self.choices = choosing([pair_score(r, PROTOCOL) for r in validation])
            chosen = {int(values.argmax()), *self.choices.tolist()}
            test = {k: records(self.pairs["test"], tried[k], PROTOCOL)[0] for k in chosen}
        self.single_maps, self.chosen = values, {k: pair_score(r, PROTOCOL) for k, r in test.items()}
        self.numbers["best single map"] = [network.config.activations[layer], self.extractor.times[step]]
        print(
            f"best single map on validation: {network.config.activations[layer]} at t = {self.extractor.times[step]:g}"
        )
        return test[int(values.argmax())]

    def _choosing(self) -> str:
        """The same with the choice of the single map in the interval."""
        value, interval = with_choosing(self.choices, self.chosen)
        gain, spread = with_choosing(self.choices, self.chosen, pair_score(self.records["one step"], PROTOCOL))
        self.numbers["with choosing"] = {"single map": [value, *interval], "one step": [gain, *spread]}
        line = (
            f"With validation pictures drawn anew, too, {len(self.choices)} times, {len(self.chosen)} maps are chosen: "
            f"single map {value:.1f} {interval}, one step {gain:+.1f} {spread} above it."
        )
        print(line)
        return line

    def _difference(self, less: str, more: str) -> str:
        """Paired difference at the headline threshold, with a bootstrap over pictures."""
        rows = self.records[less]
        names = {name: i for i, name in enumerate(sorted({n for r in rows for n in r.images}))}
        sides = [np.array([names[r.images[k]] for r in rows]) for k in (0, 1)]
        points = np.array([len(r.distances) for r in rows])
        gain = _hits(self.records[more]) - _hits(rows)
        generator = np.random.default_rng(0)
        draws = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=2000)
        weight = draws[:, sides[0]] * draws[:, sides[1]]
        total = weight @ points  # 0 where a replicate holds no whole pair
        low, high = np.percentile(100 * (weight @ gain)[total > 0] / total[total > 0], [2.5, 97.5])
        mean = 100 * gain.sum() / points.sum()
        self.numbers[f"{more} minus {less}"] = [mean, low, high]
        return f"{more} minus {less}: {mean:+.1f} points, 95 % bootstrap over pictures [{low:+.1f}, {high:+.1f}]"

    # ---- what is mixed

    def mixture(self) -> None:
        self.page.text(self._choosing())
        recipe = Recipe.load(self.trained.recipe)
        network = network_of(recipe)
        times = self.extractor.times
        with prepare(self.extractor, [self.pairs["val"]], self.out / "features", progress=bar) as ready:
            known = catalogue_at_size(recipe, self.extractor.backbone)
            points = curve(network, recipe, known, self.pairs["val"], ready.source, PROTOCOL, progress=bar)
        self.page.heading("What the network mixes")
        self.page.drawing(mixing_heat_svg(network, times), "Mixing weights in percent: layers × timesteps.")
        self.page.text("The strongest pairs: " + "; ".join(strongest_words(network, times)) + ".")
        self.page.drawing(
            heat_svg(self.single_maps, network, times, "PCK of the raw map (%)"),
            "PCK@0.1 of every raw map alone, validation pairs.",
        )
        self.page.heading("Accuracy against cost of what is left (validation pairs)")
        self.page.drawing(curve_svg(points), "Blue: the strongest pairs by number. Red: one step, one layer.")
        self.page.table(*curve_rows(points))
        self.numbers["mixing_weights"] = network.shares.tolist()
        self.numbers["curve"] = [
            {"label": p.pruned.label, "kept": len(p.pruned.kept), "passes": p.calls, "pck": p.result.value}
            for p in points
        ]
        for point in points:
            print(f"{point.pruned.label}: {point.result.headline}, {point.calls:.1f} denoiser passes")

    # ---- transfer

    def transfer(self) -> None:
        """Points of one generated picture in another, by features read while it arose and by inverting it."""
        from diffeat.extraction.generated import generate, generation_twin, save_generated

        trained = Recipe.load(self.trained.recipe)
        twin = generation_twin(trained).replace(**{"trajectory.guidance": 3.0, "trajectory.steps": 20})
        backbone = self.extractor.backbone
        folder = self.out / "synthetic"
        words = list(dict.fromkeys(pair.category for pair in self.pairs["test"]))[:6]
        files: dict[str, list[Path]] = {}
        for image, origin in generate(twin, backbone, [f"a photo of a {w}" for w in words], 2):
            path = folder / f"{origin.prompt.replace(' ', '-')}-{origin.number}.png"
            save_generated(image, path)
            files.setdefault(origin.prompt, []).append(path)
        readers = {"generation": Extractor(twin, backbone), "inversion": Extractor(trained, backbone)}
        points = torch.cartesian_prod(torch.arange(12.0, 120, 13), torch.arange(12.0, 120, 13))
        same: list[float] = []
        self_found: list[float] = []
        self.page.heading("Transfer to generated pictures")
        for prompt, (one, other) in files.items():
            maps = {name: reader.extract([one, other], prompt) for name, reader in readers.items()}
            places = {name: match(a, b, points).target for name, (a, b) in maps.items()}
            same += (places["generation"] - places["inversion"]).norm(dim=1).tolist()
            self_found += _across(maps["generation"][0], maps["inversion"][0], points)
            chosen = points[[20, 24, 40, 44, 56, 60]].double()
            self.page.picture(
                match_picture(
                    open_image(one), open_image(other), chosen, match(*maps["generation"], chosen).target,
                    caption=f"{prompt}: features read while both pictures were generated",
                )
            )  # fmt: skip
        near = 12.8  # a tenth of the picture, as PCK@0.1 has it
        agree, found = (100 * float(np.mean(np.array(v) <= near)) for v in (same, self_found))
        chance = 100 * float(np.pi * near**2 / 128**2)
        lines = [
            f"{agree:.0f} % of {len(same)} points are found at the same place (within a tenth of the picture) by "
            "features read during generation and by features of inverting the finished pictures; chance is about "
            f"{chance:.0f} %",
            f"{found:.0f} % of the points of a picture are found again when generation features are compared with "
            "inversion features of the same picture, although the network was trained on inversion alone",
        ]
        self.page.bullets(lines)
        print("\n".join(lines))
        self.numbers["transfer"] = {"agree": agree, "found again": found, "points": len(same)}

    # ---- round trip

    @torch.no_grad()
    def round_trip(self) -> None:
        from skimage import data

        from diffeat.trajectories import round_trip

        backbone, recipe = self.extractor.backbone, self.extractor.recipe
        photos = [data.chelsea(), data.astronaut(), data.coffee(), data.rocket()]
        pixels = []
        for photo in photos:
            image = open_image(photo)
            pixels.append(recipe.frame.frame(image.size, backbone.multiple, backbone.default_size).pixels(image))
        latents = backbone.encode_images(torch.stack(pixels)).mean
        conditioning = backbone.condition([""] * len(photos), size=(pixels[0].shape[-1], pixels[0].shape[-2]))
        start = backbone.decode(latents)
        errors: dict[int, list[float]] = {}
        pictures: dict[int, list[float]] = {}
        for steps in ROUND_TRIP:
            trip = round_trip(backbone, latents, conditioning, steps)
            errors[steps] = trip.error().tolist()
            off = backbone.decode(trip.generation.end) - start
            pictures[steps] = (off.flatten(1).norm(dim=1) / start.flatten(1).norm(dim=1)).tolist()
            print(f"round trip with {steps} steps: latent error {np.median(errors[steps]):.3f}")
        self.page.heading("Inversion of photographs and back")
        self.page.drawing(round_trip_svg(errors, "error of the latent (%)"), "Each photograph, and their median.")
        self.page.drawing(
            round_trip_svg(pictures, "error of the picture (%)"),
            "Against the picture that the autoencoder makes of the latent without any walk.",
        )
        self.numbers["round trip"] = {"latent": errors, "picture": pictures}


def _hits(records: Sequence[PairRecord]) -> np.ndarray:
    """Correct points, pair by pair."""
    alpha, reference = PROTOCOL.alpha, PROTOCOL.reference
    return np.array([sum(d <= alpha * r.lengths[reference] for d in r.distances) for r in records], dtype=float)


def _across(one, other, points: torch.Tensor) -> list[float]:
    """Distances at which points of a picture are found again by features of two recipes."""
    from dataclasses import replace

    other = replace(other, provenance={})  # says that the comparison is meant
    return (match(one, other, points).target - points).norm(dim=1).tolist()


if __name__ == "__main__":
    main()
