"""A small vocabulary: all bytes, some words, and an end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from contract.guides import Guide
from python_backend.guidance.grammars import Grammars
from python_backend.guidance.guided import Guided

WORDS = ("true", "false", '{"', '":', '"}', "name", "age", "yes", "no", "Ġb", "be", "cause")


def make_tokenizer(path: Path) -> Tokenizer:
    """Write a byte-level tokenizer whose last token is the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = {each: place for place, each in enumerate(alphabet)}
    merges = []
    for word in WORDS:
        for cut in range(2, len(word) + 1):
            left, right, whole = word[: cut - 1], word[cut - 1], word[:cut]
            if whole not in pieces:
                pieces[whole] = len(pieces)
                merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(pieces, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True, normalized=False)])
    tokenizer.save(str(path))
    return tokenizer


def make_grammars(folder: Path, padded: int = 0) -> tuple[Grammars, Tokenizer]:
    """Grammars for it, of an engine whose rows of logits are longer by so much."""
    tokenizer = make_tokenizer(folder / "tokenizer.json")
    size = tokenizer.get_vocab_size()
    return Grammars(folder / "tokenizer.json", size + padded, [size - 1]), tokenizer


def begin(grammars: Grammars, guide: Guide, ends: Iterable[int] | None = None) -> Guided:
    """A sequence's way through a guide."""
    own = frozenset(grammars.end_ids if ends is None else ends)
    return grammars.begin(grammars.compile(guide), own)
