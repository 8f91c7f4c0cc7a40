"""Incremental detokenization: the streamed text is the unstreamed text, byte for byte.

Decoding each token alone loses spaces and breaks characters that span tokens. Instead every token
is known as the bytes it stands for, so that a stream of tokens is a stream of bytes, and text is
what an incremental UTF-8 decoder makes of it: linear in the length, and the same however the
tokens are cut into pieces.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable

from tokenizers import Tokenizer

from contract.errors import EngineError

_SPACE = "\u2581"
"""SentencePiece's visible space."""

_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")

_REPLACE = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
_BYTE_FALLBACK = {"type": "ByteFallback"}
_FUSE = {"type": "Fuse"}
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_SENTENCEPIECE = tuple(
    [_REPLACE, *fallback, _FUSE, *strip]
    for fallback in ([], [_BYTE_FALLBACK])
    for strip in ([], [_STRIP])
)
"""The decoders of SentencePiece-style tokenizers, as ``tokenizer.json`` spells them."""


class Vocabulary:
    """What each token is in bytes.

    Attributes:
        special_ids: Tokens that are left out of text unless asked for.
        strips_first_space: Whether the first token's leading space is not part of the text, as in
            SentencePiece-style tokenizers.
        longest_token_bytes: The bytes of the longest token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Read the vocabulary of a tokenizer.

        Raises:
            EngineError: The tokenizer's decoder is of a kind that is not supported.
        """
        decoder = json.loads(tokenizer.to_str())["decoder"] or {}
        parts = decoder.get("decoders", [decoder])
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self._bytes: dict[int, bytes] = {}
        self._byte_tokens: set[int] = set()
        self.strips_first_space = _STRIP in parts
        if [part.get("type") for part in parts] == ["ByteLevel"]:
            byte_of = _byte_level_alphabet()
            for text, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
                self._bytes[token_id] = _from_alphabet(text, byte_of)
        elif parts in _SENTENCEPIECE:
            for text, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
                self._add_piece(text, token_id, byte_fallback=_BYTE_FALLBACK in parts)
        else:
            shown = json.dumps(decoder or None, ensure_ascii=False)
            raise EngineError(
                f"the tokenizer's decoder {shown} is not supported: supported are byte-level BPE "
                "(ByteLevel) and SentencePiece-style (Replace, ByteFallback, Fuse, Strip) decoders"
            )

        self.longest_token_bytes = max(map(len, self._bytes.values()), default=1)

    def _add_piece(self, text: str, token_id: int, byte_fallback: bool) -> None:
        byte = _BYTE_TOKEN.fullmatch(text) if byte_fallback else None
        if byte is not None:
            self._byte_tokens.add(token_id)
            self._bytes[token_id] = bytes.fromhex(byte[1])
        else:
            self._bytes[token_id] = text.replace(_SPACE, " ").encode()

    def are_followed(self, token_ids: Iterable[int]) -> bool:
        """Whether what follows some tokens keeps a space that it would lose as the first text.

        So it is where they make text themselves, special ones left out.
        """
        return self.strips_first_space and any(
            self._bytes.get(token_id) and token_id not in self.special_ids for token_id in token_ids
        )

    def bytes_of(self, token_id: int) -> bytes | None:
        """The bytes of a token, or None for an id that the vocabulary doesn't have."""
        return self._bytes.get(token_id)

    def text_of(self, token_id: int) -> str:
        r"""A token as text; one that is no whole text is spelt ``bytes:\xf0\x9f``."""
        data = self._bytes.get(token_id, b"")
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def is_byte_token(self, token_id: int) -> bool:
        """Whether a token is one byte of a character that the vocabulary lacks."""
        return token_id in self._byte_tokens


class Detokenizer:
    """The text of one growing sequence.

    Owns what of the sequence's bytes is not text yet: at most three bytes of a character that is
    cut, or a run of byte tokens in a SentencePiece-style vocabulary.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        skip_special_tokens: bool = True,
        goes_on: bool = False,
        kept: Iterable[int] = (),
    ) -> None:
        """Begin a text.

        Args:
            vocabulary: What each token is.
            skip_special_tokens: Whether special tokens are left out.
            goes_on: There is text before the first token, so that one keeps its leading space.
            kept: Special tokens that are not left out.
        """
        self._vocabulary = vocabulary
        self._skip = vocabulary.special_ids - {*kept} if skip_special_tokens else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._run = bytearray()
        self._strip = vocabulary.strips_first_space and not goes_on

    def add(self, token_ids: Iterable[int], final: bool = False) -> str:
        """Text that is certain after some more tokens.

        Args:
            token_ids: The next tokens.
            final: No more tokens follow, so a cut character becomes U+FFFD.

        Returns:
            The text that follows what was returned before; often empty in the middle of a
            character.
        """
        pieces: list[str] = []
        for token_id in token_ids:
            data = self._vocabulary.bytes_of(token_id)
            if data is None or token_id in self._skip:
                continue
            if self._vocabulary.is_byte_token(token_id):
                self._run += data
                continue
            pieces.append(self._end_run())
            if self._strip and data:
                data = data.removeprefix(b" ")
                self._strip = False
            pieces.append(self._utf8.decode(data))
        if final:
            pieces.append(self._end_run())
            pieces.append(self._utf8.decode(b"", final=True))
        return "".join(pieces)

    def _end_run(self) -> str:
        """A run of byte tokens is one text if it is UTF-8, else a U+FFFD for each byte."""
        if not self._run:
            return ""
        run, self._run = bytes(self._run), bytearray()
        try:
            text = run.decode()
        except UnicodeDecodeError:
            text = "\ufffd" * len(run)
        if self._strip:
            text = text.removeprefix(" ")
            self._strip = False
        return text


def _byte_level_alphabet() -> dict[str, int]:
    """The byte behind each character of a byte-level vocabulary (GPT-2's ``bytes_to_unicode``).

    Printable Latin-1 stands for itself; the other 68 bytes follow from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return alphabet


def _from_alphabet(text: str, byte_of: dict[str, int]) -> bytes:
    """Bytes of a token; one with another character, an added token, is plain text."""
    try:
        return bytes(byte_of[character] for character in text)
    except KeyError:
        return text.encode()
