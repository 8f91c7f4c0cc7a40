"""A Triton replica: jobs become requests to Trireme's ensemble over gRPC, one stream each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import anyio.lowlevel
import orjson

from clients.client_errors import (
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    ServerBrokenError,
    ServerBusyError,
    ServerUnavailableError,
)
from clients.grpc_transport import AsyncGrpcTransport
from clients.options import GenerationOptions
from clients.request import Request
from clients.results import Outputs
from contract.error_text import CONTENT_FILTER
from gateway.configuration import TritonSettings
from gateway.generation import Delta, Job, TokenLogprob
from gateway.interfaces import TenantClass
from gateway.upstreams.base import (
    UpstreamBusy,
    UpstreamFailed,
    UpstreamLost,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)

_PRIORITIES: dict[TenantClass, int] = {"interactive": 1, "standard": 3, "batch": 5}
_PARAMS = {
    "num_return_sequences": "n",
    "stop_words": "stop",
    "embedding_bias_words": "logit_bias",
    "embedding_bias_ids": "logit_bias",
    "embedding_bias_weights": "logit_bias",
    "return_log_probs": "logprobs",
    "num_top_log_probs": "top_logprobs",
    "end_id": "ignore_eos",
}
"""What a client of the gateway calls the ensemble's inputs, where that is something else."""

_BYTES = "bytes:"
"""How the text of a token begins that is no whole character."""


class Triton:
    """One Triton server with the ensemble."""

    def __init__(self, settings: TritonSettings) -> None:
        """Know a server; nothing is sent yet."""
        self._settings = settings
        self._transport = AsyncGrpcTransport(settings.address)

    async def generate(self, job: Job) -> AsyncGenerator[Delta, None]:
        """Ask it; see `Upstream`."""
        requests = self._requests(job)
        try:
            if len(requests) == 1:
                deltas = self._deltas(requests[0], 0)
            else:
                deltas = _merge([self._deltas(r, i * job.n) for i, r in enumerate(requests)])
            async with aclosing(deltas):
                async for delta in deltas:
                    yield delta
        except asyncio.CancelledError:
            # Python's gRPC may have raised it anew, and then anyio doesn't know it for its own.
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise
        except InvalidRequestError as error:
            raise _refusal(error, job) from None
        except DeadlineExceededError as error:
            raise UpstreamTimeout(str(error)) from None
        except ServerBusyError as error:
            raise UpstreamBusy(str(error)) from None
        except ServerBrokenError as error:
            raise UpstreamLost(str(error)) from None
        except ServerUnavailableError as error:
            raise UpstreamUnavailable(str(error)) from None
        except ClientError as error:
            raise UpstreamFailed(str(error)) from None

    async def aclose(self) -> None:
        """Close the connection."""
        await self._transport.aclose()

    async def _deltas(self, request: Request, first_index: int) -> AsyncGenerator[Delta, None]:
        async with aclosing(self._transport.responses(request)) as responses:
            async for outputs in responses:
                yield _delta(outputs, first_index)

    def _requests(self, job: Job) -> list[Request]:
        """One for the chat, or one for each prompt."""
        make = partial(
            Request,
            model=job.model,
            stream=job.stream,
            timeout_s=job.timeout_s,
            headers=job.headers,
        )
        parameters: dict[str, Any] = {}
        if job.policy is not None:
            parameters["safety_policy"] = job.policy
        if job.messages is not None:
            options = self._options(job, messages=job.messages)
            return [
                make(prompt="", options=options, request_id=job.request_id, parameters=parameters)
            ]
        parameters["chat_template"] = "off"
        options = self._options(job)
        return [
            make(
                prompt=prompt,
                options=options,
                request_id=job.request_id if len(job.prompts) == 1 else f"{job.request_id}.{i}",
                parameters=parameters,
            )
            for i, prompt in enumerate(job.prompts)
        ]

    def _options(self, job: Job, **more: Any) -> GenerationOptions:
        sampling = job.sampling
        if self._settings.priorities:
            more["priority"] = _PRIORITIES[job.tenant_class]
        return GenerationOptions(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=None if sampling.seed is None else sampling.seed % 2**64,
            stop_words=sampling.stop,
            min_tokens=sampling.min_tokens,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            end_id=-1 if sampling.ignore_eos else None,
            logit_bias=sampling.logit_bias,
            num_return_sequences=job.n if job.n > 1 else None,
            exclude_input_in_output=True,
            include_stop_str_in_output=False,
            return_log_probs=True if sampling.top_logprobs is not None else None,
            num_top_log_probs=sampling.top_logprobs or None,
            return_num_input_tokens=True,
            return_num_output_tokens=True,
            **more,
        )


