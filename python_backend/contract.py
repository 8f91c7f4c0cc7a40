"""The tensor contract: names, types and shapes of the three models and of the ensemble.

It is TensorRT-LLM's own (release 1.2, ``triton_backend/all_models/inflight_batcher_llm``), so that
clients written for its ensemble work unchanged and its engines drop in. Config files, clients and
tests derive from this module; nothing else spells a tensor's name, type or shape.

What Trireme adds is optional tensors beside theirs, kept in groups of their own below:

- ``messages``, ``tools`` and ``chat_template_kwargs``: a chat as JSON, in place of ``text_input``;
- ``include_stop_str_in_output``: whether a stop text is part of the answer;
- ``safety_verdicts``, ``output_tokens`` and ``top_tokens``: what a policy found, and the text of
  the tokens whose log probabilities a response carries;
- ``embedding_bias_ids``: biased tokens by their ids, in place of ``embedding_bias_words``;
- ``finish_reason``: why a sequence ended, in its last response;
- ``sequence_id``: tells the pieces of one stream from those of another, whatever request ids the
  clients chose, and names the sequence that a ``stop`` request ends;
- ``min_p``: another bound on what is sampled; ``num_top_log_probs`` with ``top_log_prob_ids`` and
  ``top_log_probs``: the likeliest tokens beside each chosen one;
- ``priority``: which requests go first; Triton doesn't show its own request priority to a Python
  model;
- ``stream_context``: what preprocessing tells postprocessing about a request, such as its stop
  texts; the engine hands it back with each sequence's first response;
- ``liveness_probes``: preprocessing asks the engine for empty responses while it has no tokens to
  send. A client that went away shows only where the ensemble's last step is called, and without
  them a request that doesn't stream would run to its end for nobody.

Triton refuses an ensemble whose outputs come from two decoupled steps. Postprocessing is decoupled
(it may hold text back, and answers nothing to the engine's liveness probes), so the engine's
statistics travel through it; upstream maps them from the engine directly. The ensemble's own face
is the same.

TensorRT-LLM's C++ backend knows none of this, and its last response does not look like the last.
Between it and the ensemble stands ``tensorrt_llm_adapter``, which adds what is missing; so the
three steps, and what they say to each other, are the same for every engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Engine = Literal["onnxruntime", "tensorrtllm"]
"""What runs the ``tensorrt_llm`` model: Trireme's Python backend or TensorRT-LLM's C++ backend."""

PREPROCESSING = "preprocessing"
TENSORRT_LLM = "tensorrt_llm"
TENSORRT_LLM_ADAPTER = "tensorrt_llm_adapter"
POSTPROCESSING = "postprocessing"
ENSEMBLE = "ensemble"

ENGINE_FINISH_REASONS = ("stop", "length", "cancelled")
"""Values of the engine's ``finish_reason``: ended by itself, out of tokens, client went away."""

FINISH_REASONS = (*ENGINE_FINISH_REASONS, "content_filter", "error")
"""Values of the ensemble's: also a policy blocked the answer, or the text path failed on it."""

REQUEST_PARAMETERS = ("safety_policy", "chat_template")
"""What a request says beside its inputs, in Triton's request parameters."""

PRIORITY_LEVELS = 5
DEFAULT_PRIORITY = 3
"""``priority`` is Triton's: from 1, the most urgent, to the number of levels; 0 is the default."""


@dataclass(frozen=True)
class Tensor:
    """One input or output of a model, as Triton's model configuration describes it.

    Attributes:
        name: The tensor's name.
        data_type: Triton's type without the ``TYPE_`` prefix, such as ``INT32`` or ``STRING``.
        dims: Shape without the batch dimension; -1 is any length.
        optional: Whether a request may leave the input out.
        scalar: One value a request: Triton hands it to the model as ``[batch]``.
        ragged: Requests with different shapes may share a batch.
    """

    name: str
    data_type: str
    dims: tuple[int, ...] = (1,)
    optional: bool = False
    scalar: bool = False
    ragged: bool = False


