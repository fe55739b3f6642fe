"""Words and parts on the toy world, against controls.

    python -m benchmarks.words_toyworld --out words-toyworld.json          (about twenty minutes on two idle CPU cores)
    python -m benchmarks.words_toyworld --model tiny-dit --out dit.json    (the other embedded model)

*Words*: the text is "a photo of a NAME" with the class of the picture's figure, which is given; the map of the name,
stretched to 0…1, is cut at a threshold, and figure and rest are scored: mIoU of both over all pictures. Layer, timestep
and threshold are chosen on pictures of their own, for the controls as well:
another class's name in the same text (shuffled), the same network with random weights, clusters of colours (of two, the
one that is nearer to the centre) and a bump at the centre. Two other maps of a name are tried beside that of its
attention, each with a shuffled one: *contrasted*, from which the mean of other names' maps is taken; and *predicted*,
how much better the noise at a place is predicted under the name than under the empty text.

*Parts*: features are split into as many parts as the picture shows, and so are the controls: features of the network
with random weights, clusters of colours, of colours and places (superpixels), cells of a grid, and regions around
places at random; each part of the picture takes the found part that overlaps most, one to one (Hungarian), and IoU is
averaged over the parts of all pictures. F of boundaries: pixels within 2 of each other.

Intervals are of 95 %, by resampling pictures; those of differences resample both ways' pictures together. What is
measured already is kept in the file of results, by which a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import binary_dilation
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmarks.words_binding import Model
from diffeat.activations.attended import Attended, AttentionTaps
from diffeat.datasets.toyworld import CLASSES, ToySample, Toyworld
from diffeat.evaluation import bootstrap
from diffeat.extraction import Extractor
from diffeat.extraction.attending import passes
from diffeat.features import Picture
from diffeat.progress import bar
from diffeat.tasks.parts import PartOptions, attention_parts, parts_of
from diffeat.tasks.scored import ScoredMaps
from diffeat.tasks.words import text_attentions

SEED, SIZE = 7, 128
#: Of each model, the recipe for words and the one for parts.
RECIPES = {"tiny-unet": ("tiny-unet", "tiny-dift"), "tiny-dit": ("ditf-tiny", "ditf-tiny")}
#: Maps of the name itself, which the others are compared with.
OWN = ("words", "contrasted", "predicted")
THRESHOLDS = np.linspace(0.05, 0.95, 19)


def miou(sums: np.ndarray) -> np.ndarray:
    """Of sums (r, 4): hits of the figure, its union, hits of the rest, its union; in percent."""
    return 50 * (sums[:, 0] / sums[:, 1] + sums[:, 2] / sums[:, 3])


def counts(heat: np.ndarray, figure: np.ndarray) -> np.ndarray:
    """(thresholds, 4) of a map 0…1."""
    found = heat[None] > THRESHOLDS[:, None, None]
    columns = [found & figure, found | figure, ~found & ~figure, ~found | ~figure]
    return np.stack([c.sum((1, 2)) for c in columns], 1).astype(float)


def stretched(values: Tensor) -> np.ndarray:
    large = F.interpolate(values[None, None].float(), size=(SIZE, SIZE), mode="bilinear")[0, 0].numpy()
    return (large - large.min()) / max(large.max() - large.min(), 1e-12)


def word_maps(source: Extractor, sample: ToySample, name: str) -> dict[str, Tensor]:
    """The map of a name by layer (all, each, and each head) and timestep; draws averaged."""
    text, sums = f"a photo of a {name}", {}
    tokens = source.backbone.token_index(text, name)
    steps = iter([t for t in source.recipe.trajectory.timesteps for _ in range(source.recipe.trajectory.draws)])
    layers = list(text_attentions(source.backbone))
    step = 0.0

    def use(attended: Attended) -> Tensor:
        heads = attended.text(tokens, mean_heads=False)[0].mean(1)
        small = attended.name.removesuffix(".attn2.map").replace(".transformer_blocks.0", "")
        for key, values in ((small, heads.mean(0)), *((f"{small}[{h}]", m) for h, m in enumerate(heads))):
            key = f"{key} @ {step:g}"
            sums[key] = sums.get(key, 0) + values
        return torch.empty(0)

    with torch.no_grad(), source.backbone.ready(), AttentionTaps(source.backbone.denoiser, layers, use) as taps:
        for inputs in passes(source.recipe, source.backbone, Picture.of(sample.image), text):
            step = next(steps)
            taps.run(**inputs)
    for t in source.recipe.trajectory.timesteps:
        whole = [
            F.interpolate(m[None, None], size=(32, 32), mode="bilinear")[0, 0]
            for k, m in sums.items()
            if k.endswith(f" @ {t:g}") and "[" not in k
        ]
        sums[f"all @ {t:g}"] = torch.stack(whole).mean(0)
    return sums


def contrasted_maps(source: Extractor, sample: ToySample, name: str) -> dict[str, Tensor]:
    """The map of a name less the mean of those of three other classes' names, each in the same text."""
    k = CLASSES.index(name)
    others = [word_maps(source, sample, CLASSES[(k + step) % len(CLASSES)]) for step in (4, 10, 16)]
    own = word_maps(source, sample, name)
    return {key: values - torch.stack([other[key] for other in others]).mean(0) for key, values in own.items()}


