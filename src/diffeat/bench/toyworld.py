"""The toy world as a correspondence benchmark.

Pictures come from a seed that no embedded model was trained on. Which single activation stands for a model is chosen
on the validation pairs; numbers are of the test pairs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffeat.activations import Catalogue
from diffeat.bench.baselines import Daisy, RgbPatches
from diffeat.bench.rows import BenchRow, RowSource, score_rows, write_bench
from diffeat.datasets.spair import read_spair
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.extraction import Extractor, Recipe
from diffeat.progress import Progress, silent
from diffeat.tasks.correspondence.protocol import get_protocol

if TYPE_CHECKING:
    from diffeat.tasks.correspondence.protocol import Protocol

MODEL = "tiny-unet"
#: Seed of the benchmark's pictures.
SEED = 7
#: Side of the pictures, and of what the model sees.
SIZE = 128
PROTOCOL: Protocol = get_protocol("spair").replace(name="toyworld", alphas=(0.05, 0.1))


def run_toyworld(
    folder: str | Path,
    *,
    recipes: Sequence[str] = (),
    activations: Sequence[str] | None = None,
    timestep: float = 200,
    images: int = 10,
    pairs: int = 30,
    progress: Progress = silent,
) -> list[BenchRow]:
    """Run the benchmark.

    Args:
        folder: Holds the pictures, the features and the report; a later run goes on with them.
        recipes: Further rows: presets, or YAML files, that give one map.
        activations: Single activations of the embedded model to try; by default the outputs of its upper blocks, and
            of the layers of those with a fine grid.
        timestep: At which they are read.
        images: Test pictures per class.
        pairs: Test pairs per class.

    Returns:
        The rows, in the order of the table. The report lies in ``folder``.
    """
    root = Path(folder)
    counts = {"trn": 0, "val": 4, "test": images}
    data = write_toyworld_pairs(root / "toyworld", seed=SEED, size=SIZE, images=counts, pairs=pairs, progress=progress)
    own_size = {"mode": "keep", "longer": SIZE}
    single = Recipe.load(MODEL).replace(name=MODEL, frame=own_size, fuse=None, **{"trajectory.timesteps": [timestep]})
    trained = Extractor.from_recipe(single.replace(activations=["mid_block"]))
    names = list(activations or worth_showing(trained))
    single = single.replace(activations=names)
    trained = Extractor(single, trained.backbone)

    candidates = [RowSource(lambda: trained, {name: name for name in names}, "category")]
    validation = score_rows(candidates, read_spair(data, "val"), PROTOCOL, root / "val", progress)
    best = max(validation, key=lambda row: row.evaluation.result.value).name

    sources = [
        RowSource(RgbPatches, {"RGB patches": None}),
        RowSource(Daisy, {"DAISY (scikit-image)": None}),
        RowSource(lambda: random_weights(single), {f"{MODEL}, random weights, {best}": best}, "category"),
        RowSource(
            lambda: trained,
            {f"{MODEL}, {n}{' (chosen)' if n == best else ''}": n for n in names},
            "category",
        ),
        *(RowSource(lambda r=r: Extractor.from_recipe(r), {Recipe.load(r).name: None}, "category") for r in recipes),
    ]
    rows = score_rows(sources, read_spair(data, "test"), PROTOCOL, root / "test", progress)
    notes = [f"activations are read at timestep {timestep:g}; {best} was chosen on the validation pairs"]
    write_bench(root, "Toy world: semantic correspondence", rows, [*notes, *rows[-1].evaluation.result.notes])
    return rows


def worth_showing(extractor: Extractor) -> list[str]:
    """Outputs of a UNet's upper blocks, and of the layers of its blocks 1 and 2, where semantics meet resolution."""
    layer = r"up_blocks\.[12]\.(resnets|attentions)\.\d+"
    wanted = re.compile(rf"up_blocks\.\d+|{layer}")
    return [a.id for a in Catalogue.of(extractor.backbone) if wanted.fullmatch(a.id)]


def random_weights(recipe: Recipe, seed: int = 0) -> Extractor:
    """The same network before any training (the autoencoder stays trained)."""
    extractor = Extractor.from_recipe(recipe)
    denoiser = extractor.backbone.denoiser
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(denoiser).from_config(denoiser.config)  # type: ignore[attr-defined]
    denoiser.load_state_dict(fresh.state_dict())
    named = recipe.replace(name=f"{recipe.name} (random weights)", seed=recipe.seed + 1)
    return Extractor(named, extractor.backbone)
