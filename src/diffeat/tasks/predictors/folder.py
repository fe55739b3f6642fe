"""A run folder: what a training leaves and a prediction reads. It moves as a whole, to another machine or to a hub.

======================== ==========================================================================================
 ``recipe.yaml``          what features are read, as every command takes it
 ``weights/``             files of weights that the recipe names, where it does
 ``predictor.json``       :class:`PredictorFacts`
 ``predictor.safetensors`` the trained head
 ``README.md``            a card for people and hubs
 ``training/``            log, checkpoints and report; predictions do not need it
======================== ==========================================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from diffeat.backbones.card import cards
from diffeat.backbones.hub import UnreachableError, fetch_folder, mirrored
from diffeat.backbones.loading import local_place
from diffeat.backbones.named import ModelName
from diffeat.errors import InvalidValueError, ModelError, UnknownNameError, did_you_mean, shown
from diffeat.explain import InvalidFieldsError
from diffeat.extraction import Reading, Recipe, Vision
from diffeat.extraction.contained import WEIGHTS as NAMED
from diffeat.extraction.contained import contained, copy_into, left, located, portable
from diffeat.files import new_folder, read_bytes, read_text, write_files
from diffeat.tasks.predictors.registry import head_of
from diffeat.tasks.predictors.target import TARGETS, Legend
from diffeat.tasks.predictors.windows import Windows

RECIPE, FACTS, WEIGHTS, CARD, TRAINING = (
    "recipe.yaml",
    "predictor.json",
    "predictor.safetensors",
    "README.md",
    "training",
)
#: What :func:`write_run` writes.
FILES = (RECIPE, FACTS, WEIGHTS, CARD)
_LARGEST = 8 << 30
Byte = Annotated[int, Field(ge=0, le=255)]


class PredictorFacts(BaseModel):
    """The plain half of a predictor.

    Attributes:
        kind: Of the head.
        target: What is predicted.
        prompt: Text that was given with every picture; ``None`` is the recipe's own.
        windows: How large pictures are predicted if the caller does not say; whole if ``None``.
        recipe: Hash of the recipe.
        fingerprint: Of the source that features were made by.
        precision: In which they were computed.
        model: A fingerprint of the source that is the same in every precision.
        weights: SHA-256 of the head's file.
        settings: Of the head.
        notes: What a reader of the card must know: data, numbers with their protocol, and the like.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    kind: str
    target: str
    classes: tuple[str, ...] = ()
    colours: tuple[tuple[Byte, Byte, Byte], ...] = ()
    void: int = 255
    prompt: str | None = None
    windows: Windows | None = None
    recipe: str = ""
    fingerprint: str = ""
    precision: str = ""
    model: str = ""
    weights: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Self:
        head_of(self.kind)
        if self.target not in TARGETS:
            raise UnknownNameError(f"Nothing predicts {shown(self.target)}. {did_you_mean(self.target, TARGETS)}")
        if TARGETS[self.target].discrete and len(self.classes) < 2:
            raise InvalidValueError(f"Predictions of {self.target} need two classes at least.")
        _ = self.legend
        return self

    @property
    def legend(self) -> Legend:
        """What the numbers mean."""
        return Legend(self.classes, self.colours, self.void)


@dataclass(frozen=True)
class Run:
    """A run folder that is read and whole."""

    folder: Path
    recipe: Recipe
    facts: PredictorFacts
    state: Mapping[str, Tensor]


def read_run(folder: Path, *, allow_code: bool = False) -> Run:
    """Read a run folder and check that its parts belong together; no model is loaded.

    Raises:
        InvalidValueError: It is none, lacks a part, or the parts are not of one training.
        ModelError: The weights are damaged.
    """
    if not folder.is_dir():
        raise InvalidValueError(f"There is no run folder {shown(str(folder))}.")
    there = [name for name in (RECIPE, FACTS, WEIGHTS) if (folder / name).is_file()]
    if FACTS not in there:
        found = "a recipe without a head: train one first" if RECIPE in there else "no training of diffeat"
        raise InvalidValueError(f"{shown(str(folder))} holds no {FACTS}, so it is {found}.")
    if missing := [name for name in (RECIPE, WEIGHTS) if name not in there]:
        raise InvalidValueError(
            f"The run folder {shown(str(folder))} lacks {' and '.join(missing)}: it was moved without. Copy the whole "
            "folder."
        )
    facts = _facts(folder / FACTS)
    data = read_bytes(folder / WEIGHTS, "head", _LARGEST)
    if facts.weights and hashlib.sha256(data).hexdigest() != facts.weights:
        raise InvalidValueError(
            f"{shown(str(folder / WEIGHTS))} is not the head that {FACTS} tells of: the files are of two trainings, or "
            "one is damaged. Copy the whole folder again."
        )
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(data)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{shown(str(folder / WEIGHTS))} cannot be read: {error}") from None
    recipe = Recipe.load(folder / RECIPE, allow_code=allow_code)
    if facts.recipe and (hash := portable(recipe).hash) != facts.recipe:
        raise InvalidValueError(
            f"The head in {shown(str(folder))} belongs to another recipe: {RECIPE} ({recipe.name!r}, {hash[:12]}) was "
            f"changed after the training ({facts.recipe[:12]}). Put the old one back, or train again."
        )
    return Run(folder, located(recipe, folder), facts, state)


