"""Reading a request to the engine: from tensors to prompts and sampling parameters.

A request may have a batch of prompts, and each may ask for several sequences; every one becomes a
row of its own here.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import InvalidRequestError
from contract.guides import Guide
from contract.models import ALWAYS_SAYING, UNSUPPORTED_INPUTS, EngineInputs
from contract.names import DEFAULT_PRIORITY, PRIORITY_LEVELS, PROBE, SHARE
from contract.parameters import SAMPLED
from contract.tensors import Tensor
from python_backend.engine.sequence import SamplingParams
from python_backend.guidance.thinking_budget import ThinkingBudget

if TYPE_CHECKING:
    from python_backend.serving.triton_api import Inputs

Words = tuple[tuple[int, ...], ...]

_MAX_SEQUENCES_PER_PROMPT = 64


@dataclass(frozen=True)
class Row:
    """One sequence to generate."""

    prompt: NDArray[np.int32]
    params: SamplingParams
    priority: int
    batch_index: int
    sequence_index: int
    guide: Guide | None = None
    thinking: ThinkingBudget | None = None


@dataclass(frozen=True)
class Reporting:
    """What the responses carry.

    Attributes:
        streaming: A response for each step, else one at the end.
        echo: Whether the prompt precedes the output. As in TensorRT-LLM, never while streaming.
        perf_metrics: Times and cache statistics.
        num_input_tokens: Number of prompt tokens.
        num_output_tokens: Number of generated tokens in the response.
        computed_tokens: What was computed of the sequence until then.
        prompt_tokens: The prompt's tokens, in a sequence's first response.
    """

    streaming: bool
    echo: bool
    perf_metrics: bool
    num_input_tokens: bool
    num_output_tokens: bool
    computed_tokens: bool = False
    prompt_tokens: bool = False


@dataclass(frozen=True)
class GenerationRequest:
    """A checked request.

    Attributes:
        timeout_us: Microseconds that the answer may take; 0 is without end.
        share: Whose share of the engine it takes, such as a tenant's name; empty where nobody says.
        is_probe: It only looks whether tokens are made, and waits behind nobody.
    """

    rows: list[Row]
    reporting: Reporting
    batch_size: int
    num_return_sequences: int
    liveness_probes: bool
    timeout_us: int
    share: str = ""
    is_probe: bool = False


def read_request(
    inputs: Inputs, default_end_ids: Items[int], exclude_input: bool
) -> GenerationRequest:
    """Read a request to ``tensorrt_llm``.

    Args:
        inputs: Its tensors.
        default_end_ids: The engine's end tokens. They hold where the request names one of them or
            none; any other ``end_id`` takes their place (-1: nothing ends the text early).
        exclude_input: What holds where ``exclude_input_in_output`` is left out.

    Raises:
        InvalidRequestError: An input is missing, contradicts another or is not supported.
    """
    ids = inputs.required(EngineInputs.INPUT_IDS)
    batch = ids.shape[0]

    def scalars(tensor: Tensor, default: Any) -> list[Any]:
        values = inputs.scalars(tensor, batch)
        return [default] * batch if values is None else values

    def texts(tensor: Tensor) -> list[str]:
        return [_text(value, tensor) for value in scalars(tensor, b"")]

    def flag(tensor: Tensor, default: bool = False) -> bool:
        values = set(scalars(tensor, default))
        if len(values) > 1:
            raise InvalidRequestError(
                f"{tensor.name} must be the same for all {batch} rows of a batch", tensor.name
            )
        return bool(values.pop())

    _refuse_unsupported(inputs)
    if any(width > 1 for width in scalars(EngineInputs.BEAM_WIDTH, 1)):
        raise InvalidRequestError(
            "beam_width is above 1; beam search is not supported, num_return_sequences may serve",
            EngineInputs.BEAM_WIDTH.name,
        )
    copies = set(scalars(EngineInputs.NUM_RETURN_SEQUENCES, 1))
    num_return_sequences = max(copies)
    if len(copies) > 1 or not 1 <= num_return_sequences <= _MAX_SEQUENCES_PER_PROMPT:
        raise InvalidRequestError(
            f"num_return_sequences is {num_return_sequences}; it must be between 1 and "
            f"{_MAX_SEQUENCES_PER_PROMPT}, the same for all rows",
            EngineInputs.NUM_RETURN_SEQUENCES.name,
        )

    lengths = scalars(EngineInputs.INPUT_LENGTHS, ids.shape[1])
    end_ids = scalars(EngineInputs.END_ID, default_end_ids[0])
    seeds = scalars(EngineInputs.SEED, None)
    max_tokens = SAMPLED[EngineInputs.REQUEST_OUTPUT_LEN].name
    sampling: dict[str, list[Any]] = {max_tokens: [0] * batch}
    for tensor, row in SAMPLED.items():
        values = inputs.scalars(tensor, batch)
        if values is not None:
            sampling[row.name] = values
    stop_words = _word_lists(inputs, EngineInputs.STOP_WORDS_LIST, batch)
    bad_words = _word_lists(inputs, EngineInputs.BAD_WORDS_LIST, batch)
    guides = [
        Guide.of(guide_type, guide)
        for guide_type, guide in zip(
            texts(EngineInputs.GUIDED_DECODING_GUIDE_TYPE),
            texts(EngineInputs.GUIDED_DECODING_GUIDE),
            strict=True,
        )
    ]
    thinking = _thinking(inputs, batch)
    bias = inputs.array(EngineInputs.EMBEDDING_BIAS)
    log_probs = flag(EngineInputs.RETURN_LOG_PROBS)
    # Triton's own parameter shows only where its generate endpoints leave it: as for timeouts.
    default_priority = inputs.parameters().get(EngineInputs.PRIORITY.name, 0)
    priorities = [_priority(value) for value in scalars(EngineInputs.PRIORITY, default_priority)]

    rows = []
    for index in range(batch):
        if not 0 <= lengths[index] <= ids.shape[1]:
            raise InvalidRequestError(
                f"input_lengths is {lengths[index]}; input_ids has {ids.shape[1]} tokens",
                EngineInputs.INPUT_IDS.name,
            )
        end_id, seed = end_ids[index], seeds[index]
        for copy in range(num_return_sequences):
            params = SamplingParams(
                seed=None if seed is None else seed + copy,
                end_ids=frozenset(default_end_ids if end_id in default_end_ids else (end_id,)),
                stop_words=stop_words[index],
                bad_words=bad_words[index],
                embedding_bias=bias[index].copy() if bias is not None and bias.size else None,
                log_probs=log_probs,
                **{parameter: values[index] for parameter, values in sampling.items()},
            )
            # Triton takes the request's memory back before the sequence has run: copy.
            prompt = ids[index, : lengths[index]].copy()
            rows.append(
                Row(prompt, params, priorities[index], index, copy, guides[index], thinking[index])
            )

    streaming = flag(EngineInputs.STREAMING)
    reporting = Reporting(
        streaming=streaming,
        echo=not streaming and not flag(EngineInputs.EXCLUDE_INPUT_IN_OUTPUT, exclude_input),
        perf_metrics=flag(EngineInputs.RETURN_PERF_METRICS),
        num_input_tokens=flag(EngineInputs.RETURN_NUM_INPUT_TOKENS),
        num_output_tokens=flag(EngineInputs.RETURN_NUM_OUTPUT_TOKENS),
        computed_tokens=flag(EngineInputs.RETURN_COMPUTED_TOKENS),
        prompt_tokens=flag(EngineInputs.RETURN_PROMPT_TOKENS),
    )
    return GenerationRequest(
        rows,
        reporting,
        batch,
        num_return_sequences,
        liveness_probes=flag(EngineInputs.LIVENESS_PROBES),
        timeout_us=inputs.timeout_us(),
        share=str(inputs.parameters().get(SHARE, "")),
        is_probe=inputs.parameters().get(PROBE) is True,
    )


def _thinking(inputs: Inputs, batch: int) -> list[ThinkingBudget | None]:
    """What bounds the thinking of each row."""
    budgets = inputs.scalars(EngineInputs.THINKING_BUDGET, batch)
    if budgets is None:
        return [None] * batch
    begin, end, close = (
        _token_lists(inputs, tensor, batch)
        for tensor in (
            EngineInputs.THINKING_BEGIN_IDS,
            EngineInputs.THINKING_END_IDS,
            EngineInputs.THINKING_CLOSE_IDS,
        )
    )
    return [
        ThinkingBudget(budget, begin[row], end[row], close[row]) if budget >= 0 else None
        for row, budget in enumerate(budgets)
    ]


def _token_lists(inputs: Inputs, tensor: Tensor, batch: int) -> list[tuple[int, ...]]:
    """Tokens of each row; -1 fills up the shorter ones."""
    array = inputs.array(tensor)
    if array is None:
        return [()] * batch
    return [tuple(token for token in row if token >= 0) for row in array.tolist()]


def _text(value: bytes, tensor: Tensor) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{tensor.name} is not valid UTF-8", tensor.name) from None


def _priority(value: Any) -> int:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not 0 <= value <= PRIORITY_LEVELS:
        raise InvalidRequestError(
            f"priority is {value!r}; it must be between 1, the most urgent, and {PRIORITY_LEVELS}, "
            "or 0 for the default",
            EngineInputs.PRIORITY.name,
        )
    return int(value) or DEFAULT_PRIORITY


def _refuse_unsupported(inputs: Inputs) -> None:
    for tensor, array in inputs.given(UNSUPPORTED_INPUTS):
        if _carries_something(tensor, array):
            raise InvalidRequestError(
                f"{tensor.name}: {UNSUPPORTED_INPUTS[tensor]} is not supported by this engine",
                tensor.name,
            )


def _carries_something(tensor: Tensor, array: NDArray[Any]) -> bool:
    """Whether an input asks for what it stands for; NVIDIA's programs send some of them always."""
    if tensor is EngineInputs.DECODER_INPUT_IDS:  # the token that a decoder begins with is none
        return array.shape[-1] > 1
    if tensor is EngineInputs.RUNTIME_TOP_P_DECAY:
        return bool((array != 1).any())
    return bool(array.size and (tensor in ALWAYS_SAYING or array.any()))


def _word_lists(inputs: Inputs, tensor: Tensor, batch: int) -> list[Words]:
    """Words of each row from TensorRT-LLM's format; see ``TextTokenizer.word_list``."""
    array = inputs.array(tensor)
    if array is None:
        return [()] * batch
    if array.shape[:2] != (batch, 2):
        raise InvalidRequestError(
            f"{tensor.name} has shape {list(array.shape)}; it must be [{batch}, 2, length]",
            tensor.name,
        )
    return [_words(tokens, offsets, tensor.name) for tokens, offsets in array]


def _words(tokens: NDArray[np.int32], offsets: NDArray[np.int32], name: str) -> Words:
    ends = [int(end) for end in offsets if end != -1]
    spans = list(zip([0, *ends], ends, strict=False))
    if any(not start < end <= tokens.size for start, end in spans):
        raise InvalidRequestError(f"{name}: offsets must rise and stay within the tokens", name)
    return tuple(tuple(int(token) for token in tokens[start:end]) for start, end in spans)
