"""Train ``tiny-dit`` on the toy world: ``python -m tools.zoo.train_tiny_dit --out RUN [--data UNET_RUN]``.

The autoencoder is that of ``tiny-unet``. ``--data`` takes pictures and latents from a run of
``tools.zoo.train_tiny_unet`` instead of drawing and encoding them anew. The same command goes on where a run was
stopped; every checkpoint exports a pipeline directory ``RUN/tiny_dit`` in float16.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffeat import zoo
from diffeat.progress import bar
from tools.zoo import cache
from tools.zoo.build_dit import DitParts, DitWidths, make_dit_parts, make_dit_pipeline
from tools.zoo.pictures import CAPTIONS, loss_curves
from tools.zoo.runs import Work, claim, run_command, threads
from tools.zoo.train_dit import load_dit_average, train_dit, word_groups
from tools.zoo.train_unet import Examples, Stage
from tools.zoo.train_vae import encode_all

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import PixArtSigmaPipeline


@dataclass(frozen=True, slots=True)
class DitSettings:
    """All that decides the weights."""

    seed: int = 0
    steps: int = 5000
    batch: int = 24
    pictures: int = 20000
    calm: int = 20000
    size: int = 128
    save_every: int = 200
    widths: DitWidths = field(default_factory=DitWidths)


def train(
    settings: DitSettings,
    run: Path,
    data: Path | None = None,
    device: str = "cpu",
    workers: int = 1,
) -> Path:
    """Run all stages, going on where an earlier run stopped, and return the pipeline directory.

    Raises:
        InvalidValueError: ``run`` holds another run.
    """
    claim(run, "dit", settings)
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{(time.monotonic() - start) / 60:6.1f} min] {text}", flush=True)

    torch.set_num_threads(1 if workers > 1 else torch.get_num_threads())
    with threads(workers) as pool:
        work = Work(device, pool, say, bar)
        vae = _autoencoder(data)
        if data is None:
            data = run
            counts = cache.Counts(settings.pictures, settings.calm)
            cache.draw(run / "cache", counts, settings.seed, settings.size, workers)
            encode_all(vae, run, run / "cache", work)
            say("pictures drawn and encoded")
        parts, pipeline = _fresh(settings, vae)
        examples = Examples(data, data / "cache", pipeline.tokenizer, vae.config["scaling_factor"])

        def checkpoint(step: int, average: dict[str, Tensor]) -> None:
            export(settings, parts, average, vae, run / "tiny_dit")
            if step % (settings.save_every * 4) == 0 or step == settings.steps:
                sample(run / "tiny_dit", run / f"dit-{step:06d}.png")
                say(f"exported and sampled at step {step}")

        stage = Stage("dit", settings.steps, settings.batch, settings.seed, save_every=settings.save_every)
        average = train_dit(parts, run, examples, word_groups(pipeline.tokenizer), stage, work, checkpoint)
        export(settings, parts, average, vae, run / "tiny_dit")
    loss_curves(run, run / "loss.png")
    return run / "tiny_dit"


def _autoencoder(data: Path | None) -> AutoencoderKL:
    """The autoencoder that the latents were or will be made with."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    folder = zoo.path("tiny-unet") if data is None else data / "tiny_unet"
    loaded = AutoencoderKL.from_pretrained(str(folder), subfolder="vae", local_files_only=True)
    plain = {name: value for name, value in loaded.config.items() if name != "_name_or_path"}  # no path of this machine
    vae: AutoencoderKL = AutoencoderKL.from_config(plain)  # type: ignore[assignment]
    vae.load_state_dict(loaded.state_dict())
    return vae.eval()


def _fresh(settings: DitSettings, vae: AutoencoderKL) -> tuple[DitParts, PixArtSigmaPipeline]:
    from diffeat.datasets.toyworld.captions import vocabulary
    from tools.zoo.build_dit import make_t5_tokenizer

    words = len(make_t5_tokenizer(vocabulary()))
    parts = make_dit_parts(settings.widths, words, vae.config["latent_channels"], settings.seed, settings.size)
    return parts, make_dit_pipeline(parts, vae)


def export(
    settings: DitSettings, parts: DitParts, average: dict[str, Tensor], vae: AutoencoderKL, folder: Path
) -> None:
    """Write the averaged model as a float16 pipeline directory; the parts in training stay as they are."""
    shipped, _ = _fresh(settings, vae)
    load_dit_average(shipped, average)
    pipeline = make_dit_pipeline(shipped, copy.deepcopy(vae).cpu().half())  # type: ignore[arg-type]
    shipped.transformer.half()  # transformers loads what it finds: a half text encoder would stay half
    pipeline.save_pretrained(str(folder), safe_serialization=True)


def sample(folder: Path, picture: Path, guidance: float = 3.0, steps: int = 20, columns: int = 8) -> None:
    """Sample the captions of :mod:`tools.zoo.pictures` from a pipeline directory into one PNG."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from PIL import Image

    pipeline = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    side = pipeline.transformer.config.sample_size * 4
    images = pipeline(  # type: ignore[operator]
        list(CAPTIONS), guidance_scale=guidance, num_inference_steps=steps, height=side, width=side,
        generator=torch.Generator().manual_seed(1), use_resolution_binning=False, clean_caption=False,
    ).images  # fmt: skip
    grid = Image.new("RGB", (columns * side, -(-len(images) // columns) * side))
    for k, image in enumerate(images):
        grid.paste(image, (k % columns * side, k // columns * side))
    grid.save(picture)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.zoo.train_tiny_dit", description=__doc__)
    defaults = DitSettings()
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data", type=Path, help="run of train_tiny_unet whose pictures and latents are used")
    for name in ("steps", "batch", "pictures", "calm", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="CPU threads that share each batch")
    given = parser.parse_args(arguments)
    settings = DitSettings(given.seed, given.steps, given.batch, given.pictures, given.calm)
    print(train(settings, given.out, given.data, given.device, given.workers))


if __name__ == "__main__":
    run_command(main)