def _facts(file: Path) -> PredictorFacts:
    try:
        data = json.loads(read_text(file, "predictor file", 1 << 24))
        version = data.get("format", 1) if isinstance(data, dict) else 1
        if isinstance(version, int) and version > 1:
            raise InvalidValueError(f"{file} is of a newer diffeat (format {version}); update diffeat to read it.")
        return PredictorFacts.model_validate(data)
    except json.JSONDecodeError as error:
        raise InvalidValueError(f"{file} is not JSON: {error}") from None
    except ValidationError as error:
        raise InvalidFieldsError(str(file), error, PredictorFacts) from None


def write_run(
    folder: Path, recipe: Recipe, facts: PredictorFacts, state: Mapping[str, Tensor], *, force: bool = False
) -> Path:
    """Write a run folder, with copies of the files of weights that the recipe names; returns it.

    Raises:
        InvalidValueError: One of its files is there already, and may not be replaced.
    """
    from safetensors.torch import save

    inside, copies = contained(recipe)
    new_folder(folder, FILES, force=force)
    head = save({name: value.detach().cpu().contiguous().clone() for name, value in state.items()})
    needs = tuple(f"Needs {path}, which does not lie in this folder" for path in left(inside))
    notes = (*(note for note in facts.notes if note not in needs), *needs)
    facts = facts.model_copy(
        update={"recipe": portable(inside).hash, "notes": notes, "weights": hashlib.sha256(head).hexdigest()}
    )
    facts_text = json.dumps(facts.model_dump(mode="json", exclude_none=True), indent=1, ensure_ascii=False) + "\n"
    copy_into(folder, copies)
    contents = [inside.to_yaml(), facts_text, head, card(recipe, facts)]
    write_files(folder, FILES, contents, force=force)
    return folder


def licences(recipe: Recipe) -> Iterable[str]:
    """Of the models that a recipe reads, as far as they are known."""
    for part in recipe.single():
        if isinstance(part, Reading):
            model = ModelName.parse(part.model).name
            known = next((c for name, c in cards().items() if model == name or model in c.ids), None)
            yield f"{model}: {known.licence if known else 'unknown, see where the model comes from'}"


def base_models(recipe: Recipe) -> list[str]:
    """Hub ids of the models that a recipe reads, for the head of a card."""
    names = [ModelName.parse(part.model).name for part in recipe.single() if isinstance(part, (Reading, Vision))]
    ids = [next(iter(cards()[n].ids), "") if n in cards() else n for n in names if local_place(n) is None]
    return list(dict.fromkeys(name for name in ids if name.count("/") == 1 and not name.startswith((".", "/", "~"))))


def card(recipe: Recipe, facts: PredictorFacts) -> str:
    """The README of a run folder."""
    hub = base_models(recipe)
    front = ["---", "library_name: diffeat", *(["base_model:", *(f"- {name}" for name in hub)] if hub else [])]
    what = {"labels": "image-segmentation", "classes": "image-classification", "depth": "depth-estimation"}
    if facts.target in what:
        front.append(f"pipeline_tag: {what[facts.target]}")
    known = [f"- {line}" for line in licences(recipe)]
    classes = [f"Classes ({len(facts.classes)}): {', '.join(facts.classes)}."] if facts.classes else []
    lines = [
        *[*front, "---", "", f"# {recipe.name}: {facts.target}", ""],
        f"A trained head ({facts.kind}) on the features that diffeat reads by recipe.yaml.",
        "",
        *[line for line in (*classes, *(f"- {note}" for note in facts.notes)) for line in (line, "")],
        *["```python", "from diffeat import Predictor", "", 'predictor = Predictor.load("this-folder-or-hub-id")'],
        *["for prediction in predictor.predict(['photo.jpg']):", "    prediction.values", "```", ""],
        *["```", "diffeat predict photos --head this-folder-or-hub-id --out predictions", "```", ""],
        f"Features computed in {facts.precision or 'float32'}; text {facts.prompt!r}."
        if facts.prompt is not None
        else f"Features computed in {facts.precision or 'float32'}.",
        *(["", "Licences of the models, on which the head depends:", "", *known] if known else []),
    ]
    return "\n".join(lines).rstrip() + "\n"


def find_run(name: str | Path, *, revision: str | None = None) -> Path:
    """The run folder of a path, or of a repository on the hub, which is fetched.

    Raises:
        ModelError: There is no such folder, and no such repository can be fetched.
        InvalidValueError: A revision of a folder on this disk.
    """
    path, text = Path(os.path.expanduser(name)), str(name)
    if path.exists():
        if revision is not None:
            raise InvalidValueError(
                f"The run folder {shown(text)} lies on this disk and has no revisions: leave it out."
            )
        return path
    if (held := mirrored(text, revision)) is not None:
        return held
    if text.count("/") != 1 or text.startswith((".", "/", "~")) or os.sep != "/":
        raise ModelError(f"There is no run folder {shown(text)}; give the --out of a training, or OWNER/NAME of a hub.")
    try:
        return fetch_folder(text, [*FILES, f"{NAMED}/*"], revision)
    except UnreachableError as error:
        raise ModelError(
            f"There is no run folder {shown(text)} here, and it cannot be fetched from the hub ({error}). Check the "
            "name and the connection."
        ) from None
