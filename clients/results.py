"""What comes back: pieces of a stream, and whole results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from typing_extensions import Self

from clients.client_errors import GenerationError
from contract.codes import Ending
from contract.models import EnsembleOutputs
from contract.tensors import Tensor

_T = TypeVar("_T")

Outputs = Mapping[str, Sequence[Any]]
"""The ensemble's outputs in one response: flat lists of Python values by the contract's names."""


_METRICS = {tensor.name: tensor for tensor in EnsembleOutputs.all()}


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
        values = {each.name: _first(outputs, _METRICS[each.name]) for each in fields(cls)}
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
class Verdict:
    """What a rule of the safety policy found; never the text itself.

    Attributes:
        rule: The rule's name in the policy.
        kind: What was found, such as ``email``.
        action: What was done about it: ``redact``, ``replace``, ``block`` or ``flag``.
        side: Where: in the ``input`` or in the ``output``.
        start: Its first character, counted in the text before redaction.
        end: The character after its last.
        message: Which message of a chat it was found in, from 0; None elsewhere.
        field: In what else than a message's content, such as ``tool_calls.0.function.name``; None
            in that.
    """

    rule: str
    kind: str
    action: str
    side: str
    start: int
    end: int
    message: int | None = None
    field: str | None = None


@dataclass(frozen=True)
class ToolCall:
    """What a piece says of a call of a function.

    Attributes:
        index: Which of the answer's calls, from 0.
        id: The call's id, where it begins.
        name: The function's name, where it begins.
        arguments: What follows of its arguments, which are JSON when the call is whole.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class Piece:
    r"""A part of an answer, as the server sends it.

    What was not asked for is None.

    Attributes:
        text: What follows the pieces before; may be empty, in the last piece say.
        finish_reason: Why the sequence ended: ``stop`` (by itself or at a stop word),
            ``tool_calls`` (the same with calls that are whole), ``length`` (out of tokens),
            ``content_filter`` (the safety policy blocked it), ``cancelled`` or ``error`` (it could
            not be checked); empty in every piece but the last.
        sequence_index: Which of the `num_return_sequences` answers this belongs to, from 0.
        num_input_tokens: Tokens of the prompt.
        num_output_tokens: Tokens generated for this piece.
        verdicts: What the safety policy found that was not reported before.
        cum_log_prob: Sum of the log probabilities of all tokens so far.
        tokens: The tokens whose text this piece carries, each as its text, with `log_probs`. One
            that is no whole character is spelt ``bytes:\xf0\x9f``; those of text that a policy
            took out are left out.
        log_probs: Log probability of each of those tokens.
        top_tokens: The likeliest tokens in the place of each of them, as texts, the likeliest
            first.
        top_log_probs: The same as ids with log probabilities.
        perf_metrics: Where the time went.
        reasoning: What follows of the model's thinking, with `parse_answer`.
        tool_calls: What follows of its calls, with `parse_answer`.
        num_reasoning_tokens: How many of `num_output_tokens` it thought with.
    """

    text: str
    finish_reason: Ending = ""
    sequence_index: int = 0
    num_input_tokens: int | None = None
    num_output_tokens: int | None = None
    verdicts: tuple[Verdict, ...] = ()
    cum_log_prob: float | None = None
    tokens: tuple[str, ...] | None = None
    log_probs: tuple[float, ...] | None = None
    top_tokens: tuple[tuple[str, ...], ...] | None = None
    top_log_probs: tuple[tuple[tuple[int, float], ...], ...] | None = None
    perf_metrics: PerfMetrics | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    num_reasoning_tokens: int | None = None

    @classmethod
    def from_outputs(cls, outputs: Outputs) -> Self:
        """Read a response.

        Raises:
            GenerationError: The response has no text.
        """
        text = _first(outputs, EnsembleOutputs.TEXT_OUTPUT)
        if text is None:
            name = EnsembleOutputs.TEXT_OUTPUT.name
            raise GenerationError(f"the server's response has no {name}")
        return cls(
            text=text,
            finish_reason=_first(outputs, EnsembleOutputs.FINISH_REASON, ""),
            sequence_index=_first(outputs, EnsembleOutputs.SEQUENCE_INDEX, 0),
            num_input_tokens=_first(outputs, EnsembleOutputs.NUM_INPUT_TOKENS),
            num_output_tokens=_first(outputs, EnsembleOutputs.NUM_OUTPUT_TOKENS),
            verdicts=_verdicts(_first(outputs, EnsembleOutputs.SAFETY_VERDICTS, "[]")),
            cum_log_prob=_first(outputs, EnsembleOutputs.CUM_LOG_PROBS),
            tokens=_tuple(_all(outputs, EnsembleOutputs.OUTPUT_TOKENS)),
            log_probs=_tuple(_all(outputs, EnsembleOutputs.OUTPUT_LOG_PROBS)),
            top_tokens=_by_token(outputs, _all(outputs, EnsembleOutputs.TOP_TOKENS)),
            top_log_probs=_by_token(outputs, _top_log_probs(outputs)),
            perf_metrics=PerfMetrics.from_outputs(outputs),
            reasoning=_first(outputs, EnsembleOutputs.REASONING_OUTPUT),
            tool_calls=_tool_calls(_first(outputs, EnsembleOutputs.TOOL_CALLS, "[]")),
            num_reasoning_tokens=_first(outputs, EnsembleOutputs.NUM_REASONING_TOKENS),
        )


@dataclass(frozen=True)
class Result(Piece):
    """A whole answer: the one piece of a request that is not streamed."""


def _tool_calls(shown: str) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(**each) for each in json.loads(shown))


def _verdicts(shown: str) -> tuple[Verdict, ...]:
    known = {each.name for each in fields(Verdict)}
    return tuple(
        Verdict(**{name: value for name, value in each.items() if name in known})
        for each in json.loads(shown)
    )


def _top_log_probs(outputs: Outputs) -> list[tuple[int, float]] | None:
    values = _all(outputs, EnsembleOutputs.TOP_LOG_PROBS)
    if values is None:
        return None
    return list(zip(outputs[EnsembleOutputs.TOP_LOG_PROB_IDS.name], values, strict=True))


def _by_token(outputs: Outputs, flat: Sequence[_T] | None) -> tuple[tuple[_T, ...], ...] | None:
    """A flat list, so many values for each token."""
    if flat is None:
        return None
    tokens = len(outputs[EnsembleOutputs.OUTPUT_LOG_PROBS.name])
    count = len(flat) // tokens if tokens else 0
    return tuple(tuple(flat[at * count : (at + 1) * count]) for at in range(tokens))


def _tuple(values: Sequence[_T] | None) -> tuple[_T, ...] | None:
    return None if values is None else tuple(values)


def _all(outputs: Outputs, tensor: Tensor) -> Sequence[Any] | None:
    return outputs.get(tensor.name)


def _first(outputs: Outputs, tensor: Tensor, default: Any = None) -> Any:
    values = outputs.get(tensor.name)
    return values[0] if values else default
