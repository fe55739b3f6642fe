"""Tokenizers made from nothing: whole words for the few words the tests use, characters or bytes for all else."""

from __future__ import annotations

import functools

import transformers as T

WORDS = ("a", "an", "the", "photo", "of", "and", "red", "cat", "dog", "bird", "horse", "blue")


def _byte_letters() -> list[str]:
    """The printable stand-ins of the 256 bytes in byte-level BPE, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(rest)) for b in range(256)]


@functools.cache
def clip() -> T.CLIPTokenizer:
    """Bytes, bytes that end a word, merges that build the words; the end token has the highest id."""
    vocabulary = _byte_letters()
    vocabulary += [letter + "</w>" for letter in vocabulary]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        left = word[0]
        for i, letter in enumerate(word[1:], start=1):
            right = letter + ("</w>" if i == len(word) - 1 else "")
            if (left, right) not in merges:
                merges.append((left, right))
                vocabulary.append(left + right)
            left += right
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(vocabulary)}
    return T.CLIPTokenizer(vocab=ids, merges=merges, model_max_length=77)


@functools.cache
def t5(length: int = 512, padding_side: str = "right") -> T.PreTrainedTokenizerBase:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [("▁" + word, -3.0) for word in WORDS] + [(chr(c), -6.0) for c in range(33, 127)]
    return T.T5TokenizerFast(
        vocab=pieces, extra_ids=0, additional_special_tokens=[], model_max_length=length, padding_side=padding_side
    )


@functools.cache
def bert() -> T.BertTokenizer:
    letters = [chr(c) for c in range(97, 123)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *("##" + c for c in letters)]
    ids = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return T.BertTokenizer(vocab=ids, model_max_length=77)


@functools.cache
def qwen() -> T.PreTrainedTokenizerBase:
    ids = {letter: i for i, letter in enumerate(_byte_letters())}
    tokenizer = T.Qwen2TokenizerFast(
        vocab=ids,
        merges=[],
        model_max_length=1024,
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


@functools.cache
def gemma() -> T.PreTrainedTokenizerBase:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *(f"<0x{b:02X}>" for b in range(256))]
    tokens += [chr(c) for c in range(33, 127)]
    return T.GemmaTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=300)
