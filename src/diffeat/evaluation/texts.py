"""The text for every picture of a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from diffeat.datasets.pairs import PairDataset
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean
from diffeat.files import read_text

#: ``None``: the recipe's own text. ``"category"``: the picture's category through the recipe's template. Another
#: string: a template with ``{category}``. A mapping: text per category.
PromptPolicy = str | Mapping[str, str] | None


def picture_texts(dataset: PairDataset, policy: PromptPolicy, template: str = "{}") -> dict[Path, str | None]:
    """The text for every picture of a dataset of pairs.

    Args:
        policy: See :data:`PromptPolicy`.
        template: The recipe's own; with ``"{}"``, policy ``"category"`` says "a photo of a {category}".

    Raises:
        UnknownNameError: A category has no text.
        InvalidValueError: Categories are wanted but the dataset has none, or a picture has two texts.
    """
    texts: dict[Path, str | None] = {}
    for pair in dataset:
        text = category_text(pair.category, policy, template)
        for path in (pair.source, pair.target):
            if texts.setdefault(path, text) != text:
                raise InvalidValueError(
                    f"{path} belongs to pairs of two categories and would get two texts ({texts[path]!r} and "
                    f"{text!r}). Use a text without the category."
                )
    return texts


def category_text(category: str, policy: PromptPolicy, template: str = "{}") -> str | None:
    """The text for a picture of ``category``; ``None`` leaves it to the recipe. Raises as :func:`picture_texts`."""
    if policy is None:
        return None
    if isinstance(policy, Mapping):
        if category not in policy:
            raise UnknownNameError(
                f"There is no text for category {category!r}. {did_you_mean(category, policy)}".rstrip()
            )
        return policy[category]
    if not names_category(policy):
        return policy
    if not category:
        raise InvalidValueError("The dataset has no categories: use prompts that do not ask for one.")
    if policy == "category":
        return category if template != "{}" else f"a photo of a {category}"
    return policy.replace("{category}", category)


def names_category(policy: PromptPolicy) -> bool:
    """Whether texts tell the model what a picture shows."""
    return policy is not None and (not isinstance(policy, str) or policy == "category" or "{category}" in policy)


def one_text(policy: PromptPolicy) -> str | None:
    """The one text for all pictures.

    Raises:
        InvalidValueError: The policy would tell what each picture shows.
    """
    if isinstance(policy, Mapping) or names_category(policy):
        raise InvalidValueError("A text that names the class would give the answer away. Use one text for all.")
    return policy


def read_policy(policy: PromptPolicy) -> PromptPolicy:
    """A policy as the command line gives it: the name of a JSON file of texts is read, all else is taken as it is.

    Raises:
        InvalidValueError: The file is not a mapping of category to text.
    """
    if not isinstance(policy, str) or not policy.endswith(".json"):
        return policy
    try:
        texts = json.loads(read_text(policy, "prompt file", most=1 << 26))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidValueError(f"{policy} is not JSON: {error}") from None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise InvalidValueError(f"{policy} must map each category to a text.")
    return texts
