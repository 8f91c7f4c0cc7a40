"""Mistral's: ``[TOOL_CALLS]`` and a list of calls; newer ones name the function before its JSON."""

from __future__ import annotations

import re

from python_backend.tools.call_parser import CallParser, NoCallError, Parsing

MARK, CALL_ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NAME = re.compile(r"\s*([a-zA-Z0-9_.-]{1,256})\s*")
_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class MistralParser(CallParser):
    """Reads it."""

    def _parse(self) -> Parsing[None]:
        while (yield from self._say_until(MARK)):
            if (yield from self._try(MARK, self._calls())):
                yield from self._next()

    def _calls(self) -> Parsing[None]:
        if (yield from self._next()) in ("[", "{"):
            yield from self._json_calls()
            return
        name = yield from self._word(_NAME)
        if (yield from self._follows(CALL_ID)):
            yield from self._word(_ID)
        yield from self._follows(ARGUMENTS)
        if (yield from self._next()) != "{":
            raise NoCallError
        number = self._begin(name.strip())
        yield from self._json_arguments(number)

    def _word(self, pattern: re.Pattern[str]) -> Parsing[str]:
        """A word, as long as it goes."""
        while True:
            found = pattern.match(self._text)
            if found is None and self._text:
                raise NoCallError
            if found is not None and (found.end() < len(self._text) or self._final):
                return self._take(found.end())
            if not (yield from self._more(len(self._text) + 1)) and not self._text:
                raise NoCallError
