"""Answers of ``/v1/responses``: items of thinking, of text, and of calls, one after another."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import orjson

from gateway.api.error_objects import said
from gateway.api.openai_request import TIERS
from gateway.api.responses_request import NamedFunctionTool, ResponsesRequest
from gateway.api.translator import Event
from gateway.gateway_errors import GatewayError
from gateway.generation import Delta, Message, TokenLogprob, ToolCallDelta
from gateway.order import Order
from gateway.run_progress import Progress

Status = Literal["in_progress", "completed", "incomplete", "failed"]
Item = dict[str, Any]

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponsesEncoder:
    """Writes the answer to one request, whole or as events.

    Owns the items of a stream so far, of which the last may be open.
    """

    def __init__(self, body: ResponsesRequest, order: Order) -> None:
        self._order = order
        self._id = f"resp_{secrets.token_hex(24)}"
        self._reports = body.reports_log_probs
        self._fields = _fields(body, order, self._id)
        self._items: list[Item] = []
        self._is_open = False
        self._pieces: list[str] = []
        self._number = -1
        self._reason: str = ""

    def events(self, deltas: Iterable[Delta]) -> Iterator[Event]:
        for delta in deltas:
            if self._number < 0:
                for name in ("response.created", "response.in_progress"):
                    yield self._event(name, response=self._response("in_progress", None))
            if delta.reasoning:
                yield from self._more_text("reasoning", delta.reasoning, None)
            if delta.text or (delta.logprobs and self._reports):
                yield from self._more_text("message", delta.text, delta.logprobs)
            for call in delta.tool_calls:
                yield from self._more_of_call(call)
            self._reason = delta.finish_reason or self._reason

    def end(self, progress: Progress) -> Iterable[Event]:
        yield from self._close(self._reason)
        response = self._response(_status(self._reason), progress)
        self._keep(response)
        yield self._event(f"response.{response['status']}", response=response)

    def failed(self, error: GatewayError) -> Event:
        message, _, code = said(error, "input")
        response = self._response("failed", None)
        response["error"] = {"code": code or "server_error", "message": message}
        return self._event("response.failed", response=response)

    def answer(self, deltas: Sequence[Delta], progress: Progress) -> bytes:
        (delta,) = deltas
        for kind, text in (("reasoning", delta.reasoning), ("message", delta.text)):
            if text or (kind == "message" and not delta.tool_calls):
                self._items.append(_begun(kind))
                self._items[-1]["content"][0]["text"] = text
                logprobs = delta.logprobs if kind == "message" and self._reports else None
                _add_logprobs(self._items[-1], logprobs)
        self._items += map(_begun_call, delta.tool_calls)
        for item in self._items:
            item["status"] = _status(delta.finish_reason)
        self._reason = delta.finish_reason
        response = self._response(_status(self._reason), progress)
        self._keep(response)
        return orjson.dumps(response)

    def _more_text(
        self, kind: str, text: str, logprobs: list[TokenLogprob] | None
    ) -> Iterator[Event]:
        if not (self._is_open and self._items[-1]["type"] == kind):
            yield from self._begin(_begun(kind))
            part = {**self._items[-1]["content"][0], "text": ""}
            yield self._event("response.content_part.added", **self._place(part=part))
        self._pieces.append(text)
        added = _add_logprobs(self._items[-1], logprobs if self._reports else None)
        if kind == "message":
            told = {"delta": text, "logprobs": added}
            yield self._event("response.output_text.delta", **self._place(**told))
        else:
            yield self._event("response.reasoning_text.delta", **self._place(delta=text))

    def _more_of_call(self, call: ToolCallDelta) -> Iterator[Event]:
        if call.id:
            yield from self._begin(_begun_call(ToolCallDelta(call.index, call.id, call.name)))
        if call.arguments:
            self._pieces.append(call.arguments)
            yield self._event(
                "response.function_call_arguments.delta",
                item_id=self._items[-1]["id"],
                output_index=len(self._items) - 1,
                delta=call.arguments,
            )

    def _begin(self, item: Item) -> Iterator[Event]:
        yield from self._close("stop")
        self._items.append(item)
        self._is_open = True
        empty = {**item, "content": []} if "content" in item else item
        yield self._event(
            "response.output_item.added", output_index=len(self._items) - 1, item=empty
        )

    def _close(self, reason: str) -> Iterator[Event]:
        """End the item that is open."""
        if not self._is_open:
            return
        self._is_open = False
        item, index = self._items[-1], len(self._items) - 1
        item["status"] = _status(reason)
        text, self._pieces = "".join(self._pieces), []
        if item["type"] == "function_call":
            item["arguments"] = text
            yield self._event(
                "response.function_call_arguments.done",
                item_id=item["id"],
                output_index=index,
                name=item["name"],
                arguments=item["arguments"],
            )
        else:
            (part,) = item["content"]
            part["text"] = text
            done = {"text": text}
            if item["type"] == "message":
                done["logprobs"] = part["logprobs"]
            word = "output_text" if item["type"] == "message" else "reasoning_text"
            yield self._event(f"response.{word}.done", **self._place(**done))
            yield self._event("response.content_part.done", **self._place(part=part))
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _place(self, **fields: Any) -> dict[str, Any]:
        """Where in the answer the newest part is."""
        item = self._items[-1]["id"]
        place = {"item_id": item, "output_index": len(self._items) - 1, "content_index": 0}
        return {**place, **fields}

    def _event(self, kind: str, **fields: Any) -> Event:
        self._number += 1
        data = {"type": kind, "sequence_number": self._number, **fields}
        return Event(orjson.dumps(data), kind.encode())

    def _response(self, status: Status, progress: Progress | None) -> dict[str, Any]:
        why = _INCOMPLETE.get(self._reason) if status == "incomplete" else None
        return {
            **self._fields,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "incomplete_details": None if why is None else {"reason": why},
            "output": self._items,
            "usage": None if progress is None else _usage(progress),
        }

    def _keep(self, response: dict[str, Any]) -> None:
        """Keep the answer, where that is wanted, with what its conversation goes on from."""
        keeper = self._order.keeper
        if keeper is None or not keeper.keeps:
            return
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        parts: dict[str, Message] = {}
        for item in self._items:
            part = parts[item["id"]] = _part(item)
            calls = part.get("tool_calls")
            if calls:
                message.setdefault("tool_calls", []).extend(calls)
            else:
                message.update(part)
        keeper.keep(self._id, message, orjson.dumps(response), parts)


def _part(item: Item) -> Message:
    """The part of a message that an item is."""
    if item["type"] == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        return {"tool_calls": [{"id": item["call_id"], "type": "function", "function": function}]}
    name = "content" if item["type"] == "message" else "reasoning_content"
    return {name: item["content"][0]["text"]}


def _fields(body: ResponsesRequest, order: Order, answer_id: str) -> dict[str, Any]:
    """What an answer repeats of its request, and what is the same from its beginning on."""
    named = body.tool_choice if isinstance(body.tool_choice, NamedFunctionTool) else None
    wanted = None if body.text is None else body.text.format
    text = {"type": "text"} if wanted is None else wanted.model_dump(by_alias=True)
    parameters = order.generation.parameters
    return {
        "id": answer_id,
        "object": "response",
        "created_at": int(order.arrival.time),
        "background": False,
        "error": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "model": order.model.asked,
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {
            "effort": None if body.reasoning is None else body.reasoning.effort,
            "summary": None,
        },
        "safety_identifier": body.safety_identifier,
        "service_tier": TIERS[order.tenant_class],
        "store": order.keeper is not None and order.keeper.keeps,
        "temperature": parameters.temperature,
        "text": {"format": text},
        "tool_choice": str(body.choice) if named is None else named.model_dump(),
        "tools": [each.model_dump() for each in body.tools],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if parameters.top_p is None else parameters.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


def _begun(kind: str) -> Item:
    """An item of text to which nothing was added yet."""
    if kind == "reasoning":
        return {
            "id": f"rs_{secrets.token_hex(24)}",
            "type": kind,
            "status": "in_progress",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": ""}],
            "encrypted_content": None,
        }
    return {
        "id": f"msg_{secrets.token_hex(24)}",
        "type": kind,
        "status": "in_progress",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}],
    }


def _begun_call(call: ToolCallDelta) -> Item:
    return {
        "id": f"fc_{secrets.token_hex(24)}",
        "type": "function_call",
        "status": "in_progress",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }


def _add_logprobs(item: Item, logprobs: list[TokenLogprob] | None) -> list[Item]:
    """Add to the tokens of an item's text; what was added."""
    added = [
        {**_token(each), "top_logprobs": [_token(top) for top in each.top]}
        for each in logprobs or ()
    ]
    if added:
        item["content"][0]["logprobs"] += added
    return added


def _token(token: TokenLogprob) -> Item:
    raw = token.token.encode() if token.raw is None else token.raw
    return {"token": token.token, "logprob": token.logprob, "bytes": list(raw)}


def _status(reason: str) -> Status:
    return "incomplete" if reason in _INCOMPLETE else "completed"


def _usage(progress: Progress) -> dict[str, Any]:
    prompt, output = progress.all_prompt_tokens, progress.output_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": progress.cached_tokens},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": progress.reasoning_tokens},
        "total_tokens": prompt + output,
    }
