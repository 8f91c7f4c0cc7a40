"""A Triton replica: jobs become requests to Trireme's ensemble over gRPC, one stream each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
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
from contract.names import (
    ADD_SPECIAL_TOKENS,
    CHAT_TEMPLATE,
    PROBE,
    SAFETY_POLICY,
    SHARE,
    TENSORRT_LLM,
)
from contract.parameters import INT32_MAX, GenerationParameters
from gateway.configuration import TritonSettings
from gateway.generation import (
    STOP_GRACE_S,
    Chat,
    Computed,
    Delta,
    Generation,
    Job,
    Texts,
    TokenLogprob,
    Tokens,
    ToolCallDelta,
)
from gateway.interfaces import TenantClass
from gateway.upstreams.merging import merge

_PRIORITIES: dict[TenantClass, int] = {"interactive": 1, "standard": 3, "batch": 5}
# Read for every response: spelt once.
_TEXT = EnsembleOutputs.TEXT_OUTPUT.name
_FINISH_REASON = EnsembleOutputs.FINISH_REASON.name
_STOP_TEXT = EnsembleOutputs.STOP_TEXT.name
_INDEX = EnsembleOutputs.SEQUENCE_INDEX.name
_PROMPT_TOKENS = EnsembleOutputs.NUM_INPUT_TOKENS.name
_OUTPUT_TOKENS = EnsembleOutputs.NUM_OUTPUT_TOKENS.name
_COMPUTED_PROMPT = EnsembleOutputs.NUM_COMPUTED_INPUT_TOKENS.name
_COMPUTED_OUTPUT = EnsembleOutputs.NUM_COMPUTED_OUTPUT_TOKENS.name
_CACHED = EnsembleOutputs.NUM_CACHED_TOKENS.name
_VERDICTS = EnsembleOutputs.SAFETY_VERDICTS.name
_REASONING = EnsembleOutputs.REASONING_OUTPUT.name
_TOOL_CALLS = EnsembleOutputs.TOOL_CALLS.name
_REASONING_TOKENS = EnsembleOutputs.NUM_REASONING_TOKENS.name
_TOKENS = EnsembleOutputs.OUTPUT_TOKENS.name
_LOG_PROBS = EnsembleOutputs.OUTPUT_LOG_PROBS.name
_TOP_TOKENS = EnsembleOutputs.TOP_TOKENS.name
_TOP_LOG_PROBS = EnsembleOutputs.TOP_LOG_PROBS.name
_PROMPT_IDS = EnsembleOutputs.PROMPT_IDS.name
_PROMPT_TEXTS = EnsembleOutputs.PROMPT_TOKEN_TEXTS.name
_PROMPT_LOG_PROBS = EnsembleOutputs.PROMPT_LOG_PROBS.name
_PROMPT_TOP_IDS = EnsembleOutputs.PROMPT_TOP_LOG_PROB_IDS.name
_PROMPT_TOP_TEXTS = EnsembleOutputs.PROMPT_TOP_TOKENS.name
_PROMPT_TOP_LOG_PROBS = EnsembleOutputs.PROMPT_TOP_LOG_PROBS.name

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
                deltas = merge(
                    [self._deltas(r, i * job.generation.n) for i, r in enumerate(requests)],
                    partial(self.stop, job),
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

    async def tokens(self, job: Job) -> list[int]:
        """Ask the ensemble's first step alone; see `TokenTeller`."""
        (request,) = self._requests(job)
        return await self._transport.tokens(request)

    async def text(self, job: Job) -> str:
        """Ask the ensemble's last step alone; see `TokenTeller`."""
        prompt = job.generation.prompt
        assert isinstance(prompt, Tokens), "a text is one already"
        (request,) = self._requests(job)
        return await self._transport.text(request, prompt.rows[0])

    async def aclose(self) -> None:
        """Close the connection."""
        await self._transport.aclose()

    async def _deltas(self, request: Request, first_index: int) -> AsyncGenerator[Delta, None]:
        async with aclosing(self._transport.responses(request)) as responses:
            async for outputs in responses:
                entries = len(outputs.get(_TOP_TOKENS, ())) + len(outputs.get(_PROMPT_IDS, ()))
                entries += len(outputs.get(_PROMPT_TOP_IDS, ()))
                yield await aside(partial(_delta, outputs, first_index), entries)

    def _requests(self, job: Job) -> list[Request]:
        """One for the chat, or one for each prompt."""
        generation, prompt = job.generation, job.generation.prompt
        options = self._options(generation)
        make = partial(
            Request,
            model=job.model,
            options=options,
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
        if isinstance(prompt, Texts) and not prompt.special_tokens:
            parameters[ADD_SPECIAL_TOKENS] = False
        if isinstance(prompt, Tokens):
            return [
                make(
                    prompt="",
                    options=replace(options, prompt_token_ids=row),
                    request_id=_name(job, i),
                    parameters=parameters,
                )
                for i, row in enumerate(prompt.rows)
            ]
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
            parse_answer=True if isinstance(generation.prompt, Chat) else None,
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
        prompt=_prompt(outputs) if _PROMPT_IDS in outputs else None,
        stop_text=_first_text(outputs, _STOP_TEXT),
        reasoning=_first_text(outputs, _REASONING),
        tool_calls=_calls(outputs) if _TOOL_CALLS in outputs else [],
        reasoning_tokens=outputs[_REASONING_TOKENS][0] if _REASONING_TOKENS in outputs else 0,
    )


