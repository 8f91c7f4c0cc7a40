"""Choosing tokens from a step's rows of logits, and telling how likely tokens were.

A sequence's shapers change its rows, sparsely; the passes over whole rows are ``Selection``'s. The
sampler knows no model and no scheduler. What it makes of a row depends on the row, its sequence and
the drafts before it only, never on its neighbours.
"""

from __future__ import annotations

import math
from itertools import accumulate, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from python_backend.engine.scheduled import Scheduled
from python_backend.engine.selection import DRAW, ONE, Selection
from python_backend.engine.sequence import LogProbs, Outcome, Sequence

_GREEDY = (1.0, 0.0, 1.0, 1, 1, 0)
_STEEPEST = 1e30
"""Inverse of the lowest temperature, so that no logit's distance times it is not a number."""


def sample(
    logits: NDArray[np.float32], work: list[Scheduled], selection: Selection
) -> list[Outcome]:
    """What a step's logits say of each sequence.

    Args:
        logits: float32 ``[rows, vocab]``, C-contiguous; those that are shaped are changed in place.
        work: What the rows are of, in order.
        selection: What chooses from whole rows.

    Returns:
        For each of ``work`` the tokens that are chosen, and log probabilities under the model's own
        logits where the sequence asks for them.
    """
    firsts = _first_rows(work)
    own = _describe(logits, work, firsts, selection)
    choosing, draws = [], []
    for each, first in zip(work, firsts, strict=True):
        sequence = each.sequence
        for ahead in range(each.num_chosen):
            row = first + each.num_scored + ahead
            choosing.append(row)
            draws.append(_draw(sequence, ahead))
            if sequence.shapers:
                _shape(logits[row], sequence, ahead)
    tokens = iter(selection.choose(logits, choosing, np.array(draws, dtype=DRAW)))
    return [
        _outcome(each, first, list(islice(tokens, each.num_chosen)), own)
        for each, first in zip(work, firsts, strict=True)
    ]


class _Row(NamedTuple):
    """The model's own logits, and what was found out about them."""

    logits: NDArray[np.float32]
    normalizer: float
    likeliest: NDArray[np.int32]

    def log_probs(self, token: int) -> LogProbs:
        """How likely a token is, and the likeliest."""
        top = self.logits[self.likeliest].astype(np.float64) - self.normalizer
        chosen = float(self.logits[token] - self.normalizer)
        return LogProbs(chosen, self.likeliest.tolist(), top.tolist())


def _first_rows(work: list[Scheduled]) -> list[int]:
    """The first row of each, if it has any."""
    return list(accumulate((each.num_rows for each in work[:-1]), initial=0))


def _describe(
    logits: NDArray[np.float32], work: list[Scheduled], firsts: list[int], selection: Selection
) -> dict[int, _Row]:
    """The rows of which log probabilities are asked for, before any is shaped."""
    asked: dict[int, tuple[Sequence, bool]] = {}
    for each, first in zip(work, firsts, strict=True):
        sequence, chosen = each.sequence, first + each.num_scored
        for row in range(first, chosen):
            asked[row] = sequence, False
        if sequence.params.reports_log_probs:
            for row in range(chosen, chosen + each.num_chosen):
                asked[row] = sequence, bool(sequence.shapers)
    if not asked:
        return {}
    counts = [sequence.params.num_top_log_probs for sequence, _ in asked.values()]
    described = selection.describe(logits, list(asked), min(max(counts), logits.shape[1]))
    return {
        row: _Row(logits[row].copy() if changes else logits[row], normalizer, likeliest[:count])
        for (row, (_, changes)), count, normalizer, likeliest in zip(
            asked.items(), counts, *described, strict=True
        )
    }


def _shape(row: NDArray[np.float32], sequence: Sequence, ahead: int) -> None:
    """Have a sequence's shapers change a row that comes after so many drafts."""
    output = [*sequence.output, *sequence.drafts[:ahead]] if ahead else sequence.output
    for shaper in sequence.shapers:
        shaper.shape(row, output)


def _draw(sequence: Sequence, ahead: int) -> tuple[float, float, float, int, int, int]:
    """How a sequence's token after so many drafts is drawn, a ``DRAW``.

    The order is temperature, min-p, top-k, top-p. Top-p keeps the smallest set of likeliest tokens
    whose probabilities reach p (Holtzman et al. 2019, The Curious Case of Neural Text
    Degeneration), min-p those that are at least so likely as a share of the likeliest (Nguyen et
    al. 2024, Turning Up the Heat).
    """
    params = sequence.params
    if params.greedy:
        return _GREEDY
    return (
        params.top_p or 1.0,
        sequence.random(len(sequence.output) + ahead),
        min(1 / params.temperature, _STEEPEST),
        params.top_k,
        max(math.ceil(params.min_p * ONE), 1),
        0,
    )


def _outcome(each: Scheduled, first: int, tokens: list[int], own: dict[int, _Row]) -> Outcome:
    if not own:
        return Outcome([], tokens, [])
    sequence, chosen = each.sequence, first + each.num_scored
    next_scored = len(sequence.prompt) - sequence.num_unscored
    targets = sequence.prompt[next_scored:][: each.num_scored].tolist()
    scored = [own[first + place].log_probs(target) for place, target in enumerate(targets)]
    if not sequence.params.reports_log_probs:
        return Outcome(scored, tokens, [])
    return Outcome(
        scored, tokens, [own[chosen + ahead].log_probs(token) for ahead, token in enumerate(tokens)]
    )