@dataclass(frozen=True)
class Model:
    """The tensors of one model."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(tensor.name for tensor in self.inputs)

    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(tensor.name for tensor in self.outputs)


@dataclass(frozen=True)
class Step:
    """One step of the ensemble.

    Attributes:
        model: The step's model.
        input_map: The model's input to the ensemble tensor that feeds it.
        output_map: The model's output to the ensemble tensor that it makes.
    """

    model: str
    input_map: dict[str, str]
    output_map: dict[str, str]


def _optional(name: str, data_type: str, *dims: int, ragged: bool = False) -> Tensor:
    return Tensor(name, data_type, dims or (1,), optional=True, ragged=ragged)


def _scalar(name: str, data_type: str, optional: bool = True) -> Tensor:
    return Tensor(name, data_type, optional=optional, scalar=True)


# --- preprocessing ------------------------------------------------------------------------------

PREPROCESSING_MODEL = Model(
    name=PREPROCESSING,
    inputs=(
        Tensor("QUERY", "STRING"),
        _optional("DECODER_QUERY", "STRING"),
        Tensor("REQUEST_OUTPUT_LEN", "INT32"),
        _optional("BAD_WORDS_DICT", "STRING", -1),
        _optional("STOP_WORDS_DICT", "STRING", -1),
        _optional("EMBEDDING_BIAS_WORDS", "STRING", -1),
        _optional("EMBEDDING_BIAS_WEIGHTS", "FP32", -1),
        _optional("END_ID", "INT32"),
        _optional("PAD_ID", "INT32"),
        _optional("PROMPT_TABLE_EXTRA_ID", "UINT64"),
        _optional("MESSAGES", "STRING"),
        _optional("TOOLS", "STRING"),
        _optional("CHAT_TEMPLATE_KWARGS", "STRING"),
        _optional("EMBEDDING_BIAS_IDS", "INT32", -1),
        _optional("STREAM", "BOOL"),
        _optional("EXCLUDE_INPUT_IN_OUTPUT", "BOOL"),
        _optional("INCLUDE_STOP_STR_IN_OUTPUT", "BOOL"),
    ),
    outputs=(
        Tensor("INPUT_ID", "INT32", (-1,)),
        Tensor("REQUEST_INPUT_LEN", "INT32"),
        Tensor("BAD_WORDS_IDS", "INT32", (2, -1)),
        Tensor("STOP_WORDS_IDS", "INT32", (2, -1)),
        Tensor("EMBEDDING_BIAS", "FP32", (-1,)),
        Tensor("REQUEST_OUTPUT_LEN", "INT32", (-1,)),
        Tensor("OUT_END_ID", "INT32"),
        Tensor("OUT_PAD_ID", "INT32"),
        Tensor("LIVENESS_PROBES", "BOOL"),
        Tensor("STREAMING", "BOOL"),
        Tensor("STREAM_CONTEXT", "STRING"),
    ),
)

# --- the engine ---------------------------------------------------------------------------------

_LOGITS_TYPE = "FP32"

_ENGINE_STATISTICS = (
    Tensor("cum_log_probs", "FP32", (-1,)),
    Tensor("output_log_probs", "FP32", (-1, -1)),
    Tensor("context_logits", _LOGITS_TYPE, (-1, -1)),
    Tensor("generation_logits", _LOGITS_TYPE, (-1, -1, -1)),
    Tensor("batch_index", "INT32"),
    Tensor("sequence_index", "INT32"),
    Tensor("kv_cache_alloc_new_blocks", "INT32"),
    Tensor("kv_cache_reused_blocks", "INT32"),
    Tensor("kv_cache_alloc_total_blocks", "INT32"),
    Tensor("arrival_time_ns", "INT64"),
    Tensor("first_scheduled_time_ns", "INT64"),
    Tensor("first_token_time_ns", "INT64"),
    Tensor("last_token_time_ns", "INT64"),
    Tensor("acceptance_rate", "FP32"),
    Tensor("total_accepted_draft_tokens", "INT32"),
    Tensor("total_draft_tokens", "INT32"),
    Tensor("num_input_tokens", "INT32"),
    Tensor("num_output_tokens", "INT32"),
)
"""Outputs that the engine adds to a response where the request asks for them."""

_ENGINE_EXTRA_STATISTICS = (
    Tensor("top_log_prob_ids", "INT32", (-1, -1, -1)),
    Tensor("top_log_probs", "FP32", (-1, -1, -1)),
)
"""The same of our own: ``[beams, tokens, num_top_log_probs]``."""

_ALL_STATISTICS = (*_ENGINE_STATISTICS, *_ENGINE_EXTRA_STATISTICS)
STATISTICS = tuple(tensor.name for tensor in _ALL_STATISTICS)

_REQUEST_EXTRAS = (("priority", "INT32"), ("min_p", "FP32"), ("num_top_log_probs", "INT32"))
"""What a client may ask of our engine beside what it may ask of TensorRT-LLM's."""