def _first_text(outputs: Outputs, name: str) -> str:
    values = outputs.get(name)
    return values[0] if values else ""


def _calls(outputs: Outputs) -> list[ToolCallDelta]:
    return [ToolCallDelta(**each) for each in orjson.loads(outputs[_TOOL_CALLS][0] or b"[]")]


def _computed(outputs: Outputs) -> Computed:
    return Computed(outputs[_COMPUTED_PROMPT][0], outputs[_COMPUTED_OUTPUT][0], outputs[_CACHED][0])


def _logprobs(outputs: Outputs) -> list[TokenLogprob]:
    chosen = list(map(_token, outputs[_TOKENS], outputs[_LOG_PROBS]))
    likeliest = map(_token, outputs.get(_TOP_TOKENS, ()), outputs.get(_TOP_LOG_PROBS, ()))
    return _with_likeliest(chosen, list(likeliest))


def _prompt(outputs: Outputs) -> list[TokenLogprob]:
    """The prompt's tokens; of the last of them it is known how likely they were.

    A score above 0 is none: the policy takes out what it would tell.
    """
    ids = outputs[_PROMPT_IDS]
    scores = [None if each > 0 else each for each in outputs.get(_PROMPT_LOG_PROBS, ())]
    values = [*[None] * (len(ids) - len(scores)), *scores]
    tokens = list(map(_token, outputs[_PROMPT_TEXTS], values, ids))
    likeliest = map(
        _token,
        outputs.get(_PROMPT_TOP_TEXTS, ()),
        outputs.get(_PROMPT_TOP_LOG_PROBS, ()),
        outputs.get(_PROMPT_TOP_IDS, ()),
    )
    of_scores = len(ids) - len(scores)
    scored = _with_likeliest(tokens[of_scores:], list(likeliest))
    told = [each if each.logprob is not None else each._replace(top=()) for each in scored]
    return tokens[:of_scores] + told


def _with_likeliest(
    tokens: list[TokenLogprob], likeliest: list[TokenLogprob]
) -> list[TokenLogprob]:
    """Each token with its part of those that were the likeliest."""
    count = len(likeliest) // len(tokens) if tokens else 0
    return [
        token._replace(top=tuple(likeliest[place * count : (place + 1) * count]))
        for place, token in enumerate(tokens)
    ]


def _token(text: str, logprob: float | None, token_id: int | None = None) -> TokenLogprob:
    """A token from its text, or from its bytes, spelt in hexadecimal, where it is none alone."""
    if not text.startswith(_BYTES):
        return TokenLogprob(text, logprob, id=token_id)
    raw = bytes.fromhex(text.removeprefix(_BYTES).replace("\\x", ""))
    return TokenLogprob(raw.decode(errors="replace"), logprob, raw, id=token_id)


def _verdicts(values: Sequence[str]) -> tuple[str, ...]:
    """What a policy found, without the places: ``output:email:redact``."""
    return tuple(
        f"{verdict['side']}:{verdict['rule']}:{verdict['action']}"
        for value in values
        for verdict in orjson.loads(value or b"[]")
    )
