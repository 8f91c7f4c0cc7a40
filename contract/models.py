"""The tensors of Trireme's models: TensorRT-LLM's own (``contract.nvidia``), and what Trireme adds.

They are release 1.2's, so that clients written for its ensemble work unchanged and its engines drop
in. Config files, clients and tests derive from here; nothing else spells a tensor's name, type or
shape. What Trireme adds is optional tensors beside theirs, never a change of theirs.

TensorRT-LLM's C++ backend knows none of ours, and its last response does not look like the last.
Between it and the ensemble stands ``tensorrt_llm_adapter``, which adds what is missing; so the
three steps, and what they say to each other, are the same for every engine.
"""

from __future__ import annotations

from contract import nvidia
from contract.names import (
    ENSEMBLE,
    POSTPROCESSING,
    PREPROCESSING,
    TENSORRT_LLM,
    TENSORRT_LLM_ADAPTER,
    Engine,
)
from contract.parameters import OUR_ROWS, OwnInputs
from contract.tensors import Model, Tensor, TensorSet, optional, scalar


class PreprocessingInputs(nvidia.PreprocessingInputs):
    """Text and its options.

    Attributes:
        PROMPT_TOKEN_IDS: A prompt's tokens, in place of ``QUERY``.
        MESSAGES: A chat as JSON, in place of ``QUERY``; what follows belongs to it.
        TOOLS: Functions that the model may call.
        TOOL_CHOICE: Whether it calls them.
        PARALLEL_TOOL_CALLS: Whether it may call more than one.
        REASONING_EFFORT: How much it thinks.
        THINKING_TOKEN_BUDGET: After how many tokens it has thought enough.
        CHAT_TEMPLATE_KWARGS: What else the chat template is given.
        PARSE_ANSWER: Whether reasoning and calls are told apart from the text.
        GUIDED_DECODING_GUIDE_TYPE: What the text keeps to; with calls and thinking it is another.
        GUIDED_DECODING_GUIDE: The same.
        EMBEDDING_BIAS_IDS: Biased tokens by their ids, in place of ``EMBEDDING_BIAS_WORDS``.
        MIN_TOKENS: How many tokens of the answer no stop text ends.
        STREAM: Whether the request streams.
        EXCLUDE_INPUT_IN_OUTPUT: Whether the prompt is part of the answer.
        INCLUDE_STOP_STR_IN_OUTPUT: Whether a stop text is part of the answer.
    """

    PROMPT_TOKEN_IDS = optional("PROMPT_TOKEN_IDS", "INT32", -1)
    MESSAGES = optional("MESSAGES", "STRING")
    TOOLS = optional("TOOLS", "STRING")
    TOOL_CHOICE = optional("TOOL_CHOICE", "STRING")
    PARALLEL_TOOL_CALLS = optional("PARALLEL_TOOL_CALLS", "BOOL")
    REASONING_EFFORT = optional("REASONING_EFFORT", "STRING")
    THINKING_TOKEN_BUDGET = optional("THINKING_TOKEN_BUDGET", "INT32")
    CHAT_TEMPLATE_KWARGS = optional("CHAT_TEMPLATE_KWARGS", "STRING")
    PARSE_ANSWER = optional("PARSE_ANSWER", "BOOL")
    GUIDED_DECODING_GUIDE_TYPE = optional("GUIDED_DECODING_GUIDE_TYPE", "STRING")
    GUIDED_DECODING_GUIDE = optional("GUIDED_DECODING_GUIDE", "STRING")
    EMBEDDING_BIAS_IDS = optional("EMBEDDING_BIAS_IDS", "INT32", -1)
    MIN_TOKENS = optional("MIN_TOKENS", "INT32")
    STREAM = optional("STREAM", "BOOL")
    EXCLUDE_INPUT_IN_OUTPUT = optional("EXCLUDE_INPUT_IN_OUTPUT", "BOOL")
    INCLUDE_STOP_STR_IN_OUTPUT = optional("INCLUDE_STOP_STR_IN_OUTPUT", "BOOL")


class PreprocessingOutputs(nvidia.PreprocessingOutputs):
    """Tokens, and what else the engine needs; ours are explained at `EngineInputs`.

    Guides and what bounds thinking are left out where a request has none.
    """

    LIVENESS_PROBES = Tensor("LIVENESS_PROBES", "BOOL")
    STREAMING = Tensor("STREAMING", "BOOL")
    STREAM_CONTEXT = Tensor("STREAM_CONTEXT", "STRING")
    GUIDE_TYPE = Tensor("GUIDE_TYPE", "STRING")
    GUIDE = Tensor("GUIDE", "STRING")
    THINKING_BUDGET = Tensor("THINKING_BUDGET", "INT32")
    THINKING_BEGIN_IDS = Tensor("THINKING_BEGIN_IDS", "INT32", (-1,))
    THINKING_END_IDS = Tensor("THINKING_END_IDS", "INT32", (-1,))
    THINKING_CLOSE_IDS = Tensor("THINKING_CLOSE_IDS", "INT32", (-1,))