def _delta(outputs: Outputs, first_index: int) -> Delta:
    index = outputs.get("sequence_index")
    prompt_tokens = outputs.get("num_input_tokens")
    output_tokens = outputs.get("num_output_tokens")
    reason = outputs.get("finish_reason")
    return Delta(
        index=first_index + (index[0] if index else 0),
        text=outputs["text_output"][0],
        finish_reason=reason[0] if reason else "",
        output_tokens=output_tokens[0] if output_tokens else 0,
        prompt_tokens=prompt_tokens[0] if prompt_tokens else None,
        logprobs=_logprobs(outputs) if "output_log_probs" in outputs else None,
        verdicts=_verdicts(outputs["safety_verdicts"]) if "safety_verdicts" in outputs else (),
    )


def _logprobs(outputs: Outputs) -> list[TokenLogprob]:
    chosen = [
        _token(text, value)
        for text, value in zip(outputs["output_tokens"], outputs["output_log_probs"], strict=True)
    ]
    likeliest = [
        _token(text, value)
        for text, value in zip(
            outputs.get("top_tokens", ()), outputs.get("top_log_probs", ()), strict=True
        )
    ]
    count = len(likeliest) // len(chosen) if chosen else 0
    return [
        replace(token, top=tuple(likeliest[place * count : (place + 1) * count]))
        for place, token in enumerate(chosen)
    ]


def _token(text: str, logprob: float) -> TokenLogprob:
    """A token from its text, or from its bytes, spelt in hexadecimal, where it is none alone."""
    if not text.startswith(_BYTES):
        return TokenLogprob(text, logprob)
    raw = bytes.fromhex(text.removeprefix(_BYTES).replace("\\x", ""))
    return TokenLogprob(raw.decode(errors="replace"), logprob, raw)


def _verdicts(values: Sequence[str]) -> tuple[str, ...]:
    """What a policy found, without the places: ``output:email:redact``."""
    return tuple(
        f"{verdict['side']}:{verdict['rule']}:{verdict['action']}"
        for value in values
        for verdict in orjson.loads(value or b"[]")
    )


async def _merge(generators: list[AsyncGenerator[Delta, None]]) -> AsyncGenerator[Delta, None]:
    """Yield from several generators as things come; the first error ends them all."""
    ended = object()
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def drain(generator: AsyncGenerator[Delta, None]) -> None:
        try:
            async with aclosing(generator):
                async for delta in generator:
                    queue.put_nowait(delta)
        except Exception as error:
            queue.put_nowait(error)
        else:
            queue.put_nowait(ended)

    tasks = [asyncio.create_task(drain(generator)) for generator in generators]
    running = len(tasks)
    try:
        while running:
            item = await queue.get()
            if item is ended:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def _refusal(error: InvalidRequestError, job: Job) -> Exception:
    message = str(error)
    if message.startswith(CONTENT_FILTER):
        return UpstreamRefused(message.removeprefix(CONTENT_FILTER), code="content_filter")
    name = error.input_name
    if name == "text_input":
        name = "prompt" if job.messages is None else "messages"
    return UpstreamRefused(message, name and _PARAMS.get(name, name))
