"""A GGUF file's tokenizer encodes as llama.cpp does; the tokens here are what it gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from build.build_errors import CheckpointError
from build.from_gguf import unpack
from tests.build.from_gguf.gguf_files import write_gguf

_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<|user|>"]
_PIECES = ["▁i", "is", "▁is", "▁P", "ar", "▁Par", "▁Paris", "s>", "</", "<s", "▁the", "th", "he"]
_CHARACTERS = [*"▁isParthe<>/"]
_KINDS = [2, 3, 3, *[6] * 256, 4, *[1] * len(_PIECES + _CHARACTERS)]


def _tokenizer(folder: Path, **settings: Any) -> Tokenizer:
    tokens = [*_TOKENS, *_PIECES, *_CHARACTERS]
    of_the_file = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": _KINDS,
        "tokenizer.ggml.scores": [0.0] * len(_TOKENS)
        + [-1.0 - place for place in range(len(_PIECES + _CHARACTERS))],
        "tokenizer.ggml.unknown_token_id": 0,
    }
    file = folder / "tiny.gguf"
    write_gguf(
        file,
        settings=of_the_file | settings,
        leave_out=("tokenizer.ggml.merges", "tokenizer.ggml.pre"),
        vocab_size=len(tokens),
    )
    unpack(file, folder / "unpacked")
    return Tokenizer.from_file(str(folder / "unpacked" / "tokenizer.json"))


TEXTS = {
    "is Paris": ["<s>", "▁is", "▁Paris"],
    "isParis": ["<s>", "▁is", "P", "ar", "is"],
    " the": ["<s>", "▁", "▁", "th", "e"],
    "thé": ["<s>", "▁", "th", "<0xC3>", "<0xA9>"],
    "<s>is</s>": ["<s>", "<s>", "▁is", "</s>"],
    "<0x41><unk>": ["<s>", "▁", "<", "<0x30>", "<0x78>", "<0x34>", "<0x31>", ">", "<unk>"],
    "<|user|>is": ["<s>", "<|user|>", "▁is"],
    "": ["<s>"],
}


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_with_scores(tmp_path: Path, text: str) -> None:
    assert _tokenizer(tmp_path).encode(text).tokens == TEXTS[text]


def test_text_is_never_joined_to_a_control_token(tmp_path: Path) -> None:
    """All the parts of one are pieces, and its score is the best of all."""
    tokenizer = _tokenizer(tmp_path)
    tokenizer.encode_special_tokens = True
    assert tokenizer.encode("</s>", add_special_tokens=False).tokens == ["▁", "</", "s>"]
    assert tokenizer.encode("<0x41>", add_special_tokens=False).tokens[2:4] == ["<0x30>", "<0x78>"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"add_bos_token": False}, ["▁is"]),
        ({"add_eos_token": True}, ["<s>", "▁is", "</s>"]),
        ({"add_space_prefix": False}, ["<s>", "is"]),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_what_is_added_to_a_text(
    tmp_path: Path, settings: dict[str, bool], expected: list[str]
) -> None:
    tokenizer = _tokenizer(
        tmp_path, **{f"tokenizer.ggml.{name}": value for name, value in settings.items()}
    )
    assert tokenizer.encode("is").tokens == expected
    assert tokenizer.decode(tokenizer.encode("is").ids) == "is"


def test_a_piece_that_is_a_text_of_its_own_is_refused(tmp_path: Path) -> None:
    tokens = [*_TOKENS, *_PIECES[1:], *_CHARACTERS, "a" * 2000]
    with pytest.raises(CheckpointError, match="token 284 has 2000 characters"):
        _tokenizer(tmp_path, **{"tokenizer.ggml.tokens": tokens})
