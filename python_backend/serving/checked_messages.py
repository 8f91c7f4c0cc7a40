"""The messages of a chat as the policy leaves them: their texts, and what calls and tools say.

A tool's result and a call's arguments are checked as the texts that they mean, without JSON's
escapes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from contract.errors import InvalidRequestError
from contract.models import EnsembleInputs
from python_backend.safety.scanner import Verdict
from python_backend.text.messages import Message
from python_backend.tools.decoded_arguments import decoded, escaped

Check = Callable[[str], tuple[str, list[Verdict]]]

_TEXTS = ("content", "reasoning_content", "reasoning")


class CheckedMessages:
    """They.

    Attributes:
        messages: As the policy leaves them.
        verdicts: What was found in them.
        are_changed: Whether they are others than before.
    """

    def __init__(self, messages: Sequence[Message], check: Check) -> None:
        """Check them.

        Args:
            messages: As `read_messages` gives them.
            check: What the policy leaves of a text, and what it finds.

        Raises:
            InvalidRequestError: The policy blocks one, or arguments are nested too deeply.
        """
        self.verdicts: list[Verdict] = []
        self.messages: list[Message] = []
        self._check = check
        self._number = 0
        for number, message in enumerate(messages):
            self._number = number
            try:
                self.messages.append(self._checked(message))
            except RecursionError:
                name = EnsembleInputs.MESSAGES.name
                raise InvalidRequestError(f"{name} is nested too deeply", name) from None
        self.are_changed = self.messages != list(messages)

    def _checked(self, message: Message) -> Message:
        checked = dict(message)
        for name in _TEXTS:
            text = message.get(name)
            if isinstance(text, str):
                checked[name] = self._text(_meant(text) if message["role"] == "tool" else text)
        calls = message.get("tool_calls")
        if calls:
            checked["tool_calls"] = [
                {**call, "function": self._function(call["function"])} for call in calls
            ]
        return checked

    def _function(self, function: dict[str, Any]) -> dict[str, Any]:
        if "arguments" not in function:
            return function
        return {**function, "arguments": self._value(function["arguments"])}

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            return [self._value(each) for each in value]
        if isinstance(value, dict):
            return {self._text(name): self._value(each) for name, each in value.items()}
        return value

    def _text(self, text: str) -> str:
        checked, found = self._check(text)
        self.verdicts += [verdict._replace(message=self._number) for verdict in found]
        return checked


def _meant(text: str) -> str:
    """A tool's result without needless escapes, where it is JSON."""
    if "\\" not in text:
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return escaped(decoded(text))
