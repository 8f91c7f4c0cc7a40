"""One sequence's way through a grammar."""

from __future__ import annotations

import time

import numpy as np
from llguidance import LLMatcher
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray

from contract.errors import InvalidRequestError
from contract.guides import refused_guide
from contract.nvidia import EngineInputs

TOKEN_S, SPARE_S = 0.003, 0.2
"""Processor seconds that a guide may take for each token, and beside them for all: an ambiguous
grammar takes the longer, the longer the text is, and everybody's step waits for it."""


class Guided:
    """Keeps a sequence to a grammar: an `engine.shaping.Guide`.

    The state follows the output that it is shown, whatever was shown before, so that it serves rows
    after drafts and what comes after wrong ones.

    Attributes:
        failure: Why the sequence can't go on; None while it can.
    """

    def __init__(
        self, matcher: LLMatcher, vocab_size: int, own_ends: tuple[int, ...], ends: frozenset[int]
    ) -> None:
        """Begin a way.

        Args:
            matcher: At the beginning of the grammar; this takes it over.
            vocab_size: Tokens of a row of logits.
            own_ends: The tokens that end a text for the matcher.
            ends: Those that end this sequence.
        """
        self.failure: Exception | None = None
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._own_ends = list(own_ends)
        self._ends = [token for token in ends if 0 <= token < vocab_size]
        self._taken: list[int] = []
        self._spent_s = 0.0
        self._bits = allocate_token_bitmask(1, vocab_size)
        self._forbidden: NDArray[np.bool_] | None = None

    def prepare(self, output: list[int]) -> None:
        """Find out which tokens may follow; beside the model's step, as it takes no part of it."""
        if self.failure is None and not self._is_ready(output):
            start_s = time.thread_time()
            self._follow(output)
            self._forbidden = self._find_forbidden()
            self._spent_s += time.thread_time() - start_s
            if self._spent_s > SPARE_S + TOKEN_S * len(output):
                self._fail("it takes too long for each token")

    def shape(self, row: NDArray[np.float32], output: list[int]) -> None:
        """See ``LogitsShaper``: what the grammar doesn't allow here is ruled out."""
        self.prepare(output)
        if self.failure is not None or self._forbidden is None:
            return
        row[: self._vocab_size][self._forbidden] = -np.inf
        row[self._vocab_size :] = -np.inf
        if not np.isfinite(row.max()):
            self.failure = refused_guide(
                "bad_words or min_tokens rule out every token that may follow"
            )

    def forced(self, output: list[int]) -> list[int]:
        """The tokens that must follow, as far as they are certain."""
        self._follow(output)
        if self.failure is not None or self._matcher.is_stopped():
            return []
        tokens: list[int] = self._matcher.compute_ff_tokens()
        return tokens

    def is_complete(self, output: list[int]) -> bool:
        """Whether nothing may follow but the end."""
        self._follow(output)
        return self.failure is None and self._matcher.is_stopped()

    def _is_ready(self, output: list[int]) -> bool:
        return self._forbidden is not None and self._taken == output

    def _follow(self, output: list[int]) -> None:
        """Have the matcher where the output is."""
        if self.failure is not None or self._taken == output:
            return
        taken, count = self._taken, len(self._taken)
        if taken != output[:count]:
            count = next(
                place
                for place in range(count)
                if place >= len(output) or taken[place] != output[place]
            )
            self._matcher.rollback(len(taken) - count)
        if not self._matcher.consume_tokens(output[count:]):
            self._fail()
        self._taken = list(output)
        self._forbidden = None

    def _find_forbidden(self) -> NDArray[np.bool_] | None:
        """What may not follow, bool ``[vocab_size]``; None after a failure."""
        if self.failure is not None:
            return None
        fill_next_token_bitmask(self._matcher, self._bits)
        if self._matcher.is_error():
            self._fail()
            return None
        bits = np.unpackbits(self._bits.view(np.uint8)[0], bitorder="little")
        forbidden = bits[: self._vocab_size] == 0
        may_end = not forbidden[self._own_ends].all()
        forbidden[self._own_ends] = True
        if may_end:
            forbidden[self._ends] = False
        return forbidden

    def _fail(self, reason: str = "") -> None:
        if not self.failure:
            reason = reason or self._matcher.get_error().partition("\n")[0][:200]
            name = EngineInputs.GUIDED_DECODING_GUIDE.name
            self.failure = InvalidRequestError(
                f"the text can't be kept to its {name}: {reason}", name
            )
