"""The checkpoint's own tokenizer, without transformers.

Loads what a checkpoint folder holds (``tokenizer.json``, ``tokenizer_config.json``,
``special_tokens_map.json``, the chat template) and answers the questions that serving asks: which
tokens does a text have, which tokens are a forbidden or stopping word, which bytes is a token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from contract.bounds import MAX_PROMPT_BYTES
from contract.errors import EngineError
from python_backend.engine.engine_config import ENGINE_FILE, EngineConfig
from python_backend.text.chat_template import ChatTemplate
from python_backend.text.control import ControlTokens
from python_backend.text.detokenizer import Vocabulary
from python_backend.text.special_tokens import special_tokens, tokenizer_config

_CHARACTERS_PER_TOKEN = 8
"""A text of fewer is tokenized without asking for its length first."""

_BORDER_TOKENS = 16

_SHRINKING = 4
"""How much shorter in bytes a normalizer makes a text at most (NFKC, of mathematical letters)."""


class TextTokenizer:
    """A tokenizer with its chat template.

    Attributes:
        vocabulary: What each token is in bytes, for the detokenizer.
        chat_template: The checkpoint's template, or None where it has none.
        end_id: The token that ends a text: the tokenizer's, if the engine's end tokens are not
            known or it is one of them, else the first of these; -1 where nothing names one.
        context_length: Most tokens that the engine beside it takes; None where there is none.
        vocab_size: Number of token ids, added ones and gaps included.
        special_ids: The tokens that it calls special, by their texts.
        added_ids: All tokens that were added to its vocabulary, by their texts.
        pad_id: The token that fills up a batch; the end token where the tokenizer names none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: dict[str, Any],
        template: str | None,
        end_ids: Sequence[int] = (),
        context_length: int | None = None,
    ) -> None:
        tokenizer = Tokenizer.from_str(tokenizer.to_str())  # one of our own, to add aliases to
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = {token.content: i for i, token in added.items() if token.special}
        self.added_ids = {token.content: i for i, token in added.items()}
        self.vocabulary = Vocabulary(tokenizer)
        self.context_length = context_length
        self._shrinks = _SHRINKING if _may_shrink(tokenizer) else 1
        self.vocab_size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        self._control = ControlTokens(tokenizer, template)  # adds ids beyond the vocabulary
        tokens = special_tokens(config)
        self.chat_template: ChatTemplate | None = None
        if template is not None:
            self.chat_template = ChatTemplate(template, tokens, self._control.own_marks)
        first = end_ids[0] if end_ids else -1
        self.end_id = self._id_of(tokens.get("eos_token"), default=first)
        if end_ids and self.end_id not in end_ids:
            self.end_id = first
        self.pad_id = self._id_of(tokens.get("pad_token"), default=max(self.end_id, 0))

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """Read a tokenizer from a checkpoint or engine folder.

        Raises:
            EngineError: ``tokenizer.json`` is missing, or a file can't be read.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise EngineError(f"{path} is missing: the folder holds no tokenizer")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises plain Exception
            raise EngineError(f"{path} can't be read: {error}") from error
        try:
            config = tokenizer_config(folder)
        except ValueError as error:
            raise EngineError(str(error)) from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        template_path = folder / "chat_template.jinja"
        template = config.get("chat_template")
        if template_path.is_file():
            template = template_path.read_text(encoding="utf-8")
        if isinstance(template, list):  # several, each with a name
            template = {each["name"]: each["template"] for each in template}.get("default")
        engine = EngineConfig.load(folder) if (folder / ENGINE_FILE).is_file() else None
        if engine is None:
            return cls(tokenizer, config, template)
        return cls(tokenizer, config, template, engine.end_token_ids, engine.context_length)

    def _id_of(self, token: str | None, default: int) -> int:
        token_id = None if token is None else self._tokenizer.token_to_id(token)
        return default if token_id is None else token_id

    @property
    def max_prompt_bytes(self) -> int:
        """Most bytes of a text that the engine's context may hold: as many of the longest token."""
        if self.context_length is None:
            return MAX_PROMPT_BYTES
        return self.context_length * self.vocabulary.longest_token_bytes * self._shrinks

    def is_too_long(self, text: str) -> bool:
        """Whether a text has more tokens than the engine's context, as far as a beginning tells.

        Only as much of it is tokenized as the context holds, and at most that again.
        """
        context = self.context_length
        if context is None:
            return False
        length = context * _CHARACTERS_PER_TOKEN
        while length < len(text):
            beginning = str.__getitem__(text, slice(length))
            # What follows may change the last few tokens of a beginning.
            if self.encode(beginning, add_special_tokens=False).size > context + _BORDER_TOKENS:
                return True
            length *= 2
        return False

    def encode(self, text: str, add_special_tokens: bool) -> NDArray[np.int32]:
        """Tokens of a text.

        Args:
            text: The text. In one that is traced, such as a rendered prompt, control tokens count
                where they are its own; in another wherever they are.
            add_special_tokens: Whether to add what the tokenizer begins or ends a text with.

        Returns:
            int32 ``[tokens]``.
        """
        return self._control.encode(text, add_special_tokens)

    def word_list(self, rows: list[list[str]]) -> NDArray[np.int32]:
        """Word lists in TensorRT-LLM's format.

        Args:
            rows: For each batch row its words; a word may be any string. An empty one is left out,
                so that it can fill up the row of a batch.

        Returns:
            int32 ``[batch, 2, length]``: in the first plane the words' tokens one after another, in
            the second the end offset of each word, padded with -1.
        """
        encoded = [
            [ids for word in row if (ids := self.encode(word, add_special_tokens=False)).size]
            for row in rows
        ]
        width = max((sum(ids.size for ids in row) for row in encoded), default=0)
        lists = np.zeros((len(rows), 2, width), dtype=np.int32)
        lists[:, 1] = -1
        for plane, row in zip(lists, encoded, strict=True):
            if row:
                tokens = np.concatenate(row)
                plane[0, : tokens.size] = tokens
                plane[1, : len(row)] = np.cumsum([ids.size for ids in row])
        return lists


def _may_shrink(tokenizer: Tokenizer) -> bool:
    """Whether a normalizer may make a text shorter before it is tokenized."""
    normalizer = json.loads(tokenizer.to_str())["normalizer"] or {}
    parts = normalizer.get("normalizers", [normalizer])
    return any(part.get("type", "Prepend") not in ("Prepend", "Replace") for part in parts)
