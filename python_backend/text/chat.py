"""The checkpoint's chat template, rendered in a sandbox.

A template comes with the checkpoint and is code: it runs in Jinja's immutable sandbox with the few
helpers that templates in the wild rely on, and can't reach Python.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from python_backend.errors import EngineError, InvalidRequestError


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
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise EngineError(f"the checkpoint's chat template is not valid: {error}") from error
        self._special_tokens = special_tokens

    def render(self, messages: list[dict[str, Any]]) -> str:
        """The prompt for a conversation, up to where the assistant's answer begins.

        Raises:
            InvalidRequestError: The template refuses the messages.
        """
        try:
            return self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
            )
        except Exception as error:  # a template is code: it can raise anything
            raise InvalidRequestError(f"the chat template refuses the messages: {error}") from error


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
