"""OpenAI's request bodies, with bounds; what isn't supported is refused by name, never ignored.

The models are what `/openapi.json` shows. Fields that OpenAI's API doesn't have (`top_k`, `min_p`,
`repetition_penalty`, `min_tokens`, `ignore_eos`) are those that vLLM and others take too.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gateway.generation import Message, Sampling
from gateway.interfaces import TenantClass

ServiceTier = Literal["auto", "default", "priority", "flex"]

TIERS: dict[TenantClass, ServiceTier] = {
    "interactive": "priority",
    "standard": "default",
    "batch": "flex",
}
"""OpenAI's words for the priority classes."""

_CLASSES: dict[str, TenantClass] = {tier: tenant_class for tenant_class, tier in TIERS.items()}

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
    "metadata": ({},),
    "best_of": (1,),
    "suffix": ("",),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "safety_identifier": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "use_beam_search": (False,),
}
"""Fields that other servers know, and the values with which they ask for nothing."""

_OPEN = "unsupported_parameter"


class StreamOptions(BaseModel):
    """How a stream is sent."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = Field(
        default=False, description="A last chunk with the tokens of prompt and answer."
    )


class TextPart(BaseModel):
    """A part of a message: text is the only kind that is supported."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = Field(default=None, max_length=64)

    def plain(self) -> Message:
        """The message as every chat template knows it."""
        parts = [self.content] if isinstance(self.content, str) else [p.text for p in self.content]
        # OpenAI's newer word for the same; templates know the older.
        role = "system" if self.role == "developer" else self.role
        message = {"role": role, "content": "\n".join(parts)}
        return message if self.name is None else {**message, "name": self.name}


class GenerationRequest(BaseModel):
    """What chats and completions have in common."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, max_length=256, description="A name from /v1/models.")
    n: int = Field(default=1, ge=1, le=64, description="Answers to each prompt.")
    max_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=2**31 - 1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    min_tokens: int | None = Field(default=None, ge=0, le=2**31 - 1)
    ignore_eos: bool = False
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None,
        max_length=1024,
        description="What is added to a token's logit, by the token's id.",
    )
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(
        default=None, max_length=512, description="Requests of one user go to one replica's cache."
    )
    prompt_cache_key: str | None = Field(
        default=None, max_length=512, description="The same, for whatever belongs together."
    )
    service_tier: ServiceTier | None = Field(
        default=None,
        description="The priority class: priority is interactive, default is standard, flex is "
        "batch; auto is the highest that the key allows.",
    )

    kind: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        """Drop null, which asks for nothing, and name what can't be done."""
        if not isinstance(values, Mapping):
            return values
        kept = {}
        for name, value in values.items():
            if name in cls.model_fields:
                if value is not None:
                    kept[name] = value
            elif value is None or any(value == neutral for neutral in _NEUTRAL.get(name, ())):
                continue
            elif name in _NEUTRAL:
                raise PydanticCustomError(_OPEN, "{name} is not supported here", {"name": name})
            else:
                near = difflib.get_close_matches(str(name), cls.model_fields, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise PydanticCustomError(
                    _OPEN, "unknown parameter {name}{hint}", {"name": str(name)[:64], "hint": hint}
                )
        return kept

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if stop is not None and "" in ([stop] if isinstance(stop, str) else stop):
            raise ValueError("a stop text must not be empty")
        return stop

    @field_validator("logit_bias")
    @classmethod
    def _token_ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for token in bias or ():
            if not (token.isdecimal() and token.isascii() and int(token) < 2**31):
                raise ValueError(f"{token[:32]!r} is no token id")
        return bias

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                _OPEN, "stream_options need stream: true", {"name": "stream_options"}
            )
        return self

    @property
    def tenant_class(self) -> TenantClass | None:
        """The priority asked for."""
        return _CLASSES.get(self.service_tier or "auto")

    @property
    def top_logprobs_asked(self) -> int | None:
        """How many of the likeliest tokens are to be reported; None is no report at all."""
        raise NotImplementedError

    @property
    def max_tokens_asked(self) -> int | None:
        """The most tokens of an answer."""
        return self.max_tokens

    def sampling(self, max_tokens: int, temperature: float) -> Sampling:
        """How tokens are chosen.

        Args:
            max_tokens: What holds, whatever was asked.
            temperature: What holds where nothing was.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max_tokens,
            temperature=temperature if self.temperature is None else self.temperature,
            top_p=self.top_p,
            top_k=self.top_k or None,
            min_p=self.min_p or None,
            seed=self.seed,
            stop=tuple(stop),
            presence_penalty=self.presence_penalty or None,
            frequency_penalty=self.frequency_penalty or None,
            repetition_penalty=self.repetition_penalty,
            min_tokens=self.min_tokens or None,
            ignore_eos=self.ignore_eos,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            top_logprobs=self.top_logprobs_asked,
        )


class ChatRequest(GenerationRequest):
    """The body of ``POST /v1/chat/completions``."""

    kind = "chat"

    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError(
                _OPEN, "top_logprobs needs logprobs: true", {"name": "top_logprobs"}
            )
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise PydanticCustomError(
                _OPEN,
                "max_tokens and max_completion_tokens are the same; give one",
                {"name": "max_tokens"},
            )
        return self

    @property
    def top_logprobs_asked(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def max_tokens_asked(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(GenerationRequest):
    """The body of ``POST /v1/completions``."""

    kind = "completion"

    prompt: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=64)]
    )
    echo: bool = Field(default=False, description="Put the prompt before the answer.")
    logprobs: int | None = Field(default=None, ge=0, le=5)

    @model_validator(mode="after")
    def _consistent(self) -> CompletionRequest:
        if self.echo and self.logprobs is not None:
            raise PydanticCustomError(
                _OPEN, "logprobs of an echoed prompt are not supported", {"name": "logprobs"}
            )
        return self

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, one or many."""
        return (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)

    @property
    def top_logprobs_asked(self) -> int | None:
        return self.logprobs
