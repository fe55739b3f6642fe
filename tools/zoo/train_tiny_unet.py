"""Train ``tiny-unet`` on the toy world: ``python -m tools.zoo.train_tiny_unet --out RUN``.

Stages, each of which the same command continues after a stop: draw pictures, train the autoencoder, encode the
pictures, train the U-Net with the text encoder, export a pipeline directory ``RUN/tiny_unet`` in float16.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from diffeat.errors import InvalidValueError
from diffeat.progress import bar
from tools.zoo import cache
from tools.zoo.build import Parts, Widths, make_parts, make_pipeline
from tools.zoo.pictures import loss_curves, sample_grid
from tools.zoo.runs import Work, claim, finished_stage, run_command, threads
from tools.zoo.train_unet import DROPPED, Examples, Stage, check_frozen, is_frozen, load_average, train_unet
from tools.zoo.train_vae import VaeStage, encode_all, settle_scale, train_vae


@dataclass(frozen=True, slots=True)
class Settings:
    """All that decides the weights."""

    seed: int = 0
    steps: int = 5000
    batch: int = 24
    vae_steps: int = 800
    vae_batch: int = 16
    pictures: int = 20000
    calm: int = 20000
    studio: int = 0
    large: int = 0
    share: float | None = None
    size: int = 128
    save_every: int = 200
    hide: float = DROPPED
    lean: float = 0.0
    stage: str = "unet"
    after: str | None = None
    freeze: tuple[str, ...] = ()
    grid: int = 0
    widths: Widths = field(default_factory=Widths)

    def __post_init__(self) -> None:
        for name, most in (("hide", 1), ("share", 1), ("lean", math.inf), ("grid", math.inf)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise InvalidValueError(f"{name} = {value} is not from 0 to {most}.")
        if self.share is not None and not (self.studio or self.large):
            raise InvalidValueError("share is that of the last kind of pictures: ask for some with studio or large.")

    @property
    def counts(self) -> cache.Counts:
        """Of which kinds the pictures are."""
        return cache.Counts(self.pictures, self.calm, self.studio, self.large)


def train(settings: Settings, run: Path, device: str = "cpu", workers: int = 1) -> Path:
    """Run all stages, going on where an earlier run stopped, and return the pipeline directory.

    Raises:
        InvalidValueError: ``run`` holds another run, or lacks the stage to go on from.
        UnknownNameError: A module to freeze does not exist.
    """
    parts = make_parts(settings.widths, settings.seed, settings.size)
    check_frozen(parts, settings.freeze)
    if settings.after is not None:
        finished_stage(run, settings.after)
    claim(run, settings.stage, settings)
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{(time.monotonic() - start) / 60:6.1f} min] {text}", flush=True)

    torch.set_num_threads(1 if workers > 1 else torch.get_num_threads())
    with threads(workers) as pool:
        work = Work(device, pool, say, bar)
        pictures = run / "cache"
        cache.draw(pictures, settings.counts, settings.seed, settings.size, workers)
        say("pictures drawn")
        vae = VaeStage(settings.vae_steps, settings.vae_batch, settings.seed, save_every=settings.save_every)
        train_vae(parts.vae, run, pictures, vae, work)
        encode_all(parts.vae, run, pictures, work)
        settle_scale(parts.vae, run)
        pipeline = make_pipeline(parts)
        late = None if settings.share is None else (settings.counts.last, settings.share)
        scale = parts.vae.config["scaling_factor"]
        examples = Examples(run, pictures, pipeline.tokenizer, scale, settings.hide, late)

        def checkpoint(step: int, average: dict[str, Tensor]) -> None:
            export(parts, average, run / "tiny_unet", settings.freeze, settings.grid)
            if step % (settings.save_every * 4) == 0 or step == settings.steps:
                sample_grid(run / "tiny_unet", run / f"{settings.stage}-{step:06d}.png")
                say(f"exported and sampled at step {step}")

        stage = Stage(
            settings.stage, settings.steps, settings.batch, settings.seed, settings.after, settings.freeze,
            settings.lean, save_every=settings.save_every,
        )  # fmt: skip
        average = train_unet(parts, run, examples, stage, work, checkpoint)
        export(parts, average, run / "tiny_unet", settings.freeze, settings.grid)
    loss_curves(run, run / "loss.png")
    return run / "tiny_unet"


def export(parts: Parts, average: dict[str, Tensor], folder: Path, freeze: tuple[str, ...] = (), grid: int = 0) -> None:
    """Write the averaged model as a float16 pipeline directory; the parts in training stay as they are.

    With a ``grid``, trained matrices of the U-Net are rounded, see :func:`on_grid`.
    """
    if grid:
        rounded = {name for name in average if name.startswith("unet.") and not is_frozen(name, freeze)}
        average = {name: on_grid(value, grid) if name in rounded else value for name, value in average.items()}
    shipped = Parts(*(copy.deepcopy(m).cpu() for m in (parts.vae, parts.unet, parts.text)))  # type: ignore[arg-type]
    load_average(shipped, average)
    pipeline = make_pipeline(shipped)
    for network in (shipped.vae, shipped.unet):  # transformers loads what it finds: a half text encoder would stay half
        network.half()
    pipeline.save_pretrained(str(folder), safe_serialization=True)


def on_grid(weight: Tensor, grid: int) -> Tensor:
    """A matrix rounded to multiples of a power of two, at most its spread divided by ``grid`` and above half of that.

    Zip files, which wheels are, and git then store it in half of the bytes or less. Vectors stay as they are.
    """
    if weight.ndim < 2:
        return weight
    step = 2.0 ** math.floor(math.log2(float(weight.std()) / grid))
    return (weight / step).round() * step


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.zoo.train_tiny_unet", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    explained = {
        "seed": "of pictures, weights and noise",
        "steps": "of the U-Net in this stage",
        "batch": "pictures a step",
        "vae_steps": "of the autoencoder",
        "pictures": "as the world comes",
        "calm": "further pictures, all of whole figures without clutter and occluders",
        "studio": "further pictures, all of whole figures on a plain background",
        "large": "further pictures, all of whole figures that fill them, on a plain background",
        "hide": "share of captions hidden from the U-Net",
        "lean": "density of timesteps grows as t to this power",
        "stage": "name of this stage of U-Net training",
        "grid": "round trained matrices to their spread over this number; 0 leaves them",
    }
    defaults = Settings()
    for name, text in explained.items():
        default = getattr(defaults, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"{text} (default: {default})"
        )
    parser.add_argument("--share", type=float, help="share in training of the kind drawn last (default: all alike)")
    parser.add_argument("--after", help="an earlier stage whose averaged weights this one starts from")
    parser.add_argument("--freeze", nargs="*", default=(), metavar="MODULE", help="e.g. text unet.down_blocks.0")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="CPU threads that share each batch")
    given = parser.parse_args(arguments)
    settings = Settings(
        **{name: getattr(given, name) for name in (*explained, "share", "after")}, freeze=tuple(given.freeze)
    )
    print(train(settings, given.out, given.device, given.workers))


if __name__ == "__main__":
    run_command(main)
