"""How far what predicts tokens is from a reference, told finely: each token is compared by itself.

Both read the same tokens, so what makes a text hard falls out of the difference, and some ten
thousand tokens tell a tenth of a percent of perplexity apart. Three figures:

- **perplexity**, and by how much it is above the reference's;
- **divergence** (Kullback-Leibler, nats a token) of the whole distribution from the reference's;
- **agreement**: the share of places at which both find the same token likeliest. It is
  teacher-forced: wherever they disagree, both go on with the text that is there.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
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


class TokenFigures(NamedTuple):
    """What was found of one predictor, token by token, each ``[tokens]``.

    Attributes:
        log_probs: Of the tokens that are there.
        lost: How much less that is than the reference's.
        divergences: Of the whole distributions.
        same: Whether both find the same token likeliest.
    """

    log_probs: NDArray[np.float64]
    lost: NDArray[np.float64]
    divergences: NDArray[np.float64]
    same: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Iterable[TokenFigures]) -> TokenFigures:
        """Those of one text and of the next."""
        return cls(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def closeness(self) -> Closeness:
        """All tokens together."""
        increase, root = math.exp(self.lost.mean()), math.sqrt(len(self.lost))
        return Closeness(
            tokens=len(self.lost),
            perplexity=math.exp(-self.log_probs.mean()),
            increase=increase - 1,
            increase_error=increase * float(self.lost.std()) / root,
            divergence=float(self.divergences.mean()),
            divergence_error=float(self.divergences.std()) / root,
            agreement=float(self.same.mean()),
        )


def _token_figures(expected: _Expected, logits: Logits, targets: NDArray[np.int32]) -> TokenFigures:
    likeliest = logits.argmax(axis=1)
    logits = logits - logits.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(logits).sum(axis=1, dtype=np.float64))
    log_probs = logits[np.arange(len(targets)), targets] - log_sums
    return TokenFigures(
        log_probs,
        expected.log_probs - log_probs,
        expected.divergence(logits, log_sums),
        likeliest == expected.likeliest,
    )


class Kept:
    """A folder that remembers what was found of one predictor beside one reference.

    A comparison of some hours can so be done in pieces, and one more predictor needs the others no
    more. Whoever names the folder sees to it that both are the same the next time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, passage: Passage) -> TokenFigures | None:
        """What was found on a passage, if it was read."""
        try:
            with np.load(self._file(passage)) as stored:
                return TokenFigures(*(stored[name] for name in TokenFigures._fields))
        except FileNotFoundError:
            return None

    def keep(self, passage: Passage, found: TokenFigures) -> None:
        """Remember it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"{os.getpid()}.npz"
        np.savez(partial, **found._asdict())
        partial.rename(self._file(passage))

    def _file(self, passage: Passage) -> Path:
        digest = hashlib.sha256(np.int32(passage.compared).tobytes())
        digest.update(passage.tokens.astype(np.int32).tobytes())
        return self._folder / f"{digest.hexdigest()[:16]}.npz"


def compare(
    reference: Predictor,
    others: Sequence[Predictor],
    passages: Iterable[Passage],
    done: Callable[[int], None] = lambda passages: None,
    kept: Sequence[Kept] = (),
) -> list[Closeness]:
    """Compare predictors with a reference, which computes each passage at most once.

    Args:
        reference: What the others are held against.
        others: What is compared.
        passages: What they read.
        done: Told the number of passages that are read.
        kept: For each of the others, where to keep what was found, and look for it.

    Returns:
        The closeness of each.
    """
    found: list[list[TokenFigures]] = [[] for _ in others]
    for count, passage in enumerate(passages, 1):
        known = [each.find(passage) for each in kept] or [None] * len(others)
        expected = None
        for place, predictor in enumerate(others):
            figures = known[place]
            if figures is None:
                expected = expected or _expected(reference, passage)
                figures = _compared(expected, predictor, passage)
                if kept:
                    kept[place].keep(passage, figures)
            found[place].append(figures)
        done(count)
    return [TokenFigures.joined(each).closeness() for each in found]


def _parts(passage: Passage) -> list[slice]:
    return [slice(start, start + _ROWS) for start in range(0, passage.compared, _ROWS)]


def _expected(reference: Predictor, passage: Passage) -> list[_Expected]:
    logits = reference.logits(passage.tokens[:-1], passage.compared)
    targets = passage.tokens[-passage.compared :]
    return [_Expected(logits[part], targets[part]) for part in _parts(passage)]


def _compared(
    expected: Sequence[_Expected], predictor: Predictor, passage: Passage
) -> TokenFigures:
    logits = predictor.logits(passage.tokens[:-1], passage.compared)
    targets = passage.tokens[-passage.compared :]
    return TokenFigures.joined(
        _token_figures(each, logits[part], targets[part])
        for part, each in zip(_parts(passage), expected, strict=True)
    )


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
