"""What comes back: pieces of a stream, and whole results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from typing_extensions import Self

from clients.errors import GenerationError

Outputs = Mapping[str, Sequence[Any]]
"""The ensemble's outputs in one response: flat lists of Python values by the contract's names."""


@dataclass(frozen=True)
class PerfMetrics:
    """Where the engine's time went for one request, from `return_perf_metrics`.

    The times are nanoseconds on the server's clock; only their differences mean something here.

    Attributes:
        arrival_time_ns: The engine got the request.
        first_scheduled_time_ns: It began to work on it.
        first_token_time_ns: The first token was there.
        last_token_time_ns: The last token so far was there.
        kv_cache_reused_blocks: Blocks of the KV cache that earlier requests had filled, None where
            the engine does not say.
    """

    arrival_time_ns: int
    first_scheduled_time_ns: int
    first_token_time_ns: int
    last_token_time_ns: int
    kv_cache_reused_blocks: int | None = None

    @classmethod
    def from_outputs(cls, outputs: Outputs) -> Self | None:
        """Read a response; None where it has no times."""
        values = {each.name: _first(outputs, each.name) for each in fields(cls)}
        return cls(**values) if values["arrival_time_ns"] is not None else None

    @property
    def queue_s(self) -> float:
        """Seconds that the request waited for its turn."""
        return (self.first_scheduled_time_ns - self.arrival_time_ns) / 1e9

    @property
    def time_to_first_token_s(self) -> float:
        """Seconds from arrival to the first token."""
        return (self.first_token_time_ns - self.arrival_time_ns) / 1e9

    @property
    def generation_s(self) -> float:
        """Seconds from the first token to the last."""
        return (self.last_token_time_ns - self.first_token_time_ns) / 1e9


@dataclass(frozen=True)
class Piece:
    """A part of an answer, as the server sends it.

    What was not asked for is None.

    Attributes:
        text: What follows the pieces before; may be empty, in the middle of a character say.
        finish_reason: Why the sequence ended: ``stop`` (by itself or at a stop word), ``length``
            (out of tokens) or ``cancelled``; empty in every piece but the last.
        sequence_index: Which of the `num_return_sequences` answers this belongs to, from 0.
        num_input_tokens: Tokens of the prompt.
        num_output_tokens: Tokens generated for this piece.
        cum_log_prob: Sum of the log probabilities of all tokens so far.
        log_probs: Log probability of each token of this piece.
        top_log_probs: The likeliest tokens in the place of each token of this piece, as ids with
            log probabilities, the likeliest first.
        perf_metrics: Where the time went.
    """

    text: str
    finish_reason: str = ""
    sequence_index: int = 0
    num_input_tokens: int | None = None
    num_output_tokens: int | None = None
    cum_log_prob: float | None = None
    log_probs: tuple[float, ...] | None = None
    top_log_probs: tuple[tuple[tuple[int, float], ...], ...] | None = None
    perf_metrics: PerfMetrics | None = None

    @classmethod
    def from_outputs(cls, outputs: Outputs) -> Self:
        """Read a response.

        Raises:
            GenerationError: The response has no text.
        """
        if not outputs.get("text_output"):
            raise GenerationError("the server's response has no text_output")
        log_probs = outputs.get("output_log_probs")
        return cls(
            text=outputs["text_output"][0],
            finish_reason=_first(outputs, "finish_reason", ""),
            sequence_index=_first(outputs, "sequence_index", 0),
            num_input_tokens=_first(outputs, "num_input_tokens"),
            num_output_tokens=_first(outputs, "num_output_tokens"),
            cum_log_prob=_first(outputs, "cum_log_probs"),
            log_probs=None if log_probs is None else tuple(log_probs),
            top_log_probs=_top_log_probs(outputs),
            perf_metrics=PerfMetrics.from_outputs(outputs),
        )


@dataclass(frozen=True)
class Result(Piece):
    """A whole answer: the one piece of a request that is not streamed."""


def _top_log_probs(outputs: Outputs) -> tuple[tuple[tuple[int, float], ...], ...] | None:
    values = outputs.get("top_log_probs")
    if values is None:
        return None
    pairs = list(zip(outputs["top_log_prob_ids"], values, strict=True))
    tokens = len(outputs["output_log_probs"])
    count = len(pairs) // tokens if tokens else 0
    return tuple(tuple(pairs[at * count : (at + 1) * count]) for at in range(tokens))


def _first(outputs: Outputs, name: str, default: Any = None) -> Any:
    values = outputs.get(name)
    return values[0] if values else default
