"""What the bodies of OpenAI's APIs have in common, with bounds.

What isn't supported is refused by name, never ignored. The models are what `/openapi.json` shows.
Fields that OpenAI's API doesn't have (`top_k`, `min_p`, …) are those that vLLM and others take too;
those that say how tokens are drawn are the rows of `contract.parameters`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from contract.bounds import STOP_WORDS
from contract.parameters import (
    ASKED,
    INT32_MAX,
    MAX_TOP_LOG_PROBS,
    NO_END,
    ROWS,
    GenerationParameters,
    ParameterKeywords,
)
from gateway.api.neutral import NEUTRAL, asking, unsupported
from gateway.api.structured import Structured
from gateway.generation import AnyPrompt
from gateway.interfaces import TenantClass
from gateway.order import Wish

ServiceTier = Literal["auto", "default", "priority", "flex"]

TIERS: dict[TenantClass, ServiceTier] = {
    "interactive": "priority",
    "standard": "default",
    "batch": "flex",
}
"""OpenAI's words for the priority classes."""

CLASSES: dict[str, TenantClass] = {tier: tenant_class for tenant_class, tier in TIERS.items()}

_MOST_DIGITS = 10
"""Of a token's id."""


def check_stop_texts(texts: Sequence[str]) -> None:
    """Look whether texts can be looked for.

    Raises:
        ValueError: One is empty, or they are too long.
    """
    if "" in texts:
        raise ValueError("a stop text must not be empty")
    size = sum(len(text.encode()) for text in texts)
    if size > STOP_WORDS.most_bytes:
        raise ValueError(
            f"the texts have {size} bytes; they must have at most {STOP_WORDS.most_bytes}"
        )


class StreamOptions(BaseModel):
    """How a stream is sent."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = Field(
        default=False, description="A last chunk with the tokens of prompt and answer."
    )
    continuous_usage_stats: bool = Field(
        default=False, description="vLLM's: the tokens so far in each chunk, too."
    )
    include_obfuscation: bool = Field(
        default=False, description="Fill chunks up, so that their sizes don't tell the words'."
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        return asking(values, cls.model_fields.keys(), {})


class _Asked(BaseModel):
    """What comes first in a body."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, max_length=256, description="A name from /v1/models.")
    n: int = Field(default=1, ge=1, le=64, description="Answers to each prompt.")
    max_tokens: int | None = Field(default=None, ge=1, le=INT32_MAX)


if TYPE_CHECKING:
    _AskedWithParameters = _Asked
else:  # a type checker needs none of these fields: all that reads them goes by the table
    _TYPES = get_type_hints(GenerationParameters)
    _AskedWithParameters = create_model(
        "_AskedWithParameters",
        __base__=_Asked,
        **{
            name: (
                _TYPES[row.name],
                Field(
                    default=None,
                    ge=row.asked.least,
                    gt=row.asked.above,
                    le=row.asked.most,
                    description=row.meaning,
                ),
            )
            for name, row in ASKED.items()
        },
    )