_ENGINE_EXTRA_INPUTS = (
    _scalar("sequence_id", "UINT64"),
    _scalar("liveness_probes", "BOOL"),
    _scalar("stream_context", "STRING"),
    *(_scalar(name, data_type) for name, data_type in _REQUEST_EXTRAS),
)
_ENGINE_EXTRA_OUTPUTS = (
    Tensor("sequence_id", "UINT64"),
    Tensor("finish_reason", "STRING"),
    Tensor("stream_context", "STRING"),
)

TENSORRT_LLM_MODEL = Model(
    name=TENSORRT_LLM,
    inputs=(
        _optional("input_ids", "INT32", -1, ragged=True),
        _scalar("input_lengths", "INT32", optional=False),
        _scalar("request_output_len", "INT32", optional=False),
        _scalar("num_return_sequences", "INT32"),
        _scalar("end_id", "INT32"),
        _scalar("pad_id", "INT32"),
        _optional("stop_words_list", "INT32", 2, -1, ragged=True),
        _optional("bad_words_list", "INT32", 2, -1, ragged=True),
        _optional("embedding_bias", "FP32", -1, ragged=True),
        _scalar("beam_width", "INT32"),
        _scalar("temperature", "FP32"),
        _scalar("runtime_top_k", "INT32"),
        _scalar("runtime_top_p", "FP32"),
        _scalar("len_penalty", "FP32"),
        _scalar("repetition_penalty", "FP32"),
        _scalar("min_tokens", "INT32"),
        _scalar("presence_penalty", "FP32"),
        _scalar("frequency_penalty", "FP32"),
        _scalar("seed", "UINT64"),
        _scalar("return_log_probs", "BOOL"),
        _scalar("return_context_logits", "BOOL"),
        _scalar("return_generation_logits", "BOOL"),
        _scalar("return_perf_metrics", "BOOL"),
        _scalar("return_num_input_tokens", "BOOL"),
        _scalar("return_num_output_tokens", "BOOL"),
        _scalar("exclude_input_in_output", "BOOL"),
        _scalar("stop", "BOOL"),
        _scalar("streaming", "BOOL"),
        _optional("prompt_embedding_table", "FP16", -1, -1, ragged=True),
        _scalar("prompt_vocab_size", "INT32"),
        _scalar("lora_task_id", "UINT64"),
        _optional("lora_weights", "FP16", -1, -1, ragged=True),
        _optional("lora_config", "INT32", -1, 3, ragged=True),
        _optional("guided_decoding_guide_type", "STRING", ragged=True),
        _optional("guided_decoding_guide", "STRING", ragged=True),
        *_ENGINE_EXTRA_INPUTS,
    ),
    outputs=(
        Tensor("output_ids", "INT32", (-1, -1)),
        Tensor("sequence_length", "INT32", (-1,)),
        *_ALL_STATISTICS,
        *_ENGINE_EXTRA_OUTPUTS,
    ),
)

