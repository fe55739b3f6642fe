"""Pictures of a training run: samples from captions, loss curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from diffeat.training.loop import LOG

#: each class on a plain background
PLAIN = (
    "brown horse facing left",
    "golden dog facing right",
    "black cat facing left",
    "brown cow facing right",
    "white sheep facing left",
    "grey elephant facing right",
    "brown bird facing right",
    "blue fish swimming facing left",
    "red beetle facing right",
    "brown spider facing left",
    "person in red facing the camera",
    "green car facing left",
    "blue bicycle facing right",
    "white airplane flying facing left",
    "red boat floating facing right",
    "red chair facing right",
    "house facing left",
    "green tree facing the camera",
    "yellow flower facing the camera",
    "bottle facing right",
    "white cup facing right",
)
#: captions of the sample grid: those, then three figures in places
CAPTIONS = (
    *(f"a photo of a large {figure} on a plain background in the sun" for figure in PLAIN),
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

    found = sorted(run.glob(f"*-{LOG}"), key=lambda path: (path.name != f"vae-{LOG}", path.stat().st_mtime))
    tables = {path.name.removesuffix(f"-{LOG}"): path for path in found}
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