class _StepInputs(nvidia.EngineInputs):
    """What the ensemble's second step takes, whatever the engine.

    Attributes:
        SEQUENCE_ID: Names the sequence that a ``stop`` request ends.
        CLIENT_GONE: The client of the sequence that a ``stop`` request names went away: all
            sequences of its request end.
        LIVENESS_PROBES: Preprocessing asks for empty responses while there are no tokens to send. A
            client that went away shows only where the ensemble's last step is called, and without
            them a request that doesn't stream would run to its end for nobody.
        STREAM_CONTEXT: What preprocessing tells postprocessing about a request, such as its stop
            texts; handed back with each sequence's first response.
    """

    SEQUENCE_ID = scalar("sequence_id", "UINT64")
    CLIENT_GONE = scalar("client_gone", "BOOL")
    LIVENESS_PROBES = scalar("liveness_probes", "BOOL")
    STREAM_CONTEXT = scalar("stream_context", "STRING")


class EngineInputs(_StepInputs):
    """What Trireme's engine takes.

    Attributes:
        PRIORITY: Which requests go first; Triton doesn't show its own request priority to a Python
            model.
        RETURN_COMPUTED_TOKENS: Whether responses say what was computed: see `OurStatistics`.
        RETURN_PROMPT_TOKENS: Whether a sequence's first response says what its prompt was.
        THINKING_BUDGET: After so many tokens of thinking its end is forced.
        THINKING_BEGIN_IDS: The tokens that thinking begins with; none where the prompt ends in it.
        THINKING_END_IDS: Those that end it.
        THINKING_CLOSE_IDS: Those that are forced.
        SAMPLED: Parameters of sampling that are ours: rows of `contract.parameters`.
    """

    THINKING_BUDGET = scalar("thinking_token_budget", "INT32")
    THINKING_BEGIN_IDS = optional("thinking_begin_ids", "INT32", -1)
    THINKING_END_IDS = optional("thinking_end_ids", "INT32", -1)
    THINKING_CLOSE_IDS = optional("thinking_close_ids", "INT32", -1)
    RETURN_COMPUTED_TOKENS = scalar("return_computed_tokens", "BOOL")
    RETURN_PROMPT_TOKENS = scalar("return_prompt_tokens", "BOOL")
    PRIORITY = scalar("priority", "INT32")
    SAMPLED = tuple(row.engine for row in OUR_ROWS)


class OurStatistics(TensorSet):
    """What only our engine adds to a response: ``[beams, tokens, num_top_log_probs]``, and numbers.

    Attributes:
        NUM_CACHED_TOKENS: Tokens of the prompt that an earlier request had left in the cache.
        NUM_COMPUTED_INPUT_TOKENS: Those that were computed, of this sequence, until now.
        NUM_COMPUTED_OUTPUT_TOKENS: Tokens that were generated, of this sequence, until now: also an
            end token, and those that are not part of the answer.
        PROMPT_IDS: The prompt, ``[tokens]``; this and what follows in the first response.
        PROMPT_LOG_PROBS: How likely the last of its tokens were, ``[scored]``: the first has none.
            1 where that would tell what the policy takes out of answers.
        PROMPT_TOP_LOG_PROB_IDS: The likeliest in their places, ``[scored, num_top_log_probs]``.
        PROMPT_TOP_LOG_PROBS: How likely those were.
    """

    NUM_CACHED_TOKENS = Tensor("num_cached_tokens", "INT32")
    NUM_COMPUTED_INPUT_TOKENS = Tensor("num_computed_input_tokens", "INT32")
    NUM_COMPUTED_OUTPUT_TOKENS = Tensor("num_computed_output_tokens", "INT32")
    TOP_LOG_PROB_IDS = Tensor("top_log_prob_ids", "INT32", (-1, -1, -1))
    TOP_LOG_PROBS = Tensor("top_log_probs", "FP32", (-1, -1, -1))
    PROMPT_IDS = Tensor("prompt_ids", "INT32", (-1,))
    PROMPT_LOG_PROBS = Tensor("prompt_log_probs", "FP32", (-1,))
    PROMPT_TOP_LOG_PROB_IDS = Tensor("prompt_top_log_prob_ids", "INT32", (-1, -1))
    PROMPT_TOP_LOG_PROBS = Tensor("prompt_top_log_probs", "FP32", (-1, -1))


