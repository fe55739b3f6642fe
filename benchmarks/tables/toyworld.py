"""The toy world as a correspondence benchmark.

Pictures come from a seed that no embedded model was trained on. Which single activation stands for a model, and at
which timestep activations are read, is chosen on the validation pairs; numbers are of the test pairs. Intervals of rows
are over test pictures. What a choice is worth is told beside them: validation pictures are drawn anew, each time the
best candidate of those is chosen, and its test score is drawn with test pictures anew.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.tables.rows import (
    FILES,
    BenchRow,
    RowSource,
    choosing,
    pair_score,
    score_rows,
    with_choosing,
    write_rows,
)
from diffeat.activations import Catalogue
from diffeat.ambient import seeded
from diffeat.datasets.pairs import PairDataset
from diffeat.datasets.spair import read_spair
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.extraction import Extractor, Reading
from diffeat.extraction.baselines import Daisy, RgbPatches
from diffeat.files import new_folder
from diffeat.progress import Progress, silent
from diffeat.tasks.correspondence.protocol import get_protocol

if TYPE_CHECKING:
    from diffeat.backbones import Backbone
    from diffeat.tasks.correspondence.protocol import Protocol

MODEL = "tiny-unet"
#: Seed of the benchmark's pictures.
SEED = 7
#: Side of the pictures, and of what the model sees.
SIZE = 128
#: Noise levels to choose from.
TIMESTEPS = (20.0, 100.0, 200.0, 300.0)
PROTOCOL: Protocol = get_protocol("spair").replace(name="toyworld", alphas=(0.05, 0.1))


def run_toyworld(
    folder: str | Path,
    *,
    recipes: Sequence[str] = (),
    activations: Sequence[str] | None = None,
    timesteps: Sequence[float] = TIMESTEPS,
    images: int = 40,
    pairs: int = 100,
    progress: Progress = silent,
    force: bool = False,
) -> list[BenchRow]:
    """Run the benchmark.

    Args:
        folder: Holds the pictures, the features and the report; a later run goes on with them.
        force: Whether the report of an earlier run may be replaced; what else is there is gone on with.
        activations: Single activations of the embedded model to try; by default the outputs of its upper blocks, and
            of the layers of those with a fine grid.
        timesteps: Which to try; all activations are read at the one that serves the best of them.

    Returns:
        The rows, in the order of the table. The report lies in ``folder``.
    """
    root = new_folder(folder, FILES, force=force)
    counts = {"trn": 0, "val": 8, "test": images}
    data = write_toyworld_pairs(root / "toyworld", seed=SEED, size=SIZE, images=counts, pairs=pairs, progress=progress)
    own_size = {"mode": "keep", "longer": SIZE}
    single = Reading.load(MODEL).replace(name=MODEL, frame=own_size, fuse=None)
    backbone = Extractor.from_recipe(single.replace(activations=["mid_block"])).backbone
    names = list(activations or worth_showing(backbone))
    single = single.replace(activations=names)

    tried = {(n, t): f"{n}@{t:g}" if len(timesteps) > 1 else n for t in timesteps for n in names}
    several = Extractor(single.replace(**{"trajectory.timesteps": list(timesteps)}), backbone)
    candidates = [RowSource(lambda: several, {key: key for key in tried.values()}, "category")]
    validation = score_rows(candidates, read_spair(data, "val"), PROTOCOL, root / "val", progress)
    (best, timestep), _ = max(zip(tried, validation, strict=True), key=lambda pair: pair[1].evaluation.result.value)
    choices = choosing([pair_score(row.evaluation.records, PROTOCOL) for row in validation])
    single = single.replace(**{"trajectory.timesteps": [timestep]})
    trained = Extractor(single, backbone)

    sources = [
        RowSource(RgbPatches, {"RGB patches": None}),
        RowSource(Daisy, {"DAISY (scikit-image)": None}),
        RowSource(lambda: random_weights(single), {f"{MODEL}, random weights, {best}": best}, "category"),
        RowSource(lambda: trained, {f"{MODEL}, {n}{' (chosen)' if n == best else ''}": n for n in names}, "category"),
        *(RowSource(lambda r=r: Extractor.from_recipe(r), {Reading.load(r).name: None}, "category") for r in recipes),
    ]
    test = read_spair(data, "test")
    rows = score_rows(sources, test, PROTOCOL, root / "test", progress)
    notes = [
        f"activations are read at timestep {timestep:g}; it and {best} were chosen on the validation pairs",
        _worth(list(tried), choices, trained, test, root / "test", progress),
    ]
    write_rows(
        root, "Toy world: semantic correspondence", rows, [*notes, *rows[-1].evaluation.result.notes], force=True
    )
    return rows


def _worth(
    tried: Sequence[tuple[str, float]], choices: np.ndarray, base: Extractor, test: PairDataset, folder: Path,
    progress: Progress,
) -> str:  # fmt: skip
    """What choosing on other validation pictures comes to."""
    votes = {tried[k]: count for k, count in Counter(choices.tolist()).most_common()}
    names, timesteps = (list(dict.fromkeys(column)) for column in zip(*votes, strict=True))
    extractor = Extractor(base.recipe.replace(activations=names, **{"trajectory.timesteps": timesteps}), base.backbone)
    keys: dict[str, str | None] = {f"{n}@{t:g}": f"{n}@{t:g}" if len(timesteps) > 1 else n for n, t in votes}
    rows = score_rows([RowSource(lambda: extractor, keys, "category")], test, PROTOCOL, folder, progress)
    scores = {
        tried.index(key): pair_score(row.evaluation.records, PROTOCOL) for key, row in zip(votes, rows, strict=True)
    }
    value, interval = with_choosing(choices, scores)
    shares = [f"{key} in {count / len(choices):.0%}" for key, count in zip(keys, votes.values(), strict=True)]
    others = f", and {len(shares) - 5} others" if len(shares) > 6 else ""
    most = ", ".join(shares[: 5 if others else None])
    return (
        f"what is chosen scores PCK@{PROTOCOL.alpha:g} {value:.1f} {interval} with validation pictures drawn anew, too "
        f"({len(choices)} times: {most}{others})"
    )


def worth_showing(backbone: Backbone) -> list[str]:
    """Outputs of a UNet's upper blocks, and of the layers of its blocks 1 and 2, where semantics meet resolution."""
    layer = r"up_blocks\.[12]\.(resnets|attentions)\.\d+"
    wanted = re.compile(rf"up_blocks\.\d+|{layer}")
    return [a.id for a in Catalogue.of(backbone) if wanted.fullmatch(a.id)]


def random_weights(recipe: Reading) -> Extractor:
    """The same network before any training (the autoencoder stays trained)."""
    extractor = Extractor.from_recipe(recipe)
    denoiser = extractor.backbone.denoiser
    with seeded(0):
        fresh = type(denoiser).from_config(denoiser.config)  # type: ignore[attr-defined]
    denoiser.load_state_dict(fresh.state_dict())
    named = recipe.replace(name=f"{recipe.name} (random weights)", seed=recipe.seed + 1)
    return Extractor(named, extractor.backbone)
