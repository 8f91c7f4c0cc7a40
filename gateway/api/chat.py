"""``/v1/chat/completions``: OpenAI's chats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from contract.parameters import INT32_MAX, MAX_TOP_LOG_PROBS
from gateway.api.error_objects import error_body
from gateway.api.neutral import NEUTRAL, carrying, unsupported
from gateway.api.openai_answer import NO_REASON, OpenAIEncoder
from gateway.api.openai_request import GenerationRequest
from gateway.api.translator import Event, Translator
from gateway.gateway_errors import GatewayError
from gateway.generation import Chat, Delta, Message, TokenLogprob
from gateway.order import Order, Wish
from gateway.run_progress import Progress

_MOST_REMEMBERED = 4096
"""Tokens whose JSON is kept: texts repeat themselves."""


class _Open(BaseModel):
    """What may have further fields, as long as nothing is in them."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        return carrying(values, cls.model_fields.keys())


class TextPart(_Open):
    """A part of a message: text is the only kind that is supported."""

    type: Literal["text"]
    text: str


class ChatMessage(_Open):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=4096, fail_fast=True)]
    name: str | None = Field(default=None, max_length=64)

    @model_validator(mode="before")
    @classmethod
    def _an_answer_may_be_empty(cls, values: Any) -> Any:
        """An answer of no text comes back as null, as an empty list, or without the field.

        Nobody else's message may lack what it says.
        """
        if not isinstance(values, Mapping) or values.get("role") != "assistant":
            return values
        return values if values.get("content") else {**values, "content": ""}

    def plain(self) -> Message:
        """The message as every chat template knows it."""
        parts = [self.content] if isinstance(self.content, str) else [p.text for p in self.content]
        # OpenAI's newer word for the same; templates know the older.
        role = "system" if self.role == "developer" else self.role
        message = {"role": role, "content": "\n".join(parts)}
        return message if self.name is None else {**message, "name": self.name}


class ChatRequest(GenerationRequest):
    """The body of ``POST /v1/chat/completions``."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **NEUTRAL,
        "add_special_tokens": (False,),
        "echo": (False,),
    }

    messages: list[ChatMessage] = Field(min_length=1, max_length=4096, fail_fast=True)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=INT32_MAX)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOG_PROBS)

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise unsupported("top_logprobs needs logprobs: true", name="top_logprobs")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise unsupported(
                "max_tokens and max_completion_tokens are the same; give one", name="max_tokens"
            )
        return self

    @property
    def top_logprobs_asked(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def max_tokens_asked(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class ChatEncoder(OpenAIEncoder):
    """Answers of ``/v1/chat/completions``."""

    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"
    id_prefix = "chatcmpl"
    prompt_name = "messages"

    def __init__(self, body: ChatRequest, order: Order) -> None:
        super().__init__(body, order)
        self._begun: set[int] = set()

    def events(self, deltas: Iterable[Delta]) -> Iterator[Event]:
        for delta in deltas:
            if delta.index not in self._begun:
                self._begun.add(delta.index)
                yield self._chunk(delta.index, b'{"role":"assistant","content":""}', None, "")
            if delta.text or delta.logprobs:
                content = b'{"content":' + orjson.dumps(delta.text) + b"}"
                yield self._chunk(delta.index, content, delta.logprobs, delta.finish_reason)
            elif delta.finish_reason:
                yield self._chunk(delta.index, b"{}", None, delta.finish_reason)

    def answer(self, deltas: Sequence[Delta], progress: Progress) -> bytes:
        choices = [
            {
                "index": delta.index,
                "message": {"role": "assistant", "content": delta.text, "refusal": None},
                "logprobs": _chat_logprobs(delta.logprobs),
                "finish_reason": delta.finish_reason,
            }
            for delta in sorted(deltas, key=lambda delta: delta.index)
        ]
        return self._answer(choices, progress)

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
