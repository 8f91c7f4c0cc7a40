"""Gemma's, which were taught no marks: JSON or Python as the whole answer, maybe in a fence."""

from __future__ import annotations

import ast
import json

from python_backend.tools.call_parser import CallParser, NoCallError, Parsing

_FENCE = "```"
_FENCES = tuple(f"{_FENCE}{word}" for word in ("tool_code", "tool_call", "json", "python"))
_MOST_CODE = 65_536


class GemmaParser(CallParser):
    """Reads it. What isn't a call of known functions is text."""

    def _parse(self) -> Parsing[None]:
        while not self._text.strip():
            if self._final:
                break
            yield
        space = len(self._text) - len(self._text.lstrip())
        before, self._text = self._text[:space], self._text[space:]
        fence = yield from self._follows(*_FENCES)
        if not (yield from self._try(before + fence, self._answer(fence))):
            fence = ""
        if fence:
            yield from self._end_of_calls(_FENCE)
        while True:
            self._say(self._take(len(self._text)))
            yield

    def _answer(self, fence: str) -> Parsing[None]:
        first = yield from self._next()
        if first == "{":
            yield from self._json_calls(known_only=True)
            return
        if first != "[" and not fence:
            raise NoCallError
        yield from self._code(fence)

    def _code(self, fence: str) -> Parsing[None]:
        """Calls in Python, all at once."""
        while not self._final and not (fence and _FENCE in self._text):
            if len(self._text) > _MOST_CODE:
                raise NoCallError
            yield
        end = self._text.find(_FENCE) if fence else -1
        if end < 0:
            end = len(self._text)
        code = self._take(end)
        calls = _calls(code)
        if not calls or not all(name in self.functions for name, _ in calls):
            raise NoCallError
        for name, arguments in calls:
            self._argue(self._begin(name), json.dumps(arguments, ensure_ascii=False))
            self.num_whole += 1


def _calls(code: str) -> list[tuple[str, dict[str, object]]]:
    """The calls of some code that is nothing else.

    Raises:
        NoCallError: It is something else.
    """
    try:
        body = ast.parse(code.strip()).body
        calls: list[ast.expr] = []
        for statement in body:
            if not isinstance(statement, ast.Expr):
                raise NoCallError
            value = statement.value
            calls += value.elts if isinstance(value, ast.List) else [value]
        return [_call(each) for each in calls]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NoCallError from None


def _call(node: ast.expr) -> tuple[str, dict[str, object]]:
    if not isinstance(node, ast.Call):
        raise NoCallError
    if isinstance(node.func, ast.Name) and node.func.id == "print" and len(node.args) == 1:
        return _call(node.args[0])
    if node.args or not all(each.arg for each in node.keywords):
        raise NoCallError
    arguments = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
    return ast.unparse(node.func), arguments