OURS = frozenset(each.name for each in (*_ENGINE_EXTRA_INPUTS, *_ENGINE_EXTRA_OUTPUTS))
"""Tensors of the engine that TensorRT-LLM's own backend doesn't have."""

_OURS_ALONE = frozenset(
    (
        *(name for name, _ in _REQUEST_EXTRAS),
        *(tensor.name for tensor in _ENGINE_EXTRA_STATISTICS),
        "top_tokens",
    )
)
"""What only our engine knows of: behind another, nothing offers it."""

TENSORRT_LLM_ADAPTER_MODEL = Model(
    name=TENSORRT_LLM_ADAPTER,
    inputs=tuple(each for each in TENSORRT_LLM_MODEL.inputs if each.name not in _OURS_ALONE),
    outputs=tuple(each for each in TENSORRT_LLM_MODEL.outputs if each.name not in _OURS_ALONE),
)

_CPP_ONLY_INPUTS = (
    _optional("encoder_input_features", "FP16", -1, -1, ragged=True),
    _scalar("encoder_output_lengths", "INT32"),
    _optional("draft_input_ids", "INT32", -1, ragged=True),
    _optional("decoder_input_ids", "INT32", -1, ragged=True),
    _scalar("decoder_input_lengths", "INT32"),
    _optional("draft_logits", _LOGITS_TYPE, -1, -1, ragged=True),
    _scalar("draft_acceptance_threshold", "FP32"),
    _scalar("runtime_top_p_min", "FP32"),
    _scalar("runtime_top_p_decay", "FP32"),
    _scalar("runtime_top_p_reset_ids", "INT32"),
    _scalar("early_stopping", "BOOL"),
    _scalar("beam_search_diversity_rate", "FP32"),
    _optional("prompt_table_extra_ids", "UINT64", -1, ragged=True),
    _optional("cross_attention_mask", "BOOL", -1, -1, ragged=True),
    _optional("mrope_rotary_cos_sin", "FP32", -1),
    _optional("mrope_position_deltas", "INT64"),
    _optional("context_phase_params", "UINT8", -1, ragged=True),
    _optional("skip_cross_attn_blocks", "BOOL", ragged=True),
    _optional("retention_token_range_starts", "INT32", -1, ragged=True),
    _optional("retention_token_range_ends", "INT32", -1, ragged=True),
    _optional("retention_token_range_priorities", "INT32", -1, ragged=True),
    _optional("retention_token_range_durations_ms", "INT32", -1, ragged=True),
    _optional("retention_decode_priority", "INT32", ragged=True),
    _optional("retention_decode_duration_ms", "INT32", ragged=True),
    _optional("lookahead_window_size", "INT32", ragged=True),
    _optional("lookahead_ngram_size", "INT32", ragged=True),
    _optional("lookahead_verification_set_size", "INT32", ragged=True),
)

CPP_BACKEND_MODEL = Model(
    name=TENSORRT_LLM,
    inputs=(
        *(tensor for tensor in TENSORRT_LLM_MODEL.inputs if tensor not in _ENGINE_EXTRA_INPUTS),
        *_CPP_ONLY_INPUTS,
    ),
    outputs=(
        Tensor("output_ids", "INT32", (-1, -1)),
        Tensor("sequence_length", "INT32", (-1,)),
        *_ENGINE_STATISTICS,
        Tensor("context_phase_params", "UINT8", (-1,)),
    ),
)
"""The ``tensorrt_llm`` model of TensorRT-LLM's C++ backend: all that it takes, nothing of ours."""

