"""``/v1/chat/completions``: OpenAI's chats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field, field_validator, model_validator

from contract.bounds import MAX_TEMPLATE_VARIABLES
from contract.parameters import INT32_MAX, MAX_TOP_LOG_PROBS, ROWS, ParameterKeywords
from contract.tool_choice import ToolChoice
from gateway.api.chat_messages import ChatMessage, check_calls
from gateway.api.error_objects import error_body
from gateway.api.functions import (
    Choice,
    Tools,
    check_tools,
    read_choice,
    shallow,
    tool_parameters,
)
from gateway.api.neutral import NEUTRAL, unsupported, wrong
from gateway.api.openai_answer import NO_REASON, OpenAIEncoder
from gateway.api.openai_request import GenerationRequest
from gateway.api.translator import Event, Translator
from gateway.gateway_errors import GatewayError
from gateway.generation import Chat, Delta, TokenLogprob, ToolCallDelta
from gateway.order import Order, Wish
from gateway.run_progress import Progress

_MOST_REMEMBERED = 4096
"""Tokens whose JSON is kept: texts repeat themselves."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class ChatRequest(GenerationRequest):
    """The body of ``POST /v1/chat/completions``."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **NEUTRAL,
        "add_special_tokens": (False,),
        "echo": (False,),
        # Served here, and these values of them ask for nothing.
        "tool_choice": ("auto",),
        "parallel_tool_calls": (True,),
        "include_reasoning": (True,),
        "reasoning_effort": (),
    }

    messages: list[ChatMessage] = Field(min_length=1, max_length=4096, fail_fast=True)
    tools: Tools = Field(default=[], description="Functions that the model may call.")
    tool_choice: Choice | None = None
    parallel_tool_calls: bool = Field(
        default=True, description="Whether an answer may have more than one call."
    )
    reasoning_effort: Effort | None = Field(
        default=None, description="How much the model thinks; none is not at all."
    )
    thinking_token_budget: int | None = Field(
        default=None, ge=0, le=INT32_MAX, description=ROWS["thinking_token_budget"].meaning
    )
    include_reasoning: bool = Field(
        default=True, description="Whether an answer has what the model thought."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None,
        max_length=MAX_TEMPLATE_VARIABLES,
        description=ROWS["chat_template_kwargs"].meaning,
    )
    add_generation_prompt: bool = Field(
        default=True, description="Whether the prompt ends with the beginning of an answer."
    )
    continue_final_message: bool = Field(
        default=False, description="Whether the answer goes on with the last message."
    )
    max_completion_tokens: int | None = Field(default=None, ge=1, le=INT32_MAX)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOG_PROBS)

    @field_validator("chat_template_kwargs")
    @classmethod
    def _is_shallow(cls, variables: dict[str, Any] | None) -> dict[str, Any] | None:
        return shallow(variables)

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise unsupported("top_logprobs needs logprobs: true", name="top_logprobs")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise unsupported(
                "max_tokens and max_completion_tokens are the same; give one", name="max_tokens"
            )
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise wrong("{name} needs an assistant's message", name="continue_final_message")
        check_calls(self.messages)
        check_tools(self.tools, self.choice)
        return self

    @property
    def choice(self) -> ToolChoice:
        """Whether functions are called."""
        return read_choice(self.tool_choice)

    @property
    def top_logprobs_asked(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def max_tokens_asked(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def parameters(self) -> ParameterKeywords:
        parameters = super().parameters()
        parameters.update(tool_parameters(self.tools, self.choice, self.parallel_tool_calls))
        if self.reasoning_effort is not None:
            parameters["reasoning_effort"] = self.reasoning_effort
        if self.thinking_token_budget is not None:
            parameters["thinking_token_budget"] = self.thinking_token_budget
        variables = dict(self.chat_template_kwargs or {})
        if not self.add_generation_prompt:
            variables["add_generation_prompt"] = False
        if self.continue_final_message:
            variables["continue_final_message"] = True
        if variables:
            parameters["chat_template_kwargs"] = variables
        return parameters


class ChatEncoder(OpenAIEncoder):
    """Answers of ``/v1/chat/completions``."""

    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"
    id_prefix = "chatcmpl"
    prompt_name = "messages"

    def __init__(self, body: ChatRequest, order: Order) -> None:
        super().__init__(body, order)
        self._begun: set[int] = set()
        self._shows_reasoning = body.include_reasoning
        # OpenAI's own word where nobody but the client chose the function.
        self._called = "stop" if body.choice.kind == "named" else "tool_calls"

    def events(self, deltas: Iterable[Delta]) -> Iterator[Event]:
        for delta in deltas:
            self._count(delta)
            if delta.index not in self._begun:
                self._begun.add(delta.index)
                yield self._chunk(delta.index, b'{"role":"assistant","content":""}', None, "")
            parts: list[tuple[bytes, list[TokenLogprob] | None]] = []
            if delta.reasoning and self._shows_reasoning:
                parts.append(
                    (b'{"reasoning_content":' + orjson.dumps(delta.reasoning) + b"}", None)
                )
            if delta.text or delta.logprobs:
                parts.append((b'{"content":' + orjson.dumps(delta.text) + b"}", delta.logprobs))
            if delta.tool_calls:
                calls = [_call(each) for each in delta.tool_calls]
                parts.append((b'{"tool_calls":' + orjson.dumps(calls) + b"}", None))
            if delta.finish_reason and not parts:
                parts.append((b"{}", None))
            for place, (content, logprobs) in enumerate(parts, 1):
                reason = self._reason(delta) if place == len(parts) else ""
                yield self._chunk(delta.index, content, logprobs, reason)

    def answer(self, deltas: Sequence[Delta], progress: Progress) -> bytes:
        choices = [
            {
                "index": delta.index,
                "message": self._message(delta),
                "logprobs": _chat_logprobs(self._asked(delta)),
                "finish_reason": self._reason(delta),
            }
            for delta in sorted(deltas, key=lambda delta: delta.index)
        ]
        return self._answer(choices, progress, **self._of_prompt(deltas[0]))

    def _reason(self, delta: Delta) -> str:
        return self._called if delta.finish_reason == "tool_calls" else delta.finish_reason

    def _message(self, delta: Delta) -> dict[str, Any]:
        """An answer that has calls alone has no text, as at OpenAI."""
        content = delta.text or (None if delta.tool_calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if delta.reasoning and self._shows_reasoning:
            message["reasoning_content"] = delta.reasoning
        if delta.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in delta.tool_calls
            ]
        return message

    def _chunk(
        self, index: int, content: bytes, logprobs: list[TokenLogprob] | None, reason: str
    ) -> Event:
        chunk = b"".join(
            (
                self._head,
                b"%d" % index,
                b',"delta":',
                content,
                b',"logprobs":',
                orjson.dumps(_chat_logprobs(logprobs)) if logprobs else b"null",
                b',"finish_reason":"' + reason.encode() + b'"' if reason else NO_REASON,
            )
        )
        return self._event(chunk)


def _call(delta: ToolCallDelta) -> dict[str, Any]:
    """What follows of a call, as a chunk has it: name and id where it begins."""
    function = {"arguments": delta.arguments}
    if not delta.id:
        return {"index": delta.index, "function": function}
    function = {"name": delta.name, **function}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}


def _chat_logprobs(logprobs: list[TokenLogprob] | None) -> orjson.Fragment | None:
    if logprobs is None:
        return None
    tokens = (
        b'%b,"top_logprobs":[%b]}'
        % (_token(each), b",".join([b"%b}" % _token(top) for top in each.top]))
        for each in logprobs
    )
    return orjson.Fragment(b'{"content":[%b],"refusal":null}' % b",".join(tokens))


def _token(token: TokenLogprob) -> bytes:
    return _named(token.token, token.raw) + orjson.dumps(token.logprob)


@lru_cache(_MOST_REMEMBERED)
def _named(token: str, raw: bytes | None) -> bytes:
    """What is the same wherever a token stands: its JSON up to its probability."""
    spelt = list(token.encode() if raw is None else raw)
    return orjson.dumps({"token": token, "bytes": spelt})[:-1] + b',"logprob":'


class ChatTranslator(Translator[ChatRequest]):
    """OpenAI's chats."""

    name = "chat"
    path = "/chat/completions"
    summary = "Answer a chat"
    description = "Streamed or not; OpenAI's parameters, and those of `ChatRequest` beside them."
    body = ChatRequest
    socket = True

    def wish(self, body: ChatRequest) -> Wish:
        return body.wish(Chat.of([message.plain() for message in body.messages]))

    def encoder(self, body: ChatRequest, order: Order) -> ChatEncoder:
        return ChatEncoder(body, order)

    def error(self, error: GatewayError) -> bytes:
        return error_body(error, ChatEncoder.prompt_name)
