"""How preprocessing, the engine and postprocessing are chained into one ensemble."""

from __future__ import annotations

from collections.abc import Mapping

from contract.models import (
    ANSWER_EXTRAS,
    STATISTICS,
    STEP_MODELS,
    STEP_OUTPUTS,
    EngineInputs,
    EngineOutputs,
    EnsembleInputs,
    EnsembleOutputs,
    PostprocessingInputs,
    PostprocessingOutputs,
    PreprocessingInputs,
    PreprocessingOutputs,
    ensemble_model,
)
from contract.names import POSTPROCESSING, PREPROCESSING, Engine
from contract.tensors import Step, Tensor

_TO_PREPROCESSING: dict[Tensor, Tensor] = {
    PreprocessingInputs.QUERY: EnsembleInputs.TEXT_INPUT,
    PreprocessingInputs.DECODER_QUERY: EnsembleInputs.DECODER_TEXT_INPUT,
    PreprocessingInputs.REQUEST_OUTPUT_LEN: EnsembleInputs.MAX_TOKENS,
    PreprocessingInputs.BAD_WORDS_DICT: EnsembleInputs.BAD_WORDS,
    PreprocessingInputs.STOP_WORDS_DICT: EnsembleInputs.STOP_WORDS,
    PreprocessingInputs.EMBEDDING_BIAS_WORDS: EnsembleInputs.EMBEDDING_BIAS_WORDS,
    PreprocessingInputs.EMBEDDING_BIAS_WEIGHTS: EnsembleInputs.EMBEDDING_BIAS_WEIGHTS,
    PreprocessingInputs.END_ID: EnsembleInputs.END_ID,
    PreprocessingInputs.PAD_ID: EnsembleInputs.PAD_ID,
    PreprocessingInputs.PROMPT_TABLE_EXTRA_ID: EnsembleInputs.PROMPT_TABLE_EXTRA_ID,
    PreprocessingInputs.PROMPT_TOKEN_IDS: EnsembleInputs.PROMPT_TOKEN_IDS,
    PreprocessingInputs.MESSAGES: EnsembleInputs.MESSAGES,
    PreprocessingInputs.TOOLS: EnsembleInputs.TOOLS,
    PreprocessingInputs.TOOL_CHOICE: EnsembleInputs.TOOL_CHOICE,
    PreprocessingInputs.PARALLEL_TOOL_CALLS: EnsembleInputs.PARALLEL_TOOL_CALLS,
    PreprocessingInputs.REASONING_EFFORT: EnsembleInputs.REASONING_EFFORT,
    PreprocessingInputs.THINKING_TOKEN_BUDGET: EnsembleInputs.THINKING_TOKEN_BUDGET,
    PreprocessingInputs.CHAT_TEMPLATE_KWARGS: EnsembleInputs.CHAT_TEMPLATE_KWARGS,
    PreprocessingInputs.PARSE_ANSWER: EnsembleInputs.PARSE_ANSWER,
    PreprocessingInputs.GUIDED_DECODING_GUIDE_TYPE: EnsembleInputs.GUIDED_DECODING_GUIDE_TYPE,
    PreprocessingInputs.GUIDED_DECODING_GUIDE: EnsembleInputs.GUIDED_DECODING_GUIDE,
    PreprocessingInputs.EMBEDDING_BIAS_IDS: EnsembleInputs.EMBEDDING_BIAS_IDS,
    PreprocessingInputs.MIN_TOKENS: EnsembleInputs.MIN_TOKENS,
    PreprocessingInputs.STREAM: EnsembleInputs.STREAM,
    PreprocessingInputs.EXCLUDE_INPUT_IN_OUTPUT: EnsembleInputs.EXCLUDE_INPUT_IN_OUTPUT,
    PreprocessingInputs.INCLUDE_STOP_STR_IN_OUTPUT: EnsembleInputs.INCLUDE_STOP_STR_IN_OUTPUT,
}