def predicted_maps(model: Model, sample: ToySample, name: str, timesteps: Sequence[float]) -> dict[str, Tensor]:
    """How much the error of the predicted noise falls with the name in the text, by timestep and in all."""
    maps = {}
    with torch.no_grad():
        for t in timesteps:
            none, named = model.errors(np.asarray(sample.image), t, ["", f"a photo of a {name}"], 4)
            maps[f"@ {t:g}"] = F.avg_pool2d((none - named)[None], 5, 1, 2, count_include_pad=False)[0]
    return maps | {"all": torch.stack([m / m.std() for m in maps.values()]).mean(0)}


def colour_clusters(sample: ToySample) -> np.ndarray:
    """1 in the one of two clusters of colours whose pixels lie nearer to the centre."""
    from scipy.cluster.vq import kmeans2

    pixels = np.asarray(
        Image.fromarray(sample.image) if isinstance(sample.image, np.ndarray) else sample.image, dtype=float
    )
    _, labels = kmeans2(pixels.reshape(-1, 3), 2, minit="++", rng=0)
    labels = labels.reshape(pixels.shape[:2])
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
    far = np.hypot(y - labels.shape[0] / 2, x - labels.shape[1] / 2)
    return (labels == int(far[labels == 1].mean() < far[labels == 0].mean())).astype(float)


def centre(_: ToySample) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    return np.exp(-(y**2 + x**2) / 0.08)


def untrained(recipe: str) -> Extractor:
    """The same network with random weights."""
    source = Extractor.from_recipe(recipe)
    torch.manual_seed(0)
    for module in source.backbone.denoiser.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return source


def less(rows: Sequence, others: Sequence, statistic: Callable[[np.ndarray], np.ndarray]) -> list[float]:
    """How much better than another way to the same pictures, and the interval of that."""
    mine, theirs = (np.array(r, dtype=float) for r in (rows, others))
    of = [float(statistic(r.sum(0)[None])[0]) for r in (mine, theirs)]
    return [of[0] - of[1], *bootstrap(mine, statistic, paired=theirs)]


