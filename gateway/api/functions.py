"""Functions that a model may call, as a body says them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    Field,
    StringConstraints,
    field_validator,
)

from contract.bounds import MAX_TOOLS
from contract.parameters import ParameterKeywords
from contract.tool_choice import FUNCTION_NAME, ToolChoice
from gateway.api.neutral import Open, wrong

Name = Annotated[str, StringConstraints(pattern=f"^{FUNCTION_NAME.pattern}$")]


def shallow(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """JSON of a client's that is handed on, if whoever reads it can.

    Raises:
        ValueError: It is nested too deeply.
    """
    try:
        orjson.dumps(value)
    except TypeError:  # orjson goes 254 levels deep
        raise ValueError("it is nested too deeply") from None
    return value


class Function(Open):
    """One of them."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="A JSON schema.")
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _is_shallow(cls, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        return shallow(parameters)


class Tool(Open):
    """OpenAI's tool: a function is the only kind."""

    type: Literal["function"]
    function: Function

    def plain(self) -> dict[str, Any]:
        """The tool as chat templates know it."""
        return self.model_dump(exclude_none=True)


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]


class NamedFunction(Open):
    """A function by its name."""

    name: Name


class NamedTool(Open):
    """The choice of one tool."""

    type: Literal["function"]
    function: NamedFunction


Choice = Literal["auto", "none", "required"] | NamedTool


def check_tools(tools: Sequence[Tool], choice: ToolChoice) -> None:
    """Look whether tools and the choice among them go together.

    Raises:
        PydanticCustomError: Two have the same name, or the choice is none of them.
    """
    names: set[str] = set()
    for place, tool in enumerate(tools):
        if tool.function.name in names:
            where = f"tools.{place}.function.name"
            raise wrong("{name}: another tool has the same name", name=where)
        names.add(tool.function.name)
    if choice.kind == "required" and not tools:
        raise wrong("tool_choice is required, and there are no tools", name="tool_choice")
    if choice.kind == "named" and choice.name not in names:
        raise wrong(
            "tool_choice: there is no tool called {tool}", name="tool_choice", tool=choice.name
        )


def read_choice(choice: Choice | None) -> ToolChoice:
    """A choice in the contract's words."""
    if isinstance(choice, NamedTool):
        return ToolChoice("named", choice.function.name)
    return ToolChoice(choice or "auto")


def tool_parameters(
    tools: Sequence[Tool], choice: ToolChoice, parallel: bool | None
) -> ParameterKeywords:
    """What is asked of the model; nothing where there are no tools."""
    if not tools:
        return {}
    parameters: ParameterKeywords = {"tools": tuple(tool.plain() for tool in tools)}
    if choice.kind != "auto":
        parameters["tool_choice"] = str(choice)
    if parallel is False:
        parameters["parallel_tool_calls"] = False
    return parameters
