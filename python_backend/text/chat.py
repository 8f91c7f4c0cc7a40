"""The checkpoint's chat template, rendered in a sandbox.

A template comes with the checkpoint and is code: it runs in Jinja's immutable sandbox with the few
helpers that templates in the wild rely on, can't reach Python, and has a budget of loop passes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from contract.errors import EngineError, InvalidRequestError
from contract.models import EnsembleInputs
from python_backend.text.messages import Message, Tool

_MAX_STEPS = 1_000_000
"""Most loop passes and macro calls of one rendering; a long conversation needs some thousands."""

_MAX_PROMPT_CHARACTERS = 16_000_000

_TICK = "_count_step"


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words for training; the text is the same."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, where each loop pass and macro call counts and texts can't be multiplied."""

    intercepted_binops = frozenset({"*", "**"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        loops: list[nodes.For | nodes.Macro] = [*template.find_all(nodes.For)]
        for node in [*loops, *template.find_all(nodes.Macro)]:
            line = node.lineno
            call = nodes.Call(nodes.Name(_TICK, "load", lineno=line), [], [], None, None)
            node.body.insert(0, nodes.ExprStmt(call.set_lineno(line), lineno=line))
        return template

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(each) if hasattr(each, "__len__") else abs(each) for each in (left, right)]
        if max(sizes) > _MAX_STEPS or (operator == "**" and min(sizes) > 64):
            raise TemplateError(f"{operator} makes too much of its operands")
        return super().call_binop(context, operator, left, right)


class ChatTemplate:
    """Turns messages into the prompt that the checkpoint was trained on."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        """Compile a template.

        Args:
            source: The Jinja source from the checkpoint.
            special_tokens: Variables such as ``bos_token`` that templates use.

        Raises:
            EngineError: The template is not valid Jinja.
        """
        environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise EngineError(f"the checkpoint's chat template is not valid: {error}") from error
        self._special_tokens = special_tokens

    def render(
        self,
        messages: list[Message],
        tools: list[Tool] | None = None,
        variables: dict[str, Any] | None = None,
    ) -> str:
        """The prompt for a conversation, up to where the assistant's answer begins.

        Args:
            messages: The conversation, as ``read_messages`` checks it.
            tools: Functions that the model may call.
            variables: What the template is given beyond that, such as ``enable_thinking``;
                ``add_generation_prompt`` and the special tokens may be among them.

        Raises:
            InvalidRequestError: The template refuses the messages, or does not come to an end.
        """
        names: dict[str, Any] = {
            "documents": None,
            "add_generation_prompt": True,
            **self._special_tokens,
            **(variables or {}),
            "messages": messages,
            "tools": tools,
            _TICK: _step_counter(),
        }
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(names):
                size += len(piece)
                if size > _MAX_PROMPT_CHARACTERS:
                    _raise(f"the prompt has more than {_MAX_PROMPT_CHARACTERS} characters")
                pieces.append(piece)
        except Exception as error:  # a template is code: it can raise anything
            message = f"the chat template refuses the messages: {error}"
            raise InvalidRequestError(message, EnsembleInputs.MESSAGES.name) from error
        return "".join(pieces)


def _step_counter() -> Callable[[], None]:
    steps = 0

    def count_step() -> None:
        nonlocal steps
        steps += 1
        if steps > _MAX_STEPS:
            _raise(f"it loops more than {_MAX_STEPS} times")

    return count_step


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter as templates know it; Jinja's own escapes what HTML would."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
