"""Whether a model may, must or must not call one of its functions, as one word that travels."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from contract.errors import InvalidRequestError

ChoiceKind = Literal["auto", "none", "required", "named"]

_WORDS: tuple[str, ...] = get_args(ChoiceKind)[:-1]
_NAMED = "function:"
_NAME = "tool_choice"

FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
"""What a function may be called; OpenAI's own names have no dots, those of MCP servers do."""


class ToolChoice(NamedTuple):
    """Whether functions are called.

    Attributes:
        kind: As the model likes, not at all, at least one, or a certain one.
        name: Which, where it is a certain one.
    """

    kind: ChoiceKind = "auto"
    name: str = ""

    @classmethod
    def of(cls, word: str | None) -> ToolChoice:
        """Read it.

        Raises:
            InvalidRequestError: It is no such word.
        """
        if not word:
            return cls()
        if word in _WORDS:
            return cls(word)  # type: ignore[arg-type]  # it is one of them
        name = word.removeprefix(_NAMED)
        if name == word or not FUNCTION_NAME.fullmatch(name):
            known = ", ".join(_WORDS)
            raise InvalidRequestError(
                f"{_NAME} is {word[:80]!r}; it must be {known} or {_NAMED}NAME", _NAME
            )
        return cls("named", name)

    @property
    def is_forced(self) -> bool:
        """Whether there must be a call."""
        return self.kind in ("required", "named")

    def __str__(self) -> str:
        return f"{_NAMED}{self.name}" if self.kind == "named" else self.kind
