"""A conversation, and all that it says held to a policy, wherever in it that stands.

A template may write whatever a request gives: names, tools and what they are called with, its own
variables. So each text of them is looked at as a message's content is, and so are numbers, which
a template writes as text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from contract.bounds import MAX_CHAT_TEXTS
from contract.errors import InvalidRequestError
from contract.models import EnsembleInputs
from python_backend.safety.scanner import Verdict
from python_backend.text.chat_template import ROLES
from python_backend.text.messages import Message, Tool
from python_backend.tools.chat_options import NO_OPTIONS, ChatOptions
from python_backend.tools.decoded_arguments import decoded, escaped

_TOOLS, _VARIABLES = EnsembleInputs.TOOLS.name, EnsembleInputs.CHAT_TEMPLATE_KWARGS.name

Check = Callable[[str], tuple[str, list[Verdict]]]
"""A text as the policy leaves it, and what was found in it."""


@dataclass(frozen=True)
class Chat:
    """A conversation, what else its template is given, and what is asked of the answer."""

    messages: list[Message]
    tools: list[Tool] | None = None
    variables: dict[str, Any] | None = None
    options: ChatOptions = NO_OPTIONS


class CheckedChat:
    """A conversation as a policy leaves it.

    Attributes:
        chat: It, without what the policy takes out; the other one is as it was.
        verdicts: What was found.
    """

    def __init__(self, chat: Chat, check: Check) -> None:
        """Hold a conversation to a policy.

        Raises:
            InvalidRequestError: The policy blocks it, it has too many texts to look at, or it is
                nested too deeply.
        """
        self.verdicts: list[Verdict] = []
        self._check = check
        self._known: dict[str, tuple[str, list[Verdict]]] = {}
        self._message: int | None = None
        try:
            messages = [self._checked(*each) for each in enumerate(chat.messages)]
            self._message = None
            self.chat = replace(
                chat,
                messages=messages,
                tools=self._walk(chat.tools, _TOOLS),
                variables=self._walk(chat.variables, _VARIABLES),
            )
        except RecursionError:
            name = EnsembleInputs.MESSAGES.name
            raise InvalidRequestError(f"{name} is nested too deeply", name) from None

    def _checked(self, number: int, message: Message) -> Message:
        self._message = number
        is_tool_s = message.get("role") == "tool"
        return {name: self._field(name, value, is_tool_s) for name, value in message.items()}

    def _field(self, name: str, value: Any, is_tool_s: bool) -> Any:
        """One of a message's; of a tool's result what it means, without JSON's escapes."""
        if name == "role" and value in ROLES:
            return value
        if name == "content" and isinstance(value, str):
            return self._told(self._check(_meant(value) if is_tool_s else value), None)
        return self._walk(value, name)

    def _walk(self, value: Any, place: str) -> Any:
        if isinstance(value, dict):
            return {
                self._walk(key, place): self._walk(each, f"{place}.{key}")
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [self._walk(each, f"{place}.{index}") for index, each in enumerate(value)]
        if isinstance(value, str):
            return self._told(self._look(value), place)
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = str(value)
            checked = self._told(self._look(text), place)
            return value if checked == text else checked
        return value

    def _look(self, text: str) -> tuple[str, list[Verdict]]:
        """Check a text that is no message's content; names and values of tools repeat themselves.

        Raises:
            InvalidRequestError: There are too many: the context bounds how many contents there are,
                and of these not even all are written.
        """
        if text not in self._known:
            if len(self._known) == MAX_CHAT_TEXTS:
                name = EnsembleInputs.MESSAGES.name
                raise InvalidRequestError(
                    f"{name}, tools and variables have more than {MAX_CHAT_TEXTS} names and values "
                    "beside the messages' contents",
                    name,
                )
            self._known[text] = self._check(text)
        return self._known[text]

    def _told(self, checked: tuple[str, list[Verdict]], place: str | None) -> str:
        text, found = checked
        self.verdicts += [each._replace(message=self._message, field=place) for each in found]
        return text


def _meant(text: str) -> str:
    """A tool's result without needless escapes, where it is JSON."""
    if "\\" not in text:
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return escaped(decoded(text))
