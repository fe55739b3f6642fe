"""From a model and pictures to a recipe: measure, judge, rank, choose.

Everything costly is kept in a folder (properties, features of the candidates) and taken up again by the same call, so
a selection can be stopped at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffeat.backbones import Backbone, remembered
from diffeat.backbones.placement import placed
from diffeat.datasets.labelled import ClassSample, MaskSample
from diffeat.datasets.pairs import PointPair
from diffeat.errors import InvalidValueError
from diffeat.evaluation.features import feature_folder, features_of
from diffeat.evaluation.result import Tabled
from diffeat.extraction import Extractor, Reading
from diffeat.features import FeatureMap, ImageLike, Picture, Source
from diffeat.progress import Progress, silent
from diffeat.storage.atomic import StagedFile
from diffeat.studies.selection.greedy import Step, check_budget, forward_selection, rank_singles
from diffeat.studies.selection.labels import Labels
from diffeat.studies.selection.meter import Measured
from diffeat.studies.selection.paper import Verdict
from diffeat.studies.selection.probes import (
    ClassificationProbe,
    CorrespondenceProbe,
    CoverageProbe,
    PartsProbe,
    Probe,
    SegmentationProbe,
)
from diffeat.studies.selection.properties import Measurement, Property, measure
from diffeat.studies.selection.rules import judge
from diffeat.studies.selection.score import Score

#: Of a measurement on disk: numbers as JSON, redundancy and thumbnails as safetensors.
_NUMBERS, _TENSORS = "properties.json", "properties.safetensors"
#: The largest grid on which candidate matches are compared.
_MOST_CELLS = 48


@dataclass(frozen=True)
class SelectionSettings:
    """How a set is chosen.

    Attributes:
        budget: The most channels of the set.
        rules: ``"measured"``, ``"paper"`` or a rule file.
        noise_timestep: At which properties are measured. Higher than where features are read: there the noise shows.
        most: Activations at most.
        heads: Whether single heads of attentions are candidates beside their whole queries, keys, values and outputs.
    """

    budget: int
    rules: str | Path = "measured"
    noise_timestep: float = 261
    draws: int = 4
    most: int = 8
    seed: int = 0
    heads: bool = False


@dataclass(frozen=True, repr=False)
class Selection(Tabled):
    """The outcome of :func:`select`.

    Attributes:
        singles: Scores of every candidate alone, by id and probe.
    """

    recipe: Reading
    measurement: Measurement
    verdicts: dict[str, Verdict]
    singles: dict[str, dict[str, Score]]
    steps: tuple[Step, ...]
    settings: SelectionSettings
    tasks: tuple[str, ...]

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        return self.recipe.name, {"activations": len(self.recipe.activations), "for": ", ".join(self.tasks)}

    @property
    def best_single(self) -> str:
        """The candidate that scores best alone, over all probes."""
        names = list(next(iter(self.singles.values())))
        top = {n: max(1e-9, *(s[n].value for s in self.singles.values())) for n in names}
        return max(self.singles, key=lambda id: sum(self.singles[id][n].value / top[n] for n in names))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: how the set grew."""
        names = list(self.steps[0].scores)
        rows = [
            [
                s.added,
                str(s.channels),
                f"{s.depth:.0%}",
                *(str(s.scores[n]) for n in names),
                f"{s.combined:.3f}",
                f"{s.alike:.2f}" if s.alike else "",
                str(len(s.rivals) - 1),
            ]
            for s in self.steps
        ]
        return ["joined", "channels", "work", *names, "over best single", "most alike", "ties"], rows


def select(
    backbone: Backbone,
    images: Sequence[ImageLike],
    settings: SelectionSettings,
    folder: Path,
    *,
    labels: Sequence[Labels] = (),
    base: Reading | None = None,
    source: Callable[[Reading], Source[FeatureMap]] | None = None,
    progress: Progress = silent,
) -> Selection:
    """Choose a set of activations.

    Args:
        images: Pictures to measure properties on, two different ones at least.
        folder: Where features and properties rest.
        labels: Labelled pictures to rank with (:func:`~diffeat.studies.selection.labels.open_labels`); without any,
            properties decide alone.
        base: Frame, text and trajectory of the wanted recipe; by default the model's own size squashed, t = 50, one
            draw. Its activations do not matter.
        source: What reads the labelled pictures; this model if not given.

    Raises:
        InvalidValueError: One picture or equal ones, a budget too small, or a model whose activations are all rejected.
    """
    base = base or default_recipe(backbone)
    with remembered(folder / "encoded"):
        measurement = _measured(backbone, images, base, settings, folder, progress)
    verdicts = judge(measurement, settings.rules)
    candidates = [p for p in measurement.properties if verdicts[p.id].kept]
    if not candidates:
        counts = Counter(verdict.reasons[0][0] for verdict in verdicts.values() if verdict.reasons)
        why = ", ".join(f"{count} for {reason}" for reason, count in counts.most_common())
        raise InvalidValueError(
            f"The rules {str(settings.rules)!r} reject all {len(verdicts)} activations of {backbone.name} ({why}). "
            "Measure at a lower noise timestep, or copy the rule file and loosen it."
        )
    check_budget(candidates, settings.budget)
    source = source or (lambda recipe: Extractor(recipe, backbone))
    probes = _probes(source, base, candidates, labels, measurement, settings.seed, folder, progress)
    singles = rank_singles(candidates, probes)
    steps = forward_selection(
        candidates, probes, measurement.cka, settings.budget, singles=singles, most=settings.most, progress=progress
    )
    chosen = steps[-1]
    tasks = [f"{p.name} {steps[-1].scores[p.name].value:.1f}" for p in probes]
    recipe = base.replace(
        name=f"{Path(backbone.name).name}-selected",
        description=f"{len(chosen.ids)} activations, {chosen.channels} channels, chosen for {', '.join(tasks)}",
        source=f"diffeat select, rules {settings.rules}, seed {settings.seed}",
        activations=list(chosen.ids),
        fuse={"kind": "concat", "normalise": True},
    )
    return Selection(recipe, measurement, verdicts, singles, tuple(steps), settings, tuple(p.name for p in probes))


