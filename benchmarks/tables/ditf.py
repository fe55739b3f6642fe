"""Raw, AdaLN and AdaLN with discard, on ``tiny-dit`` as it is and with injected massive channels.

Timestep and block are chosen on the validation pairs, for AdaLN without discard, and serve all rows. Rows of one model
share their pictures and their noise, so differences between them are compared picture by picture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tables.injection import inject_massive
from benchmarks.tables.rows import FILES, BenchRow, RowSource, score_rows, write_rows
from benchmarks.tables.toyworld import PROTOCOL, SEED, SIZE
from diffeat.activations import Catalogue
from diffeat.activations.modulation import modulated_sites
from diffeat.backbones import Backbone
from diffeat.datasets.spair import read_spair
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.evaluation.intervals import bootstrap
from diffeat.extraction import Extractor, Reading
from diffeat.extraction.detect import calibration_pictures
from diffeat.features import Picture
from diffeat.files import new_folder
from diffeat.progress import Progress, silent
from diffeat.report.massive import summary, write_massive
from diffeat.report.sweep import write_sweep
from diffeat.studies.massive import find_massive
from diffeat.studies.sweeps import Sweep, block_names, sweep
from diffeat.tasks.correspondence.evaluate import Evaluation
from diffeat.tasks.correspondence.keypoints import PairRecord
from diffeat.tasks.correspondence.protocol import Protocol

#: Tried on the validation pairs.
TIMESTEPS = (20.0, 60.0, 100.0, 200.0, 350.0)
#: Injected channels: how large, and how much of it later blocks suppress, as trained models do.
INJECTED, SPREAD, SUPPRESSED = 40.0, 0.1, 0.9


@dataclass(frozen=True)
class Difference:
    """A difference of two rows in percentage points, with a 95 % interval."""

    name: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name}: {self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}] points"


def run_ditf(
    folder: str | Path,
    *,
    model: str = "tiny-dit",
    recipe: str | Reading = "ditf-tiny",
    timesteps: Sequence[float] = TIMESTEPS,
    classes: Sequence[str] | None = None,
    images: int = 10,
    pairs: int = 30,
    channels: Sequence[int] = (17, 101),
    progress: Progress = silent,
    force: bool = False,
) -> tuple[list[BenchRow], list[Difference]]:
    """Run the comparison.

    Args:
        folder: Holds the pictures, the features and the reports; a later run goes on with them.
        force: Whether the report of an earlier run may be replaced; what else is there is gone on with.
        recipe: With ``refine``; its discard and its detector are used.

    Returns:
        The rows, and the differences between them. ``bench.html``, the sweep and two reports on massive activations
        lie in ``folder``.
    """
    root = new_folder(folder, FILES, force=force)
    data = write_toyworld_pairs(
        root / "toyworld",
        seed=SEED,
        size=SIZE,
        classes=classes,
        images={"trn": 0, "val": 4, "test": images},
        pairs=pairs,
        progress=progress,
    )
    base = Reading.load(recipe).replace(model=model)
    clean, massive = (Backbone.from_pretrained(model) for _ in range(2))
    picture = (SIZE, SIZE)
    inject_massive(massive, channels, size=INJECTED, spread=SPREAD, suppress=SUPPRESSED, picture=picture)

    swept = _swept(base, clean, data, root / "sweep", timesteps, progress)
    chosen = swept.recipe.replace(refine=base.refine)
    sources: list[RowSource] = []
    for name, backbone in ((model, clean), (f"{model} + channels {', '.join(map(str, channels))}", massive)):
        for kind, changed in variants(chosen, clean).items():
            one = changed.replace(model=name)
            sources.append(RowSource(lambda r=one, b=backbone: Extractor(r, b), {f"{name}, {kind}": None}, "category"))
        found = find_massive(chosen.replace(model=name), backbone, calibration_pictures(), timesteps=timesteps)
        where = root / ("massive" if backbone is clean else "massive-injected")
        examples = [Picture.of(p).image for p in calibration_pictures()[: len(found.examples)]]
        write_massive(found, examples, where, force=True)
        (where / "summary.txt").write_text("\n".join(summary(found)) + "\n", encoding="utf-8")
    rows = score_rows(sources, read_spair(data, "test"), PROTOCOL, root / "test", progress)
    differences = [
        difference(f"{rows[k].name}, against {before}", rows[k].evaluation, rows[k - 1].evaluation)
        for k, before in ((1, "raw"), (2, "AdaLN"), (4, "raw"), (5, "AdaLN"))
    ]
    notes = [
        f"t = {chosen.trajectory.timesteps[0]:g} and {chosen.activations[0]} were chosen on the validation pairs, for "
        f"AdaLN without discard; {len(swept.rivals)} of the other {len(swept.cells) - 1} cells of the sweep are not "
        "told from it, and that the choice varies is in no interval",
        f"injected by weights alone: {INJECTED:g} ± {SPREAD:.0%} in every token from the first "
        f"block on; later blocks scale them by {1 - SUPPRESSED:.1f}",
        *map(str, differences),
        *rows[-1].evaluation.result.notes,
    ]
    write_rows(root, "Toy world: massive activations and AdaLN", rows, notes, force=True)
    (root / "differences.json").write_text(json.dumps([vars(d) for d in differences], indent=1), encoding="utf-8")
    return rows, differences


def variants(recipe: Reading, backbone: Backbone) -> dict[str, Reading]:
    """The raw stream, AdaLN, and AdaLN with discard, at the recipe's block."""
    (name,) = recipe.activations
    raw = modulated_sites(backbone, [str(name)])[0].raw
    assert recipe.refine is not None
    return {
        "raw": recipe.replace(activations=[raw], refine=None),
        "AdaLN": recipe.replace(refine={"ratio": recipe.refine.ratio}),
        "AdaLN + discard": recipe.replace(refine={"discard": "pre", "ratio": recipe.refine.ratio}),
    }


def _swept(
    recipe: Reading, backbone: Backbone, data: Path, folder: Path, timesteps: Sequence[float], progress: Progress
) -> Sweep:
    plain = recipe.replace(refine={})
    blocks = block_names(recipe, Catalogue.of(backbone), ["ditf:*"])[1:]  # channels are injected in the first
    found = sweep(
        plain,
        lambda r: Extractor(r, backbone),
        read_spair(data, "val"),
        PROTOCOL,
        folder,
        timesteps=timesteps,
        blocks=blocks,
        prompts="category",
        weights=backbone.fingerprint,
        progress=progress,
    )
    write_sweep(found, folder, force=True)
    return found


def difference(name: str, one: Evaluation, other: Evaluation) -> Difference:
    """Mean over pairs of the difference in the share of correct points, with a bootstrap over target pictures."""
    gains = [
        (_share(a, one.protocol) - _share(b, one.protocol), 1) for a, b in zip(one.records, other.records, strict=True)
    ]
    interval = bootstrap(gains, lambda sums: sums[:, 0] / sums[:, 1], groups=[r.images[1] for r in one.records])
    return Difference(name, float(np.mean([gain for gain, _ in gains])), *interval)


def _share(record: PairRecord, protocol: Protocol) -> float:
    """Percentage of a pair's points that are correct."""
    return 100 * float((np.asarray(record.distances) <= protocol.alpha * record.lengths[protocol.reference]).mean())
