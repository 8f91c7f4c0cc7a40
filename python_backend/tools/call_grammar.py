"""The grammar of an answer with calls, as llguidance's Lark has it.

A forced call is generated under the schema of its function's arguments, so that it can't be
malformed; one that the model begins by itself may be held to it, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contract.bounds import MAX_GUIDE_BYTES
from contract.errors import InvalidRequestError
from contract.guides import Guide, refused_guide
from contract.models import EnsembleInputs
from python_backend.tools.thinking import Marks
from python_backend.tools.tool_functions import schema_of

Tool = Mapping[str, Any]

ANY_OBJECT: dict[str, Any] = {"type": "object"}

_SLASH = re.compile(r"(?<!\\)/")

_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Between the parts of JSON, as all these families write it; a small model that may choose goes on
with spaces."""


@dataclass(frozen=True)
class Wanted:
    """What an answer is to keep to.

    Attributes:
        tools: The functions that it may call.
        forced: There must be a call; else there may be.
        many: There may be several.
        all_held: Calls keep to their schemas also where the function isn't strict.
        marks: What stands around the thinking before it; None where there is none.
        begun: The prompt ends within thinking.
        answer: The schema of an answer without a call, as JSON; None where it is free.
    """

    tools: Sequence[Tool]
    forced: bool
    many: bool
    all_held: bool = False
    marks: Marks | None = None
    begun: bool = False
    answer: str | None = None


@dataclass(frozen=True)
class Shape:
    """How a format writes calls.

    Attributes:
        call: A call of a function, from its name and the schema of its arguments.
        begin: The mark before the first, which text may precede. Empty: nothing tells a call from a
            text but its first character, which opens an object.
        opening: What follows the mark.
        between: What stands between two calls; empty where an answer has but one.
        end: What follows the last.
    """

    call: Callable[[GrammarWriter, str, dict[str, Any]], str]
    begin: str = ""
    opening: str = ""
    between: str = ""
    end: str = ""


class GrammarWriter:
    """Writes one grammar's rules."""

    def __init__(self, special: Mapping[str, int]) -> None:
        """Begin; ``special``: the special tokens that may be in it, with their ids."""
        self._special = special
        self._rules: list[str] = []

    def literal(self, text: str) -> str:
        """A text in which special tokens are themselves."""
        parts = [text]
        for token in self._special:
            parts = [each for part in parts for each in _split(part, token)]
        return " ".join(
            f"<[{self._special[part]}]>" if part in self._special else json.dumps(part)
            for part in parts
            if part
        )

    def json(self, schema: Mapping[str, Any]) -> str:
        """A value of a schema."""
        # What a schema asks of the library itself is nobody's to ask.
        return f"%json {json.dumps({**schema, 'x-guidance': _SPACING}, ensure_ascii=False)}"

    def rule(self, body: str, name: str = "", attributes: str = "") -> str:
        """Write a rule, and return its name."""
        name = name or f"r{len(self._rules)}"
        self._rules.append(f"{name}{attributes}: {body}")
        return name

    def until(self, text: str) -> str:
        """Any text up to a mark, and the mark."""
        if text in self._special:
            return self.rule(f"TEXT <[{self._special[text]}]>")
        return self.rule(f"TEXT {json.dumps(text)}", attributes="[lazy]")

    def text(self) -> str:
        """All rules."""
        return "\n".join(["%llguidance {}", *self._rules, "TEXT: /(.|\\n)*/", ""])


def write(shape: Shape, wanted: Wanted, special: Mapping[str, int]) -> str:
    """The grammar of an answer.

    Args:
        shape: How it writes calls.
        wanted: What it is to keep to.
        special: The special tokens that it may have, with their ids.

    Raises:
        InvalidRequestError: It is too large.
    """
    writer = GrammarWriter(special)
    one = writer.rule(" | ".join(_call(writer, shape, tool, wanted) for tool in wanted.tools))
    more = f" ({writer.literal(shape.between)} {one})*" if wanted.many and shape.between else ""
    behind = f"{writer.literal(shape.opening)} {one}{more} {writer.literal(shape.end)}"
    before = _thinking(writer, wanted)
    if wanted.forced:
        body = f"{writer.literal(shape.begin)} {behind}"
    elif wanted.answer is not None:
        body = f"{writer.literal(shape.begin)} {behind} | {writer.json(json.loads(wanted.answer))}"
    elif shape.begin:
        body = f"{writer.until(shape.begin)} {behind} | TEXT"
    else:
        body = f"{behind} | /([^\\s{{](.|\\n)*)?/"
    rule = writer.rule(body)
    writer.rule(f"{before} {rule}".strip(), name="start")
    grammar = writer.text()
    size = len(grammar.encode())
    if size > MAX_GUIDE_BYTES:
        name = EnsembleInputs.TOOLS.name
        raise InvalidRequestError(
            f"{name}: the schemas have {size} bytes; where calls keep to them they must have at "
            f"most {MAX_GUIDE_BYTES}",
            name,
        )
    return grammar


def _split(text: str, token: str) -> list[str]:
    """A text at each place of a token, the token among the parts."""
    parts = text.split(token)
    return [parts[0], *(each for part in parts[1:] for each in (token, part))]


def _call(writer: GrammarWriter, shape: Shape, tool: Tool, wanted: Wanted) -> str:
    function = tool["function"]
    held = wanted.forced or wanted.all_held or bool(function.get("strict"))
    schema = schema_of(function) if held else ANY_OBJECT
    return writer.rule(shape.call(writer, function["name"], schema))


def _thinking(writer: GrammarWriter, wanted: Wanted) -> str:
    """What may go before an answer."""
    if wanted.marks is None:
        return ""
    begin, end = wanted.marks
    thinking = writer.until(end)
    space = r"/\n{0,2}/"
    if wanted.begun:
        return f"{thinking} {space}"
    return f"({writer.literal(begin)} {thinking} {space})?"


def write_answer(guide: Guide, marks: Marks, begun: bool, special: Mapping[str, int]) -> str:
    """The grammar of an answer that keeps to a guide behind its thinking.

    Args:
        guide: A schema, any object of JSON, or a regular expression.
        marks: What stands around the thinking.
        begun: The prompt ends within it.
        special: The special tokens that it may have, with their ids.

    Raises:
        InvalidRequestError: The schema isn't JSON.
    """
    writer = GrammarWriter(special)
    before = _thinking(writer, Wanted((), forced=False, many=False, marks=marks, begun=begun))
    if guide.type == "regex":
        answer = writer.rule("/{}/".format(_SLASH.sub(r"\\/", guide.text)))
    else:
        try:
            schema = json.loads(guide.text or '{"type": "object"}')
        except (ValueError, RecursionError):
            raise refused_guide("the schema is not valid JSON") from None
        if not isinstance(schema, dict):
            raise refused_guide("a schema is an object")
        answer = writer.rule(writer.json(schema))
    writer.rule(f"{before} {answer}", name="start")
    return writer.text()


def holds_anything(wanted: Wanted) -> bool:
    """Whether there is anything that calls have to keep to."""
    return (
        wanted.forced or wanted.all_held or any(t["function"].get("strict") for t in wanted.tools)
    )
