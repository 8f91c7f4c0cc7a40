"""``/v1/messages``: Anthropic's API, for the programs that speak it, coding tools above all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import orjson

from contract.codes import Ending
from gateway.api.anthropic_request import MessagesRequest
from gateway.api.error_objects import said
from gateway.api.translator import Event, Translator
from gateway.gateway_errors import GatewayError
from gateway.generation import Delta, ToolCallDelta
from gateway.order import Order, Wish
from gateway.run_progress import Progress

Kind = Literal["thinking", "text", "tool_use"]

_STOP_REASONS: dict[Ending, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_PING = Event(b'{"type":"ping"}', b"ping")


class MessagesEncoder:
    """Answers of ``/v1/messages``: blocks of thinking, of text, and of calls, one after another.

    Owns which block of a stream is open.
    """

    def __init__(self, order: Order) -> None:
        self._fields: dict[str, Any] = {
            "id": f"msg_{order.arrival.request_id}",
            "type": "message",
            "role": "assistant",
            "model": order.model.asked,
        }
        self._begun = False
        self._open: Kind | None = None
        self._index = -1
        self._end: dict[str, Any] = _ending(Delta())

    def events(self, deltas: Iterable[Delta]) -> Iterator[Event]:
        for delta in deltas:
            if not self._begun:
                self._begun = True
                yield self._start(delta)
                yield _PING
            if delta.reasoning:
                yield from self._begin("thinking", {"thinking": "", "signature": ""})
                yield self._delta({"type": "thinking_delta", "thinking": delta.reasoning})
            if delta.text:
                yield from self._begin("text", {"text": ""})
                yield self._delta({"type": "text_delta", "text": delta.text})
            for call in delta.tool_calls:
                if call.id:
                    yield from self._close()
                    yield from self._begin("tool_use", _use(call, {}))
                if call.arguments:
                    yield self._delta({"type": "input_json_delta", "partial_json": call.arguments})
            if delta.finish_reason:
                self._end = _ending(delta)

    def end(self, progress: Progress) -> Iterable[Event]:
        yield from self._close()
        yield _event("message_delta", delta=self._end, usage=_usage(progress))
        yield _event("message_stop")

    def failed(self, error: GatewayError) -> Event:
        return Event(error_of(error), b"error")

    def answer(self, deltas: Sequence[Delta], progress: Progress) -> bytes:
        (delta,) = deltas
        content: list[dict[str, Any]] = []
        if delta.reasoning:
            content.append({"type": "thinking", "thinking": delta.reasoning, "signature": ""})
        if delta.text:
            content.append({"type": "text", "text": delta.text})
        content += (
            {"type": "tool_use", **_use(call, _arguments(call))} for call in delta.tool_calls
        )
        return orjson.dumps(
            {**self._fields, "content": content, **_ending(delta), "usage": _usage(progress)}
        )

    def _start(self, delta: Delta) -> Event:
        """The message without its content; what is known by then of what it costs."""
        cached = 0 if delta.computed is None else delta.computed.cached
        usage = _tokens((delta.prompt_tokens or 0) - cached, cached, delta.output_tokens)
        message = {**self._fields, "content": [], **_ending(Delta()), "usage": usage}
        return _event("message_start", message=message)

    def _begin(self, kind: Kind, fields: dict[str, Any]) -> Iterator[Event]:
        """Open a block, if it isn't the one that is open."""
        if self._open == kind:
            return
        yield from self._close()
        self._open = kind
        self._index += 1
        block = {"type": kind, **fields}
        yield _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> Event:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _close(self) -> Iterator[Event]:
        if self._open is not None:
            self._open = None
            yield _event("content_block_stop", index=self._index)


def error_of(error: GatewayError) -> bytes:
    """The body of an answer that is an error."""
    kind = _ERRORS.get(error.status) or (
        "api_error" if error.status >= 500 else "invalid_request_error"
    )
    message, param, _ = said(error, "messages")
    if param is not None and param not in message:
        message = f"{param}: {message}"
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})


def _event(kind: str, **fields: Any) -> Event:
    return Event(orjson.dumps({"type": kind, **fields}), kind.encode())


def _use(call: ToolCallDelta, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": call.id, "name": call.name, "input": arguments}


def _arguments(call: ToolCallDelta) -> dict[str, Any]:
    """The arguments of a whole call; of one that was cut off there may be none that can be read."""
    try:
        value = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _ending(delta: Delta) -> dict[str, Any]:
    if delta.finish_reason == "stop" and delta.stop_text:
        return {"stop_reason": "stop_sequence", "stop_sequence": delta.stop_text}
    reason = _STOP_REASONS.get(delta.finish_reason) if delta.finish_reason else None
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(progress: Progress) -> dict[str, Any]:
    cached = progress.cached_tokens
    return _tokens(progress.all_prompt_tokens - cached, cached, progress.output_tokens)


def _tokens(new: int, cached: int, output: int) -> dict[str, Any]:
    """What was computed of a prompt, and what was in a cache: Anthropic counts them apart."""
    return {
        "input_tokens": new,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
        "service_tier": "standard",
    }


class MessagesTranslator(Translator[MessagesRequest]):
    """Anthropic's messages."""

    name = "messages"
    path = "/messages"
    summary = "Answer a conversation"
    description = "Anthropic's API; the key may come in the header x-api-key."
    body = MessagesRequest

    def wish(self, body: MessagesRequest) -> Wish:
        return body.wish()

    def encoder(self, body: MessagesRequest, order: Order) -> MessagesEncoder:
        return MessagesEncoder(order)

    def error(self, error: GatewayError) -> bytes:
        return error_of(error)
