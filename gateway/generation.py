"""What is generated, in no API's words: a job for an upstream, and the pieces that come back.

The API turns requests into jobs, upstreams turn jobs into pieces, and neither knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.interfaces import TenantClass

Message = Mapping[str, Any]
"""One message of a chat, as OpenAI's API has it."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen and when an answer ends. None leaves the choice to the upstream.

    Attributes:
        max_tokens: The most tokens of one answer.
        temperature: Above 1 flattens the distribution, below 1 sharpens it; 0 is greedy.
        top_p: Draw among the likeliest tokens whose probabilities add up to this.
        top_k: Draw among so many of the likeliest tokens.
        min_p: Draw among tokens at least so likely, relative to the likeliest.
        seed: The same seed, prompt and parameters draw the same tokens.
        stop: Texts that end an answer and are not part of it.
        presence_penalty: Taken from the logits of tokens that were there, once.
        frequency_penalty: The same, for each time.
        repetition_penalty: Above 1 makes tokens that were there less likely, as a factor.
        min_tokens: An answer doesn't end by itself before so many tokens.
        ignore_eos: An answer doesn't end by itself at all.
        logit_bias: What to add to the logits of tokens, by their ids.
        top_logprobs: Report the log probability of each token and of so many of the likeliest
            others; None reports none.
    """

    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None


@dataclass(frozen=True)
class Job:
    """One request as an upstream gets it.

    Attributes:
        request_id: Names it in the engine's log and traces; no two jobs that run share one.
        model: What the upstream calls the model.
        messages: The chat to go on with; None where it is about prompts.
        prompts: The texts to go on with; empty where it is about a chat.
        n: How many answers to each prompt.
        sampling: How.
        stream: Whether pieces are wanted as they are made, or each answer in one.
        tenant_class: The priority.
        policy: The safety policy; None is the upstream's own.
        timeout_s: How long it may take in all.
        headers: Trace context for the upstream.
    """

    request_id: str
    model: str
    messages: tuple[Message, ...] | None
    prompts: tuple[str, ...]
    n: int
    sampling: Sampling
    stream: bool
    tenant_class: TenantClass
    policy: str | None
    timeout_s: float
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_answers(self) -> int:
        """How many answers it makes in all."""
        return self.n * max(1, len(self.prompts))


@dataclass(frozen=True)
class TokenLogprob:
    """One token and how likely it was.

    Attributes:
        token: Its text; bytes that are no character alone are replaced.
        logprob: Natural logarithm of its probability.
        raw: Its bytes, where they are known.
        top: The likeliest tokens at its place.
    """

    token: str
    logprob: float
    raw: bytes | None = None
    top: tuple[TokenLogprob, ...] = ()


@dataclass
class Delta:
    """What was added to one answer.

    Attributes:
        index: Which answer, from 0: the prompt's index times `n`, and the answer's own.
        text: What follows.
        finish_reason: ``stop``, ``length`` or ``content_filter``, or ``cancelled`` or ``error``
            where it was cut off; empty while it goes on.
        output_tokens: Tokens generated for this text.
        prompt_tokens: Length of the prompt; None where this delta doesn't say.
        logprobs: Of each token, where they were asked for.
        verdicts: What the safety policy found, as ``output:email:redact``.
    """

    index: int = 0
    text: str = ""
    finish_reason: str = ""
    output_tokens: int = 0
    prompt_tokens: int | None = None
    logprobs: list[TokenLogprob] | None = None
    verdicts: tuple[str, ...] = ()