LLM_API_MODEL = Model(
    name=TENSORRT_LLM,
    inputs=(
        Tensor("text_input", "STRING", (-1,)),
        _optional("streaming", "BOOL"),
        _optional("sampling_param_best_of", "INT32"),
        _optional("sampling_param_temperature", "FP32"),
        _optional("sampling_param_top_k", "INT32"),
        _optional("sampling_param_top_p", "FP32"),
        _optional("sampling_param_frequency_penalty", "FP32"),
        _optional("sampling_param_presence_penalty", "FP32"),
        _optional("sampling_param_max_tokens", "INT32"),
        _optional("sampling_param_stop", "STRING", -1),
        _optional("sampling_param_seed", "UINT64"),
        _optional("sampling_param_exclude_input_from_output", "BOOL"),
        _optional("sampling_param_return_perf_metrics", "BOOL"),
        _optional("return_finish_reason", "BOOL"),
        _optional("return_stop_reason", "BOOL"),
        _optional("return_cumulative_logprob", "BOOL"),
        _optional("stop", "BOOL"),
    ),
    outputs=(
        Tensor("text_output", "STRING", (-1,)),
        Tensor("finish_reason", "STRING", (-1,)),
        Tensor("stop_reason", "STRING", (-1,)),
        Tensor("cumulative_logprob", "FP32", (-1,)),
        Tensor("kv_cache_reused_block", "INT32", (-1,)),
        Tensor("kv_cache_missed_block", "INT32", (-1,)),
        Tensor("kv_cache_alloc_new_blocks", "INT32", (-1,)),
        Tensor("kv_cache_alloc_total_blocks", "INT32", (-1,)),
        Tensor("kv_cache_hit_rate", "FP32", (-1,)),
        Tensor("arrival_time_ns", "INT64"),
        Tensor("first_scheduled_time_ns", "INT64"),
        Tensor("first_token_time_ns", "INT64"),
        Tensor("last_token_time_ns", "INT64"),
        Tensor("acceptance_rate", "FP32"),
        Tensor("total_accepted_draft_tokens", "INT32"),
        Tensor("total_draft_tokens", "INT32"),
    ),
)
"""The ``tensorrt_llm`` model of TensorRT-LLM's LLM API: text in, text out, a model of its own that
no ensemble stands around (``triton_backend/all_models/llmapi``)."""

UNSUPPORTED_INPUTS = {
    "return_context_logits": "context logits",
    "return_generation_logits": "generation logits",
    "prompt_embedding_table": "prompt tuning",
    "prompt_vocab_size": "prompt tuning",
    "lora_task_id": "LoRA",
    "lora_weights": "LoRA",
    "lora_config": "LoRA",
    "guided_decoding_guide_type": "guided decoding",
    "guided_decoding_guide": "guided decoding",
}
"""Inputs of the contract that the ONNX Runtime engine refuses by name, and what they ask for."""

# --- postprocessing -----------------------------------------------------------------------------

_ANSWER_EXTRAS = (
    Tensor("finish_reason", "STRING"),
    Tensor("safety_verdicts", "STRING"),
    Tensor("output_tokens", "STRING", (-1, -1)),
    Tensor("top_tokens", "STRING", (-1, -1, -1)),
)
"""What an answer carries beside TensorRT-LLM's outputs."""

ANSWER_EXTRAS = tuple(tensor.name for tensor in _ANSWER_EXTRAS)

POSTPROCESSING_MODEL = Model(
    name=POSTPROCESSING,
    inputs=(
        Tensor("TOKENS_BATCH", "INT32", (-1, -1)),
        Tensor("SEQUENCE_LENGTH", "INT32", (-1,)),
        *(_optional(t.name, t.data_type, *t.dims) for t in _ALL_STATISTICS),
        *(_optional(t.name, t.data_type, *t.dims) for t in _ENGINE_EXTRA_OUTPUTS),
    ),
    outputs=(
        Tensor("OUTPUT", "STRING", (-1,)),
        *_ALL_STATISTICS,
        *_ANSWER_EXTRAS,
    ),
)

