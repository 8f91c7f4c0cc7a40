"""``/v1/completions``: OpenAI's older API, which goes on with texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import Field, model_validator

from gateway.api.error_objects import error_body
from gateway.api.neutral import NEUTRAL, unsupported
from gateway.api.openai_answer import NO_REASON, OpenAIEncoder
from gateway.api.openai_request import GenerationRequest
from gateway.api.translator import Event, Translator
from gateway.gateway_errors import GatewayError
from gateway.generation import Delta, Texts, TokenLogprob
from gateway.order import Order, Wish
from gateway.run_progress import Progress


class CompletionRequest(GenerationRequest):
    """The body of ``POST /v1/completions``."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **NEUTRAL,
        "add_special_tokens": (True,),
        "logprobs": (False,),
    }

    prompt: (
        Annotated[str, Field(min_length=1)]
        | Annotated[
            list[Annotated[str, Field(min_length=1)]],
            Field(min_length=1, max_length=64, fail_fast=True),
        ]
    )
    echo: bool = Field(default=False, description="Put the prompt before the answer.")
    logprobs: int | None = Field(default=None, ge=0, le=5)

    @model_validator(mode="after")
    def _consistent(self) -> CompletionRequest:
        if self.echo and self.logprobs is not None:
            raise unsupported("logprobs of an echoed prompt are not supported", name="logprobs")
        return self

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, one or many."""
        return (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)

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
        self._echo = body.prompts if body.echo else ()
        self._n = body.n
        self._begun: set[int] = set()
        self._offsets: dict[int, int] = {}

    def events(self, deltas: Iterable[Delta]) -> Iterator[Event]:
        for delta in deltas:
            text = self._before(delta.index) + delta.text
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
                "text": self._before(delta.index) + delta.text,
                "logprobs": self._logprobs(delta),
                "finish_reason": delta.finish_reason,
            }
            for delta in sorted(deltas, key=lambda delta: delta.index)
        ]
        return self._answer(choices, progress)

    def _before(self, index: int) -> str:
        """The prompt that goes before a choice's first piece."""
        if not self._echo or index in self._begun:
            return ""
        return self._echo[index // self._n]

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        """OpenAI's older form, with the place of each token in the text.

        Counted by the tokens: in a stream a part of a token's text may come before the token.
        """
        if delta.logprobs is None:
            return None
        offsets, offset = [], self._offsets.get(delta.index, 0)
        for each in delta.logprobs:
            offsets.append(offset)
            offset += len(each.token)
        self._offsets[delta.index] = offset
        return {
            "tokens": [each.token for each in delta.logprobs],
            "token_logprobs": [each.logprob for each in delta.logprobs],
            "top_logprobs": [_with_the_likeliest(each) for each in delta.logprobs],
            "text_offset": offsets,
        }


def _with_the_likeliest(chosen: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens, and the chosen one always: one more than asked for, or with 0 alone."""
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
        return body.wish(Texts.of(body.prompts))

    def encoder(self, body: CompletionRequest, order: Order) -> CompletionEncoder:
        return CompletionEncoder(body, order)

    def error(self, error: GatewayError) -> bytes:
        return error_body(error, CompletionEncoder.prompt_name)
