"""The checkpoint's own tokenizer, without transformers.

Loads what a checkpoint folder holds (``tokenizer.json``, ``tokenizer_config.json``,
``special_tokens_map.json``, the chat template) and answers the questions that serving asks: which
tokens does a text have, which tokens are a forbidden or stopping word, which bytes is a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from contract.errors import EngineError
from python_backend.engine.engine_config import ENGINE_FILE, EngineConfig
from python_backend.text.chat import ChatTemplate
from python_backend.text.detokenizer import Vocabulary
from python_backend.text.special_tokens import special_tokens, tokenizer_config


class TextTokenizer:
    """A tokenizer with its chat template.

    Attributes:
        vocabulary: What each token is in bytes, for the detokenizer.
        chat_template: The checkpoint's template, or None where it has none.
        end_id: The token that ends a text: the tokenizer's, if the engine's end tokens are not
            known or it is one of them, else the first of these; -1 where nothing names one.
        pad_id: The token that fills up a batch; the end token where the tokenizer names none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: dict[str, Any],
        template: str | None,
        end_ids: Sequence[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self.vocabulary = Vocabulary(tokenizer)
        tokens = special_tokens(config)
        self.chat_template = ChatTemplate(template, tokens) if template is not None else None
        first = end_ids[0] if end_ids else -1
        self.end_id = self._id_of(tokens.get("eos_token"), default=first)
        if end_ids and self.end_id not in end_ids:
            self.end_id = first
        self.pad_id = self._id_of(tokens.get("pad_token"), default=max(self.end_id, 0))
        self._control_tokens = tuple(
            token.content
            for token in tokenizer.get_added_tokens_decoder().values()
            if token.special and token.content
        )

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
        return cls(tokenizer, config, template, engine.end_token_ids if engine else ())

    def _id_of(self, token: str | None, default: int) -> int:
        token_id = None if token is None else self._tokenizer.token_to_id(token)
        return default if token_id is None else token_id

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added ones and gaps included."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def has_control_token(self, text: str) -> bool:
        """Whether a text already spells one of the tokenizer's special tokens."""
        return any(token in text for token in self._control_tokens)

    def encode(self, text: str, add_special_tokens: bool) -> NDArray[np.int32]:
        """Tokens of a text.

        Returns:
            int32 ``[tokens]``.
        """
        # The fast one leaves out where in the text each token lies, which nobody asks for.
        (encoding,) = self._tokenizer.encode_batch_fast(
            [text], add_special_tokens=add_special_tokens
        )
        return np.asarray(encoding.ids, dtype=np.int32)

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