# --- the ensemble -------------------------------------------------------------------------------

ENSEMBLE_MODEL = Model(
    name=ENSEMBLE,
    inputs=(
        Tensor("text_input", "STRING"),
        _optional("decoder_text_input", "STRING"),
        Tensor("max_tokens", "INT32"),
        _optional("num_return_sequences", "INT32"),
        _optional("bad_words", "STRING", -1),
        _optional("stop_words", "STRING", -1),
        _optional("exclude_input_in_output", "BOOL"),
        _optional("end_id", "INT32"),
        _optional("pad_id", "INT32"),
        _optional("top_k", "INT32"),
        _optional("top_p", "FP32"),
        _optional("temperature", "FP32"),
        _optional("length_penalty", "FP32"),
        _optional("repetition_penalty", "FP32"),
        _optional("min_tokens", "INT32"),
        _optional("presence_penalty", "FP32"),
        _optional("frequency_penalty", "FP32"),
        _optional("seed", "UINT64"),
        _optional("return_log_probs", "BOOL"),
        _optional("return_context_logits", "BOOL"),
        _optional("return_generation_logits", "BOOL"),
        _optional("return_perf_metrics", "BOOL"),
        _optional("return_num_input_tokens", "BOOL"),
        _optional("return_num_output_tokens", "BOOL"),
        _optional("beam_width", "INT32"),
        _optional("stream", "BOOL"),
        _optional("prompt_embedding_table", "FP16", -1, -1),
        _optional("prompt_table_extra_id", "UINT64"),
        _optional("prompt_vocab_size", "INT32"),
        _optional("embedding_bias_words", "STRING", -1),
        _optional("embedding_bias_weights", "FP32", -1),
        _optional("lora_task_id", "UINT64"),
        _optional("lora_weights", "FP16", -1, -1, ragged=True),
        _optional("lora_config", "INT32", -1, 3, ragged=True),
        _optional("guided_decoding_guide_type", "STRING", ragged=True),
        _optional("guided_decoding_guide", "STRING", ragged=True),
        _optional("messages", "STRING"),
        _optional("tools", "STRING"),
        _optional("chat_template_kwargs", "STRING"),
        _optional("embedding_bias_ids", "INT32", -1),
        _optional("include_stop_str_in_output", "BOOL"),
        *(_optional(name, data_type) for name, data_type in _REQUEST_EXTRAS),
    ),
    outputs=(
        Tensor("text_output", "STRING", (-1,)),
        *_ALL_STATISTICS,
        *_ANSWER_EXTRAS,
    ),
)


def ensemble_model(engine: Engine = "onnxruntime") -> Model:
    """The ensemble around an engine: what that engine knows nothing of is not offered."""
    if engine == "onnxruntime":
        return ENSEMBLE_MODEL
    inputs = tuple(each for each in ENSEMBLE_MODEL.inputs if each.name not in _OURS_ALONE)
    outputs = tuple(each for each in ENSEMBLE_MODEL.outputs if each.name not in _OURS_ALONE)
    return replace(ENSEMBLE_MODEL, inputs=inputs, outputs=outputs)


_RENAMED_ENGINE_INPUTS = {
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "len_penalty": "length_penalty",
}
_ENGINE_INPUTS_FROM_PREPROCESSING = {
    "input_ids": "_INPUT_ID",
    "input_lengths": "_REQUEST_INPUT_LEN",
    "request_output_len": "_REQUEST_OUTPUT_LEN",
    "end_id": "_PREPROCESSOR_END_ID",
    "pad_id": "_PREPROCESSOR_PAD_ID",
    "embedding_bias": "_EMBEDDING_BIAS",
    "stop_words_list": "_STOP_WORDS_IDS",
    "bad_words_list": "_BAD_WORDS_IDS",
    "liveness_probes": "_LIVENESS_PROBES",
    "streaming": "_STREAMING",
    "stream_context": "_STREAM_CONTEXT",
}


