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

from clients.aside import aside
from clients.grpc_transport import AsyncGrpcTransport
from clients.request import Request
from clients.results import Outputs
from contract.models import EnsembleOutputs
from contract.names import CHAT_TEMPLATE, PROBE, SAFETY_POLICY, SHARE, TENSORRT_LLM
from contract.parameters import INT32_MAX, GenerationParameters
from gateway.configuration import TritonSettings
from gateway.generation import (
    STOP_GRACE_S,
    Chat,
    Computed,
    Delta,
    Generation,
    Job,
    TokenLogprob,
)
from gateway.interfaces import TenantClass

_PRIORITIES: dict[TenantClass, int] = {"interactive": 1, "standard": 3, "batch": 5}
# Read for every response: spelt once.
_TEXT = EnsembleOutputs.TEXT_OUTPUT.name
_FINISH_REASON = EnsembleOutputs.FINISH_REASON.name
_INDEX = EnsembleOutputs.SEQUENCE_INDEX.name
_PROMPT_TOKENS = EnsembleOutputs.NUM_INPUT_TOKENS.name
_OUTPUT_TOKENS = EnsembleOutputs.NUM_OUTPUT_TOKENS.name
_COMPUTED_PROMPT = EnsembleOutputs.NUM_COMPUTED_INPUT_TOKENS.name
_COMPUTED_OUTPUT = EnsembleOutputs.NUM_COMPUTED_OUTPUT_TOKENS.name
_CACHED = EnsembleOutputs.NUM_CACHED_TOKENS.name
_VERDICTS = EnsembleOutputs.SAFETY_VERDICTS.name
_TOKENS = EnsembleOutputs.OUTPUT_TOKENS.name
_LOG_PROBS = EnsembleOutputs.OUTPUT_LOG_PROBS.name
_TOP_TOKENS = EnsembleOutputs.TOP_TOKENS.name
_TOP_LOG_PROBS = EnsembleOutputs.TOP_LOG_PROBS.name

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
        prompt_bytes = len(job.generation.prompt.encoded)
        requests = await aside(partial(self._requests, job), num_bytes=prompt_bytes)
        try:
            if len(requests) == 1:
                deltas = self._deltas(requests[0], 0)
            else:
                deltas = _merge(
                    [self._deltas(r, i * job.generation.n) for i, r in enumerate(requests)]
                )
            async with aclosing(deltas):
                async for delta in deltas:
                    yield delta
        except asyncio.CancelledError:
            # Python's gRPC may have raised it anew, and then anyio doesn't know it for its own.
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise

    async def stop(self, job: Job) -> bool:
        """Tell the engine; see `Upstream`."""
        if not self._settings.priorities:
            return False
        num_prompts = len(job.generation.prompt)
        names = [_name(job, place) for place in range(num_prompts)]
        await asyncio.gather(*(self._transport.stop(TENSORRT_LLM, name) for name in names))
        return True

    async def aclose(self) -> None:
        """Close the connection."""
        await self._transport.aclose()

    async def _deltas(self, request: Request, first_index: int) -> AsyncGenerator[Delta, None]:
        async with aclosing(self._transport.responses(request)) as responses:
            async for outputs in responses:
                entries = len(outputs.get(_TOP_TOKENS, ()))
                yield await aside(partial(_delta, outputs, first_index), entries)

    def _requests(self, job: Job) -> list[Request]:
        """One for the chat, or one for each prompt."""
        generation, prompt = job.generation, job.generation.prompt
        make = partial(
            Request,
            model=job.model,
            options=self._options(generation),
            stream=generation.stream,
            timeout_s=job.timeout_s + STOP_GRACE_S,
            headers=job.headers,
        )
        parameters: dict[str, Any] = {}
        if generation.policy is not None:
            parameters[SAFETY_POLICY] = generation.policy
        if self._settings.priorities and generation.tenant:
            parameters[SHARE] = generation.tenant
        if self._settings.priorities and generation.is_probe:
            parameters[PROBE] = True
        if isinstance(prompt, Chat):
            chat = prompt.encoded.decode()
            return [make(prompt="", chat=chat, request_id=_name(job, 0), parameters=parameters)]
        parameters[CHAT_TEMPLATE] = "off"
        return [
            make(prompt=text, request_id=_name(job, i), parameters=parameters)
            for i, text in enumerate(prompt.texts)
        ]

    def _options(self, generation: Generation) -> GenerationParameters:
        """What was asked, and what the gateway asks for itself."""
        asked = generation.parameters
        penalized = asked.presence_penalty or asked.frequency_penalty
        ours = self._settings.priorities
        return replace(
            asked,
            seed=None if asked.seed is None else asked.seed % 2**64,
            priority=_PRIORITIES[generation.tenant_class] if ours else None,
            fit_max_tokens=asked.fit_max_tokens if ours else None,
            # OpenAI's penalties count what the model said, not what it was told.
            prompt_ignore_length=INT32_MAX if ours and penalized else None,
            exclude_input_in_output=True,
            include_stop_str_in_output=False,
            return_num_input_tokens=True,
            return_num_output_tokens=True,
            return_computed_tokens=True if ours else None,
        )


def _name(job: Job, place: int) -> str:
    """What the engine knows the request for one of a job's prompts by."""
    return job.request_id if len(job.generation.prompt) == 1 else f"{job.request_id}.{place}"


def _delta(outputs: Outputs, first_index: int) -> Delta:
    index = outputs.get(_INDEX)
    prompt_tokens = outputs.get(_PROMPT_TOKENS)
    output_tokens = outputs.get(_OUTPUT_TOKENS)
    reason = outputs.get(_FINISH_REASON)
    return Delta(
        index=first_index + (index[0] if index else 0),
        text=outputs[_TEXT][0],
        finish_reason=reason[0] if reason else "",
        output_tokens=output_tokens[0] if output_tokens else 0,
        prompt_tokens=prompt_tokens[0] if prompt_tokens else None,
        logprobs=_logprobs(outputs) if _LOG_PROBS in outputs else None,
        verdicts=_verdicts(outputs[_VERDICTS]) if _VERDICTS in outputs else (),
        computed=_computed(outputs) if _COMPUTED_OUTPUT in outputs else None,
    )


def _computed(outputs: Outputs) -> Computed:
    return Computed(outputs[_COMPUTED_PROMPT][0], outputs[_COMPUTED_OUTPUT][0], outputs[_CACHED][0])


def _logprobs(outputs: Outputs) -> list[TokenLogprob]:
    chosen = [
        _token(text, value)
        for text, value in zip(outputs[_TOKENS], outputs[_LOG_PROBS], strict=True)
    ]
    likeliest = [
        _token(text, value)
        for text, value in zip(
            outputs.get(_TOP_TOKENS, ()), outputs.get(_TOP_LOG_PROBS, ()), strict=True
        )
    ]
    count = len(likeliest) // len(chosen) if chosen else 0
    return [
        token._replace(top=tuple(likeliest[place * count : (place + 1) * count]))
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
