"""Where the words of a prompt lie among the tokens of the text sequence."""

from __future__ import annotations

import re
from collections.abc import Iterable

from diffeat.backbones.family import TokenisedText
from diffeat.errors import InvalidValueError, ModelError, UnknownNameError, did_you_mean


def word_positions(texts: Iterable[TokenisedText], prompt: str, word: str) -> list[int]:
    """Positions of all tokens of ``word`` (a word or phrase, any case), everywhere it stands in the prompt.

    Args:
        texts: The tokenised texts the sequence is made of.
        prompt: The prompt as the user gave it.
        word: The word.

    Raises:
        UnknownNameError: If the prompt has no such word.
        InvalidValueError: If the word lies beyond the length the model reads.
        ModelError: If the tokenizer cannot tell where its tokens stand in the text.
    """
    pattern = re.compile(rf"(?<!\w){re.escape(word.strip())}(?!\w)", re.IGNORECASE)
    if not word.strip() or not pattern.search(prompt):
        words = re.findall(r"\w+", prompt)
        raise UnknownNameError(
            f"The prompt {prompt!r} has no word {word!r}. {did_you_mean(word, words)}".strip()
            + f" Its words: {', '.join(dict.fromkeys(words)) or 'none'}."
        )
    positions = [p for text in texts for p in _in_text(text, prompt, pattern)]
    if not positions:
        raise InvalidValueError(f"The word {word!r} lies beyond the tokens that this model reads of a prompt.")
    return positions


def _in_text(text: TokenisedText, prompt: str, pattern: re.Pattern[str]) -> list[int]:
    if not getattr(text.tokenizer, "is_fast", False):
        raise ModelError(f"{type(text.tokenizer).__name__} does not tell where its tokens stand in a text.")
    start = max(text.text.lower().rfind(prompt.strip().lower()), 0)
    spans = [m.span() for m in pattern.finditer(text.text, start)]
    offsets = text.tokenizer(text.text, return_offsets_mapping=True)["offset_mapping"]
    return [
        position + text.offset
        for position, (a, b) in enumerate(offsets)
        if (text.length is None or position < text.length - 1)  # the last position is the end token's
        and any(a < end and b > begin for begin, end in spans)
    ]