def _engine_input_map(engine: Engine) -> dict[str, str]:
    offered = set(ensemble_model(engine).input_names())
    mapping = dict(_ENGINE_INPUTS_FROM_PREPROCESSING)
    for name in TENSORRT_LLM_MODEL.input_names():
        source = _RENAMED_ENGINE_INPUTS.get(name, name)
        if name not in mapping and source in offered:
            mapping[name] = source
    return mapping


_EXTRA_OUTPUT_NAMES = tuple(tensor.name for tensor in _ENGINE_EXTRA_OUTPUTS)


def ensemble_steps(engine: Engine = "onnxruntime") -> tuple[Step, ...]:
    """The ensemble's three steps and the tensors that flow between them."""
    ours = engine == "onnxruntime"
    known = [name for name in (*STATISTICS, *ANSWER_EXTRAS) if ours or name not in _OURS_ALONE]
    statistics = [name for name in known if name in STATISTICS]
    carried = (*statistics, *_EXTRA_OUTPUT_NAMES)
    return (
        Step(
            PREPROCESSING,
            input_map={
                "QUERY": "text_input",
                "DECODER_QUERY": "decoder_text_input",
                "REQUEST_OUTPUT_LEN": "max_tokens",
                "BAD_WORDS_DICT": "bad_words",
                "STOP_WORDS_DICT": "stop_words",
                "EMBEDDING_BIAS_WORDS": "embedding_bias_words",
                "EMBEDDING_BIAS_WEIGHTS": "embedding_bias_weights",
                "END_ID": "end_id",
                "PAD_ID": "pad_id",
                "PROMPT_TABLE_EXTRA_ID": "prompt_table_extra_id",
                "MESSAGES": "messages",
                "TOOLS": "tools",
                "CHAT_TEMPLATE_KWARGS": "chat_template_kwargs",
                "EMBEDDING_BIAS_IDS": "embedding_bias_ids",
                "STREAM": "stream",
                "EXCLUDE_INPUT_IN_OUTPUT": "exclude_input_in_output",
                "INCLUDE_STOP_STR_IN_OUTPUT": "include_stop_str_in_output",
            },
            output_map={
                "INPUT_ID": "_INPUT_ID",
                "REQUEST_INPUT_LEN": "_REQUEST_INPUT_LEN",
                "REQUEST_OUTPUT_LEN": "_REQUEST_OUTPUT_LEN",
                "STOP_WORDS_IDS": "_STOP_WORDS_IDS",
                "BAD_WORDS_IDS": "_BAD_WORDS_IDS",
                "EMBEDDING_BIAS": "_EMBEDDING_BIAS",
                "OUT_END_ID": "_PREPROCESSOR_END_ID",
                "OUT_PAD_ID": "_PREPROCESSOR_PAD_ID",
                "LIVENESS_PROBES": "_LIVENESS_PROBES",
                "STREAMING": "_STREAMING",
                "STREAM_CONTEXT": "_STREAM_CONTEXT",
            },
        ),
        Step(
            TENSORRT_LLM if ours else TENSORRT_LLM_ADAPTER,
            input_map=_engine_input_map(engine),
            output_map={
                "output_ids": "_TOKENS_BATCH",
                "sequence_length": "_SEQUENCE_LENGTH",
                **{name: f"_{name}" for name in carried},
            },
        ),
        Step(
            POSTPROCESSING,
            input_map={
                "TOKENS_BATCH": "_TOKENS_BATCH",
                "SEQUENCE_LENGTH": "_SEQUENCE_LENGTH",
                **{name: f"_{name}" for name in carried},
            },
            output_map={"OUTPUT": "text_output", **{name: name for name in known}},
        ),
    )
