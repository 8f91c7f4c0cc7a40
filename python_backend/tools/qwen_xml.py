"""Qwen3-Coder's: elements named by function and parameter, with values as they are."""

from __future__ import annotations

import json
import re

from python_backend.tools.call_parser import CallParser, NoCallError, Parsing, longest_beginning

BEGIN, END = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
_ENDS = (f"\n{PARAMETER_END}", PARAMETER_END)
_NAME = re.compile(r"[^<>\n]{1,256}>")
_LONGEST_NAME = 257


class QwenXMLParser(CallParser):
    """Reads it. The arguments become the JSON object that they mean."""

    def _parse(self) -> Parsing[None]:
        while mark := (yield from self._say_until(BEGIN, FUNCTION)):
            if (yield from self._try(mark, self._element(has_begun=mark == FUNCTION))):
                yield from self._end_of_calls(END)

    def _element(self, has_begun: bool) -> Parsing[None]:
        if not has_begun:
            yield from self._next()
            if not (yield from self._follows(FUNCTION)):
                raise NoCallError
        function = yield from self._name()
        number = self._begin(function)
        opening = "{"
        while True:
            yield from self._next()
            word = yield from self._follows(PARAMETER, FUNCTION_END)
            if word != PARAMETER:
                break
            name = yield from self._name()
            self._argue(number, f"{opening}{json.dumps(name, ensure_ascii=False)}: ")
            opening = ", "
            if self.functions.type_of(function, name) == "string":
                yield from self._string(number)
            else:
                yield from self._value(number)
        if not word:
            raise NoCallError
        self._argue(number, "{}" if opening == "{" else "}")
        self.num_whole += 1

    def _name(self) -> Parsing[str]:
        while True:
            found = _NAME.match(self._text)
            if found is not None:
                return self._take(found.end())[:-1].strip()
            if "\n" in self._text[:_LONGEST_NAME] or len(self._text) >= _LONGEST_NAME:
                raise NoCallError
            if not (yield from self._more(len(self._text) + 1)):
                raise NoCallError

    def _string(self, number: int) -> Parsing[None]:
        """A text, said as it comes; the line breaks around it are not its own."""
        self._argue(number, '"')
        yield from self._follows("\n")
        while True:
            place = self._text.find(PARAMETER_END)
            if place >= 0:
                text = self._take(place).removesuffix("\n")
                self._argue(number, json.dumps(text, ensure_ascii=False)[1:-1] + '"')
                self._take(len(PARAMETER_END))
                return
            sure = len(self._text) - longest_beginning(self._text, _ENDS)
            text = self._take(len(self._text) if self._final else sure)
            self._argue(number, json.dumps(text, ensure_ascii=False)[1:-1])
            if self._final:
                raise NoCallError
            yield

    def _value(self, number: int) -> Parsing[None]:
        """What is no text: JSON where it is any, else a text after all."""
        while (place := self._text.find(PARAMETER_END)) < 0:
            if self._final:
                self._take(len(self._text))
                raise NoCallError
            yield
        text = self._take(place).strip()
        self._take(len(PARAMETER_END))
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            lowered = text.lower()
            words = {"true": "true", "false": "false", "none": "null"}
            text = words.get(lowered) or json.dumps(text, ensure_ascii=False)
        self._argue(number, text)
