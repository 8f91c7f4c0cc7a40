"""Choosing the next token of each sequence of a batch from its logits.

Pure functions of logits and sequences: the sampler knows no model and no scheduler. A sequence's
choice depends on its own row and its own random generator only, never on its neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from python_backend.engine.sequence import SamplingParams, Sequence, ends_with


def sample(
    logits: NDArray[np.float32], sequences: list[Sequence]
) -> tuple[list[int], list[float | None]]:
    """The next token of each sequence.

    Args:
        logits: float32 ``[sequences, vocab]``; rows of sequences that shape their logits are
            changed in place.
        sequences: One for each row.

    Returns:
        The tokens, and for each its log probability under the model's own logits, or None where
        the sequence doesn't ask for it.
    """
    log_normalizers = [
        _log_sum_exp(row) if sequence.params.log_probs else None
        for row, sequence in zip(logits, sequences, strict=True)
    ]
    own_logits = [
        row.copy() if sequence.params.log_probs and sequence.params.shapes_logits else row
        for row, sequence in zip(logits, sequences, strict=True)
    ]
    for row, sequence in zip(logits, sequences, strict=True):
        if sequence.params.shapes_logits:
            _shape(row, sequence)
    tokens = [int(token) for token in logits.argmax(axis=1)]
    for index, sequence in enumerate(sequences):
        if not sequence.params.greedy:
            tokens[index] = _draw(logits[index], sequence.params, sequence.random)
    log_probs = [
        None if normalizer is None else float(row[token] - normalizer)
        for row, normalizer, token in zip(own_logits, log_normalizers, tokens, strict=True)
    ]
    return tokens, log_probs


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


def _draw(row: NDArray[np.float32], params: SamplingParams, random: np.random.Generator) -> int:
    """Sample one token: temperature, then top-k, then top-p.

    Top-p keeps the smallest set of likeliest tokens whose probabilities reach p (Holtzman et al.
    2019, The Curious Case of Neural Text Degeneration).
    """
    if 0 < params.top_k < row.size:
        candidates = np.argpartition(row, -params.top_k)[-params.top_k :]
    else:
        candidates = np.arange(row.size)
    candidates = candidates[np.argsort(-row[candidates], kind="stable")]
    scaled = row[candidates].astype(np.float64)
    weights = np.exp((scaled - scaled[0]) / params.temperature)
    cumulative = np.cumsum(weights)
    if 0 < params.top_p < 1:
        kept = int(np.searchsorted(cumulative, params.top_p * cumulative[-1])) + 1
        cumulative = cumulative[:kept]
    index = int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))
    return int(candidates[min(index, len(cumulative) - 1)])


def _log_sum_exp(row: NDArray[np.float32]) -> float:
    top = row.max()
    return float(top + np.log(np.exp(row - top, dtype=np.float64).sum()))
