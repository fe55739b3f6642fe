"""A byte-level BPE tokenizer made from nothing but a list of words, each of which becomes a single token.

Byte-pair merges are learnt on the list alone, most frequent pair first (ties by spelling), until every word is one
token; any other text still falls apart into bytes. Layout as in CLIP: 256 bytes, 256 word-final bytes, the merges,
start and end of text (the end last, which is also the padding).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 32


def _byte_characters() -> list[str]:
    """A printable character for each byte, as byte-level BPE writes them: itself, or one from 256 upwards."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in own else chr(next(others)) for b in range(256)]


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Merges that turn every word into one token."""
    spellings = [[*word[:-1], word[-1] + "</w>"] for word in sorted(set(words))]
    merges = []
    while any(len(s) > 1 for s in spellings):
        pairs = Counter(pair for s in spellings for pair in pairwise(s))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spellings = [_merge(s, best) for s in spellings]
    return merges


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged, k = [], 0
    while k < len(pieces):
        if k + 1 < len(pieces) and (pieces[k], pieces[k + 1]) == pair:
            merged.append(pieces[k] + pieces[k + 1])
            k += 2
        else:
            merged.append(pieces[k])
            k += 1
    return merged


def make_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """A ``CLIPTokenizer`` in which each of ``words`` (lower case) is one token."""
    from transformers import CLIPTokenizer

    merges = learn_merges(words)
    characters = _byte_characters()
    pieces = [*characters, *(c + "</w>" for c in characters), *("".join(pair) for pair in merges), START, END]
    vocabulary = {piece: k for k, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)  # type: ignore[call-arg]
