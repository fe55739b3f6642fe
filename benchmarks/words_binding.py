"""Is a word tied to a place at all? Direct tests of a text-conditional model on the toy world.

    python -m benchmarks.words_binding --out words-binding.json            (about twenty minutes on one CPU core)
    python -m benchmarks.words_binding --recipe ditf-tiny --out dit.json   (the other embedded model)
    python -m benchmarks.words_binding --only two --train 800 --out trained.json     (after a further training)

*What the text tells the model, and by which tokens*: on pictures of one figure, the error of its prediction of the
noise under "a photo of a NAME" with the right class, with another class, without text, and with the embedding of the
other class of which the noun's row is taken from the right one, or the rows after it (end and padding); how far the
text encoder sets both classes apart; where the attention goes.

*Where*: pictures of two figures of different classes, each cut out and set into one place, left and right. The text
names both, in either order, or one at a time. Over the cells of both figures: how often is the own word's map the
higher one (each stretched to 0…1 over the picture); 50 % is chance, left and right and first and second count alike.
Maps: attention of each layer and head to the word; and, without attention, how much better a cell's noise is predicted
under its own word's text than under the other's. Layer, head and timestep are chosen on pictures of their own.

*Is it what the model was trained on?* ``--train STEPS`` trains the denoiser further on pictures of two figures under
texts that name both, none of them among those of the test, and tests it then.

Intervals are of 95 %, by resampling pictures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffeat.activations.attended import Attended, AttentionTaps
from diffeat.datasets.toyworld import CLASSES, Toyworld
from diffeat.evaluation import bootstrap
from diffeat.extraction import Extractor
from diffeat.progress import bar
from diffeat.tasks.words import text_attentions

SEED, SIZE, APART = 7, 128, 30


class Model:
    """Noisy latents of a picture, and what the model makes of them under texts."""

    def __init__(self, random: bool = False, recipe: str = "tiny-unet") -> None:
        self.backbone = Extractor.from_recipe(recipe).backbone
        self.tokens = self.backbone.condition([""]).arguments()["encoder_hidden_states"].shape[1]
        if random:
            torch.manual_seed(0)
            for module in self.backbone.denoiser.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()

    def noisy(self, image: np.ndarray, t: float, draws: int) -> tuple[Tensor, Tensor]:
        """Noisy latents and the noise, (draws, c, h, w)."""
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
        clean = self.backbone.encode_images(pixels)[0].mean.repeat(draws, 1, 1, 1)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(int(image.sum()) + int(t)))
        return self.backbone.noise(clean, t, noise), noise

    def errors(self, image: np.ndarray, t: float, texts: Sequence[str], draws: int) -> Tensor:
        """Of the noise, by text and cell (texts, h, w), mean over draws and channels."""
        noisy, noise = self.noisy(image, t, draws)
        conditioning = self.backbone.condition([x for x in texts for _ in range(draws)], (SIZE, SIZE))
        many = noisy.repeat(len(texts), 1, 1, 1)
        times = torch.full((len(many),), t)
        found = self.backbone.estimate_noise(many, times, self.backbone.denoise(many, times, conditioning))
        return ((found - noise.repeat(len(texts), 1, 1, 1)) ** 2).mean(1).unflatten(0, (len(texts), draws)).mean(1)

    def errors_of(self, image: np.ndarray, t: float, embedded: Tensor, draws: int) -> Tensor:
        """Of the noise (texts,), of text embeddings (texts, tokens, c)."""
        noisy, noise = self.noisy(image, t, draws)
        many, times = noisy.repeat(len(embedded), 1, 1, 1), torch.full((len(embedded) * draws,), t)
        inputs = self.backbone.denoiser_inputs(many, times, self.backbone.condition([""] * len(many), (SIZE, SIZE)))
        inputs["encoder_hidden_states"] = embedded.repeat_interleave(draws, 0)
        found = self.backbone.estimate_noise(many, times, self.backbone.denoiser(**inputs)[0])
        return ((found - noise.repeat(len(embedded), 1, 1, 1)) ** 2).mean((1, 2, 3)).view(-1, draws).mean(1)

    def attention(
        self, image: np.ndarray, t: float, text: str, words: Sequence[str], after: bool = False
    ) -> dict[str, Tensor]:
        """Maps of words (k, h, w) by layer and head; with all that stands after the word where asked."""
        spans = [self.backbone.token_index(text, word) for word in words]
        if after:
            spans = [range(span[0], self.tokens) for span in spans]
        maps: dict[str, Tensor] = {}

        def use(attended: Attended) -> Tensor:
            small = attended.name.removesuffix(".attn2.map").replace(".transformer_blocks.0", "")
            each = torch.stack([attended.text(s, mean_heads=False)[0].mean(1) for s in spans])
            maps[small] = each.mean(1)
            maps.update({f"{small}[{h}]": each[:, h] for h in range(each.shape[1])})
            return torch.empty(0)

        noisy, _ = self.noisy(image, t, 1)
        inputs = self.backbone.denoiser_inputs(noisy, torch.tensor([t]), self.backbone.condition([text], (SIZE, SIZE)))
        with AttentionTaps(self.backbone.denoiser, list(text_attentions(self.backbone)), use) as taps:
            taps.run(**inputs)
        return maps


def ratio(sums: np.ndarray) -> np.ndarray:
    return 100 * sums[:, 0] / sums[:, 1]


def told(rows: Sequence[Sequence[float]], statistic=ratio) -> list[float]:
    both = np.array(rows, dtype=float)
    return [float(statistic(both.sum(0)[None])[0]), *bootstrap(both, statistic)]


def of_tokens(model: Model, pictures: int, times: Sequence[float]) -> dict:
    """Which rows of the text tell the class, and where the attention goes."""
    world, table = Toyworld(SEED, SIZE), {}
    text = "a photo of a {}".format
    noun = model.backbone.token_index(text("cat"), "cat")[0]
    for t in times:
        rows: dict[str, list] = {}
        mass: dict[str, list] = {}
        for k in bar(range(pictures), total=pictures, desc=f"tokens, t = {t:g}"):
            sample = world[k]
            names = CLASSES[sample.label], CLASSES[(sample.label + 7) % len(CLASSES)]
            texts = [*map(text, names), ""]
            right, wrong, none = model.backbone.condition(texts).arguments()["encoder_hidden_states"]
            only, after = wrong.clone(), wrong.clone()
            only[noun], after[noun + 1 :] = right[noun], right[noun + 1 :]
            errors = model.errors_of(sample.image, t, torch.stack([right, wrong, only, after, none]), 4)
            gain = float(errors[1] - errors[0])
            rows.setdefault("error of another class over the right one", []).append(
                [float(errors[1]), float(errors[0])]
            )
            rows.setdefault("error without text over the right one", []).append([float(errors[4]), float(errors[0])])
            for row, where in (("noun", noun), ("end and padding", slice(noun + 1, None))):
                apart = [float((right - wrong)[where].norm()), float(right[where].norm())]
                rows.setdefault(f"between both classes' rows of the text encoder, of their length: {row}", []).append(
                    apart
                )
            rows.setdefault("of the noun's own row", []).append([float(errors[1] - errors[2]), gain])
            rows.setdefault("of the rows after it", []).append([float(errors[1] - errors[3]), gain])
            for name, tail in (("noun", False), ("noun and after", True)):
                maps = model.attention(sample.image, t, text(names[0]), names[:1], tail)
                for layer, values in maps.items():
                    if "[" not in layer:
                        span = model.tokens - noun if tail else 1
                        mass.setdefault(f"{layer}: {name}", []).append(float(values.mean()) * span)
        table[f"{t:g}"] = {"gain, %": {name: told(values) for name, values in rows.items()}}
        table[f"{t:g}"]["attention, %"] = {name: round(100 * float(np.mean(v)), 1) for name, v in mass.items()}
        print(t, json.dumps(table[f"{t:g}"], indent=1), flush=True)
    return table


def two_figures(index: int) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """A picture, which figure each pixel shows (1 left, 2 right), and their classes."""
    world, rng = Toyworld(SEED + 1, SIZE), np.random.default_rng(index)
    one, two = rng.choice(len(CLASSES), 2, replace=False)
    calm = {"size": "small", "calm": "yes", "framing": "whole"}
    left = world.sample(2 * index, name=CLASSES[one], place="studio", **calm)
    right = world.sample(2 * index + 1, name=CLASSES[two], place="studio", **calm)

    def moved(values: np.ndarray, by: int) -> np.ndarray:
        at = np.clip(np.arange(SIZE) - by, 0, SIZE - 1)
        return values[:, at]

    image, which = moved(left.image, -APART), (moved(left.parts, -APART) > 0).astype(np.uint8)
    stands = moved(right.parts, APART) > 0
    image = np.where(stands[..., None], moved(right.image, APART), image)
    return image, np.where(stands, 2, which), (CLASSES[one], CLASSES[two])


def train(model: Model, steps: int, pictures: int = 300, batch: int = 8) -> None:
    """Teach the denoiser pictures of two figures under texts that name both."""
    backbone, of_pictures = model.backbone, []
    for k in bar(range(pictures), total=pictures, desc="pictures to train on"):
        image, _, names = two_figures(10_000 + k)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
        of_pictures.append((backbone.encode_images(pixels)[0].mean, names))
    random = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(backbone.denoiser.parameters(), lr=1e-4)
    losses = []
    for step in bar(range(steps), total=steps, desc="train"):
        chosen = [of_pictures[int(k)] for k in random.integers(0, pictures, batch)]
        texts = ["a photo of a {} and a {}".format(*random.permutation(names)) for _, names in chosen]
        clean = torch.cat([latent for latent, _ in chosen])
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.from_numpy(random.integers(0, 1000, batch)).float()
        noisy = backbone.noise(clean, times, noise)
        inputs = backbone.denoiser_inputs(noisy, times, backbone.condition(texts, (SIZE, SIZE)))
        with torch.enable_grad():
            found = backbone.estimate_noise(noisy, times, backbone.denoiser(**inputs)[0])
            loss = ((found - noise) ** 2).mean()
            loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
        if (step + 1) % 250 == 0:
            print(f"step {step + 1}: error {np.mean(losses[-250:]):.4f}", flush=True)


def stretched(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)


def right(maps: Tensor, which: np.ndarray) -> list[float]:
    """Share of both figures' cells at which the own of two maps is higher, each figure counting the same."""
    large = F.interpolate(maps[None].float(), size=(SIZE, SIZE), mode="bilinear")[0]
    first = (large[0] > large[1]).numpy()
    shares = [first[which == 1].mean(), 1 - first[which == 2].mean()]
    return [float(np.mean(shares)), 1.0]


