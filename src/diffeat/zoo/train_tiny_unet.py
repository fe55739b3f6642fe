"""Train ``tiny-unet`` on the toy world: ``python -m diffeat.zoo.train_tiny_unet --out RUN``.

Stages, each of which a killed run continues with ``--resume``: draw pictures, train the autoencoder, encode the
pictures, train the U-Net with the text encoder, export a pipeline directory ``RUN/tiny_unet`` in float16.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InvalidValueError
from . import cache
from .build import Parts, Widths, make_parts, make_pipeline
from .train_unet import Examples, load_average, train_unet
from .train_vae import encode_all, settle_scale, train_vae

CAPTIONS = (
    "a photo of a brown horse facing left on grass",
    "a photo of a golden dog facing right on sand",
    "a photo of a striped orange cat facing left on a floor",
    "a photo of a patched white cow facing right on grass",
    "a photo of a white sheep facing left on grass",
    "a photo of a grey elephant facing right on sand",
    "a photo of a brown bird facing left in a forest",
    "a photo of an orange fish swimming facing right on water",
    "a photo of a person in red facing the camera in front of a wall",
    "a photo of a red car facing left on a road",
    "a photo of a blue bicycle facing right on a road",
    "a photo of a white airplane flying facing left on a plain background",
    "a photo of a red chair facing right on a floor",
    "a photo of a green tree facing left on grass",
    "a photo of a yellow flower facing the camera on a plain background",
    "a photo of a white cup facing right on a plain background",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """All that decides the weights."""

    seed: int = 0
    steps: int = 3000
    batch: int = 32
    vae_steps: int = 600
    vae_batch: int = 32
    pictures: int = 20000
    size: int = 128
    save_every: int = 200
    widths: Widths = field(default_factory=Widths)


def train(settings: Settings, run: Path, device: str = "cpu", workers: int = 1, resume: bool = False) -> Path:
    """Run all stages and return the pipeline directory.

    Raises:
        InvalidValueError: ``run`` holds another run, or one that was not asked to be continued.
    """
    run.mkdir(parents=True, exist_ok=True)
    _claim(settings, run, resume)
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{(time.monotonic() - start) / 60:6.1f} min] {text}", flush=True)

    torch.set_num_threads(1 if workers > 1 else torch.get_num_threads())
    pool = ThreadPool(workers)
    pictures = run / "cache"
    cache.draw(pictures, settings.pictures, settings.seed, settings.size, workers)
    parts = make_parts(settings.widths, settings.seed, settings.size)
    say("pictures drawn")
    train_vae(
        parts.vae, run, pictures, settings.vae_steps, settings.vae_batch, settings.seed, device, pool, say,
        save_every=settings.save_every,
    )  # fmt: skip
    encode_all(parts.vae, run, pictures, device, pool, say)
    settle_scale(parts.vae, run)
    pipeline = make_pipeline(parts)
    examples = Examples(run, pictures, pipeline.tokenizer, parts.vae.config["scaling_factor"])

    def checkpoint(step: int, average: dict[str, Tensor]) -> None:
        export(parts, average, run / "tiny_unet")
        if step % (settings.save_every * 4) == 0 or step == settings.steps:
            sample_grid(run / "tiny_unet", run / f"samples-{step:06d}.png")
            say(f"exported and sampled at step {step}")

    average = train_unet(
        parts, run, examples, settings.steps, settings.batch, settings.seed, device, pool, say, checkpoint,
        save_every=settings.save_every,
    )  # fmt: skip
    export(parts, average, run / "tiny_unet")
    return run / "tiny_unet"


def _claim(settings: Settings, run: Path, resume: bool) -> None:
    file, asked = run / "settings.json", json.loads(json.dumps(asdict(settings)))
    if not file.exists():
        file.write_text(json.dumps(asked, indent=2))
        return
    there = json.loads(file.read_text())
    if there != asked:
        changed = ", ".join(k for k in asked if there.get(k) != asked[k])
        raise InvalidValueError(f"{run} holds a run with other settings ({changed}); give another --out.")
    if not resume:
        raise InvalidValueError(f"{run} holds a run already; continue it with --resume or give another --out.")


def export(parts: Parts, average: dict[str, Tensor], folder: Path) -> None:
    """Write the averaged model as a float16 pipeline directory; the parts in training stay as they are."""
    shipped = Parts(*(copy.deepcopy(m).cpu() for m in (parts.vae, parts.unet, parts.text)))
    load_average(shipped, average)
    pipeline = make_pipeline(shipped)
    pipeline.to(torch.float16)
    pipeline.save_pretrained(str(folder), safe_serialization=True)


def sample_grid(folder: Path, picture: Path, guidance: float = 4.0, steps: int = 25, columns: int = 8) -> None:
    """Sample :data:`CAPTIONS` from a pipeline directory into one PNG."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from PIL import Image

    pipeline = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(1)
    images = pipeline(list(CAPTIONS), guidance_scale=guidance, num_inference_steps=steps, generator=noise).images
    side = images[0].width
    grid = Image.new("RGB", (columns * side, -(-len(images) // columns) * side))
    for k, image in enumerate(images):
        grid.paste(image, (k % columns * side, k // columns * side))
    grid.save(picture)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m diffeat.zoo.train_tiny_unet", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=Settings.__dataclass_fields__["steps"].default)
    parser.add_argument("--vae-steps", type=int, default=Settings.__dataclass_fields__["vae_steps"].default)
    parser.add_argument("--pictures", type=int, default=Settings.__dataclass_fields__["pictures"].default)
    parser.add_argument("--batch", type=int, default=Settings.__dataclass_fields__["batch"].default)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="CPU threads that share each batch")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    given = parser.parse_args(arguments)
    settings = Settings(given.seed, given.steps, given.batch, given.vae_steps, pictures=given.pictures)
    print(train(settings, given.out, given.device, given.workers, given.resume))


if __name__ == "__main__":
    main()
