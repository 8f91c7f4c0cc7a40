"""How likely a prompt's tokens are, but for what tells what the policy takes out of answers.

Whoever may ask how likely the next digit of a number is, and which ones are the likeliest, needs no
answer to read it. So a place is left out where an answer that was cut before it would lose its end,
and where its token is part of what an answer would lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.models import Statistics
from contract.tensors import Tensor
from python_backend.safety.scanner import RuleSet, Scanned, Scanner
from python_backend.text.detokenizer import Detokenizer, Vocabulary

UNTOLD = 1.0
"""In place of a log probability: none is above 0."""
NO_TOKEN = -1
"""In place of one of the likeliest tokens."""


def leave_out(told: dict[Tensor, NDArray[Any]], vocabulary: Vocabulary, rules: RuleSet) -> None:
    """Take out of what is told of a prompt how likely is what the rules take out.

    Args:
        told: What an engine tells of one prompt; what is left out is overwritten.
        vocabulary: What its tokens are.
        rules: Those of answers.
    """
    scores = told.get(Statistics.PROMPT_LOG_PROBS)
    if scores is None or not scores.size:
        return
    ids = told.get(Statistics.PROMPT_IDS)
    if ids is None:  # then nobody can say
        hidden = np.full(scores.size, bool(rules.finders))
    else:
        hidden = telling(vocabulary, rules, ids.reshape(-1).tolist())[-scores.size :]
    for tensor, value in (
        (Statistics.PROMPT_LOG_PROBS, UNTOLD),
        (Statistics.PROMPT_TOP_LOG_PROB_IDS, NO_TOKEN),
        (Statistics.PROMPT_TOP_LOG_PROBS, UNTOLD),
    ):
        if tensor in told:
            told[tensor] = told[tensor].copy()
            told[tensor].reshape(scores.size, -1)[hidden] = value


def telling(vocabulary: Vocabulary, rules: RuleSet, ids: Sequence[int]) -> NDArray[np.bool_]:
    """Which places of a prompt tell what the rules take out.

    Args:
        vocabulary: What its tokens are.
        rules: Those of answers.
        ids: Its tokens.

    Returns:
        bool ``[tokens]``.
    """
    places = np.zeros(len(ids), dtype=bool)
    if not any(rules.takes_out(order) for order, _ in rules.finders):
        return places
    scanner, detokenizer = Scanner(rules), Detokenizer(vocabulary)
    starts = np.full(len(ids) + 1, np.iinfo(np.int64).max)  # where in the text each token begins
    starts[0] = 0
    pieces: list[Scanned] = []
    for place, token_id in enumerate(ids):
        places[place] = scanner.would_take()
        text = detokenizer.add([token_id])
        starts[place + 1] = starts[place] + len(text)
        pieces.append(scanner.add(text))
        if pieces[-1].blocked:
            break
    pieces.append(scanner.cut(detokenizer.add([], final=True)))
    for span in (span for piece in pieces for span in piece.taken):
        places[_token_at(starts, span.start) : np.searchsorted(starts, span.end)] = True
    blocked = [piece.verdicts[-1].start for piece in pieces if piece.blocked and piece.verdicts]
    if blocked:  # nothing follows it in an answer
        places[_token_at(starts, blocked[0]) :] = True
    return places


def _token_at(starts: NDArray[np.int64], place: int) -> int:
    """The token that has a character of the text: the last one that begins there or before it."""
    return int(np.searchsorted(starts, place, side="right")) - 1