_FROM_PREPROCESSING: dict[Tensor, Tensor] = {
    EngineInputs.INPUT_IDS: PreprocessingOutputs.INPUT_ID,
    EngineInputs.INPUT_LENGTHS: PreprocessingOutputs.REQUEST_INPUT_LEN,
    EngineInputs.REQUEST_OUTPUT_LEN: PreprocessingOutputs.REQUEST_OUTPUT_LEN,
    EngineInputs.END_ID: PreprocessingOutputs.OUT_END_ID,
    EngineInputs.PAD_ID: PreprocessingOutputs.OUT_PAD_ID,
    EngineInputs.EMBEDDING_BIAS: PreprocessingOutputs.EMBEDDING_BIAS,
    EngineInputs.STOP_WORDS_LIST: PreprocessingOutputs.STOP_WORDS_IDS,
    EngineInputs.BAD_WORDS_LIST: PreprocessingOutputs.BAD_WORDS_IDS,
    EngineInputs.LIVENESS_PROBES: PreprocessingOutputs.LIVENESS_PROBES,
    EngineInputs.STREAMING: PreprocessingOutputs.STREAMING,
    EngineInputs.STREAM_CONTEXT: PreprocessingOutputs.STREAM_CONTEXT,
    EngineInputs.GUIDED_DECODING_GUIDE_TYPE: PreprocessingOutputs.GUIDE_TYPE,
    EngineInputs.GUIDED_DECODING_GUIDE: PreprocessingOutputs.GUIDE,
    EngineInputs.THINKING_BUDGET: PreprocessingOutputs.THINKING_BUDGET,
    EngineInputs.THINKING_BEGIN_IDS: PreprocessingOutputs.THINKING_BEGIN_IDS,
    EngineInputs.THINKING_END_IDS: PreprocessingOutputs.THINKING_END_IDS,
    EngineInputs.THINKING_CLOSE_IDS: PreprocessingOutputs.THINKING_CLOSE_IDS,
}
"""What the engine takes from preprocessing; all else from the client, by the same name or by that
of `_RENAMED`."""

_RENAMED: dict[Tensor, Tensor] = {
    EngineInputs.RUNTIME_TOP_K: EnsembleInputs.TOP_K,
    EngineInputs.RUNTIME_TOP_P: EnsembleInputs.TOP_P,
    EngineInputs.LEN_PENALTY: EnsembleInputs.LENGTH_PENALTY,
}

_INTERNAL_NAMES = {
    PreprocessingOutputs.OUT_END_ID: "_PREPROCESSOR_END_ID",
    PreprocessingOutputs.OUT_PAD_ID: "_PREPROCESSOR_PAD_ID",
    EngineOutputs.OUTPUT_IDS: "_TOKENS_BATCH",
    EngineOutputs.SEQUENCE_LENGTH: "_SEQUENCE_LENGTH",
}
"""Tensors between the steps that upstream calls otherwise than by their own name."""


def _internal(tensor: Tensor) -> str:
    """What the ensemble calls a tensor between two of its steps."""
    return _INTERNAL_NAMES.get(tensor, f"_{tensor.name}")


def ensemble_steps(engine: Engine = "onnx") -> tuple[Step, ...]:
    """The ensemble's three steps and the tensors that flow between them."""
    offered = ensemble_model(engine)
    inputs, outputs = set(offered.input_names()), set(offered.output_names())
    taken = set(STEP_MODELS[engine].input_names())
    from_preprocessing = {
        into: origin for into, origin in _FROM_PREPROCESSING.items() if into.name in taken
    }
    statistics = [name for name in STATISTICS if name in outputs]
    extras = [name for name in ANSWER_EXTRAS if name in outputs]
    carried = {name: f"_{name}" for name in (*statistics, *STEP_OUTPUTS)}
    return (
        Step(
            PREPROCESSING,
            input_map={
                into.name: origin.name
                for into, origin in _TO_PREPROCESSING.items()
                if origin.name in inputs
            },
            output_map={each.name: _internal(each) for each in from_preprocessing.values()},
        ),
        Step(
            STEP_MODELS[engine].name,
            input_map=_engine_input_map(from_preprocessing, inputs),
            output_map={
                each.name: _internal(each)
                for each in (EngineOutputs.OUTPUT_IDS, EngineOutputs.SEQUENCE_LENGTH)
            }
            | carried,
        ),
        Step(
            POSTPROCESSING,
            input_map={
                PostprocessingInputs.TOKENS_BATCH.name: _internal(EngineOutputs.OUTPUT_IDS),
                PostprocessingInputs.SEQUENCE_LENGTH.name: _internal(EngineOutputs.SEQUENCE_LENGTH),
            }
            | carried,
            output_map={PostprocessingOutputs.OUTPUT.name: EnsembleOutputs.TEXT_OUTPUT.name}
            | {name: name for name in (*statistics, *extras)},
        ),
    )


def _engine_input_map(
    from_preprocessing: Mapping[Tensor, Tensor], offered: set[str]
) -> dict[str, str]:
    mapping = {into.name: _internal(origin) for into, origin in from_preprocessing.items()}
    for tensor in EngineInputs.all():
        origin = _RENAMED.get(tensor, tensor).name
        if tensor.name not in mapping and origin in offered:
            mapping[tensor.name] = origin
    return mapping
