"""One sequence: a prompt that is being continued, and how it is to be sampled."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contract.errors import InvalidRequestError
from contract.names import DEFAULT_PRIORITY

# From the time on: an engine that is started anew must not use an id again while others still
# know the sequence that had it.
_ids = itertools.count(time.time_ns())

MAX_TOP_LOG_PROBS = 20


class LogProbs(NamedTuple):
    """How likely one chosen token was, and what was likeliest in its place.

    Attributes:
        chosen: The token's log probability.
        top_ids: The likeliest tokens, the likeliest first.
        top: Their log probabilities.
    """

    chosen: float
    top_ids: list[int]
    top: list[float]


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen and when a sequence ends. Names and meaning are TensorRT-LLM's.

    With none of ``top_k``, ``top_p`` and ``min_p`` set the choice is greedy, whatever the
    temperature.

    Attributes:
        max_tokens: Most tokens to generate.
        temperature: Divides the logits before sampling; 0 is greedy.
        top_k: Sample among the k likeliest tokens; 0 is all, 1 is greedy.
        top_p: Sample among the likeliest tokens whose probabilities add up to p; 0 is off.
        min_p: Sample among the tokens that are at least p times as likely as the likeliest; 0 is
            off.
        repetition_penalty: Divides (or multiplies, where negative) the logits of tokens that the
            sequence has, prompt included. From Keskar et al. 2019, CTRL, section 4.1.
        presence_penalty: Taken off the logits of tokens that the sequence has.
        frequency_penalty: Taken off the logits once for each time the sequence has the token.
        min_tokens: No end token before so many tokens.
        seed: Makes sampling reproducible; None draws one.
        end_ids: Tokens that end the sequence and are not part of the output.
        stop_words: Token sequences that end the sequence; they are part of the output.
        bad_words: Token sequences that are never completed.
        embedding_bias: float32 ``[tokens]`` added to the logits of the first so many tokens of the
            vocabulary, all or fewer: logits may be padded beyond what the tokenizer knows.
        log_probs: Whether to report each token's log probability (of the model's own logits).
        num_top_log_probs: How many of the likeliest tokens to report as well beside each token, at
            most ``MAX_TOP_LOG_PROBS``.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    seed: int | None = None
    end_ids: frozenset[int] = frozenset()
    stop_words: tuple[tuple[int, ...], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    embedding_bias: NDArray[np.float32] | None = field(default=None, compare=False)
    log_probs: bool = False
    num_top_log_probs: int = 0

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            InvalidRequestError: A value is out of bounds; the message names it.
        """
        penalty = self.repetition_penalty
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        _check("temperature", self.temperature, self.temperature >= 0, "0 or more")
        _check("top_k", self.top_k, self.top_k >= 0, "0 or more")
        _check("top_p", self.top_p, 0 <= self.top_p <= 1, "between 0 and 1")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "between 0 and 1")
        _check("repetition_penalty", penalty, penalty > 0, "above 0")
        for name in ("temperature", "repetition_penalty", "presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _check(name, value, bool(np.isfinite(value)), "a finite number")
        _check(
            "min_tokens",
            self.min_tokens,
            0 <= self.min_tokens <= self.max_tokens,
            f"between 0 and max_tokens ({self.max_tokens})",
        )
        _check(
            "num_top_log_probs",
            self.num_top_log_probs,
            0 <= self.num_top_log_probs <= MAX_TOP_LOG_PROBS,
            f"between 0 and {MAX_TOP_LOG_PROBS}",
        )
        if self.embedding_bias is not None and not np.isfinite(self.embedding_bias).all():
            raise InvalidRequestError("embedding_bias has a value that is not a finite number")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        unset = self.top_k == 0 and self.top_p == 0 and self.min_p == 0
        return self.temperature == 0 or self.top_k == 1 or unset

    @property
    def reports_log_probs(self) -> bool:
        """Whether log probabilities are reported: the likeliest tokens' bring the chosen one's."""
        return self.log_probs or self.num_top_log_probs > 0

    @property
    def takes_likeliest(self) -> bool:
        """Whether the model's own likeliest token is all that is asked for."""
        return self.greedy and not self.shapes_logits and not self.reports_log_probs

    @property
    def shapes_logits(self) -> bool:
        """Whether anything changes the logits before a token is chosen."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
            or self.min_tokens > 0
            or bool(self.bad_words)
            or self.embedding_bias is not None
        )


class Sequence:
    """A prompt and its growing continuation.

    Owns the tokens, the random generator and the bookkeeping of one sequence. The scheduler decides
    when it runs and the KV cache where its keys and values lie.

    Attributes:
        id: Unique, also among sequences of an earlier process; rises in the order of arrival.
        prompt: int32 ``[tokens]``.
        params: How it is sampled.
        priority: 1 is the most urgent; see ``contract.names.PRIORITY_LEVELS``.
        is_promoted: Whether it has waited so long that it goes before every priority.
        num_overtaken: How many more urgent prompts were started before the rest of this one.
        output: Tokens generated so far, without the end token.
        log_probs: How likely each output token was, where asked for.
        num_computed: Tokens whose keys and values are in the cache.
        blocks: The cache's blocks that hold them, in order.
        digests: What identifies each of its full blocks, as far as that was worked out.
        num_new_blocks: Blocks taken for it so far.
        num_reused_blocks: Blocks that were there when it began.
        gap_ns: Time between its last two tokens; 0 before the second.
        finish_reason: Empty while it runs, else one of ``contract.names.ENGINE_FINISH_REASONS``.
    """

    def __init__(
        self,
        prompt: NDArray[np.int32],
        params: SamplingParams,
        priority: int = DEFAULT_PRIORITY,
    ) -> None:
        self.id = next(_ids)
        self.prompt = prompt
        self.params = params
        self.priority = priority
        self.is_promoted = False
        self.num_overtaken = 0
        self.output: list[int] = []
        self.log_probs: list[LogProbs] = []
        self.num_computed = 0
        self.blocks: list[int] = []
        self.digests: list[bytes] = []
        self.num_new_blocks = 0
        self.num_reused_blocks = 0
        self.finish_reason = ""
        self.arrival_ns = time.time_ns()
        self.first_scheduled_ns = 0
        self.first_token_ns = 0
        self.last_token_ns = 0
        self.gap_ns = 0
        self.random = np.random.Generator(np.random.Philox(params.seed))

    @property
    def num_tokens(self) -> int:
        """Prompt and output together."""
        return len(self.prompt) + len(self.output)

    @property
    def num_pending(self) -> int:
        """Tokens that are not in the cache yet: one where it decodes, more in its prompt."""
        return self.num_tokens - self.num_computed

    @property
    def finished(self) -> bool:
        """Whether it ended."""
        return bool(self.finish_reason)

    def tokens(self) -> NDArray[np.int32]:
        """Prompt and output, int32 ``[tokens]``."""
        return np.concatenate([self.prompt, np.asarray(self.output, dtype=np.int32)])

    def pending(self, count: int) -> NDArray[np.int32]:
        """The next tokens to compute, int32 ``[count]``."""
        if self.num_computed >= len(self.prompt):
            start = self.num_computed - len(self.prompt)
            return np.asarray(self.output[start : start + count], dtype=np.int32)
        return self.tokens()[self.num_computed : self.num_computed + count]

    def append(self, token: int, log_probs: LogProbs | None = None) -> None:
        """Take a chosen token and see whether it ends the sequence."""
        now_ns = time.time_ns()
        if self.first_token_ns:
            self.gap_ns = max(now_ns - self.last_token_ns, 0)  # the clock may be set back
        else:
            self.first_token_ns = now_ns
        self.last_token_ns = now_ns
        if token in self.params.end_ids:
            self.finish_reason = "stop"
            return
        if log_probs is not None:
            self.log_probs.append(log_probs)
        self.output.append(token)
        if any(ends_with(self.output, word) for word in self.params.stop_words):
            self.finish_reason = "stop"
        elif len(self.output) >= self.params.max_tokens:
            self.finish_reason = "length"


def ends_with(tokens: list[int], word: tuple[int, ...]) -> bool:
    """Whether a token list ends with a word; every list ends with the empty word."""
    return len(word) <= len(tokens) and tuple(tokens[len(tokens) - len(word) :]) == word


def _check(name: str, value: float, holds: bool, bound: str) -> None:
    if not holds:
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        raise InvalidRequestError(f"{name} is {shown}; it must be {bound}")
