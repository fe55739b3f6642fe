"""Pictures of a training run: samples from captions, loss curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

#: captions of the sample grid
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


def sample_grid(folder: Path, picture: Path, guidance: float = 3.0, steps: int = 25, columns: int = 8) -> None:
    """Sample :data:`CAPTIONS` from a pipeline directory into one PNG."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from PIL import Image

    pipeline = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(1)
    images = pipeline(  # type: ignore[operator]
        list(CAPTIONS), guidance_scale=guidance, num_inference_steps=steps, generator=noise
    ).images
    side = images[0].width
    grid = Image.new("RGB", (columns * side, -(-len(images) // columns) * side))
    for k, image in enumerate(images):
        grid.paste(image, (k % columns * side, k // columns * side))
    grid.save(picture)


def loss_curves(run: Path, picture: Path, window: int = 50) -> None:
    """Plot the running mean of each loss table of a run, one panel a stage."""
    from matplotlib.figure import Figure

    found = sorted(run.glob("*_loss.csv"), key=lambda path: path.stat().st_mtime)
    tables = {path.name.removesuffix("_loss.csv"): path for path in found}
    figure = Figure(figsize=(4 * len(tables), 2.8), layout="constrained")
    for axes, (name, path) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        table = np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True))
        width = min(window, len(table))
        axes.plot(table["step"][width - 1 :], np.convolve(table["loss"], np.ones(width) / width, "valid"), lw=1)
        axes.set(title=f"stage {name}", xlabel="step", ylabel=f"loss (mean of {width} steps)", yscale="log")
        axes.grid(alpha=0.3, which="both")
    figure.savefig(picture, dpi=110)
