"""Every error as OpenAI's clients know errors: a status and one JSON object."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from contract.bounds import MAX_BODY_NAME
from contract.codes import ErrorCode
from contract.models import EngineInputs, EnsembleInputs
from contract.parameters import ROWS
from gateway.gateway_errors import GatewayError, InvalidRequest, LimitExceeded

_KINDS = frozenset({"str", "list", "body"})
"""Parts of pydantic's paths that name a kind of value rather than a field or an index."""
_ENTRIES = frozenset(
    {
        *("text", "thinking", "tool_use", "tool_result"),
        *("message", "function_call", "function_call_output", "reasoning"),
        *("input_text", "output_text", "refusal"),
    }
)
"""The same of entries whose kind their field `type` says, in pydantic's paths behind an index."""


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
"""OpenAI's kinds of errors by status, where they have one of their own."""

_NAMES = {
    tensor.name: row.openai
    for row in ROWS.values()
    for tensor in (row.tensor, row.weights)
    if tensor is not None and row.openai is not None
}
"""What OpenAI's API calls the ensemble's inputs."""


_PROMPTS = (EnsembleInputs.TEXT_INPUT.name, EngineInputs.INPUT_IDS.name)
"""What the models call the prompt, as a text and as tokens."""


class Said(NamedTuple):
    """What is said of an error.

    Attributes:
        message: What is wrong, in the words of the one who asked.
        param: With which field of the body.
        code: A word for it.
    """

    message: str
    param: str | None
    code: str | None


def said(error: GatewayError, prompt: str) -> Said:
    """What is said of an error, where the prompt is called so."""
    param, message = error.param, error.message
    code: str | None = error.code
    if param is None and error.input_name is not None:
        prompts = dict.fromkeys(_PROMPTS, prompt)
        names = {**_NAMES, **prompts}
        param = names.get(error.input_name, error.input_name)
        message = re.sub(rf"\b{re.escape(error.input_name)}\b", param, message)
        code = code or "invalid_value"
    return Said(message, param, code)


def error_body(error: GatewayError, prompt: str = "prompt") -> bytes:
    """The error as the body of an answer, or as an event in a stream.

    Args:
        error: What went wrong.
        prompt: What the API calls the prompt.
    """
    message, param, code = said(error, prompt)
    return orjson.dumps(
        {
            "error": {
                "message": message,
                "type": _type(error.status),
                "param": param,
                "code": code,
            }
        }
    )


def _type(status: int) -> str:
    return _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")


def error_headers(error: GatewayError) -> dict[str, str]:
    """What its answer carries in the headers."""
    headers = dict(error.headers)
    if error.status == 401:
        headers.setdefault("www-authenticate", "Bearer")
    if isinstance(error, LimitExceeded):
        headers.setdefault("retry-after", str(max(1, round(error.retry_after_s + 0.5))))
    return headers


def invalid(error: ValidationError | Sequence[Mapping[str, Any]]) -> InvalidRequest:
    """What is wrong with a body, in one error that names the field."""
    if isinstance(error, ValidationError):
        errors: Sequence[Mapping[str, Any]] = error.errors(include_url=False, include_input=False)
    else:
        errors = error
    # Of a choice between kinds of values, pydantic tells what is wrong with each: the one that got
    # furthest into the value is the one that was meant, and not one that the value isn't.
    worst = max(errors, key=lambda each: (len(each["loc"]), not each["type"].endswith("_type")))
    path = [str(part)[:MAX_BODY_NAME] for part in _fields(worst["loc"])]
    context = worst.get("ctx") or {}
    code: ErrorCode = "invalid_value"
    message = str(worst["msg"]).removeprefix("Value error, ")
    if worst["type"] == "unsupported_parameter":
        code = "unsupported_parameter"
        path = [*path, str(context["name"])]
    elif worst["type"] == "wrong_parameter":
        path = [*path, str(context["name"])]
    elif worst["type"] == "missing":
        code = "missing_required_parameter"
        message = f"missing required parameter {'.'.join(path)}" if path else "the body is missing"
    elif worst["type"] == "union_tag_invalid":
        what, known = context["tag"][:MAX_BODY_NAME], context["expected_tags"]
        message = f"{what!r} is not supported here; known are {known}"
        message = f"{'.'.join(path)}: {message}" if path else message
    elif worst["type"] == "json_invalid":
        code, path = "invalid_json", []
        message = "the body is not valid JSON"
    elif path:
        message = f"{'.'.join(path)}: {message[:1].lower()}{message[1:]}"
    return InvalidRequest(message, param=".".join(path) or None, code=code)


def _fields(path: Sequence[Any]) -> Iterator[Any]:
    """A path without the parts that name a kind of value: of a type, or of an entry of a list."""
    for place, part in enumerate(path):
        is_entry_s = place > 0 and isinstance(path[place - 1], int) and place < len(path) - 1
        if not (_is_kind(str(part)) or (is_entry_s and part in _ENTRIES)):
            yield part


def _is_kind(part: str) -> bool:
    return part in _KINDS or "[" in part or "-" in part
