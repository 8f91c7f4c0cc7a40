"""How far what predicts tokens is from a reference, told finely: each token is compared by itself.

Both read the same tokens, so what makes a text hard falls out of the difference, and some ten
thousand tokens tell a tenth of a percent of perplexity apart. Three figures:

- **perplexity**, and by how much it is above the reference's;
- **divergence** (Kullback-Leibler, nats a token) of the whole distribution from the reference's;
- **agreement**: the share of places at which both find the same token likeliest. It is
  teacher-forced: wherever they disagree, both go on with the text that is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]

_ROWS = 32
"""Rows that are compared at a time: what is computed of them stays near the processor."""


class Predictor(Protocol):
    """What reads tokens and says what may come next."""

    def logits(self, tokens: NDArray[np.int32], rows: int) -> Logits:
        """The logits after each of the last ``rows`` tokens, float32 ``[rows, vocab]``.

        Valid until the next call.
        """


class Passage(NamedTuple):
    """Tokens, of which the last are compared.

    Attributes:
        tokens: int32 ``[tokens]``.
        compared: How many of the last are, at most all but the first.
    """

    tokens: NDArray[np.int32]
    compared: int


@dataclass(frozen=True)
class Closeness:
    """How far a predictor is from its reference; errors are standard errors of the means.

    Attributes:
        tokens: That were compared.
        perplexity: The predictor's.
        increase: Of the perplexity, as a share of the reference's.
        increase_error: How far that may be off by the choice of the text.
        divergence: Nats a token.
        divergence_error: How far that may be off.
        agreement: Share of places at which both find the same token likeliest.
    """

    tokens: int
    perplexity: float
    increase: float
    increase_error: float
    divergence: float
    divergence_error: float
    agreement: float


class _Expected:
    """The reference's rows, prepared for any number of comparisons."""

    def __init__(self, logits: Logits, targets: NDArray[np.int32]) -> None:
        self.likeliest = logits.argmax(axis=1)
        self.logits = logits - logits.max(axis=1, keepdims=True)
        self.probabilities = np.exp(self.logits)
        sums = self.probabilities.sum(axis=1, dtype=np.float64)
        self.probabilities /= sums[:, None].astype(np.float32)
        self.log_sums = np.log(sums)
        self.log_probs = self.logits[np.arange(len(targets)), targets] - self.log_sums
        self._own = _row_products(self.probabilities, self.logits) - self.log_sums

    def divergence(self, logits: Logits, log_sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of other logits, less their largest, and the logarithms of their exponentials' sums."""
        found: NDArray[np.float64] = self._own - _row_products(self.probabilities, logits)
        return found + log_sums


class _Found:
    """What was found of one predictor, token by token."""

    def __init__(self) -> None:
        self._log_probs: list[NDArray[np.float64]] = []
        self._lost: list[NDArray[np.float64]] = []
        self._divergences: list[NDArray[np.float64]] = []
        self._same: list[NDArray[np.bool_]] = []

    def add(self, expected: _Expected, logits: Logits, targets: NDArray[np.int32]) -> None:
        """Compare rows."""
        likeliest = logits.argmax(axis=1)
        logits = logits - logits.max(axis=1, keepdims=True)
        log_sums = np.log(np.exp(logits).sum(axis=1, dtype=np.float64))
        log_probs = logits[np.arange(len(targets)), targets] - log_sums
        self._log_probs.append(log_probs)
        self._lost.append(expected.log_probs - log_probs)
        self._divergences.append(expected.divergence(logits, log_sums))
        self._same.append(likeliest == expected.likeliest)

    def closeness(self) -> Closeness:
        """All of it together."""
        lost, divergences = np.concatenate(self._lost), np.concatenate(self._divergences)
        increase = math.exp(lost.mean())
        root = math.sqrt(len(lost))
        return Closeness(
            tokens=len(lost),
            perplexity=math.exp(-np.concatenate(self._log_probs).mean()),
            increase=increase - 1,
            increase_error=increase * float(lost.std()) / root,
            divergence=float(divergences.mean()),
            divergence_error=float(divergences.std()) / root,
            agreement=float(np.concatenate(self._same).mean()),
        )


def compare(
    reference: Predictor,
    others: Sequence[Predictor],
    passages: Iterable[Passage],
    done: Callable[[int], None] = lambda passages: None,
) -> list[Closeness]:
    """Compare predictors with a reference, which computes each passage once.

    Args:
        reference: What the others are held against.
        others: What is compared.
        passages: What they read.
        done: Told the number of passages that are read.

    Returns:
        The closeness of each.
    """
    found = [_Found() for _ in others]
    for count, (tokens, compared) in enumerate(passages, 1):
        read, targets = tokens[:-1], tokens[-compared:]
        parts = [slice(start, start + _ROWS) for start in range(0, compared, _ROWS)]
        logits = reference.logits(read, compared)
        expected = [_Expected(logits[part], targets[part]) for part in parts]
        for predictor, each in zip(others, found, strict=True):
            logits = predictor.logits(read, compared)
            for part, of_part in zip(parts, expected, strict=True):
                each.add(of_part, logits[part], targets[part])
        done(count)
    return [each.closeness() for each in found]


def windows(tokens: NDArray[np.int32], begin: NDArray[np.int32], size: int) -> Iterator[Passage]:
    """A text in passages of ``size`` tokens, each after a text's ``begin`` tokens.

    What is left at the end is left out.
    """
    step = size - len(begin)
    for start in range(0, len(tokens) - step + 1, step):
        window = np.concatenate([begin, tokens[start : start + step]])
        yield Passage(window, step - (not len(begin)))


def _row_products(one: Logits, other: Logits) -> NDArray[np.float64]:
    return np.einsum("ij,ij->i", one, other).astype(np.float64)
