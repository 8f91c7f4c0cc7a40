"""The checkpoint's chat template: a conversation becomes the prompt that the model was trained on.

The prompt knows which of its characters are the template's own and which a client gave, so that
control tokens in a client's words stay words (``text.control``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from jinja2 import TemplateError
from jinja2.meta import find_undeclared_variables

from contract.errors import EngineError, InvalidRequestError
from contract.models import EnsembleInputs
from python_backend.text.messages import Message, Tool
from python_backend.text.origin import GIVEN, OWN, Traced, concatenate, given, origin_of
from python_backend.text.template_environment import (
    MAX_STEPS,
    TICK,
    TemplateEnvironment,
    refuse,
)

_MAX_PROMPT_CHARACTERS = 16_000_000
_CONTINUE = "continue_final_message"

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
"""Roles of which a template may make a control token, as of ``<|user|>``; of another it may not."""


class ChatTemplate:
    """Turns messages into the prompt that the checkpoint was trained on.

    Attributes:
        source: The Jinja source.
        names: The variables that it reads.
    """

    def __init__(
        self,
        source: str,
        special_tokens: dict[str, str],
        own_marks: re.Pattern[str] | None = None,
    ) -> None:
        """Compile a template.

        Args:
            source: The Jinja source from the checkpoint.
            special_tokens: Variables such as ``bos_token`` that templates use.
            own_marks: What the model itself writes into its answers, such as ``<think>``: in an
                assistant's message it is what it was when the model wrote it.

        Raises:
            EngineError: The template is not valid Jinja.
        """
        try:
            environment = TemplateEnvironment()
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise EngineError(f"the checkpoint's chat template is not valid: {error}") from error
        self.source = source
        self.names = frozenset(find_undeclared_variables(environment.parse(source)))
        self._special_tokens = special_tokens
        self._own_marks = own_marks

    def render(
        self,
        messages: list[Message],
        tools: list[Tool] | None = None,
        variables: dict[str, Any] | None = None,
    ) -> Traced:
        """The prompt for a conversation, up to where the assistant's answer begins.

        Args:
            messages: The conversation, as ``read_messages`` checks it.
            tools: Functions that the model may call.
            variables: What the template is given beyond that, such as ``enable_thinking``;
                ``add_generation_prompt`` and the special tokens may be among them. With
                ``continue_final_message`` the prompt ends with the last message's own text, and the
                answer goes on with it, as in transformers.

        Raises:
            InvalidRequestError: The template refuses the messages, or does not come to an end.
        """
        variables = dict(variables or {})
        continues = variables.pop(_CONTINUE, False)
        if continues:
            variables["add_generation_prompt"] = False
        pieces: list[str] = []
        size = 0
        try:
            names: dict[str, Any] = {
                "documents": None,
                "add_generation_prompt": True,
                **self._special_tokens,
                **{name: given(value) for name, value in variables.items()},
                "messages": [self._mark(message) for message in messages],
                "tools": given(tools),
                TICK: _step_counter(),
            }
            for piece in self._template.generate(names):
                size += len(piece)
                if size > _MAX_PROMPT_CHARACTERS:
                    refuse(f"the prompt has more than {_MAX_PROMPT_CHARACTERS} characters")
                pieces.append(piece)
        except Exception as error:  # a template is code: it can raise anything
            message = f"the chat template refuses the messages: {error}"
            raise InvalidRequestError(message, EnsembleInputs.MESSAGES.name) from error
        prompt = concatenate(pieces)
        return _up_to_last(prompt, messages[-1]) if continues else prompt

    def _mark(self, message: Message) -> Message:
        """A message whose texts are marked as given, but for its role and the model's own marks."""
        marked = given(message)
        role, content = message.get("role"), message.get("content")
        if role in ROLES:
            marked["role"] = role
        if role == "assistant" and self._own_marks is not None and isinstance(content, str):
            marked["content"] = _mark_own(content, self._own_marks)
        return marked


def _up_to_last(prompt: Traced, message: Message) -> Traced:
    """A prompt without what its template writes behind the last message's text.

    Raises:
        InvalidRequestError: The message has no text, or the template doesn't write it.
    """
    name = EnsembleInputs.MESSAGES.name
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        raise InvalidRequestError(f"{name}: the last has no text to go on with", name)
    text, origin = str(prompt), origin_of(prompt)
    start, length = text.rfind(content.strip()), len(content.strip())
    while start >= 0 and GIVEN not in origin[start : start + length]:  # the template's own words
        start = text.rfind(content.strip(), 0, start + length - 1)
    if start < 0:
        raise InvalidRequestError(f"{name}: the template doesn't write the last as it is", name)
    # Templates may trim a text; one that doesn't keeps the spaces at its end.
    end = start + len(content.lstrip())
    return prompt[: end if text[start:end] == content.lstrip() else start + length]


def _mark_own(content: str, marks: re.Pattern[str]) -> Traced:
    """A given text of which the marks are the template's own."""
    origin, start = "", 0
    for found in marks.finditer(content):
        origin += GIVEN * (found.start() - start) + OWN * len(found[0])
        start = found.end()
    return Traced(content, origin + GIVEN * (len(content) - start))


def _step_counter() -> Callable[[], None]:
    steps = 0

    def count_step() -> None:
        nonlocal steps
        steps += 1
        if steps > MAX_STEPS:
            refuse(f"it loops more than {MAX_STEPS} times")

    return count_step
