"""Pictures of a training run: samples from captions, loss curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

#: captions of the sample grid: each class on a plain background, then three figures in places
CAPTIONS = (
    "a photo of a large brown horse facing left on a plain background in the sun",
    "a photo of a large golden dog facing right on a plain background in the sun",
    "a photo of a large black cat facing left on a plain background in the sun",
    "a photo of a large brown cow facing right on a plain background in the sun",
    "a photo of a large white sheep facing left on a plain background in the sun",
    "a photo of a large grey elephant facing right on a plain background in the sun",
    "a photo of a large brown bird facing right on a plain background in the sun",
    "a photo of a large blue fish swimming facing left on a plain background in the sun",
    "a photo of a large red beetle facing right on a plain background in the sun",
    "a photo of a large brown spider facing left on a plain background in the sun",
    "a photo of a large person in red facing the camera on a plain background in the sun",
    "a photo of a large green car facing left on a plain background in the sun",
    "a photo of a large blue bicycle facing right on a plain background in the sun",
    "a photo of a large white airplane flying facing left on a plain background in the sun",
    "a photo of a large red boat floating facing right on a plain background in the sun",
    "a photo of a large red chair facing right on a plain background in the sun",
    "a photo of a large house facing left on a plain background in the sun",
    "a photo of a large green tree facing the camera on a plain background in the sun",
    "a photo of a large yellow flower facing the camera on a plain background in the sun",
    "a photo of a large bottle facing right on a plain background in the sun",
    "a photo of a large white cup facing right on a plain background in the sun",
    "a photo of a large grey elephant facing right on sand",
    "a photo of a large green tree facing the camera on snow",
    "a photo of a large yellow flower facing the camera on grass",
)


def sample_grid(folder: Path, picture: Path, guidance: float = 5.0, steps: int = 25, columns: int = 8) -> None:
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


def loss_curves(run: Path, picture: Path, columns: int = 3) -> None:
    """Plot the running mean of each loss table of a run, one panel a stage, over a twentieth of its steps."""
    from matplotlib.figure import Figure

    found = sorted(run.glob("*_loss.csv"), key=lambda path: (path.name != "vae_loss.csv", path.stat().st_mtime))
    tables = {path.name.removesuffix("_loss.csv"): path for path in found}
    columns = min(columns, len(tables))
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(4 * columns, 2.8 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, path) in zip(panels, tables.items(), strict=False):
        table = np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True))
        width = -(-len(table) // 20)
        axes.plot(table["step"][width - 1 :], np.convolve(table["loss"], np.ones(width) / width, "valid"), lw=1)
        axes.set(title=f"stage {name}", xlabel="step", ylabel=f"loss (mean of {width} steps)", yscale="log")
        axes.grid(alpha=0.3, which="both")
    for axes in panels[len(tables) :]:
        axes.set_visible(False)
    figure.savefig(picture, dpi=110)
