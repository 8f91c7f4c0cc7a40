"""How far a long step is, for a person to watch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO, TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told of a step by name how much of it is done, and how much there is in all."""


def silent(step: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class ProgressLine:
    """One line on a terminal, rewritten in place; in a log, a line now and then.

    A step that is done within a second says nothing.
    """

    _QUIET_S = 1.0
    _TERMINAL_PERIOD_S = 0.1
    _LOG_PERIOD_S = 10.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._step, self._done = "", 0
        self._began_s = self._shown_s = 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if step != self._step or done < self._done:
            self._step, self._began_s, self._shown_s = step, now_s, 0.0
        self._done = done
        period_s = self._TERMINAL_PERIOD_S if self._terminal else self._LOG_PERIOD_S
        last = done >= total
        if now_s - self._began_s < self._QUIET_S or (now_s - self._shown_s < period_s and not last):
            return
        self._shown_s = now_s
        end = "\r" if self._terminal and not last else "\n"
        print(f"{step} {done:,}/{total:,}", end=end, file=self._stream, flush=True)
