"""The text for every picture of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffeat.datasets.pairs import PairDataset
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean
from diffeat.features import FeatureMap, Source, Spec, Whole
from diffeat.files import read_texts

#: ``None``: the recipe's own text. ``"category"``: the picture's category through the recipe's template. Another
#: string: a text, also through the template; with ``{category}`` in it a template of its own. A mapping: captions of
#: pictures, and words for categories.
#:
#: A caption is a whole text, past the template. A picture is named by its path or the end of it
#: (``cat/2008_1.jpg``, ``2008_1.jpg``), by its name without ending, or as released captions of SPair-71k name it,
#: category and name in one (``cat2008_1.jpg``). Words for a category go where the category would.
PromptPolicy = str | Mapping[str, str] | None


def picture_texts(dataset: PairDataset, policy: PromptPolicy, template: str = "{}") -> dict[Path, str | None]:
    """The text for every picture of a dataset of pairs.

    Args:
        policy: See :data:`PromptPolicy`.
        template: The recipe's own; with ``"{}"``, policy ``"category"`` says "a photo of a {category}".

    Raises:
        UnknownNameError: A picture or its category has no text.
        InvalidValueError: Categories are wanted but the dataset has none, a picture has two texts, or two pictures have
            one name.
    """
    texts: dict[Path, str | None] = {}
    named: dict[str, Path] = {}
    for pair in dataset:
        for path, shown_there in zip((pair.source, pair.target), pair.shows or (pair.category,) * 2, strict=True):
            text = text_of(path, shown_there, policy, template, named)
            if texts.setdefault(path, text) != text:
                raise InvalidValueError(
                    f"{path} belongs to pairs of two categories and would get two texts ({texts[path]!r} and "
                    f"{text!r}). Use a text without the category."
                )
    return texts


def text_of(
    path: Path, category: str, policy: PromptPolicy, template: str = "{}", named: dict[str, Path] | None = None
) -> str | None:
    """The text for one picture; ``None`` leaves it to the recipe. Raises as :func:`picture_texts`.

    Args:
        named: Pictures by the names that captions were given by so far, to refuse a name that means two.
    """
    if not isinstance(policy, Mapping):
        return _category_text(category, policy, template)
    name = next((name for name in _names(path, category) if name in policy), None)
    if name is None:
        if category in policy:
            return policy[category]
        whose = f"category {category!r}, nor one for {path.name}" if category else path.name
        raise UnknownNameError(f"There is no text for {whose}. {did_you_mean(category or path.name, policy)}".rstrip())
    if named is not None and named.setdefault(name, path) != path:
        raise InvalidValueError(
            f"{name!r} has one caption, but stands for two pictures, {named[name]} and {path}. Name each by its folder "
            f"as well, such as {'/'.join(path.parts[-2:])!r}."
        )
    return Whole(policy[name])


def _names(path: Path, category: str) -> list[str]:
    """What captions may call a picture, the most exact first."""
    ends = ["/".join(path.parts[-n:]) for n in range(len(path.parts), 0, -1)]
    return [path.as_posix(), *ends[:-1], *([category + path.name] if category else []), path.name, path.stem]


def _category_text(category: str, policy: str | None, template: str) -> str | None:
    if policy is None or not names_category(policy):
        return policy
    if not category:
        raise InvalidValueError("The dataset has no categories: use prompts that do not ask for one.")
    if policy == "category":
        return category if template != "{}" else f"a photo of a {category}"
    return Whole(policy.replace("{category}", category))


def names_category(policy: PromptPolicy) -> bool:
    """Whether texts tell the model what a picture shows."""
    return policy is not None and (not isinstance(policy, str) or policy == "category" or "{category}" in policy)


def text_notes(policy: PromptPolicy, texts: Mapping[Path, str | None], spec: Spec, *, named: bool = False) -> list[str]:
    """What a reader of numbers must know about the texts.

    Args:
        texts: As :func:`picture_texts` gives them; none where one text must do for all.
        spec: The recipe that reads them.
        named: Whether the dataset says what a picture shows.
    """
    if not spec.text_for("text"):
        return []  # it reads none
    if isinstance(policy, Mapping):
        captions = sum(isinstance(text, Whole) for text in texts.values())
        notes = [f"{captions} of {len(texts)} pictures were given to the model with captions of their own"]
        return notes if captions else ["the true category of every picture was told by a text for each category"]
    if names_category(policy):
        text = spec.text_for(_category_text("{category}", policy, spec.template))
        return [f"the true category of every picture was given to the model as text: {text!r}"]
    text = spec.text_for(policy)
    notes = [f"text for every picture: {text!r}"] if text or policy is not None else []
    if not policy and spec.template != "{}":
        hint = "; prompts='category' (--prompts category) fills it with the true category" if named else ""
        unused = (
            f"no text was given, so the recipe's template {spec.template!r} was not used and the model read {text!r}"
        )
        notes.append(unused + hint)
    return notes


def precision_notes(source: Source[FeatureMap]) -> list[str]:
    """In which precision a source computes, where it tells."""
    return [f"features computed in {source.precision}"] if source.precision else []


def one_text(policy: PromptPolicy) -> str | None:
    """The one text for all pictures.

    Raises:
        InvalidValueError: The policy would tell what each picture shows.
    """
    if isinstance(policy, Mapping) or names_category(policy):
        raise InvalidValueError("A text that names the class would give the answer away. Use one text for all.")
    return policy


def read_policy(policy: PromptPolicy) -> PromptPolicy:
    """A policy as the command line gives it: the name of a file of texts is read, all else is taken as it is.

    A JSON file maps pictures or categories to texts; a CSV file has the columns ``image`` and ``prompt``.

    Raises:
        InvalidValueError: The file is nothing of this kind, or names a picture twice.
    """
    if not isinstance(policy, str) or not policy.endswith((".json", ".csv", ".txt", ".tsv", ".jsonl", ".yaml", ".yml")):
        return policy
    return read_texts(policy, "prompt file")
