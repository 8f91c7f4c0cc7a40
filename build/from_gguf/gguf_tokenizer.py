"""The tokenizer of a GGUF file, as ``tokenizer.json`` and ``tokenizer_config.json`` would have it.

A file names the pieces and how they were made, but its way to split a text only by a word
(``tokenizer.ggml.pre``). Source of the splits: llama.cpp's ``llama-vocab.cpp``; of the
SentencePiece kind: its ``llm_tokenizer_spm``, which joins by score as this joins by merges.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from build.build_errors import CheckpointError
from build.from_gguf.gguf_reader import GGUFFile

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
"""What a token is, by ``tokenizer.ggml.token_type``."""
_LONGEST_PIECE = 1024
"""Characters; in how many ways a piece can be joined grows with them."""

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

Pieces = dict[str, int]


def _byte_level(use_regex: bool) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def _split(pattern: str) -> Callable[[], list[Any]]:
    return lambda: [pre_tokenizers.Split(Regex(pattern), "isolated"), _byte_level(False)]


_SPLITS: dict[str, Callable[[], list[Any]]] = {
    "gpt-2": lambda: [_byte_level(True)],
    "smollm": lambda: [pre_tokenizers.Digits(individual_digits=True), _byte_level(True)],
    "llama-bpe": _split(_LLAMA3),
    "llama3": _split(_LLAMA3),
    "smaug-bpe": _split(_LLAMA3),
    "qwen2": _split(_QWEN2),
}
"""How a text is split before pieces are joined, by ``tokenizer.ggml.pre``."""

_WHOLE_FIRST = ("llama-bpe", "llama3")
"""These take a word that is a piece as it is, without joining."""


def tokenizer_files(file: GGUFFile) -> dict[str, Any]:
    """The contents of ``tokenizer.json`` and ``tokenizer_config.json``, by name.

    Raises:
        CheckpointError: Something is missing or wrong, or the tokenizer is of a kind that is not
            read.
    """
    tokens = file.items("tokenizer.ggml.tokens", str)
    kinds = file.items("tokenizer.ggml.token_type", int)
    if len(kinds) != len(tokens):
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.token_type has {len(kinds)} entries, not {len(tokens)}"
        )
    pieces: Pieces = {}
    for place, token in enumerate(tokens):
        if pieces.setdefault(token, place) != place:
            raise CheckpointError(f"{file.path}: tokens {pieces[token]} and {place} are the same")
    model = file.get("tokenizer.ggml.model", str)
    try:
        if model == "gpt2":
            tokenizer = _byte_pairs(file, pieces)
        elif model == "llama":
            tokenizer = _sentence_pieces(file, tokens, kinds, pieces)
        else:
            raise CheckpointError(
                f"{file.path}: tokenizer.ggml.model is {model!r}, not gpt2 or llama"
            )
        specials = [
            AddedToken(token, special=kind != _USER_DEFINED, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ]
        # In the order of their ids, in parts: a call takes all as special or none.
        for each in specials:
            (tokenizer.add_special_tokens if each.special else tokenizer.add_tokens)([each])
    except CheckpointError:
        raise
    except Exception as error:  # the library's own; it has no class for them
        raise CheckpointError(f"{file.path} has no usable tokenizer: {error}") from None
    if tokenizer.get_vocab_size() != len(tokens):
        raise CheckpointError(f"{file.path}: its tokenizer does not hold its {len(tokens)} tokens")
    config = _config(file, tokens)
    adds_bos = file.get(
        "tokenizer.ggml.add_bos_token", bool, model == "llama" or _pre(file) in _WHOLE_FIRST
    )
    adds_eos = file.get("tokenizer.ggml.add_eos_token", bool, False)
    if adds_bos or adds_eos:
        around = [config["bos_token"]] * bool(adds_bos), [config["eos_token"]] * bool(adds_eos)
        if None in around[0] + around[1]:
            raise CheckpointError(f"{file.path} adds a token to each text and doesn't say which")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*around[0], "$A", *around[1]],
            pair=[*around[0], "$A", *around[0], "$B:1", *around[1]],
            special_tokens=[(each, pieces[each]) for each in {*around[0], *around[1]}],
        )
    return {"tokenizer.json": json.loads(tokenizer.to_str()), "tokenizer_config.json": config}


def _pre(file: GGUFFile) -> str:
    return file.get("tokenizer.ggml.pre", str, "") or ""


def _byte_pairs(file: GGUFFile, pieces: Pieces) -> Tokenizer:
    """Pieces of bytes, each written as a printable character, joined by a list of merges."""
    pre = _pre(file)
    if pre not in _SPLITS:
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.pre is {pre!r}, which is not known; known: "
            f"{', '.join(_SPLITS)}"
        )
    merges = [_pair(file, each) for each in file.items("tokenizer.ggml.merges", str)]
    tokenizer = Tokenizer(models.BPE(pieces, merges, ignore_merges=pre in _WHOLE_FIRST))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    splits = _SPLITS[pre]()
    tokenizer.pre_tokenizer = splits[0] if len(splits) == 1 else pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(file: GGUFFile, merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space:
        raise CheckpointError(f"{file.path}: tokenizer.ggml.merges holds {merge!r}, no pair")
    return left, right


def _sentence_pieces(
    file: GGUFFile, tokens: list[str], kinds: list[int], pieces: Pieces
) -> Tokenizer:
    """Pieces of characters with scores; what no piece holds is spelt in bytes."""
    scores = file.items("tokenizer.ggml.scores", float)
    if len(scores) != len(tokens):
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.scores has {len(scores)} entries, not {len(tokens)}"
        )
    unknown = next((t for t, kind in zip(tokens, kinds, strict=True) if kind == _UNKNOWN), None)
    tokenizer = Tokenizer(
        models.BPE(
            pieces,
            _merges(file, pieces, [kind == _NORMAL for kind in kinds], scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = file.get("tokenizer.ggml.add_space_prefix", bool, True)
    space = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), space]) if prefix else space
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges(
    file: GGUFFile, pieces: Pieces, normal: list[bool], scores: list[float]
) -> list[tuple[str, str]]:
    """Every way to join two pieces to a third, the best third first.

    Control tokens, and those that stand for bytes, are no text: nothing is joined to them.
    """
    found = []
    for piece, place in pieces.items():
        if not normal[place]:
            continue
        if len(piece) > _LONGEST_PIECE:
            raise CheckpointError(f"{file.path}: token {place} has {len(piece)} characters")
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        joined = [(left, right) for left, right in halves if left in pieces and right in pieces]
        joined.sort(key=lambda pair: (pieces[pair[0]], pieces[pair[1]]))
        found += [(-scores[place], place, pair) for pair in joined]
    found.sort(key=lambda each: each[0])
    return [pair for _, _, pair in found]


def _config(file: GGUFFile, tokens: list[str]) -> dict[str, Any]:
    """Which tokens mean something, and the chat template."""

    def token(name: str) -> str | None:
        place = file.get(f"tokenizer.ggml.{name}_token_id", int, None)
        if place is not None and not 0 <= place < len(tokens):
            raise CheckpointError(
                f"{file.path}: tokenizer.ggml.{name}_token_id is {place}, not below {len(tokens)}"
            )
        return None if place is None else tokens[place]

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding"),
        "unk_token": token("unknown"),
        "chat_template": file.get("tokenizer.chat_template", str, None),
    }
