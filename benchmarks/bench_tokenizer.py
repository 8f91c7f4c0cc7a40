"""A tokenizer for random weights: byte-level, as many tokens as Qwen2.5's, each word one token.

Workloads are token ids, which most engines take as they are. A whole server takes text, and gives
text back: here every id from ``FIRST_WORD`` up is a space and a word of its own, so that
``text_of`` and the tokenizer turn ids into text and back without loss.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

VOCAB_SIZE = 151_936
"""Tokens of Qwen2.5's embedding."""

FIRST_WORD = 256
"""Ids below are the single bytes."""

END = 4
"""The byte that stands for the end, as in ASCII."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def word(token_id: int) -> str:
    """The four letters of a token from ``FIRST_WORD`` up: the id, in letters for digits."""
    number, letters = token_id - FIRST_WORD, ""
    for _ in range(4):
        number, digit = divmod(number, len(_LETTERS))
        letters += _LETTERS[digit]
    return letters


def text_of(token_ids: Iterable[int]) -> str:
    """The text that has exactly these tokens; each must be ``FIRST_WORD`` or above."""
    return "".join(f" {word(token_id)}" for token_id in token_ids)


def alphabet() -> list[str]:
    """The character that byte-level tokenizers write for each byte, GPT-2's.

    Printable Latin-1 characters stand for themselves, the rest for those from U+0100 up.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def tokens() -> list[str]:
    """All tokens in order of their ids, as byte-level tokenizers write them."""
    characters = alphabet()
    space = characters[ord(" ")]
    return characters + [space + word(token_id) for token_id in range(FIRST_WORD, VOCAB_SIZE)]


def write_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` into a checkpoint folder."""
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a word of the vocabulary is a token as it stands
            "vocab": {token: token_id for token_id, token in enumerate(tokens())},
            "merges": [],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False) + "\n")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 4096,
        "eos_token": alphabet()[END],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
