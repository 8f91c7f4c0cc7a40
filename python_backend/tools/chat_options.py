"""What a request says of its chat beside the messages, and what follows from it for the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contract.errors import InvalidRequestError
from contract.guides import Guide
from contract.models import EnsembleInputs
from contract.tool_choice import FUNCTION_NAME, ToolChoice
from python_backend.guidance.thinking_budget import ThinkingBudget
from python_backend.tools.answer_reading import Reading

Tool = Mapping[str, Any]

AUTO = ToolChoice()
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


@dataclass(frozen=True)
class ChatOptions:
    """What it says.

    Attributes:
        choice: Whether functions are called.
        parallel: Whether an answer may have several calls.
        effort: How much the model thinks; empty where nobody says.
        budget: After how many tokens it has thought enough; None without an end.
        parse: Whether thinking and calls are told apart from the text.
        guide: What the answer keeps to.
    """

    choice: ToolChoice = AUTO
    parallel: bool = True
    effort: str = ""
    budget: int | None = None
    parse: bool = False
    guide: Guide | None = None

    def __post_init__(self) -> None:
        """Look at them.

        Raises:
            InvalidRequestError: One is no such word, or out of bounds.
        """
        if self.effort and self.effort not in EFFORTS:
            name = EnsembleInputs.REASONING_EFFORT.name
            known = ", ".join(EFFORTS)
            raise InvalidRequestError(
                f"{name} is {self.effort[:64]!r}; it must be one of {known}", name
            )
        if self.budget is not None and self.budget < 0:
            name = EnsembleInputs.THINKING_TOKEN_BUDGET.name
            raise InvalidRequestError(f"{name} is {self.budget}; it must be 0 or more", name)


@dataclass(frozen=True)
class Plan:
    """What is done for an answer.

    Attributes:
        reading: How it is read; None where it is text as it is.
        guide: What it keeps to.
        thinking: What bounds its thinking.
    """

    reading: Reading | None = None
    guide: Guide | None = None
    thinking: ThinkingBudget | None = None


NO_OPTIONS, NO_PLAN = ChatOptions(), Plan()


def check_choice(tools: list[dict[str, Any]] | None, choice: ToolChoice) -> None:
    """Look whether functions and the choice among them go together.

    Raises:
        InvalidRequestError: Two functions have the same name, one's is no name, or the choice is
            none of them.
    """
    name = EnsembleInputs.TOOLS.name
    names: set[str] = set()
    for place, tool in enumerate(tools or ()):
        function = tool["function"]["name"]
        where = f"{name}.{place}.function.name"
        if not FUNCTION_NAME.fullmatch(function):
            raise InvalidRequestError(
                f"{where} is {function[:80]!r}; it must be 1 to 64 letters, digits and _ . -", name
            )
        if function in names:
            raise InvalidRequestError(f"{where}: another tool has the same name", name)
        names.add(function)
    wanted = EnsembleInputs.TOOL_CHOICE.name
    if choice.is_forced and not tools:
        raise InvalidRequestError(f"{wanted} is {choice}, and there are no tools", wanted)
    if choice.kind == "named" and choice.name not in names:
        raise InvalidRequestError(f"{wanted}: there is no tool called {choice.name}", wanted)