def load_backbone(model: str, device: str | None = None, dtype: str | None = None) -> Backbone:
    """A model where recipes would run it: on the first accelerator in bfloat16, else on the CPU in float32."""
    device_used, precision = placed(device, dtype)
    return Backbone.from_pretrained(model, device=device_used, dtype=precision)


def default_recipe(backbone: Backbone) -> Reading:
    """Where features are read if nothing else is said: own size, t = 50, one draw, mean of the posterior."""
    return Reading.from_dict(
        {
            "model": backbone.name,
            "frame": {"mode": "squash", "size": list(backbone.default_size)},
            "trajectory": {"timesteps": [50], "draws": 1, "latent": "mean"},
            "activations": ["**"],
        }
    )


def _measured(
    backbone: Backbone,
    images: Sequence[ImageLike],
    base: Reading,
    settings: SelectionSettings,
    folder: Path,
    progress: Progress,
) -> Measurement:
    digests, size = [Picture.of(image).digest for image in images], base.frame.size or backbone.default_size
    timestep, draws, seed = settings.noise_timestep, settings.draws, settings.seed
    numbers = [field.name for field in fields(Measured)]
    facts: list[object] = [
        backbone.name,
        backbone.fingerprint,
        digests,
        timestep,
        draws,
        size,
        base.prompt,
        seed,
        numbers,
    ]
    facts += ["heads"] if settings.heads else []
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    found = load_measurement(folder, key)
    if found is None:
        found = measure(
            backbone,
            images,
            timestep=timestep,
            draws=draws,
            size=size,
            prompts=base.prompt or None,
            seed=seed,
            heads=settings.heads,
            progress=progress,
        )
        save_measurement(found, folder, key)
    return found


def _probes(
    source: Callable[[Reading], Source[FeatureMap]],
    base: Reading,
    candidates: Sequence[Property],
    labels: Sequence[Labels],
    measurement: Measurement,
    seed: int,
    folder: Path,
    progress: Progress,
) -> list[Probe]:
    if not labels:
        quality = {
            p.id: (1 - p.measured.noise_low) * (1 - p.measured.position) * (1 - p.measured.dead) for p in candidates
        }
        return [CoverageProbe(quality, measurement.cka)]
    ids = [p.id for p in candidates]
    recipe = base.replace(activations=ids, fuse=None)
    extractor = source(recipe)
    texts = dict.fromkeys(path for part in labels for path in part.images())
    where = feature_folder(folder, extractor)
    probes: list[Probe] = []
    with features_of(extractor, texts, where, dtype="float16", keep=0, progress=progress) as features:
        for part in progress(labels, total=len(labels), desc="probes"):
            if part.task == "correspondence":
                grid = max((p.grid for p in candidates), key=lambda g: g[0] * g[1])
                scale = min(1.0, _MOST_CELLS / max(grid))
                cells = (max(1, round(grid[0] * scale)), max(1, round(grid[1] * scale)))
                probes.append(CorrespondenceProbe(part.parts(PointPair)[1], ids, features.load, cells))
            elif part.task == "parts":
                probes.append(PartsProbe(part.parts(MaskSample)[1], len(part.classes), ids, features.load))
            elif part.task == "segmentation":
                train, check = part.parts(MaskSample)
                probes.append(SegmentationProbe(train, check, len(part.classes), ids, features.load, seed))
            else:
                learn, score = part.parts(ClassSample)
                probes.append(ClassificationProbe(learn, score, len(part.classes), ids, features.load))
    names = Counter(probe.name for probe in probes)
    for part, probe in zip(labels, probes, strict=True):
        if names[probe.name] > 1:  # a simple and a complex set of one task
            probe.name = f"{part.task}, {part.dataset}"
    return probes


def save_measurement(measurement: Measurement, folder: Path, key: str) -> None:
    """Write it; ``key`` says what it was made of."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"thumbnail/{id}": torch.from_numpy(picture) for id, picture in measurement.thumbnails.items()}
    tensors["picture"] = torch.from_numpy(np.asarray(measurement.picture).copy())
    tensors["redundancy"] = measurement.redundancy
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / _TENSORS)
    data = {
        "key": key,
        "settings": measurement.settings,
        "skipped": measurement.skipped,
        "properties": [asdict(p) for p in measurement.properties],
    }
    # last: its presence says that all is there
    StagedFile(folder / _NUMBERS, json.dumps(data, indent=1).encode()).commit()


def load_measurement(folder: Path, key: str) -> Measurement | None:
    """What :func:`save_measurement` wrote under the same key, or ``None``."""
    path = folder / _NUMBERS
    if not path.is_file():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["key"] != key:
        return None
    tensors = load_file(folder / _TENSORS)
    return Measurement(
        properties=tuple(
            Property(
                **item
                | {
                    "measured": Measured(**item["measured"]),
                    "grid": tuple(item["grid"]),
                    "aliases": tuple(item["aliases"]),
                }
            )
            for item in data["properties"]
        ),
        redundancy=tensors["redundancy"],
        skipped=data["skipped"],
        thumbnails={n.removeprefix("thumbnail/"): t.numpy() for n, t in tensors.items() if n.startswith("thumbnail/")},
        picture=Image.fromarray(tensors["picture"].numpy()),
        settings=data["settings"],
    )
