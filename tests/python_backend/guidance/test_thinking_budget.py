"""Thinking ends after so many tokens, whatever the model would have gone on with."""

from __future__ import annotations

import numpy as np
import pytest

from python_backend.guidance.thinking_budget import ThinkingBudget

BEGIN, END, BREAK, WORD, OTHER = 1, 2, 3, 4, 5
CLOSE = (BREAK, END, BREAK)


def forced(budget: ThinkingBudget, output: list[int]) -> int | None:
    """The only token that may follow; None where any may."""
    row = np.zeros(8, dtype=np.float32)
    row[WORD] = 1
    budget.shape(row, output)
    allowed = np.flatnonzero(np.isfinite(row)).tolist()
    return allowed[0] if len(allowed) == 1 else None


def written(budget: ThinkingBudget, output: list[int], count: int) -> list[int]:
    """What follows where the model would go on with the same word."""
    for _ in range(count):
        token = forced(budget, output)
        output = [*output, WORD if token is None else token]
    return output


@pytest.mark.parametrize("most", [0, 1, 5])
def test_its_end_is_forced_and_then_nothing_is(most: int) -> None:
    budget = ThinkingBudget(most, (BEGIN,), (END,), CLOSE)
    assert written(budget, [BEGIN], 12)[: most + 6] == [
        BEGIN,
        *[WORD] * most,
        *CLOSE,
        WORD,
        WORD,
    ]


def test_it_may_have_begun_in_the_prompt() -> None:
    budget = ThinkingBudget(2, (), (END,), CLOSE)
    assert written(budget, [], 7) == [WORD, WORD, *CLOSE, WORD, WORD]


@pytest.mark.parametrize(
    "output",
    [
        [BEGIN, WORD],  # not yet
        [BEGIN, WORD, WORD, END],  # ended by itself
        [BEGIN, END, WORD, WORD],
        [WORD, WORD, WORD, WORD],  # no thinking at all
        [BEGIN, WORD, WORD, WORD, OTHER],  # drafts that were wrong
        [BEGIN, END, WORD, WORD, BREAK],
    ],
)
def test_what_is_no_thinking_or_within_the_budget_is_left_alone(output: list[int]) -> None:
    assert forced(ThinkingBudget(3, (BEGIN,), (END,), CLOSE), output) is None


def test_a_token_that_nothing_else_allows_is_forced_all_the_same() -> None:
    row = np.full(8, -np.inf, dtype=np.float32)
    ThinkingBudget(0, (), (END,), CLOSE).shape(row, [])
    assert np.flatnonzero(np.isfinite(row)).tolist() == [BREAK]