def run_words(
    recipe_name: str,
    choose: Sequence[ToySample],
    score: Sequence[ToySample],
    timesteps: list[float],
    leave_out: Sequence[str],
    result: dict,
    save: Callable[[], None],
) -> None:
    source = Extractor.from_recipe(recipe_name)
    recipe = source.recipe.replace(
        **{"trajectory.timesteps": timesteps, "trajectory.draws": 1, "frame": {"mode": "squash", "size": [SIZE, SIZE]}}
    )
    source = Extractor(recipe, source.backbone)
    random = untrained(recipe_name).of(recipe)
    others = {name: CLASSES[(k + 7) % len(CLASSES)] for k, name in enumerate(CLASSES)}
    model = Model(recipe=recipe_name)
    ways = {
        "words": lambda s: word_maps(source, s, CLASSES[s.label]),
        "shuffled words": lambda s: word_maps(source, s, others[CLASSES[s.label]]),
        "contrasted": lambda s: contrasted_maps(source, s, CLASSES[s.label]),
        "contrasted, shuffled": lambda s: contrasted_maps(source, s, others[CLASSES[s.label]]),
        "predicted": lambda s: predicted_maps(model, s, CLASSES[s.label], timesteps),
        "predicted, shuffled": lambda s: predicted_maps(model, s, others[CLASSES[s.label]], timesteps),
        "random weights": lambda s: word_maps(random, s, CLASSES[s.label]),
        "colour clusters": lambda s: {"": torch.from_numpy(colour_clusters(s))},
        "centre": lambda s: {"": torch.from_numpy(centre(s))},
    }
    for way, make in ways.items():
        if way in result or way.removesuffix(", shuffled") in leave_out:
            continue
        tables = []
        for part in (choose, score):
            by_key: dict[str, list[np.ndarray]] = {}
            for sample in bar(part, total=len(part), desc=way):
                figure = np.asarray(sample.parts) > 0
                for key, values in make(sample).items():
                    by_key.setdefault(key, []).append(counts(stretched(values), figure))
            tables.append({key: np.stack(rows) for key, rows in by_key.items()})
        chosen, scored = tables
        best = {key: miou(rows.sum(0)) for key, rows in chosen.items()}
        key = max(best, key=lambda k: best[k].max())
        at = int(best[key].argmax())
        rows = scored[key][:, at]
        result[way] = {
            "choice": key,
            "threshold": float(THRESHOLDS[at]),
            "miou": float(miou(rows.sum(0)[None])[0]),
            "interval": list(bootstrap(rows, miou)),
            "rows": rows.tolist(),
            "validation": {k: float(v.max()) for k, v in sorted(best.items(), key=lambda kv: -kv[1].max())[:12]},
        }
        for name in (name for name in OWN if name in result):
            own, told = result[name], {"": rows}
            if own["choice"] in scored:  # what the map itself gives, whatever was chosen by it
                at = int(np.abs(THRESHOLDS - own["threshold"]).argmin())
                told[", both where that was chosen"] = scored[own["choice"]][:, at]
            for how, theirs in told.items():
                result[way][f"{name} less this{how}"] = less(own["rows"], theirs, miou)
        save()
        print(way, {k: v for k, v in result[way].items() if k not in ("rows", "validation")}, flush=True)


def boundaries(labels: np.ndarray) -> np.ndarray:
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edge


def part_scores(found: np.ndarray, truth: np.ndarray) -> tuple[float, int, float, float, float, float]:
    """Sum of IoU, parts, and of boundaries: hits and pixels of both."""
    names = np.unique(truth)
    inter = np.array([[(found == f)[truth == n].sum() for f in np.unique(found)] for n in names])
    union = np.array([[((found == f) | (truth == n)).sum() for f in np.unique(found)] for n in names])
    iou = inter / union
    rows, columns = linear_sum_assignment(-iou)
    mine, theirs = boundaries(found), boundaries(truth)
    near = np.ones((5, 5), bool)
    return (
        float(iou[rows, columns].sum()), len(names),
        float((mine & binary_dilation(theirs, near)).sum()), float(mine.sum()),
        float((theirs & binary_dilation(mine, near)).sum()), float(theirs.sum()),
    )  # fmt: skip


def part_iou(sums: np.ndarray) -> np.ndarray:
    return 100 * sums[:, 0] / sums[:, 1]


def part_f(sums: np.ndarray) -> np.ndarray:
    precision, recall = sums[:, 2] / np.maximum(sums[:, 3], 1), sums[:, 4] / np.maximum(sums[:, 5], 1)
    return 100 * 2 * precision * recall / np.maximum(precision + recall, 1e-12)


CONTROLS = ("colours", "colours and places", "grid", "at random")


