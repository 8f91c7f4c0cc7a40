"""Choosing the next token of each sequence of a batch from its logits.

What a sequence asks for is applied here, sparsely; the passes over whole rows are ``Selection``'s.
The sampler knows no model and no scheduler. A sequence's choice depends on its own row and its own
random generator only, never on its neighbours.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from python_backend.engine.selection import DRAW, ONE, Selection
from python_backend.engine.sequence import LogProbs, Sequence, ends_with

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
    own = {
        row: logits[row].copy() if sequences[row].params.shapes_logits else logits[row]
        for row in asking
    }
    count = max((sequences[row].params.num_top_log_probs for row in asking), default=0)
    normalizers, tops = selection.describe(logits, asking, min(count, logits.shape[1]))
    for row, sequence in zip(logits, sequences, strict=True):
        if sequence.params.shapes_logits:
            _shape(row, sequence)
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


def _shape(row: NDArray[np.float32], sequence: Sequence) -> None:
    """Apply bias, penalties and prohibitions to one row of logits, in this order.

    It is TensorRT-LLM's, but that the temperature follows, as elsewhere, and not the bias.
    """
    params = sequence.params
    if params.embedding_bias is not None:
        row[: params.embedding_bias.size] += params.embedding_bias
    if params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty:
        seen, counts = np.unique(sequence.tokens(), return_counts=True)
        values = row[seen]
        values = np.where(
            values > 0, values / params.repetition_penalty, values * params.repetition_penalty
        )
        row[seen] = values - params.presence_penalty - params.frequency_penalty * counts
    if len(sequence.output) < params.min_tokens:
        row[[token for token in params.end_ids if 0 <= token < row.size]] = -np.inf
    for word in params.bad_words:
        if ends_with(sequence.output, word[:-1]):
            row[word[-1]] = -np.inf
