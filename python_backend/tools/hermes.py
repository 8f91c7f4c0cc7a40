"""Hermes', as Qwen2.5, Qwen3 and SmolLM3 have it: JSON between ``<tool_call>`` and its end."""

from __future__ import annotations

from python_backend.tools.call_parser import CallParser, Parsing

BEGIN, END = "<tool_call>", "</tool_call>"


class HermesParser(CallParser):
    """Reads it."""

    def _parse(self) -> Parsing[None]:
        while (yield from self._say_until(BEGIN)):
            if (yield from self._try(BEGIN, self._json_calls())):
                yield from self._end_of_calls(END)
