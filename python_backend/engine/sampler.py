"""Choosing tokens from a step's rows of logits, and telling how likely tokens were.

A sequence's shapers change its rows, sparsely; the passes over whole rows are ``Selection``'s. The
sampler knows no model and no scheduler. What it makes of a row depends on the row, its sequence and
the drafts before it only, never on its neighbours.
"""

from __future__ import annotations

import math
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
    spans = _spans(work)
    own = _describe(logits, spans, selection)
    for span in spans:
        _shape(logits, span)
    choosing = [row for span in spans for row in span.chosen]
    draws = [_draw(span.sequence, ahead) for span in spans for ahead in range(len(span.chosen))]
    tokens = selection.choose(logits, choosing, np.array(draws, dtype=DRAW))
    at = dict(zip(choosing, tokens, strict=True))
    return [_outcome(span, own, at) for span in spans]


class _Span(NamedTuple):
    """Which rows are a sequence's: those that score its prompt, and those that it chooses from."""

    sequence: Sequence
    scored: range
    chosen: range


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


def _spans(work: list[Scheduled]) -> list[_Span]:
    spans, row = [], 0
    for each in work:
        scored = range(row, row + each.num_scored)
        chosen = range(scored.stop, scored.stop + each.num_chosen)
        spans.append(_Span(each.sequence, scored, chosen))
        row = chosen.stop
    return spans


def _describe(
    logits: NDArray[np.float32], spans: list[_Span], selection: Selection
) -> dict[int, _Row]:
    """The rows of which log probabilities are asked for, before any is shaped."""
    asked: dict[int, tuple[Sequence, bool]] = {}
    for sequence, scored, chosen in spans:
        asked.update(dict.fromkeys(scored, (sequence, False)))
        if sequence.params.reports_log_probs:
            asked.update(dict.fromkeys(chosen, (sequence, bool(sequence.shapers))))
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


def _shape(logits: NDArray[np.float32], span: _Span) -> None:
    """Have a sequence's shapers change the rows that it chooses from, each after its drafts."""
    sequence = span.sequence
    if not sequence.shapers:
        return
    for ahead, row in enumerate(span.chosen):
        output = [*sequence.output, *sequence.drafts[:ahead]] if ahead else sequence.output
        for shaper in sequence.shapers:
            shaper.shape(logits[row], output)


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


def _outcome(span: _Span, own: dict[int, _Row], at: dict[int, int]) -> Outcome:
    sequence, scored, chosen = span
    first = len(sequence.prompt) - sequence.num_unscored
    targets = sequence.prompt[first : first + len(scored)].tolist()
    tokens = [at[row] for row in chosen]
    return Outcome(
        [own[row].log_probs(target) for row, target in zip(scored, targets, strict=True)],
        tokens,
        [own[row].log_probs(at[row]) if row in own else None for row in chosen],
    )
