"""Control tokens: those that say where a turn begins and who speaks.

They count in the chat template's own words only. In the tokenizer each one has an alias that nobody
can guess. A traced prompt is encoded with its own control tokens spelt by their aliases, and with
the tokens themselves switched off, so what a client wrote is plain text; all else about it (merges,
white space, prefixes) is as the tokenizers library does it for the whole text at once.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Encoding, Tokenizer

from contract.errors import InvalidRequestError
from python_backend.text.origin import OWN, Traced, origin_of

_OWN_RUN = re.compile(f"{OWN}+")
_ALIAS_LETTERS = 8
_NO_ID = 2**31 - 1
_LOOKS_SO = re.compile(r"<([|｜]).+\1>", re.DOTALL)


class ControlTokens:
    """The control tokens of a tokenizer, and the way to encode with and without them.

    Control tokens are those that the tokenizer calls special, and of the others that it splits a
    text at those that look so (DeepSeek's ``<｜User｜>``) or that the chat template writes
    (``<tool_call>``).

    Attributes:
        own_marks: Finds those that a model writes into its own answers: not special, and with an
            end, as ``<think>`` has ``</think>``. None where there are none.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | None) -> None:
        """Find the control tokens, and give the tokenizer their aliases.

        Args:
            tokenizer: The tokenizer; its ids from its vocabulary's end on become the aliases'.
            template: The source of the chat template.
        """
        self._tokenizer = tokenizer
        self._lock = Lock()
        added = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
        control = [
            token
            for text, token in added.items()
            if text
            and (token.special or _LOOKS_SO.fullmatch(text) or _is_written(text, template or ""))
        ]
        self.own_marks = _pattern(
            token.content for token in control if not token.special and _end_of(token, added)
        )
        self._alias_of = {token.content: _new_alias() for token in control}
        self._pattern = _pattern(self._alias_of)
        tokenizer.add_special_tokens([token for token in control if not token.special])
        tokenizer.add_tokens([_renamed(token, self._alias_of[token.content]) for token in control])
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        aliases = [vocabulary[alias] for alias in self._alias_of.values()]
        self._first_alias = min(aliases, default=_NO_ID)
        self._ids = np.zeros(len(aliases), dtype=np.int32)
        ids = [vocabulary[token.content] for token in control]
        self._ids[np.array(aliases, dtype=np.int64) - self._first_alias] = ids
        unknown = vocabulary.get(getattr(tokenizer.model, "unk_token", None) or "")
        self._control_ids = np.array([each for each in ids if each != unknown], dtype=np.int32)

    def encode(self, text: str, add_special_tokens: bool) -> NDArray[np.int32]:
        """Tokens of a text; of a traced one, the control tokens that are its own and no others.

        Returns:
            int32 ``[tokens]``.

        Raises:
            InvalidRequestError: The tokenizer has no other way to write what a client wrote than a
                control token.
        """
        if not isinstance(text, Traced):
            encoding = self._encode(text, add_special_tokens, plain=False)
            return np.array(encoding.ids, dtype=np.int32)
        encoding = self._encode(self._with_aliases(text), add_special_tokens, plain=True)
        ids = np.array(encoding.ids, dtype=np.int32)
        of_text = ids[np.array(encoding.special_tokens_mask, dtype=np.int32) == 0]
        forged = np.intersect1d(of_text, self._control_ids)
        if forged.size:
            token = self._tokenizer.id_to_token(int(forged[0]))
            raise InvalidRequestError(
                f"the text holds {token!r}, which this tokenizer can't write as plain text"
            )
        aliases = ids >= self._first_alias
        ids[aliases] = self._ids[ids[aliases] - self._first_alias]
        return ids

    def _encode(self, text: str, add_special_tokens: bool, plain: bool) -> Encoding:
        with self._lock:
            self._tokenizer.encode_special_tokens = plain
            # The fast one leaves out where in the text each token lies, which nobody asks for.
            (encoding,) = self._tokenizer.encode_batch_fast(
                [text], add_special_tokens=add_special_tokens
            )
        return encoding

    def _with_aliases(self, text: Traced) -> str:
        """The text in which its own control tokens are spelt by their aliases."""
        if self._pattern is None:
            return str.__str__(text)
        whole = str.__str__(text)
        parts, start = [], 0
        for token in self._own_tokens(whole, origin_of(text)):
            parts += [whole[start : token.start()], self._alias_of[token[0]]]
            start = token.end()
        return "".join([*parts, whole[start:]])

    def _own_tokens(self, text: str, origin: str) -> Iterator[re.Match[str]]:
        assert self._pattern is not None
        for run in _OWN_RUN.finditer(origin):
            yield from self._pattern.finditer(text, *run.span())


def _is_written(token: str, template: str) -> bool:
    """Whether a template writes a token, and it is more than white space."""
    return token in template and not token.replace("\u2581", " ").isspace()


def _end_of(token: AddedToken, added: Iterable[str]) -> bool:
    """Whether a token is one half of a pair, as ``<think>`` and ``</think>``."""
    other = re.sub("^<(/?)", lambda start: "<" if start[1] else "</", token.content)
    return other != token.content and other in added


def _pattern(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """Finds tokens in a text, of several at one place the longest, as the tokenizer does."""
    words = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words))) if words else None


def _new_alias() -> str:
    """A text of private characters that nobody can guess."""
    return "".join(chr(0xF0000 + secrets.randbelow(0xFFFE)) for _ in range(_ALIAS_LETTERS))


def _renamed(token: AddedToken, name: str) -> AddedToken:
    """A token that is found as another one is, by another name."""
    return AddedToken(
        name,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
    )
