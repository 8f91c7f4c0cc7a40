"""A conversation as JSON, in the shape of OpenAI's chat API, checked before a template sees it.

What the shape leaves open stays open: further keys of a message (``name``, ``tool_call_id``,
``reasoning_content``) reach the template as they are.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from contract.bounds import MAX_TEMPLATE_VARIABLES, MAX_TOOLS
from contract.conversation import HistoryError, check_history
from contract.errors import InvalidRequestError
from contract.models import EnsembleInputs
from contract.tensors import Tensor

Message = dict[str, Any]
Tool = dict[str, Any]

T = TypeVar("T")


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _TextPart(_Open):
    type: Literal["text"]
    text: str


class _Function(_Open):
    name: str
    arguments: str | dict[str, Any] = "{}"


class _ToolCall(_Open):
    function: _Function


class _Message(_Open):
    role: Annotated[str, Field(min_length=1)]
    content: str | list[_TextPart] | None = None
    tool_calls: list[_ToolCall] | None = None


class _ToolFunction(_Open):
    name: Annotated[str, Field(min_length=1)]
    parameters: dict[str, Any] | None = None


class _Tool(_Open):
    type: Literal["function"]
    function: _ToolFunction


_MESSAGES: TypeAdapter[Any] = TypeAdapter(Annotated[list[_Message], Field(min_length=1)])
_TOOLS: TypeAdapter[Any] = TypeAdapter(list[_Tool])
_VARIABLES: TypeAdapter[Any] = TypeAdapter(dict[str, Any])


def read_messages(text: str) -> list[Message]:
    """Read a conversation.

    Content in parts becomes one text, its parts joined by line breaks, because that is what most
    templates take. A tool call's arguments become an object, as templates expect them.

    Args:
        text: A JSON list of ``{"role": …, "content": …}``.

    Raises:
        InvalidRequestError: It is not JSON, or not of that shape. The message names the place.
    """
    messages: list[Message] = _read(EnsembleInputs.MESSAGES, text, _MESSAGES)
    try:
        check_history(messages)
    except HistoryError as error:
        name = EnsembleInputs.MESSAGES.name
        raise InvalidRequestError(f"{name}.{error}", name) from None
    for message in messages:
        if isinstance(message.get("content"), list):
            message["content"] = "\n".join(part["text"] for part in message["content"])
        for call in message.get("tool_calls") or []:
            arguments = call["function"].get("arguments")
            if isinstance(arguments, str):
                call["function"]["arguments"] = _arguments(arguments)
    return messages


def read_tools(text: str) -> list[Tool] | None:
    """Read the functions that a model may call; None where there are none.

    Raises:
        InvalidRequestError: It is not a JSON list of ``{"type": "function", "function": …}``.
    """
    tools: list[Tool] = _read(EnsembleInputs.TOOLS, text, _TOOLS)
    _check_count(EnsembleInputs.TOOLS, len(tools), MAX_TOOLS)
    return tools or None


def read_variables(text: str) -> dict[str, Any]:
    """Read what a request gives the chat template beyond messages and tools.

    Raises:
        InvalidRequestError: It is not a JSON object.
    """
    variables: dict[str, Any] = _read(EnsembleInputs.CHAT_TEMPLATE_KWARGS, text, _VARIABLES)
    _check_count(EnsembleInputs.CHAT_TEMPLATE_KWARGS, len(variables), MAX_TEMPLATE_VARIABLES)
    return variables


def _check_count(tensor: Tensor, count: int, most: int) -> None:
    if count > most:
        raise InvalidRequestError(
            f"{tensor.name} has {count} entries; it must have at most {most}", tensor.name
        )


def _read(tensor: Tensor, text: str, shape: TypeAdapter[Any]) -> Any:
    name = tensor.name
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{name} is not JSON: {error}", name) from None
    try:
        shape.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # A union reports each of its branches; the place alone is clear enough there.
        place = ".".join(str(part) for part in first["loc"] if not _is_branch(part))
        raise InvalidRequestError(
            f"{'.'.join(filter(None, [name, place]))}: {first['msg'][0].lower()}{first['msg'][1:]}",
            name,
        ) from None
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise InvalidRequestError(f"{name} is nested too deeply", name) from None
    except UnicodeEncodeError:
        message = f"{name} holds half a character (a lone surrogate)"
        raise InvalidRequestError(message, name) from None
    return value


def _is_branch(part: int | str) -> bool:
    return isinstance(part, str) and (part == "str" or "[" in part)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _arguments(text: str) -> Any:
    """Arguments as an object; what a client wrote otherwise stays as it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text