def controls(sample: ToySample, count: int, seed: int) -> dict[str, Tensor]:
    """Partitions into so many parts that no model made."""
    from scipy.cluster.vq import kmeans2

    rng = np.random.default_rng(seed)
    colours = np.asarray(Picture.of(sample.image).image, dtype=float) / 255
    height, width = colours.shape[:2]
    y, x = np.mgrid[:height, :width] / max(height, width)
    places = np.stack([y, x], -1).reshape(-1, 2)
    both = np.concatenate([colours.reshape(-1, 3), places], 1)
    columns = int(np.ceil(np.sqrt(count)))
    rows = int(np.ceil(count / columns))
    cells = np.minimum((y * rows).astype(int) * columns + (x * columns).astype(int), count - 1)
    apart = ((places[:, None] - rng.random((count, 2))[None]) ** 2).sum(-1)
    found = (
        kmeans2(colours.reshape(-1, 3), count, minit="++", rng=seed)[1],
        kmeans2(both, count, minit="++", rng=seed)[1],
        cells.ravel(),
        apart.argmin(1),
    )
    return {n: torch.from_numpy(labels.reshape(height, width)) for n, labels in zip(CONTROLS, found, strict=True)}


def cut(source: Extractor, picture: Picture, method: str, count: int) -> ScoredMaps:
    return parts_of(source.extract([picture]), PartOptions(method, count))[0]


def part_ways(
    trained: Extractor, random: Extractor, sample: ToySample, count: int, seed: int
) -> dict[str, Callable[[], Tensor]]:
    """Label maps of the pixels."""
    picture = Picture.of(sample.image)
    cuts = cache(lambda source: cut(source, picture, "cuts", count))
    return {
        "cuts": lambda: cuts(trained).labels(picture.image),
        "cuts, guided": lambda: cuts(trained).labels(picture.image, "guided"),
        "cuts, bilateral": lambda: cuts(trained).labels(picture.image, "bilateral"),
        "k-means": lambda: cut(trained, picture, "kmeans", count).labels(picture.image),
        "merging": lambda: attention_parts(trained, picture).labels(picture.image),
        "cuts, random weights": lambda: cuts(random).labels(picture.image),
        **{name: lambda name=name: controls(sample, count, seed)[name] for name in CONTROLS},
    }


def run_parts(name: str, score: Sequence[ToySample], result: dict, save: Callable[[], None]) -> None:
    frame = {"mode": "squash", "size": [256, 256]}
    trained, random = (
        source.of(source.recipe.replace(frame=frame)) for source in (Extractor.from_recipe(name), untrained(name))
    )
    units: dict[str, list] = result.setdefault("rows", {})
    for k, sample in enumerate(bar(score, total=len(score), desc="parts")):
        truth = np.asarray(sample.parts)
        ways = part_ways(trained, random, sample, len(np.unique(truth)), k)
        for way, find in ways.items():
            if len(units.setdefault(way, [])) == k:
                units[way].append(part_scores(find().numpy(), truth))
        save()
    for way, rows in units.items():
        result[way] = {}
        for score_name, score_of in (("iou", part_iou), ("boundary F", part_f)):
            both = np.array(rows)
            result[way][score_name] = [float(score_of(both.sum(0)[None])[0]), *bootstrap(both, score_of)]
            result[way][f"cuts less this, {score_name}"] = less(units["cuts"], rows, score_of)
        print(way, result[way], flush=True)
    save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=84, help="Scored; half as many again to choose by.")
    parser.add_argument("--timesteps", type=float, nargs="+", default=[50, 200, 400, 600, 800])
    parser.add_argument("--only", choices=("words", "parts"))
    parser.add_argument("--model", choices=RECIPES, default="tiny-unet")
    parser.add_argument("--leave-out", nargs="*", choices=OWN[1:], default=(), help="Maps of a name not to try.")
    asked = parser.parse_args()
    world = Toyworld(SEED, SIZE)
    samples = [world[k] for k in range(asked.pictures + asked.pictures // 2)]
    score, choose = samples[: asked.pictures], samples[asked.pictures :]
    settings = {"model": asked.model, "pictures": asked.pictures, "timesteps": asked.timesteps}
    result = json.loads(asked.out.read_text()) if asked.out.exists() else {"of": settings}
    if result.get("of") != settings:
        parser.error(f"{asked.out} holds results of other settings ({result.get('of')}); give another --out.")

    def save() -> None:
        asked.out.write_text(json.dumps(result))

    if asked.only != "parts":
        words = result.setdefault("words", {})
        run_words(RECIPES[asked.model][0], choose, score, asked.timesteps, asked.leave_out, words, save)
    if asked.only != "words":
        run_parts(RECIPES[asked.model][1], score, result.setdefault("parts", {}), save)


if __name__ == "__main__":
    main()
