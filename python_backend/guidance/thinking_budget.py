"""How long one sequence may think before it has to answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ThinkingBudget:
    """Forces the end of thinking after so many tokens of it: an `engine.shaping.LogitsShaper`.

    Attributes:
        budget: How many.
        begin: The tokens that thinking begins with; none where it has begun before the output.
        end: Those that end it.
        close: Those that are forced.
    """

    budget: int
    begin: tuple[int, ...]
    end: tuple[int, ...]
    close: tuple[int, ...]

    def shape(self, row: NDArray[np.float32], output: list[int]) -> None:
        start = len(self.begin)
        at = len(output) - start - self.budget
        if not 0 <= at < len(self.close) or tuple(output[:start]) != self.begin:
            return
        if self._has_ended(output[start : start + self.budget]):
            return
        if at and tuple(output[-at:]) != self.close[:at]:
            return
        forced = row[self.close[at]]
        row.fill(-np.inf)
        row[self.close[at]] = forced if np.isfinite(forced) else 0.0

    def _has_ended(self, thought: list[int]) -> bool:
        width = len(self.end)
        return any(
            tuple(thought[place : place + width]) == self.end
            for place in range(len(thought) - width + 1)
        )
