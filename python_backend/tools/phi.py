"""Phi-4-mini's: a list of calls between ``<|tool_call|>`` and its end, or after ``functools``."""

from __future__ import annotations

from python_backend.tools.call_parser import CallParser, Parsing

BEGIN, END = "<|tool_call|>", "<|/tool_call|>"
_OLDER = "functools["


class PhiParser(CallParser):
    """Reads it."""

    def _parse(self) -> Parsing[None]:
        while mark := (yield from self._say_until(BEGIN, _OLDER)):
            if mark == _OLDER:
                mark, self._text = _OLDER[:-1], "[" + self._text
            if (yield from self._try(mark, self._json_calls())):
                yield from self._end_of_calls(END)
