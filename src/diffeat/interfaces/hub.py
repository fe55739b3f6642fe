"""What was made with diffeat, on a hub: recipes with trained parts, heads and probes, exported features.

What is pushed is written for others: trained weights that a recipe names go along (``weights/``), weights of base
models never do, and a recipe that names a file of this machine is refused. The card is written from the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffeat.backbones.hub import offline, why_not
from diffeat.errors import InvalidValueError, ModelError, shown
from diffeat.extraction import Recipe
from diffeat.extraction.contained import RECIPE, contained, left
from diffeat.files import read_bytes, read_text
from diffeat.tasks.predictors.folder import CARD, FACTS, base_models, licences, read_run
from diffeat.tasks.predictors.folder import WEIGHTS as HEAD

_LARGEST = 8 << 30
_REPORT, _TRAINING = "report.md", "training.md"
_HERE = ("OWNER/NAME", "this-folder-or-hub-id")  # how cards call a repository that is not made yet


def push_to_hub(what: str | Path, repository: str, *, report: str | Path | None = None, private: bool = False) -> str:
    """Put a run on a hub.

    Args:
        what: A run folder of a training, a recipe's file, or a folder of ``diffeat store export --as parquet``.
        repository: ``OWNER/NAME``; made if missing.
        report: Folder of an evaluation (``diffeat eval --out``): its numbers, with their protocol and intervals, go
            into the card.
        private: Of a repository that is made.

    Returns:
        Its address.

    Raises:
        InvalidValueError: It is none of these, is not whole, or would not run elsewhere.
        ModelError: The hub refuses it; says what to do.
    """
    kind, files = pushed_files(Path(what), None if report is None else Path(report), repository)
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    try:
        url = api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repository, operations, commit_message="From diffeat", repo_type=kind)
    except Exception as error:  # the hub client has no common base for its errors
        todo = (
            "Try again where the hub can be reached."
            if offline()
            else "Log in with a token that may write (`hf auth login`, or HF_TOKEN), and name it OWNER/NAME."
        )
        raise ModelError(f"{shown(repository)} cannot be written ({why_not(error, repository)}). {todo}") from error
    return str(url)


def pushed_files(
    what: Path, report: Path | None = None, repository: str = "OWNER/NAME"
) -> tuple[str, Mapping[str, bytes | str]]:
    """The kind of the repository, and its files by name: contents, or paths of large ones; errors as of
    :func:`push_to_hub`."""
    numbers = "" if report is None else read_text(report / _REPORT, "report")
    training = read_text(what / _TRAINING, "report") if (what / _TRAINING).is_file() else ""
    if what.is_dir() and sorted(what.glob("*.parquet")):
        if not (what / CARD).is_file():
            raise InvalidValueError(f"{shown(str(what))} has no {CARD}: export it again.")
        card = _card(read_text(what / CARD, "card"), repository, Numbers=numbers)
        return "dataset", {**{file.name: str(file) for file in sorted(what.glob("*.parquet"))}, CARD: card}
    if (what / FACTS).is_file():
        _, files = _portable(read_run(what).recipe)
        text = read_text(what / CARD, "card") if (what / CARD).is_file() else ""
        own = {name: read_bytes(what / name, "file of a run", _LARGEST) for name in (FACTS, HEAD)}
        return "model", {**files, **own, CARD: _card(text, repository, Numbers=numbers)}
    file = what / RECIPE if what.is_dir() else what
    if not file.is_file():
        raise InvalidValueError(
            f"{shown(str(what))} is no run folder, recipe file or Parquet export: nothing can be pushed from it."
        )
    recipe, files = _portable(Recipe.load(file))
    return "model", {**files, CARD: _card(recipe_card(recipe), repository, Training=training, Numbers=numbers)}


def _portable(recipe: Recipe) -> tuple[Recipe, dict[str, bytes | str]]:
    """A recipe for others, with its file and those of the weights that it names; refuses files that do not go along."""
    recipe, weights = contained(recipe)
    for place in left(recipe):
        raise InvalidValueError(
            f"Recipe {recipe.name!r} names {shown(place)}, a file of this machine: push that to the hub first, and "
            "name it there (or a model by its name)."
        )
    return recipe, {RECIPE: recipe.to_yaml().encode(), **{name: str(file) for name, file in weights.items()}}


def recipe_card(recipe: Recipe) -> str:
    hub = base_models(recipe)
    front = ["---", "library_name: diffeat", "tags: [diffeat, dense-features]"]
    front += ["base_model:", *(f"- {name}" for name in hub)] if hub else []
    known = [f"- {line}" for line in licences(recipe)]
    lines = [
        *[*front, "---", "", f"# {recipe.name}", ""],
        recipe.description or "A recipe of diffeat.",
        "",
        *([f"From: {recipe.source}", ""] if recipe.source else []),
        *["```python", "from diffeat import load_source", "", 'source = load_source("hub:OWNER/NAME")'],
        *["features = source.extract(['photo.jpg'])", "```", ""],
        *["```", "diffeat extract photos --recipe hub:OWNER/NAME --out features", "```", ""],
        *["```yaml", recipe.to_yaml().rstrip(), "```", ""],
        f"Hash of the recipe, which stored features are kept under: `{recipe.hash}`.",
        *(["", "Licences of the models, whose weights are not in here:", "", *known] if known else []),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _card(card: str, repository: str, **reports: str) -> bytes:
    """A card that names its repository, with reports below headings; their titles become lines."""
    for words in _HERE:
        card = card.replace(words, repository)
    parts = [f"## {heading}\n\n{text.strip().removeprefix('# ')}" for heading, text in reports.items() if text]
    return ("\n\n".join([card.rstrip(), *parts]) + "\n").encode()
