"""What changes a row of logits before a token is chosen from it.

A sequence has its shapers, in the order in which they are applied: those below, as its parameters
ask for, and whatever else it was given. Each sees the row and the output that leads to it, so that
it serves a row after drafts as well as the one after the newest token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class LogitsShaper(Protocol):
    """Changes rows of logits.

    What it makes of a row must follow from the row and the output alone. One that keeps a state,
    such as a grammar's, has to find back where rows after drafts that were wrong are followed by
    another output.
    """

    def shape(self, row: NDArray[np.float32], output: list[int]) -> None:
        """Change a row in place.

        Args:
            row: float32 ``[vocab]``.
            output: The tokens after the prompt that lead to the row, drafts among them; not to be
                changed.
        """


class Guide(LogitsShaper, Protocol):
    """A shaper that knows where a text may go: of a grammar.

    Attributes:
        failure: Why the sequence can't go on; None while it can.
    """

    failure: Exception | None

    def prepare(self, output: list[int]) -> None:
        """Work ahead for the row after this output, while the model computes it.

        Whatever it comes to is there for `shape`, which does the same where this was not called.
        """

    def forced(self, output: list[int]) -> list[int]:
        """The tokens that must follow, as far as they are certain."""

    def is_complete(self, output: list[int]) -> bool:
        """Whether nothing may follow but the end."""


@dataclass(frozen=True)
class Bias:
    """Adds to the logits of the first tokens of the vocabulary, float32 ``[tokens]``."""

    bias: NDArray[np.float32]

    def shape(self, row: NDArray[np.float32], output: list[int]) -> None:
        row[: self.bias.size] += self.bias


@dataclass(frozen=True)
class Penalties:
    """Makes tokens that the sequence has, in its prompt too, less likely.

    Attributes:
        prompt: int32 ``[tokens]``.
        repetition: Divides their logits, or multiplies them where they are negative.
        presence: Taken off their logits.
        frequency: Taken off their logits once for each time they occur.
        ignored: How many of the prompt's first tokens the last two don't count.
    """

    prompt: NDArray[np.int32]
    repetition: float
    presence: float
    frequency: float
    ignored: int = 0

    def shape(self, row: NDArray[np.float32], output: list[int]) -> None:
        answer = np.asarray(output, dtype=np.int32)
        if self.repetition != 1:
            seen = np.unique(np.concatenate([self.prompt, answer]))
            values = row[seen]
            row[seen] = np.where(values > 0, values / self.repetition, values * self.repetition)
        if self.presence or self.frequency:
            counted = np.concatenate([self.prompt[self.ignored :], answer])
            seen, counts = np.unique(counted, return_counts=True)
            row[seen] = row[seen] - self.presence - self.frequency * counts


@dataclass(frozen=True)
class MinTokens:
    """Rules out the end tokens until there are so many tokens."""

    min_tokens: int
    end_ids: frozenset[int]

    def shape(self, row: NDArray[np.float32], output: list[int]) -> None:
        if len(output) < self.min_tokens:
            row[[token for token in self.end_ids if 0 <= token < row.size]] = -np.inf


@dataclass(frozen=True)
class BadWords:
    """Rules out the last token of each word that the output has come to."""

    words: tuple[tuple[int, ...], ...]

    def shape(self, row: NDArray[np.float32], output: list[int]) -> None:
        for word in self.words:
            if ends_with(output, word[:-1]):
                row[word[-1]] = -np.inf


def ends_with(tokens: list[int], word: tuple[int, ...]) -> bool:
    """Whether a token list ends with a word; every list ends with the empty word."""
    return len(word) <= len(tokens) and tuple(tokens[len(tokens) - len(word) :]) == word