class GenerationRequest(Structured, _AskedWithParameters):
    """What chats and completions have in common."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = NEUTRAL
    """Values that ask for nothing."""

    stop: str | Annotated[list[str], Field(max_length=16, fail_fast=True)] | None = None
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
    safety_identifier: str | None = Field(
        default=None, max_length=512, description="Whom it is for; changes nothing here."
    )
    metadata: (
        dict[
            Annotated[str, Field(max_length=64)],
            Annotated[str, Field(max_length=512)],
        ]
        | None
    ) = Field(default=None, max_length=16, description="The client's own notes; not kept.")
    best_of: int | None = Field(
        default=None, ge=1, description="As many as `n`: all that are made are answers."
    )
    prompt_logprobs: int | None = Field(
        default=None,
        ge=0,
        le=MAX_TOP_LOG_PROBS,
        description="vLLM's: the log probability of each of the prompt's tokens, with so many of "
        "the likeliest beside it; not in a stream.",
    )
    service_tier: ServiceTier | None = Field(
        default=None,
        description="The priority class: priority is interactive, default is standard, flex is "
        "batch; auto is the highest that the key allows.",
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        """Drop what asks for nothing, and name what can't be done."""
        return asking(values, cls.model_fields.keys(), cls.neutral)

    @field_validator("stop")
    @classmethod
    def _stop_texts(cls, stop: str | list[str] | None) -> str | list[str] | None:
        check_stop_texts([stop] if isinstance(stop, str) else stop or [])
        return stop

    @field_validator("logit_bias")
    @classmethod
    def _token_ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for token in bias or ():
            known = len(token) <= _MOST_DIGITS and token.isdecimal() and token.isascii()
            if not (known and int(token) <= INT32_MAX):
                raise ValueError(f"{token[:32]!r} is no token id")
        return bias

    @model_validator(mode="after")
    def _best_of_n(self) -> GenerationRequest:
        if self.best_of is not None and self.best_of < self.n:
            raise unsupported(
                "best_of is {best_of}; it must not be below n, which is {n}",
                name="best_of",
                best_of=str(self.best_of),
                n=str(self.n),
            )
        if self.best_of is not None and self.best_of > self.n:
            raise unsupported("best_of above n is not supported here", name="best_of")
        return self

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise unsupported("stream_options need stream: true", name="stream_options")
        return self

    @model_validator(mode="after")
    def _a_prompt_is_scored_whole(self) -> GenerationRequest:
        if self.prompt_logprobs is not None and self.stream:
            raise unsupported("prompt_logprobs are not part of a stream", name="prompt_logprobs")
        return self

    @property
    def top_logprobs_asked(self) -> int | None:
        """How many of the likeliest tokens are to be reported; None is no report at all."""
        raise NotImplementedError

    @property
    def max_tokens_asked(self) -> int | None:
        """The most tokens of an answer."""
        return self.max_tokens

    def parameters(self) -> ParameterKeywords:
        """How text is to be generated, as far as the body says."""
        given = {row.name: getattr(self, name) for name, row in ASKED.items()}
        asked = {
            name: value
            for name, value in given.items()
            if value is not None and value != ROWS[name].nothing
        }
        parameters = cast(ParameterKeywords, asked)
        if self.max_tokens_asked is not None:
            parameters["max_tokens"] = self.max_tokens_asked
        if self.n > 1:
            parameters["num_return_sequences"] = self.n
        if self.stop:
            stop = [self.stop] if isinstance(self.stop, str) else self.stop
            parameters["stop_words"] = tuple(stop)
        if self.ignore_eos:
            parameters["end_id"] = NO_END
        if self.guide is not None:
            parameters["guided_decoding_guide_type"] = self.guide.type
            parameters["guided_decoding_guide"] = self.guide.text or None
        if self.logit_bias:
            bias = {int(token): value for token, value in self.logit_bias.items()}
            parameters["logit_bias"] = bias
        if self.top_logprobs_asked is not None:
            parameters["return_log_probs"] = True
            if self.top_logprobs_asked:
                parameters["num_top_log_probs"] = self.top_logprobs_asked
        if self.prompt_logprobs is not None:
            parameters["num_prompt_log_probs"] = INT32_MAX
            parameters["return_prompt_tokens"] = True
            most = max(self.prompt_logprobs, self.top_logprobs_asked or 0)
            if most:
                parameters["num_top_log_probs"] = most
        return parameters

    def wish(self, prompt: AnyPrompt) -> Wish:
        """What the body asks for, about a prompt."""
        return Wish(
            model=self.model,
            prompt=prompt,
            parameters=self.parameters(),
            stream=self.stream,
            tenant_class=CLASSES.get(self.service_tier or "auto"),
            affinity_key=self.prompt_cache_key or self.user,
        )
