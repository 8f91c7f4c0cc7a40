"""Llama 3.1's and 3.2's: the answer is the JSON of a call, with or without ``<|python_tag|>``."""

from __future__ import annotations

from python_backend.tools.call_parser import CallParser, Parsing

TAG = "<|python_tag|>"


class LlamaParser(CallParser):
    """Reads it. What isn't JSON of a known function is text."""

    def _parse(self) -> Parsing[None]:
        if (yield from self._starts_with_json()):
            yield from self._calls("")
        while (yield from self._say_until(TAG)):
            yield from self._calls(TAG)

    def _starts_with_json(self) -> Parsing[bool]:
        """Whether the first character that is no space opens an object."""
        while not self._text.strip():
            if self._final:
                return False
            yield
        return self._text.lstrip().startswith("{")

    def _calls(self, mark: str) -> Parsing[None]:
        while (yield from self._try(mark, self._json_calls(known_only=True))):
            mark = ""
            if (yield from self._next()) == ";":
                mark = self._take(1)
                yield from self._next()
            if not self._text.startswith("{"):
                if mark:
                    self._say(mark)
                return
