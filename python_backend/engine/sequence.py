"""One sequence: a prompt that is being continued, and how it is to be sampled."""

from __future__ import annotations

import itertools
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contract.codes import Ending
from contract.errors import InvalidRequestError
from contract.models import EngineInputs
from contract.names import DEFAULT_PRIORITY
from contract.parameters import SAMPLED
from python_backend.engine.shaping import (
    BadWords,
    Bias,
    Guide,
    LogitsShaper,
    MinTokens,
    Penalties,
    ends_with,
)

# From the time on: an engine that is started anew must not use an id again while others still
# know the sequence that had it.
_ids = itertools.count(time.time_ns())


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


class Outcome(NamedTuple):
    """What a step's rows of logits say of one sequence.

    Attributes:
        scored: How likely the prompt's next tokens were.
        tokens: What is chosen after its newest token and after each draft, as if that were right.
        log_probs: How likely these were, one each or, where not asked for, none.
    """

    scored: list[LogProbs]
    tokens: list[int]
    log_probs: list[LogProbs]


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen and when a sequence ends. Names and meaning are TensorRT-LLM's.

    Bounds and defaults of what a request may say are those of `contract.parameters`.

    With none of ``top_k``, ``top_p`` and ``min_p`` set the choice is greedy, whatever the
    temperature.

    Attributes:
        max_tokens: Most tokens to generate; 0 where the prompt's log probabilities are all that is
            wanted.
        fit_max_tokens: Whether ``max_tokens`` is cut to what there is room for.
        temperature: Divides the logits before sampling; 0 is greedy.
        top_k: Sample among the k likeliest tokens; 0 is all, 1 is greedy.
        top_p: Sample among the likeliest tokens whose probabilities add up to p; 0 is off.
        min_p: Sample among the tokens that are at least p times as likely as the likeliest; 0 is
            off.
        repetition_penalty: Divides (or multiplies, where negative) the logits of tokens that the
            sequence has, prompt included. From Keskar et al. 2019, CTRL, section 4.1.
        presence_penalty: Taken off the logits of tokens that the sequence has.
        frequency_penalty: Taken off the logits once for each time the sequence has the token.
        prompt_ignore_length: How many of the prompt's first tokens these two don't count.
        min_tokens: No end token and no stop word before so many tokens.
        seed: Makes sampling reproducible; None draws one.
        end_ids: Tokens that end the sequence and are not part of the output.
        stop_words: Token sequences that end the sequence; they are part of the output.
        bad_words: Token sequences that are never completed.
        embedding_bias: float32 ``[tokens]`` added to the logits of the first so many tokens of the
            vocabulary, all or fewer: logits may be padded beyond what the tokenizer knows.
        log_probs: Whether to report each token's log probability (of the model's own logits).
        num_top_log_probs: How many of the likeliest tokens to report as well beside each token.
        num_prompt_log_probs: Of how many of the prompt's last tokens to report the log probability,
            with as many of the likeliest beside it. The first token has none.
    """

    max_tokens: int
    fit_max_tokens: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    prompt_ignore_length: int = 0
    min_tokens: int = 0
    seed: int | None = None
    end_ids: frozenset[int] = frozenset()
    stop_words: tuple[tuple[int, ...], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    embedding_bias: NDArray[np.float32] | None = field(default=None, compare=False)
    log_probs: bool = False
    num_top_log_probs: int = 0
    num_prompt_log_probs: int = 0

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            InvalidRequestError: A value is out of bounds; the message names it.
        """
        if self.num_prompt_log_probs and self.max_tokens < 0:  # nothing may follow what is scored
            raise InvalidRequestError(
                f"max_tokens is {self.max_tokens}; it must be at least 0", "max_tokens"
            )
        for row in SAMPLED.values():
            if row.name != "max_tokens" or not self.num_prompt_log_probs:
                row.check(getattr(self, row.name))
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise InvalidRequestError(
                f"min_tokens is {self.min_tokens}; it must be between 0 and max_tokens "
                f"({self.max_tokens})",
                "min_tokens",
            )
        if self.embedding_bias is not None and not np.isfinite(self.embedding_bias).all():
            raise InvalidRequestError(
                "embedding_bias has a value that is not a finite number",
                EngineInputs.EMBEDDING_BIAS.name,
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        unset = self.top_k == 0 and self.top_p == 0 and self.min_p == 0
        return self.temperature == 0 or self.top_k == 1 or unset

    @property
    def reports_log_probs(self) -> bool:
        """Whether log probabilities are reported: the likeliest tokens' bring the chosen one's."""
        return self.log_probs or self.num_top_log_probs > 0


class Sequence:
    """A prompt and its growing continuation.

    Owns the tokens, the random generator and the bookkeeping of one sequence. The scheduler decides
    when it runs and the KV cache where its keys and values lie.

    Attributes:
        id: Unique, also among sequences of an earlier process; rises in the order of arrival.
        prompt: int32 ``[tokens]``.
        params: How it is sampled.
        priority: 1 is the most urgent; see ``contract.names.PRIORITY_LEVELS``.
        salt: Sequences share keys and values only with those of the same salt.
        rotary_start: The row of the rotary embedding's table that its first position has, which the
            engine sets when it is added; it shares keys and values only with those that have the
            same.
        share: Whose share of the engine it takes, a tenant's name; empty where nobody says.
        owner: The same, or else the request that it belongs to.
        shapers: What changes its logits before a token is chosen, in this order.
        guide: What its output keeps to, the last of them; None where it is free.
        is_promoted: Whether it has waited so long that it goes before every priority.
        num_overtaken: How many more urgent prompts were started before the rest of this one.
        output: Tokens generated so far, without the end token.
        log_probs: How likely each output token was, where asked for.
        drafts: Guesses at the tokens after the newest one, of the vocabulary. Whoever has some puts
            them here before a step, which may compute them and takes those that are right.
        prompt_log_probs: How likely the prompt's last tokens were, where asked for, as far as that
            is known yet.
        num_computed: Tokens whose keys and values are in the cache.
        blocks: The cache's blocks that hold them, in order.
        digests: What identifies each of its full blocks, as far as that was worked out.
        num_new_blocks: Blocks taken for it so far.
        num_reused_blocks: Blocks that were there when it began.
        num_cached_tokens: Tokens of its prompt that it found in the cache when it began.
        num_prompt_done: Tokens of its prompt that are or were in the cache, once computed.
        num_generated: Tokens that were chosen for it, the end token too.
        num_new_tokens: Those of them that the newest step gave it: several where drafts were right.
        num_drafts: Drafts that were computed for it.
        num_right_drafts: Those of them that were right.
        first_token_ns: When its first token came, or it was known that none will.
        last_token_ns: When its newest tokens came; all of a step come at once.
        gap_ns: Time between the last two steps that gave it tokens; 0 before the second.
        finish_reason: Empty while it runs, else one of ``contract.names.ENGINE_FINISH_REASONS``.
        failure: Why it left the engine without one; None where it didn't.
    """

    def __init__(
        self,
        prompt: NDArray[np.int32],
        params: SamplingParams,
        priority: int = DEFAULT_PRIORITY,
        salt: bytes = b"",
        shapers: tuple[LogitsShaper, ...] = (),
        share: str = "",
        request: Hashable = None,
        guide: Guide | None = None,
    ) -> None:
        """Begin a sequence.

        Args:
            prompt: int32 ``[tokens]``.
            params: How it is sampled.
            priority: How urgent it is.
            salt: What it shares keys and values by, beside its tokens, such as a tenant's name.
            shapers: What changes its logits after what its parameters ask for.
            share: Whose share of the engine it takes, such as a tenant's name.
            request: What it has in common with the others of its request; None where it is alone.
            guide: What its output keeps to.
        """
        self.id = next(_ids)
        self.prompt = prompt
        self.params = params
        self.priority = priority
        self.salt = salt
        self.rotary_start = 0
        self.share = share
        self.owner: Hashable = share or (self.id if request is None else request)
        self.guide = guide
        own = () if guide is None else (guide,)
        self.shapers: tuple[LogitsShaper, ...] = (*_shapers(prompt, params), *shapers, *own)
        self.is_promoted = False
        self.num_overtaken = 0
        self.output: list[int] = []
        self.log_probs: list[LogProbs] = []
        self.drafts: list[int] = []
        self.prompt_log_probs: list[LogProbs] = []
        self.num_computed = 0
        self.blocks: list[int] = []
        self.digests: list[bytes] = []
        self.num_new_blocks = 0
        self.num_reused_blocks = 0
        self.num_cached_tokens = 0
        self.num_prompt_done = 0
        self.num_generated = 0
        self.num_new_tokens = 0
        self.num_drafts = 0
        self.num_right_drafts = 0
        self.finish_reason: Ending = ""
        self.failure: Exception | None = None
        self.arrival_ns = time.time_ns()
        self.first_scheduled_ns = 0
        self.first_token_ns = 0
        self.last_token_ns = 0
        self.gap_ns = 0
        self._generator = np.random.Generator(np.random.Philox(params.seed))
        self._numbers: list[float] = []
        self._num_scored = min(params.num_prompt_log_probs, len(prompt) - 1)

    @property
    def num_tokens(self) -> int:
        """Prompt and output together, without drafts."""
        return len(self.prompt) + len(self.output)

    @property
    def num_pending(self) -> int:
        """Tokens that are known and not in the cache yet."""
        return self.num_tokens - self.num_computed

    @property
    def num_prompt_computed(self) -> int:
        """Tokens of its prompt that were computed for it; once, however often it had to wait."""
        return max(self.num_prompt_done - self.num_cached_tokens, 0)

    @property
    def num_unscored(self) -> int:
        """Tokens of the prompt whose log probability is wanted and not known yet."""
        return self._num_scored - len(self.prompt_log_probs)

    @property
    def next_row(self) -> int:
        """The place of the first token after which logits are still wanted.

        That is the newest one, or, where a prompt is scored (before there is any output), the one
        before the first token of which the log probability is still wanted.
        """
        return self.num_tokens - 1 - self.num_unscored

    @property
    def takes_likeliest(self) -> bool:
        """Whether the model's own likeliest token is all that is asked for."""
        reports = self.params.reports_log_probs or self.num_unscored
        return self.params.greedy and not (self.shapers or reports)

    @property
    def finished(self) -> bool:
        """Whether it ended."""
        return bool(self.finish_reason or self.failure)

    def tokens(self) -> NDArray[np.int32]:
        """Prompt and output, int32 ``[tokens]``."""
        return np.concatenate([self.prompt, np.asarray(self.output, dtype=np.int32)])

    def pending(self, count: int) -> list[int]:
        """The next tokens to compute; drafts come last."""
        start = self.num_computed - len(self.prompt)
        if start >= 0:
            return [*self.output[start:], *self.drafts][:count]
        rest: list[int] = self.prompt[start:][:count].tolist()
        return rest + [*self.output, *self.drafts][: count - len(rest)]

    def random(self, index: int) -> float:
        """The number, in ``[0, 1)``, that the output's token of this index is drawn with.

        It is the same however often the token is drawn, as it is again after a wrong draft.
        """
        while len(self._numbers) <= index:
            self._numbers.append(self._generator.random())
        return self._numbers[index]

    def take(self, outcome: Outcome) -> int:
        """Take what a step says, and of the tokens that it chose those that follow right ones.

        Returns:
            How many drafts were right.
        """
        scored, tokens, log_probs = outcome
        self.prompt_log_probs += scored
        self.num_new_tokens = 0
        if not tokens:
            return 0
        self._note_time()
        generated = self.num_generated
        drafts, self.drafts = self.drafts, []
        right = 0
        for token in tokens:
            self._append(token, log_probs[right] if log_probs else None)
            forced = self.guide is not None and self._take_forced(self.guide)
            if right == len(tokens) - 1 or self.finished or forced or token != drafts[right]:
                break
            right += 1
        self.num_new_tokens = self.num_generated - generated
        self.num_drafts += len(tokens) - 1
        self.num_right_drafts += right
        return right

    def append(self, token: int, log_probs: LogProbs | None = None) -> None:
        """Take a step's only token and see whether it ends the sequence."""
        self.take(Outcome([], [token], [] if log_probs is None else [log_probs]))

    def _take_forced(self, guide: Guide) -> bool:
        """Take what must follow, which needs no step of the model; and end where nothing may.

        A token whose log probability is wanted has to be chosen from a row of logits.

        Returns:
            Whether something must.
        """
        if self.finished:
            return False
        forced = [] if self.params.reports_log_probs else guide.forced(self.output)
        for token in forced:
            if not self.finished:
                self._append(token, None)
        if not self.finished and guide.is_complete(self.output):
            self.finish_reason = "stop"
        self.failure = guide.failure
        return bool(forced)

    def _note_time(self) -> None:
        """Note that a step gave it tokens."""
        now_ns = time.time_ns()
        if self.first_token_ns:
            self.gap_ns = max(now_ns - self.last_token_ns, 0)  # the clock may be set back
        else:
            self.first_token_ns = now_ns
        self.last_token_ns = now_ns

    def _append(self, token: int, log_probs: LogProbs | None) -> None:
        if not self.params.max_tokens:
            self.finish_reason = "length"
            return
        self.num_generated += 1
        if token in self.params.end_ids:
            self.finish_reason = "stop"
            return
        if log_probs is not None:
            self.log_probs.append(log_probs)
        self.output.append(token)
        early = len(self.output) <= self.params.min_tokens
        if not early and any(ends_with(self.output, word) for word in self.params.stop_words):
            self.finish_reason = "stop"
        elif len(self.output) >= self.params.max_tokens:
            self.finish_reason = "length"


def _shapers(prompt: NDArray[np.int32], params: SamplingParams) -> list[LogitsShaper]:
    """What the parameters ask for: bias, penalties and prohibitions, in this order.

    It is TensorRT-LLM's, but that the temperature follows, as elsewhere, and not the bias.
    """
    shapers: list[LogitsShaper] = []
    if params.embedding_bias is not None:
        shapers.append(Bias(params.embedding_bias))
    penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    if penalties != (1, 0, 0):
        shapers.append(Penalties(prompt, *penalties, params.prompt_ignore_length))
    if params.min_tokens:
        shapers.append(MinTokens(params.min_tokens, params.end_ids))
    if params.bad_words:
        shapers.append(BadWords(params.bad_words))
    return shapers
