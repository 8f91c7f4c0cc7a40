"""A provider that speaks OpenAI's API: another gateway, vLLM, a cloud.

What a job asks goes out under OpenAI's names, and only what was asked: a provider refuses what it
doesn't know rather than that it is dropped here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, get_args

import httpx
import orjson

from clients.sse import EventParser
from contract.codes import Ending, ErrorCode, FinishReason
from contract.errors import (
    GenerationError,
    InvalidRequestError,
    RequestTimeoutError,
    ServerBusyError,
    ServerUnavailableError,
)
from contract.parameters import ASKED, NO_END, GenerationParameters
from contract.tool_choice import ToolChoice
from gateway.configuration import ProviderSettings
from gateway.generation import (
    AnyPrompt,
    Chat,
    Delta,
    Generation,
    Job,
    Texts,
    TokenLogprob,
    Tokens,
    ToolCallDelta,
)

_CONNECT_S = 5.0
_PATHS = {Chat: "/chat/completions", Texts: "/completions", Tokens: "/completions"}
_AS_THEY_ARE = ("tools", "reasoning_effort", "thinking_token_budget", "chat_template_kwargs")
_SERVICE_TIERS = {"interactive": "priority", "standard": "default", "batch": "flex"}


class Provider:
    """One provider."""

    def __init__(self, settings: ProviderSettings) -> None:
        """Know a provider; nothing is sent yet.

        Raises:
            ValueError: Its key isn't in the environment.
        """
        self._url = settings.url.rstrip("/")
        self._send_tier = settings.send_service_tier
        key = settings.api_key()
        self._client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            limits=httpx.Limits(max_connections=settings.max_concurrent + 1),
            trust_env=False,
        )

    async def generate(self, job: Job) -> AsyncGenerator[Delta, None]:
        """Ask it; see `Upstream`."""
        path = _PATHS[type(job.generation.prompt)]
        timeout = httpx.Timeout(job.timeout_s, connect=min(_CONNECT_S, job.timeout_s))
        request = self._client.build_request(
            "POST",
            self._url + path,
            content=orjson.dumps(self._body(job)),
            headers={"content-type": "application/json", **job.headers},
            timeout=timeout,
        )
        try:
            response = await self._client.send(request, stream=True)
            try:
                if response.status_code != 200:
                    raise _refusal(response.status_code, await response.aread())
                if job.generation.stream:
                    async for delta in _events(response):
                        yield delta
                else:
                    for delta in _deltas(orjson.loads(await response.aread())):
                        yield delta
            finally:
                await response.aclose()
        except httpx.ReadTimeout:
            raise RequestTimeoutError("the provider did not answer in time") from None
        except httpx.HTTPError as error:
            raise ServerUnavailableError(f"{type(error).__name__} from {self._url}") from None
        except InvalidRequestError:  # which is a ValueError, too
            raise
        except (ValueError, KeyError, TypeError, IndexError):
            raise GenerationError("the provider's answer is not OpenAI's") from None

    async def stop(self, job: Job) -> bool:
        """Say that a provider knows no such way; see `Upstream`."""
        return False

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _body(self, job: Job) -> dict[str, Any]:
        generation = job.generation
        body: dict[str, Any] = {
            "model": job.model,
            **_prompt(generation.prompt),
            **_parameters(generation.parameters),
            **_logprobs_fields(generation),
        }
        if self._send_tier:
            body["service_tier"] = _SERVICE_TIERS[generation.tenant_class]
        if generation.stream:
            body.update(stream=True, stream_options={"include_usage": True})
        return body


def _prompt(prompt: AnyPrompt) -> dict[str, Any]:
    if isinstance(prompt, Chat):
        return {"messages": orjson.Fragment(prompt.encoded)}
    each: Sequence[Any] = prompt.texts if isinstance(prompt, Texts) else prompt.rows
    said: dict[str, Any] = {"prompt": each[0] if len(prompt) == 1 else each}
    if isinstance(prompt, Texts) and not prompt.special_tokens:
        said["add_special_tokens"] = False
    return said


def _parameters(parameters: GenerationParameters) -> dict[str, Any]:
    """What was asked, under OpenAI's names.

    Raises:
        InvalidRequestError: It asks of the prompt what providers don't tell.
    """
    if parameters.return_prompt_tokens or parameters.num_prompt_log_probs:
        raise InvalidRequestError("a provider tells nothing of the prompt's tokens", "echo")
    fields = {
        "max_tokens": parameters.max_tokens,
        "n": parameters.num_return_sequences,
        "stop": list(parameters.stop_words) or None,
        "ignore_eos": True if parameters.end_id == NO_END else None,
        "logit_bias": {str(id_): bias for id_, bias in parameters.logit_bias.items()} or None,
        **{name: getattr(parameters, row.name) for name, row in ASKED.items()},
        **{name: getattr(parameters, name) or None for name in _AS_THEY_ARE},
        "parallel_tool_calls": parameters.parallel_tool_calls,
        "tool_choice": _choice(parameters.tool_choice),
        **_guide_fields(parameters),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _choice(word: str | None) -> str | dict[str, Any] | None:
    choice = ToolChoice.of(word)
    if choice.kind == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.kind if word else None


def _guide_fields(parameters: GenerationParameters) -> dict[str, Any]:
    """What answers keep to; OpenAI itself knows no more than schemas, vLLM and its kin do."""
    kind, guide = parameters.guided_decoding_guide_type, parameters.guided_decoding_guide
    if kind == "json":
        return {"response_format": {"type": "json_object"}}
    if kind == "json_schema" and guide is not None:
        schema = {"name": "answer", "schema": orjson.loads(guide), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if kind is not None:
        return {"structured_outputs": {"regex" if kind == "regex" else "grammar": guide}}
    return {}


def _logprobs_fields(generation: Generation) -> dict[str, Any]:
    if not generation.parameters.return_log_probs:
        return {}
    top = generation.parameters.num_top_log_probs
    if not isinstance(generation.prompt, Chat):
        return {"logprobs": top or 0}
    return {"logprobs": True, **({"top_logprobs": top} if top else {})}


async def _events(response: httpx.Response) -> AsyncGenerator[Delta, None]:
    parser = EventParser()
    async for chunk in response.aiter_bytes():
        for data in parser.feed(chunk):
            if data == "[DONE]":
                return
            for delta in _deltas(orjson.loads(data)):
                yield delta
    raise ServerUnavailableError("the provider's stream ended before it was done")


def _deltas(answer: Mapping[str, Any]) -> list[Delta]:
    """Read an answer or one chunk of it."""
    if "error" in answer:
        raise GenerationError(str(answer["error"].get("message", "no reason given")))
    deltas = []
    for choice in answer["choices"]:
        message = choice.get("delta") or choice.get("message") or {}
        deltas.append(
            Delta(
                index=choice["index"],
                text=choice.get("text") or message.get("content") or "",
                finish_reason=_ending(choice.get("finish_reason")),
                logprobs=_logprobs(choice.get("logprobs")),
                reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
                tool_calls=_calls(message.get("tool_calls") or ()),
            )
        )
    usage = answer.get("usage")
    if usage:
        # OpenAI counts all answers together: the first carries the sum.
        details = usage.get("completion_tokens_details") or {}
        count = Delta(
            prompt_tokens=usage["prompt_tokens"],
            output_tokens=usage["completion_tokens"],
            reasoning_tokens=details.get("reasoning_tokens") or 0,
        )
        deltas.append(count)
    return deltas


def _calls(given: Sequence[Mapping[str, Any]]) -> list[ToolCallDelta]:
    """Calls of an answer, or what a chunk adds to them."""
    deltas = []
    for place, call in enumerate(given):
        function = call.get("function") or {}
        deltas.append(
            ToolCallDelta(
                index=call.get("index", place),
                id=call.get("id") or "",
                name=function.get("name") or "",
                arguments=function.get("arguments") or "",
            )
        )
    return deltas


def _ending(given: str | None) -> Ending:
    """Why an answer ended; a word that is not of OpenAI's is taken for an end like any other."""
    if not given:
        return ""
    return next((known for known in get_args(FinishReason) if known == given), "stop")