def of_two_figures(model: Model, choose: int, score: int, times: Sequence[float]) -> dict:
    rows: dict[str, dict[str, list[list[float]]]] = {}

    def note(way: str, key: str, maps: Tensor, which: np.ndarray) -> None:
        rows.setdefault(way, {}).setdefault(key, []).append(right(maps, which))

    for k in bar(range(choose + score), total=choose + score, desc="two figures"):
        image, which, names = two_figures(k)
        both = f"a photo of a {names[0]} and a {names[1]}" if k % 2 else f"a photo of a {names[1]} and a {names[0]}"
        alone = [f"a photo of a {name}" for name in names]
        for t in times:
            for key, maps in model.attention(image, t, both, names).items():
                note("attention, both words in one text", f"{key} @ {t:g}", stretched(maps), which)
            each = [model.attention(image, t, text, [name]) for text, name in zip(alone, names, strict=True)]
            for key in each[0]:
                maps = stretched(torch.cat([e[key] for e in each]))
                note("attention, a text for each word", f"{key} @ {t:g}", maps, which)
            each = [model.attention(image, t, text, [name], True) for text, name in zip(alone, names, strict=True)]
            for key in each[0]:
                maps = stretched(torch.cat([e[key] for e in each]))
                note("attention to the word and what follows, a text for each", f"{key} @ {t:g}", maps, which)
            errors = F.avg_pool2d(model.errors(image, t, alone, 4)[None], 5, 1, 2, count_include_pad=False)[0]
            note("errors, a text for each word", f"errors @ {t:g}", -errors, which)
            total = -errors if t == times[0] else total - errors
        note("errors, a text for each word", "errors, all", total, which)
    table = {}
    for way, by_key in rows.items():
        chosen = {key: np.mean([r[0] for r in values[:choose]]) for key, values in by_key.items()}
        key = max(chosen, key=lambda k: chosen[k])
        table[way] = {"choice": key, "chosen at": 100 * float(chosen[key]), "scored": told(by_key[key][choose:])}
        print(way, table[way], flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--timesteps", type=float, nargs="+", default=[100, 300, 500, 700, 900])
    parser.add_argument("--only", choices=("tokens", "two"))
    parser.add_argument("--recipe", default="tiny-unet", help="Whose model is tested.")
    parser.add_argument("--train", type=int, default=0, metavar="STEPS")
    asked = parser.parse_args()
    with torch.no_grad():
        model, result = Model(recipe=asked.recipe), {}
        if asked.train:
            train(model, asked.train)
        if asked.only in (None, "tokens"):
            result["tokens"] = of_tokens(model, asked.pictures, asked.timesteps)
        if asked.only in (None, "two"):
            result["two figures"] = of_two_figures(model, asked.pictures // 2, asked.pictures, asked.timesteps)
        if asked.only in (None, "two") and not asked.train:
            result["two figures, random weights"] = of_two_figures(
                Model(True, asked.recipe), asked.pictures // 4, asked.pictures // 2, asked.timesteps
            )
    asked.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
