"""``/v1/completions``: OpenAI's older API, which goes on with texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, cast

import orjson
from pydantic import Field, model_validator

from contract.parameters import INT32_MAX, ParameterKeywords
from gateway.api.error_objects import error_body
from gateway.api.neutral import NEUTRAL, unsupported
from gateway.api.openai_answer import NO_REASON, OpenAIEncoder
from gateway.api.openai_request import GenerationRequest
from gateway.api.translator import Event, Translator
from gateway.gateway_errors import GatewayError
from gateway.generation import Delta, Texts, TokenLogprob, Tokens
from gateway.order import Order, Wish
from gateway.run_progress import Progress

_ROWS = Field(min_length=1, max_length=64, fail_fast=True)
Text = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[
    list[Annotated[int, Field(ge=0, le=INT32_MAX, strict=True)]],
    Field(min_length=1, fail_fast=True),
]


class CompletionRequest(GenerationRequest):
    """The body of ``POST /v1/completions``."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **NEUTRAL,
        "logprobs": (False,),
    }

    prompt: Text | Annotated[list[Text], _ROWS] | TokenIds | Annotated[list[TokenIds], _ROWS]
    max_tokens: int | None = Field(
        default=None, ge=0, le=INT32_MAX, description="0 where the echo is all that is wanted."
    )
    add_special_tokens: bool = Field(
        default=True, description="Whether texts get what the tokenizer begins or ends one with."
    )
    echo: bool = Field(default=False, description="Put the prompt before the answer.")
    logprobs: int | None = Field(default=None, ge=0, le=5)

    @model_validator(mode="after")
    def _consistent(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise unsupported(
                "max_tokens is 0; it must be at least 1 without echo", name="max_tokens"
            )
        return self

    def prompts(self) -> Texts | Tokens:
        """The prompts, one or many, as texts or as tokens."""
        if isinstance(self.prompt, str):
            return Texts.of([self.prompt], self.add_special_tokens)
        first = self.prompt[0]
        if isinstance(first, str):
            return Texts.of(cast(list[str], self.prompt), self.add_special_tokens)
        if isinstance(first, int):
            return Tokens.of([cast(list[int], self.prompt)])
        return Tokens.of(cast(list[list[int]], self.prompt))

    def parameters(self) -> ParameterKeywords:
        """How text is to be generated, and what of the prompt is echoed."""
        parameters = super().parameters()
        if self.echo:
            parameters["return_prompt_tokens"] = True
            if self.logprobs is not None:
                parameters["num_prompt_log_probs"] = INT32_MAX
            elif self.max_tokens == 0:  # an engine that generates nothing has a prompt to score
                parameters.setdefault("num_prompt_log_probs", 1)
        return parameters

    @property
    def top_logprobs_asked(self) -> int | None:
        return self.logprobs


class CompletionEncoder(OpenAIEncoder):
    """Answers of ``/v1/completions``."""

    object_name = "text_completion"
    chunk_name = "text_completion"
    id_prefix = "cmpl"
    prompt_name = "prompt"

    def __init__(self, body: CompletionRequest, order: Order) -> None:
        super().__init__(body, order)
        self._echoes = body.echo
        self._prompt = order.generation.prompt
        self._n = order.generation.n
        self._begun: set[int] = set()
        self._offsets: dict[int, int] = {}

    def events(self, deltas: Iterable[Delta]) -> Iterator[Event]:
        for delta in deltas:
            self._count(delta)
            text = self._before(delta) + delta.text
            if text or delta.logprobs or delta.finish_reason:
                logprobs = self._logprobs(delta)
                self._begun.add(delta.index)
                chunk = b"".join(
                    (
                        self._head,
                        b"%d" % delta.index,
                        b',"text":',
                        orjson.dumps(text),
                        b',"logprobs":',
                        orjson.dumps(logprobs) if logprobs else b"null",
                        b',"finish_reason":"' + delta.finish_reason.encode() + b'"'
                        if delta.finish_reason
                        else NO_REASON,
                    )
                )
                yield self._event(chunk)

    def answer(self, deltas: Sequence[Delta], progress: Progress) -> bytes:
        choices = [
            {
                "index": delta.index,
                "text": self._before(delta) + delta.text,
                "logprobs": self._logprobs(delta),
                "finish_reason": delta.finish_reason,
                **self._of_prompt(delta),
            }
            for delta in sorted(deltas, key=lambda delta: delta.index)
        ]
        return self._answer(choices, progress)

    def _before(self, delta: Delta) -> str:
        """The prompt that goes before a choice's first piece."""
        if not self._echoes or delta.index in self._begun:
            return ""
        if isinstance(self._prompt, Texts):
            return self._prompt.texts[delta.index // self._n]
        tokens = delta.prompt or []
        raw = (each.token.encode() if each.raw is None else each.raw for each in tokens)
        return b"".join(raw).decode(errors="replace")

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        """OpenAI's older form, with the place of each token in the text.

        Counted by the tokens: in a stream a part of a token's text may come before the token.
        """
        tokens = self._asked(delta)
        if tokens is None:
            return None
        if self._echoes and delta.index not in self._begun:
            tokens = [*(delta.prompt or ()), *tokens]
        offsets, offset = [], self._offsets.get(delta.index, 0)
        for each in tokens:
            offsets.append(offset)
            offset += len(each.token)
        self._offsets[delta.index] = offset
        return {
            "tokens": [each.token for each in tokens],
            "token_logprobs": [each.logprob for each in tokens],
            "top_logprobs": [_with_the_likeliest(each) for each in tokens],
            "text_offset": offsets,
        }


def _with_the_likeliest(chosen: TokenLogprob) -> dict[str, float | None] | None:
    """The likeliest tokens, and the chosen one always: one more than asked for, or with 0 alone."""
    if chosen.logprob is None:
        return None
    likeliest = {top.token: top.logprob for top in chosen.top}
    return {**likeliest, chosen.token: chosen.logprob}


class CompletionTranslator(Translator[CompletionRequest]):
    """OpenAI's older API."""

    name = "completions"
    path = "/completions"
    summary = "Go on with a text"
    description = "The text goes to the model as it is, without a chat template."
    body = CompletionRequest

    def wish(self, body: CompletionRequest) -> Wish:
        return body.wish(body.prompts())

    def encoder(self, body: CompletionRequest, order: Order) -> CompletionEncoder:
        return CompletionEncoder(body, order)

    def error(self, error: GatewayError) -> bytes:
        return error_body(error, CompletionEncoder.prompt_name)