def _logprobs(given: Mapping[str, Any] | None) -> list[TokenLogprob] | None:
    if given is None:
        return None
    if "content" in given:
        return [_token(entry) for entry in given["content"] or ()]
    tops = given.get("top_logprobs") or [{}] * len(given["tokens"])
    return [
        TokenLogprob(token, logprob, top=tuple(TokenLogprob(*pair) for pair in (top or {}).items()))
        for token, logprob, top in zip(given["tokens"], given["token_logprobs"], tops, strict=True)
    ]


def _token(entry: Mapping[str, Any]) -> TokenLogprob:
    raw = entry.get("bytes")
    return TokenLogprob(
        entry["token"],
        entry["logprob"],
        None if raw is None else bytes(raw),
        tuple(map(_token, entry.get("top_logprobs") or ())),
    )


def _refusal(status: int, body: bytes) -> Exception:
    """What an answer other than 200 means for the one who asked the gateway."""
    message, param = f"the provider answered with status {status}", None
    code: ErrorCode | None = None
    try:
        error = orjson.loads(body)["error"]
        message, param = str(error["message"]), error.get("param")
        param = param if isinstance(param, str) else None
        code = error["code"] if error.get("code") in get_args(ErrorCode) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # not OpenAI's error object
    if status in (400, 413, 422):
        return InvalidRequestError(message, param, code=code)
    if status == 429:
        return ServerBusyError(message)
    if status in (401, 403, 404) or status >= 500:  # our key, our model's name, or its trouble
        return ServerUnavailableError(message)
    return GenerationError(message)
