"""Where the words of a prompt lie among the tokens of the text sequence."""

from __future__ import annotations

import re
from collections.abc import Iterable

from diffeat.backbones.family import TokenisedText
from diffeat.errors import InvalidValueError, ModelError, UnknownNameError, clipped, did_you_mean, shown

#: Letters of scripts without blanks between words, or with endings joined to them: Thai and its relatives, Hangul, kana
#: and Chinese.
_JOINED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7ff\U00020000-\U0003ffff]"
)


def word_positions(texts: Iterable[TokenisedText], prompt: str, word: str) -> list[int]:
    """Positions of all tokens of ``word`` (a word or phrase, any case), everywhere it stands in the prompt.

    A word is no part of another, except in scripts that put none between blanks. Where it is cut, it is left out.

    Args:
        texts: The tokenised texts the sequence is made of.
        prompt: The prompt as the user gave it.
    """
    word = word.strip()
    inner = r"\s+".join(map(re.escape, word.split()))
    pattern = re.compile(f"{_edge(word[:1], '<')}{inner}{_edge(word[-1:], '')}", re.IGNORECASE)
    if not word or not pattern.search(prompt):
        words = re.findall(r"\w+", prompt)
        raise UnknownNameError(
            f"The prompt {shown(prompt)} has no word {shown(word)}. {did_you_mean(word, words)}".strip()
            + f" Its words: {clipped(', '.join(dict.fromkeys(words))) or 'none'}."
        )
    positions = [p for text in texts for p in _in_text(text, prompt, pattern)]
    if not positions:
        raise InvalidValueError(
            f"The word {shown(word)} lies beyond the tokens that this model reads of a prompt, is cut by their end, or "
            "has none. Shorten the prompt, look for fewer words at once, or give each a text of its own (--apart)."
        )
    return positions


def _edge(letter: str, side: str) -> str:
    """What keeps a word from being part of a longer one, beside its first (``"<"``) or last letter."""
    return "" if _JOINED.match(letter) else rf"(?{side}!\w)"


def _in_text(text: TokenisedText, prompt: str, pattern: re.Pattern[str]) -> list[int]:
    if not getattr(text.tokenizer, "is_fast", False):
        raise ModelError(f"{type(text.tokenizer).__name__} does not tell where its tokens stand in a text.")
    start = max(text.text.lower().rfind(prompt.strip().lower()), 0)
    spans = [m.span() for m in pattern.finditer(text.text, start)]
    offsets = text.tokenizer(text.text, return_offsets_mapping=True)["offset_mapping"]
    last = len(offsets) if text.length is None else text.length - 1  # the last position is the end token's
    found = [[k for k, (a, b) in enumerate(offsets) if a < end and b > begin] for begin, end in spans]
    return sorted({k + text.offset for places in found if places and places[-1] < last for k in places})
