"""Which text begins, ends and fills up a sequence, as a checkpoint folder says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"

_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json`` with its special tokens as transformers finds them.

    Checkpoints of before 2023 have them in ``special_tokens_map.json``, which goes first unless
    ``tokenizer_config.json`` lists the added tokens (``added_tokens_decoder``): then it is not
    read.

    Raises:
        ValueError: A file is not JSON, or holds no object; the message names it.
    """
    config = _read(folder / TOKENIZER_CONFIG_FILE)
    if "added_tokens_decoder" in config:
        return config
    said = _read(folder / SPECIAL_TOKENS_FILE)
    return config | {name: said[name] for name in _NAMES if name in said}


def special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """The texts of the special tokens that ``tokenizer_config`` found."""
    return {name: _text(config[name]) for name in _NAMES if config.get(name) is not None}


def _text(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return found