class Statistics(OurStatistics, nvidia.Statistics):
    """All that an engine may add to a response where the request asks for it."""


class _StepOutputs(TensorSet):
    """What the ensemble's second step says of a sequence, whatever the engine.

    Attributes:
        SEQUENCE_ID: Tells the pieces of one stream from those of another, whatever request ids the
            clients chose.
        FINISH_REASON: Why a sequence ended, in its last response.
        STREAM_CONTEXT: What preprocessing said of it, in its first.
    """

    SEQUENCE_ID = Tensor("sequence_id", "UINT64")
    FINISH_REASON = Tensor("finish_reason", "STRING")
    STREAM_CONTEXT = Tensor("stream_context", "STRING")


class EngineOutputs(nvidia.EngineOutputs, Statistics, _StepOutputs):
    """What the ensemble's second step answers."""


class AnswerExtras(TensorSet):
    """What an answer carries beside TensorRT-LLM's outputs.

    Attributes:
        FINISH_REASON: Why the answer ended, in its last response.
        STOP_TEXT: The stop text that ended it, if one did.
        SAFETY_VERDICTS: What a policy found, as JSON.
        OUTPUT_TOKENS: The text of the tokens whose log probabilities the response carries.
        TOP_TOKENS: The text of the likeliest tokens beside each.
        PROMPT_TOKEN_TEXTS: The text of the prompt's tokens.
        PROMPT_TOP_TOKENS: The text of the likeliest in their places.
        REASONING_OUTPUT: What the model thought before it answered.
        TOOL_CALLS: What it says of calls, as JSON: a list of ``{"index", "id", "name"}`` where one
            begins and ``{"index", "arguments"}`` with what follows of its arguments.
        NUM_REASONING_TOKENS: How many of the response's tokens it thought with. These three where
            the request asks for ``parse_answer``.
    """

    FINISH_REASON = Tensor("finish_reason", "STRING")
    STOP_TEXT = Tensor("stop_text", "STRING")
    SAFETY_VERDICTS = Tensor("safety_verdicts", "STRING")
    OUTPUT_TOKENS = Tensor("output_tokens", "STRING", (-1, -1))
    TOP_TOKENS = Tensor("top_tokens", "STRING", (-1, -1, -1))
    PROMPT_TOKEN_TEXTS = Tensor("prompt_token_texts", "STRING", (-1,))
    PROMPT_TOP_TOKENS = Tensor("prompt_top_tokens", "STRING", (-1, -1))
    REASONING_OUTPUT = Tensor("reasoning_output", "STRING")
    TOOL_CALLS = Tensor("tool_calls", "STRING")
    NUM_REASONING_TOKENS = Tensor("num_reasoning_tokens", "INT32")


class PostprocessingInputs(nvidia.PostprocessingInputs, Statistics, _StepOutputs):
    """Tokens, and all that the engine says of them.

    Triton refuses an ensemble whose outputs come from two decoupled steps. Postprocessing is
    decoupled (it may hold text back, and answers nothing to the engine's liveness probes), so the
    engine's statistics travel through it; upstream maps them from the engine directly. The
    ensemble's own face is the same.
    """


class PostprocessingOutputs(nvidia.PostprocessingOutputs, Statistics, AnswerExtras):
    """Text, and what goes with it."""


class EnsembleInputs(OwnInputs, nvidia.EnsembleInputs):
    """What a client may send; what each means is told at `contract.parameters`."""

    SAMPLED = tuple(row.tensor for row in OUR_ROWS)


class EnsembleOutputs(nvidia.EnsembleOutputs, Statistics, AnswerExtras):
    """What a client gets."""


def _names(*tensors: Tensor) -> tuple[str, ...]:
    return tuple(tensor.name for tensor in tensors)


STATISTICS = _names(*Statistics.all())
ANSWER_EXTRAS = _names(*AnswerExtras.all())
STEP_OUTPUTS = _names(*_StepOutputs.all())

OURS = frozenset(_names(*_StepInputs.own(), *EngineInputs.own(), *_StepOutputs.all()))
"""Tensors of the engine that TensorRT-LLM's own backend doesn't have."""

_OUR_ENGINES_ALONE = frozenset(
    _names(
        *EngineInputs.own(),
        *OurStatistics.all(),
        AnswerExtras.TOP_TOKENS,
        AnswerExtras.PROMPT_TOKEN_TEXTS,
        AnswerExtras.PROMPT_TOP_TOKENS,
    )
)
"""What only our engine knows of: behind another, nothing offers it."""

