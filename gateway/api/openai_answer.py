"""What the answers of OpenAI's APIs have in common.

A chunk is written around its text from parts that are the same for the whole stream: it is made
for every token of every stream, and the rest of the gateway costs less than building it anew would.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import Any

import orjson

from gateway.api.error_objects import error_body
from gateway.api.openai_request import TIERS, GenerationRequest
from gateway.api.translator import Event
from gateway.gateway_errors import GatewayError
from gateway.generation import Delta, TokenLogprob
from gateway.order import Order
from gateway.run_progress import Progress

DONE = Event(b"[DONE]")

_FILLED_BYTES = 64
"""Where sizes are to tell nothing, a chunk has a multiple of so many bytes, and a few more."""

NO_REASON = b',"finish_reason":null'


class OpenAIEncoder:
    """What the answers of both have in common."""

    object_name: str
    chunk_name: str
    id_prefix: str
    prompt_name: str

    def __init__(self, body: GenerationRequest, order: Order) -> None:
        self._fields = {
            "id": f"{self.id_prefix}-{order.arrival.request_id}",
            "object": self.chunk_name,
            "created": int(time.time()),
            "model": order.model.asked,
            "service_tier": TIERS[order.tenant_class],
        }
        self._num_top = body.top_logprobs_asked
        self._num_prompt_top = body.prompt_logprobs
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._include_usage = include_usage
        head = orjson.dumps(self._fields)[:-1]
        self._head = head + b',"choices":[{"index":'
        self._tail = b'}],"usage":null' if include_usage else b"}]"
        counts = include_usage and bool(
            body.stream_options and body.stream_options.continuous_usage_stats
        )
        self._so_far = Progress(order.generation.n) if counts else None
        self._fills_up = bool(body.stream_options and body.stream_options.include_obfuscation)
        self._no_choices = head + b',"choices":[],"usage":'

    def _count(self, delta: Delta) -> None:
        """Count a piece, where each chunk says how many tokens there are by then."""
        if self._so_far is not None:
            self._so_far.add(delta)
            self._tail = b'}],"usage":' + orjson.dumps(_usage(self._so_far))

    def _event(self, begun: bytes) -> Event:
        """A chunk of a stream, from its head and what is its own."""
        if not self._fills_up:
            return Event(b"".join((begun, self._tail, b"}")))
        missing = -(len(begun) + len(self._tail)) % _FILLED_BYTES
        filling = secrets.token_urlsafe(_FILLED_BYTES)[:missing]
        return Event(b'%b%b,"obfuscation":"%b"}' % (begun, self._tail, filling.encode()))

    def _asked(self, delta: Delta) -> list[TokenLogprob] | None:
        """The log probabilities that were asked for.

        Where the prompt's are, there may be more: an engine reports as many beside each token.
        """
        if self._num_top is None or delta.logprobs is None:
            return None
        if self._num_prompt_top is None:
            return delta.logprobs
        return [each._replace(top=each.top[: self._num_top]) for each in delta.logprobs]

    def _of_prompt(self, delta: Delta) -> dict[str, Any]:
        """How likely the prompt's tokens were, in vLLM's form, where that was asked for."""
        if self._num_prompt_top is None:
            return {}
        prompt = delta.prompt or []
        return {"prompt_logprobs": [_ranked(each, self._num_prompt_top) for each in prompt]}

    def end(self, progress: Progress) -> Iterable[Event]:
        if self._include_usage:
            yield Event(self._no_choices + orjson.dumps(_usage(progress)) + b"}")
        yield DONE

    def failed(self, error: GatewayError) -> Event:
        return Event(error_body(error, self.prompt_name))

    def _answer(self, choices: list[dict[str, Any]], progress: Progress, **more: Any) -> bytes:
        return orjson.dumps(
            {
                **self._fields,
                "object": self.object_name,
                "choices": choices,
                "usage": _usage(progress),
                **more,
            }
        )


def _ranked(token: TokenLogprob, num_top: int) -> dict[str, Any] | None:
    """A token and the likeliest in its place, by their ids; the rank is known of those alone."""
    if token.logprob is None:
        return None
    ranks = {each.id: rank for rank, each in enumerate(token.top, 1)}
    return {
        str(each.id): {
            "logprob": each.logprob,
            "rank": ranks.get(each.id),
            "decoded_token": each.token,
        }
        for each in (token, *token.top[:num_top])
    }


def _usage(progress: Progress) -> dict[str, Any]:
    prompt, answer = progress.all_prompt_tokens, progress.output_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": progress.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": progress.reasoning_tokens},
    }
