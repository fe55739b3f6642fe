"""Can the class of the embedded model's samples be told by somebody who knows drawings only?

A linear classifier of gradient histograms (scikit-image's HOG) learns the classes from drawings of whole figures on a
plain background that went through the model's autoencoder, and then names samples of captions. Beside the samples:
drawings of another world, which it should get right, and samples of the empty caption, which tell chance.

    python -m benchmarks.zoo_samples --out samples.png
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.feature import hog
from tqdm import tqdm

from diffeat import zoo
from diffeat.datasets.toyworld import CLASSES, Toyworld
from tools.zoo.cache import FIXED

SIDES = ("left", "right")


def histograms(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """HOG of grey pictures ``(n, 128, 128, 3)`` in cells of 16 pixels."""
    grey = pictures.astype(np.float64).mean(-1)
    return np.stack([hog(g, 9, (16, 16), (2, 2), feature_vector=True) for g in grey])


@torch.inference_mode()
def drawings(vae, seed: int, each: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Large figures seen from a side, ``each`` of every class, after the autoencoder; and their labels."""
    world, kept, labels = Toyworld(seed), [], []
    for label, name in enumerate(tqdm(CLASSES, desc=f"world {seed}", leave=False)):
        pictures = []
        for k in range(each):
            view = SIDES[k % 2]
            pictures.append(world.sample(label * 10_000 + k, name=name, view=view, **FIXED["large"]).image)
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        for part in pixels.split(50):
            again = vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1)
            kept.append(((again + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
        labels += [label] * each
    return np.concatenate(kept), np.array(labels)


def captions(each: int) -> tuple[list[str], NDArray[np.int64]]:
    """``each`` captions of every class, sides in turn."""
    said, labels = [], []
    for label, name in enumerate(CLASSES):
        for k in range(each):
            said.append(f"a photo of a large {name} facing {SIDES[k % 2]} on a plain background in the sun")
            labels.append(label)
    return said, np.array(labels)


def sheet(samples: list[Image.Image], each: int, columns: int = 2, label: int = 22) -> Image.Image:
    """All samples, ``each`` of a class side by side below the class's name, ``columns`` classes a row."""
    side = samples[0].width
    width, height = each * side, side + label
    picture = Image.new("RGB", (columns * width, -(-len(CLASSES) // columns) * height), "white")
    pen = ImageDraw.Draw(picture)
    for k, name in enumerate(CLASSES):
        left, top = k % columns * width, k // columns * height
        pen.text((left + 4, top + 2), name, "black", font_size=16)
        for j, image in enumerate(samples[k * each : (k + 1) * each]):
            picture.paste(image, (left + j * side, top + label))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(zoo.path("tiny-unet")))
    parser.add_argument("--each", type=int, default=8, help="samples of every class")
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--out", help="picture of all samples by class")
    given = parser.parse_args()
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from sklearn.linear_model import LogisticRegression

    pipeline = DiffusionPipeline.from_pretrained(given.model, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pictures, labels = drawings(pipeline.vae, 0, 100)
    classifier = LogisticRegression(C=0.1, max_iter=500).fit(histograms(pictures), labels)
    held_out, truths = drawings(pipeline.vae, 1, 20)
    said, wanted = captions(given.each)
    noise = torch.Generator().manual_seed(0)
    samples, empty = [], []
    for start in tqdm(range(0, len(said), 21), desc="samples"):
        texts = said[start : start + 21]
        for kept, prompt in ((samples, texts), (empty, [""] * len(texts))):
            kept += pipeline(
                prompt,
                guidance_scale=given.guidance if prompt[0] else 1.0,
                num_inference_steps=given.steps,
                generator=noise,
            ).images
    found = classifier.predict(histograms(np.stack([np.asarray(i) for i in samples])))
    without = classifier.predict(histograms(np.stack([np.asarray(i) for i in empty])))
    print(f"drawings of another world: {100 * classifier.score(histograms(held_out), truths):.1f} % named rightly")
    print(f"samples: {100 * (found == wanted).mean():.1f} % of {len(wanted)}")
    print(f"samples of the empty caption: {100 * (without == wanted).mean():.1f} %")
    for label, name in enumerate(CLASSES):
        mine = found[wanted == label]
        taken = [CLASSES[k] for k in np.bincount(mine, minlength=len(CLASSES)).argsort()[::-1][:3] if (mine == k).any()]
        print(f"  {name:10s} {100 * (mine == label).mean():5.0f} %   most named: {', '.join(taken)}")
    if given.out:
        sheet(samples, given.each).save(given.out)


if __name__ == "__main__":
    main()
