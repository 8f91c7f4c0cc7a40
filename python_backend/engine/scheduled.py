"""What a step computes of one sequence, and what comes of it."""

from __future__ import annotations

from typing import NamedTuple

from python_backend.engine.sequence import Sequence


class Scheduled(NamedTuple):
    """Tokens of one sequence that are computed in one step, from ``num_computed`` on.

    Logits are wanted after the last of them, a row each: first those that tell how likely a next
    token of the prompt was, then those that a token is chosen from.

    Attributes:
        sequence: Whose tokens they are.
        num_tokens: How many, drafts among them.
        num_scored: Rows that tell how likely a token of the prompt was.
        num_chosen: Rows that a token is chosen from: none while the sequence's newest token is not
            computed, else one after it and one after each draft.
    """

    sequence: Sequence
    num_tokens: int
    num_scored: int = 0
    num_chosen: int = 0

    @property
    def num_rows(self) -> int:
        """Rows of logits that are wanted."""
        return self.num_scored + self.num_chosen

    @property
    def num_drafts(self) -> int:
        """How many of the tokens, the last ones, are drafts."""
        return max(self.num_chosen - 1, 0)

    @classmethod
    def of(cls, sequence: Sequence, num_tokens: int) -> Scheduled:
        """A sequence's next tokens, without drafts, and the rows that it still wants of them."""
        known, end = sequence.num_tokens, sequence.num_computed + num_tokens
        num_chosen = int(end == known)
        num_rows = min(num_tokens, max(end - sequence.next_row, 0))
        return cls(sequence, num_tokens, num_rows - num_chosen, num_chosen)
