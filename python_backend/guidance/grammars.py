"""The guides of an engine's requests: tried, compiled and remembered.

A grammar that was compiled is never changed: each sequence goes its own way through a copy. What a
guide may cost is bounded, in the time that it takes to compile and in each step: one that takes
more is refused, or its request ends with an error.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from llguidance import LLMatcher

from contract.errors import InvalidRequestError
from contract.guides import Guide, refused_guide
from python_backend.guidance.compiler import Compiler
from python_backend.guidance.guided import Guided
from python_backend.guidance.trial import Trial

MOST_REMEMBERED = 32
"""Grammars."""


_PLACE = re.compile(r"^at \d+\(\d+\): ")
_LISTING = re.compile(r" \d+ \| .*")


def _without_listing(reason: str) -> str:
    """What the library says of a grammar, without the grammar's lines: they may be none of a
    client's.
    """
    return _LISTING.sub("", _PLACE.sub("", reason))


class Grammars:
    """The guides of an engine's requests, tried, compiled and remembered. Any thread may call it.

    Attributes:
        vocab_size: Tokens of a row of logits.
        end_ids: The tokens that end a text.
    """

    def __init__(
        self, tokenizer: Path, vocab_size: int, end_ids: Sequence[int], most: int = MOST_REMEMBERED
    ) -> None:
        """Take a vocabulary.

        Args:
            tokenizer: The ``tokenizer.json`` of the engine.
            vocab_size: Tokens of a row of logits.
            end_ids: The tokens that end a text.
            most: How many grammars are remembered.
        """
        self.vocab_size = vocab_size
        self.end_ids = tuple(end_ids)
        self._compiler = Compiler(tokenizer, vocab_size, end_ids)
        self._trial = Trial(tokenizer, vocab_size, end_ids)
        self._most = most
        self._known: OrderedDict[Guide, LLMatcher] = OrderedDict()
        self._lock = Lock()

    def compile(self, guide: Guide) -> LLMatcher:
        """A guide's grammar, from which sequences begin.

        Raises:
            InvalidRequestError: As `Compiler.compile`; or compiling takes too much.
            EngineError: As `Compiler.compile`; or guides can't be tried.
        """
        with self._lock:
            if guide in self._known:
                self._known.move_to_end(guide)
                return self._known[guide]
        self._compiler.load()  # what is wrong with the tokenizer is no guide's fault
        try:
            self._trial.check(guide)
            matcher = self._compiler.compile(guide)
        except InvalidRequestError as error:
            raise refused_guide(_without_listing(error.message.partition(": ")[2]), guide) from None
        with self._lock:
            self._known[guide] = matcher
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        return matcher

    def begin(self, grammar: LLMatcher, ends: frozenset[int]) -> Guided:
        """A sequence's own way through a grammar.

        Args:
            grammar: At its beginning; it stays there.
            ends: The tokens that end the sequence.
        """
        return Guided(grammar.deep_copy(), self.vocab_size, self.end_ids, ends)

    def close(self) -> None:
        """End the process that tries guides."""
        self._trial.close()