PREPROCESSING_MODEL = Model(PREPROCESSING, PreprocessingInputs.all(), PreprocessingOutputs.all())
TENSORRT_LLM_MODEL = Model(TENSORRT_LLM, EngineInputs.all(), EngineOutputs.all())
TENSORRT_LLM_ADAPTER_MODEL = Model(
    TENSORRT_LLM_ADAPTER, EngineInputs.all(), EngineOutputs.all()
).without(_OUR_ENGINES_ALONE)
POSTPROCESSING_MODEL = Model(
    POSTPROCESSING,
    (
        *nvidia.PostprocessingInputs.all(),
        *(optional(t.name, t.data_type, *t.dims) for t in Statistics.all()),
        *(optional(t.name, t.data_type, *t.dims) for t in _StepOutputs.all()),
    ),
    PostprocessingOutputs.all(),
)
ENSEMBLE_MODEL = Model(ENSEMBLE, EnsembleInputs.all(), EnsembleOutputs.all())


STEP_MODELS: dict[Engine, Model] = {
    "onnx": TENSORRT_LLM_MODEL,
    "tensorrt_llm": TENSORRT_LLM_ADAPTER_MODEL,
}
"""The model that is the ensemble's second step, for each engine."""

_NOT_OFFERED: dict[Engine, frozenset[str]] = {
    "onnx": frozenset(),
    "tensorrt_llm": _OUR_ENGINES_ALONE,
}


def ensemble_model(engine: Engine = "onnx") -> Model:
    """The ensemble around an engine: what that engine knows nothing of is not offered."""
    return ENSEMBLE_MODEL.without(_NOT_OFFERED[engine])


UNSUPPORTED_INPUTS: dict[Tensor, str] = {
    EngineInputs.RETURN_CONTEXT_LOGITS: "context logits",
    EngineInputs.RETURN_GENERATION_LOGITS: "generation logits",
    EngineInputs.PROMPT_EMBEDDING_TABLE: "prompt tuning",
    EngineInputs.PROMPT_TABLE_EXTRA_IDS: "prompt tuning",
    EngineInputs.PROMPT_VOCAB_SIZE: "prompt tuning",
    EngineInputs.LORA_TASK_ID: "LoRA",
    EngineInputs.LORA_WEIGHTS: "LoRA",
    EngineInputs.LORA_CONFIG: "LoRA",
    EngineInputs.DRAFT_INPUT_IDS: "a draft from outside",
    EngineInputs.DRAFT_LOGITS: "a draft from outside",
    EngineInputs.LOOKAHEAD_WINDOW_SIZE: "lookahead decoding",
    EngineInputs.LOOKAHEAD_NGRAM_SIZE: "lookahead decoding",
    EngineInputs.LOOKAHEAD_VERIFICATION_SET_SIZE: "lookahead decoding",
    EngineInputs.RETENTION_TOKEN_RANGE_STARTS: "a retention of the KV cache",
    EngineInputs.RETENTION_TOKEN_RANGE_ENDS: "a retention of the KV cache",
    EngineInputs.RETENTION_TOKEN_RANGE_PRIORITIES: "a retention of the KV cache",
    EngineInputs.RETENTION_TOKEN_RANGE_DURATIONS_MS: "a retention of the KV cache",
    EngineInputs.RETENTION_DECODE_PRIORITY: "a retention of the KV cache",
    EngineInputs.RETENTION_DECODE_DURATION_MS: "a retention of the KV cache",
    EngineInputs.RUNTIME_TOP_P_DECAY: "a decay of top_p",
    EngineInputs.DECODER_INPUT_IDS: "a decoder beside an encoder",
    EngineInputs.ENCODER_INPUT_FEATURES: "an encoder",
    EngineInputs.CROSS_ATTENTION_MASK: "an encoder",
    EngineInputs.SKIP_CROSS_ATTN_BLOCKS: "an encoder",
    EngineInputs.MROPE_ROTARY_COS_SIN: "multimodal rotary embedding",
    EngineInputs.MROPE_POSITION_DELTAS: "multimodal rotary embedding",
    EngineInputs.CONTEXT_PHASE_PARAMS: "a prefill on another machine",
}
"""Inputs of the contract that the ONNX engine refuses by name where they carry something, and what
they ask for. Those that say nothing alone, such as the threshold of a draft, are not among them."""

ALWAYS_SAYING = frozenset(
    (
        EngineInputs.LORA_TASK_ID,
        EngineInputs.RETENTION_TOKEN_RANGE_STARTS,
        EngineInputs.RETENTION_DECODE_PRIORITY,
        EngineInputs.RETENTION_DECODE_DURATION_MS,
    )
)
"""Those of them whose zero is a value like any other; else a zero or no text says nothing."""
