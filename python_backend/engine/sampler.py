"""Choosing the next token of each sequence of a batch from its logits.

A sequence's shapers change its row, sparsely; the passes over whole rows are ``Selection``'s.
The sampler knows no model and no scheduler. A sequence's choice depends on its own row and its own
random generator only, never on its neighbours.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from python_backend.engine.selection import DRAW, ONE, Selection
from python_backend.engine.sequence import LogProbs, Sequence

_GREEDY = (1.0, 0.0, 1.0, 1, 1, 0)
_STEEPEST = 1e30
"""Inverse of the lowest temperature, so that no logit's distance times it is not a number."""


def sample(
    logits: NDArray[np.float32], sequences: list[Sequence], selection: Selection
) -> tuple[list[int], list[LogProbs | None]]:
    """The next token of each sequence.

    Args:
        logits: float32 ``[sequences, vocab]``, C-contiguous; rows of sequences that shape their
            logits are changed in place.
        sequences: One for each row.
        selection: What chooses from whole rows.

    Returns:
        The tokens, and for each its log probability and the likeliest tokens' under the model's own
        logits, or None where the sequence asks for neither.
    """
    asking = [row for row, sequence in enumerate(sequences) if sequence.params.reports_log_probs]
    own = {row: logits[row].copy() if sequences[row].shapers else logits[row] for row in asking}
    count = max((sequences[row].params.num_top_log_probs for row in asking), default=0)
    normalizers, tops = selection.describe(logits, asking, min(count, logits.shape[1]))
    for row, sequence in zip(logits, sequences, strict=True):
        for shaper in sequence.shapers:
            shaper.shape(row, sequence.output)
    draws = np.array([_draw(sequence) for sequence in sequences], dtype=DRAW)
    tokens = selection.choose(logits, draws)
    log_probs: list[LogProbs | None] = [None] * len(sequences)
    for row, normalizer, top in zip(asking, normalizers, tops, strict=True):
        likeliest = top[: sequences[row].params.num_top_log_probs]
        log_probs[row] = LogProbs(
            float(own[row][tokens[row]] - normalizer),
            likeliest.tolist(),
            (own[row][likeliest].astype(np.float64) - normalizer).tolist(),
        )
    return tokens, log_probs


def _draw(sequence: Sequence) -> tuple[float, float, float, int, int, int]:
    """How a sequence's token is drawn, a ``DRAW``.

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
        sequence.random.random(),
        min(1 / params.temperature, _STEEPEST),
        params.top_k,
        max(math.ceil(params.min_p * ONE), 1),
        0,
    )
