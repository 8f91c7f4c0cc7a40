"""The tensors of TensorRT-LLM's own models, and nothing of ours.

As release 1.2 has them, ``triton_backend/all_models/inflight_batcher_llm`` and ``.../llmapi`` of
NVIDIA/TensorRT-LLM. Clients that were written for its ensemble work unchanged because Trireme's
models begin with these.
"""

from __future__ import annotations

from contract.names import TENSORRT_LLM
from contract.tensors import Model, Tensor, TensorSet, optional, scalar


class PreprocessingInputs(TensorSet):
    """Text and its options."""

    QUERY = Tensor("QUERY", "STRING")
    DECODER_QUERY = optional("DECODER_QUERY", "STRING")
    REQUEST_OUTPUT_LEN = Tensor("REQUEST_OUTPUT_LEN", "INT32")
    BAD_WORDS_DICT = optional("BAD_WORDS_DICT", "STRING", -1)
    STOP_WORDS_DICT = optional("STOP_WORDS_DICT", "STRING", -1)
    EMBEDDING_BIAS_WORDS = optional("EMBEDDING_BIAS_WORDS", "STRING", -1)
    EMBEDDING_BIAS_WEIGHTS = optional("EMBEDDING_BIAS_WEIGHTS", "FP32", -1)
    END_ID = optional("END_ID", "INT32")
    PAD_ID = optional("PAD_ID", "INT32")
    PROMPT_TABLE_EXTRA_ID = optional("PROMPT_TABLE_EXTRA_ID", "UINT64")


class PreprocessingOutputs(TensorSet):
    """Tokens, and what else the engine needs."""

    INPUT_ID = Tensor("INPUT_ID", "INT32", (-1,))
    REQUEST_INPUT_LEN = Tensor("REQUEST_INPUT_LEN", "INT32")
    DECODER_INPUT_ID = Tensor("DECODER_INPUT_ID", "INT32", (-1,))
    REQUEST_DECODER_INPUT_LEN = Tensor("REQUEST_DECODER_INPUT_LEN", "INT32")
    BAD_WORDS_IDS = Tensor("BAD_WORDS_IDS", "INT32", (2, -1))
    STOP_WORDS_IDS = Tensor("STOP_WORDS_IDS", "INT32", (2, -1))
    EMBEDDING_BIAS = Tensor("EMBEDDING_BIAS", "FP32", (-1,))
    REQUEST_OUTPUT_LEN = Tensor("REQUEST_OUTPUT_LEN", "INT32", (-1,))
    OUT_END_ID = Tensor("OUT_END_ID", "INT32")
    OUT_PAD_ID = Tensor("OUT_PAD_ID", "INT32")


class EngineInputs(TensorSet):
    """What the engine takes, whoever runs it."""

    INPUT_IDS = optional("input_ids", "INT32", -1, ragged=True)
    ENCODER_INPUT_FEATURES = optional("encoder_input_features", "FP16", -1, -1, ragged=True)
    ENCODER_OUTPUT_LENGTHS = scalar("encoder_output_lengths", "INT32")
    INPUT_LENGTHS = scalar("input_lengths", "INT32", optional=False)
    REQUEST_OUTPUT_LEN = scalar("request_output_len", "INT32", optional=False)
    NUM_RETURN_SEQUENCES = scalar("num_return_sequences", "INT32")
    DRAFT_INPUT_IDS = optional("draft_input_ids", "INT32", -1, ragged=True)
    DECODER_INPUT_IDS = optional("decoder_input_ids", "INT32", -1, ragged=True)
    DECODER_INPUT_LENGTHS = scalar("decoder_input_lengths", "INT32")
    DRAFT_LOGITS = optional("draft_logits", "FP32", -1, -1, ragged=True)
    DRAFT_ACCEPTANCE_THRESHOLD = scalar("draft_acceptance_threshold", "FP32")
    END_ID = scalar("end_id", "INT32")
    PAD_ID = scalar("pad_id", "INT32")
    STOP_WORDS_LIST = optional("stop_words_list", "INT32", 2, -1, ragged=True)
    BAD_WORDS_LIST = optional("bad_words_list", "INT32", 2, -1, ragged=True)
    EMBEDDING_BIAS = optional("embedding_bias", "FP32", -1, ragged=True)
    BEAM_WIDTH = scalar("beam_width", "INT32")
    TEMPERATURE = scalar("temperature", "FP32")
    RUNTIME_TOP_K = scalar("runtime_top_k", "INT32")
    RUNTIME_TOP_P = scalar("runtime_top_p", "FP32")
    RUNTIME_TOP_P_MIN = scalar("runtime_top_p_min", "FP32")
    RUNTIME_TOP_P_DECAY = scalar("runtime_top_p_decay", "FP32")
    RUNTIME_TOP_P_RESET_IDS = scalar("runtime_top_p_reset_ids", "INT32")
    LEN_PENALTY = scalar("len_penalty", "FP32")
    EARLY_STOPPING = scalar("early_stopping", "BOOL")
    REPETITION_PENALTY = scalar("repetition_penalty", "FP32")
    MIN_TOKENS = scalar("min_tokens", "INT32")
    BEAM_SEARCH_DIVERSITY_RATE = scalar("beam_search_diversity_rate", "FP32")
    PRESENCE_PENALTY = scalar("presence_penalty", "FP32")
    FREQUENCY_PENALTY = scalar("frequency_penalty", "FP32")
    SEED = scalar("seed", "UINT64")
    RETURN_LOG_PROBS = scalar("return_log_probs", "BOOL")
    RETURN_CONTEXT_LOGITS = scalar("return_context_logits", "BOOL")
    RETURN_GENERATION_LOGITS = scalar("return_generation_logits", "BOOL")
    RETURN_PERF_METRICS = scalar("return_perf_metrics", "BOOL")
    RETURN_NUM_INPUT_TOKENS = scalar("return_num_input_tokens", "BOOL")
    RETURN_NUM_OUTPUT_TOKENS = scalar("return_num_output_tokens", "BOOL")
    EXCLUDE_INPUT_IN_OUTPUT = scalar("exclude_input_in_output", "BOOL")
    STOP = scalar("stop", "BOOL")
    STREAMING = scalar("streaming", "BOOL")
    PROMPT_EMBEDDING_TABLE = optional("prompt_embedding_table", "FP16", -1, -1, ragged=True)
    PROMPT_TABLE_EXTRA_IDS = optional("prompt_table_extra_ids", "UINT64", -1, ragged=True)
    PROMPT_VOCAB_SIZE = scalar("prompt_vocab_size", "INT32")
    CROSS_ATTENTION_MASK = optional("cross_attention_mask", "BOOL", -1, -1, ragged=True)
    MROPE_ROTARY_COS_SIN = optional("mrope_rotary_cos_sin", "FP32", -1)
    MROPE_POSITION_DELTAS = optional("mrope_position_deltas", "INT64")
    LORA_TASK_ID = scalar("lora_task_id", "UINT64")
    LORA_WEIGHTS = optional("lora_weights", "FP16", -1, -1, ragged=True)
    LORA_CONFIG = optional("lora_config", "INT32", -1, 3, ragged=True)
    CONTEXT_PHASE_PARAMS = optional("context_phase_params", "UINT8", -1, ragged=True)
    SKIP_CROSS_ATTN_BLOCKS = optional("skip_cross_attn_blocks", "BOOL", ragged=True)
    RETENTION_TOKEN_RANGE_STARTS = optional(
        "retention_token_range_starts", "INT32", -1, ragged=True
    )
    RETENTION_TOKEN_RANGE_ENDS = optional("retention_token_range_ends", "INT32", -1, ragged=True)
    RETENTION_TOKEN_RANGE_PRIORITIES = optional(
        "retention_token_range_priorities", "INT32", -1, ragged=True
    )
    RETENTION_TOKEN_RANGE_DURATIONS_MS = optional(
        "retention_token_range_durations_ms", "INT32", -1, ragged=True
    )
    RETENTION_DECODE_PRIORITY = optional("retention_decode_priority", "INT32", ragged=True)
    RETENTION_DECODE_DURATION_MS = optional("retention_decode_duration_ms", "INT32", ragged=True)
    GUIDED_DECODING_GUIDE_TYPE = optional("guided_decoding_guide_type", "STRING", ragged=True)
    GUIDED_DECODING_GUIDE = optional("guided_decoding_guide", "STRING", ragged=True)
    LOOKAHEAD_WINDOW_SIZE = optional("lookahead_window_size", "INT32", ragged=True)
    LOOKAHEAD_NGRAM_SIZE = optional("lookahead_ngram_size", "INT32", ragged=True)
    LOOKAHEAD_VERIFICATION_SET_SIZE = optional(
        "lookahead_verification_set_size", "INT32", ragged=True
    )


class Statistics(TensorSet):
    """What the engine adds to a response where the request asks for it."""

    CUM_LOG_PROBS = Tensor("cum_log_probs", "FP32", (-1,))
    OUTPUT_LOG_PROBS = Tensor("output_log_probs", "FP32", (-1, -1))
    CONTEXT_LOGITS = Tensor("context_logits", "FP32", (-1, -1))
    GENERATION_LOGITS = Tensor("generation_logits", "FP32", (-1, -1, -1))
    BATCH_INDEX = Tensor("batch_index", "INT32")
    SEQUENCE_INDEX = Tensor("sequence_index", "INT32")
    KV_CACHE_ALLOC_NEW_BLOCKS = Tensor("kv_cache_alloc_new_blocks", "INT32")
    KV_CACHE_REUSED_BLOCKS = Tensor("kv_cache_reused_blocks", "INT32")
    KV_CACHE_ALLOC_TOTAL_BLOCKS = Tensor("kv_cache_alloc_total_blocks", "INT32")
    ARRIVAL_TIME_NS = Tensor("arrival_time_ns", "INT64")
    FIRST_SCHEDULED_TIME_NS = Tensor("first_scheduled_time_ns", "INT64")
    FIRST_TOKEN_TIME_NS = Tensor("first_token_time_ns", "INT64")
    LAST_TOKEN_TIME_NS = Tensor("last_token_time_ns", "INT64")
    ACCEPTANCE_RATE = Tensor("acceptance_rate", "FP32")
    TOTAL_ACCEPTED_DRAFT_TOKENS = Tensor("total_accepted_draft_tokens", "INT32")
    TOTAL_DRAFT_TOKENS = Tensor("total_draft_tokens", "INT32")
    NUM_INPUT_TOKENS = Tensor("num_input_tokens", "INT32")
    NUM_OUTPUT_TOKENS = Tensor("num_output_tokens", "INT32")


class EngineOutputs(Statistics):
    """What the engine answers."""

    OUTPUT_IDS = Tensor("output_ids", "INT32", (-1, -1))
    SEQUENCE_LENGTH = Tensor("sequence_length", "INT32", (-1,))


class CppBackendOutputs(EngineOutputs):
    """What TensorRT-LLM's C++ backend answers."""

    CONTEXT_PHASE_PARAMS = Tensor("context_phase_params", "UINT8", (-1,))


class PostprocessingInputs(TensorSet):
    """Tokens of answers."""

    TOKENS_BATCH = Tensor("TOKENS_BATCH", "INT32", (-1, -1))
    SEQUENCE_LENGTH = Tensor("SEQUENCE_LENGTH", "INT32", (-1,))


class PostprocessingOutputs(TensorSet):
    """Their text."""

    OUTPUT = Tensor("OUTPUT", "STRING", (-1,))


class EnsembleInputs(TensorSet):
    """What a client may send."""

    TEXT_INPUT = Tensor("text_input", "STRING")
    DECODER_TEXT_INPUT = optional("decoder_text_input", "STRING")
    MAX_TOKENS = Tensor("max_tokens", "INT32")
    NUM_RETURN_SEQUENCES = optional("num_return_sequences", "INT32")
    BAD_WORDS = optional("bad_words", "STRING", -1)
    STOP_WORDS = optional("stop_words", "STRING", -1)
    EXCLUDE_INPUT_IN_OUTPUT = optional("exclude_input_in_output", "BOOL")
    END_ID = optional("end_id", "INT32")
    PAD_ID = optional("pad_id", "INT32")
    TOP_K = optional("top_k", "INT32")
    TOP_P = optional("top_p", "FP32")
    TEMPERATURE = optional("temperature", "FP32")
    LENGTH_PENALTY = optional("length_penalty", "FP32")
    REPETITION_PENALTY = optional("repetition_penalty", "FP32")
    MIN_TOKENS = optional("min_tokens", "INT32")
    PRESENCE_PENALTY = optional("presence_penalty", "FP32")
    FREQUENCY_PENALTY = optional("frequency_penalty", "FP32")
    SEED = optional("seed", "UINT64")
    RETURN_LOG_PROBS = optional("return_log_probs", "BOOL")
    RETURN_CONTEXT_LOGITS = optional("return_context_logits", "BOOL")
    RETURN_GENERATION_LOGITS = optional("return_generation_logits", "BOOL")
    RETURN_PERF_METRICS = optional("return_perf_metrics", "BOOL")
    RETURN_NUM_INPUT_TOKENS = optional("return_num_input_tokens", "BOOL")
    RETURN_NUM_OUTPUT_TOKENS = optional("return_num_output_tokens", "BOOL")
    BEAM_WIDTH = optional("beam_width", "INT32")
    STREAM = optional("stream", "BOOL")
    PROMPT_EMBEDDING_TABLE = optional("prompt_embedding_table", "FP16", -1, -1)
    PROMPT_TABLE_EXTRA_ID = optional("prompt_table_extra_id", "UINT64")
    PROMPT_VOCAB_SIZE = optional("prompt_vocab_size", "INT32")
    EMBEDDING_BIAS_WORDS = optional("embedding_bias_words", "STRING", -1)
    EMBEDDING_BIAS_WEIGHTS = optional("embedding_bias_weights", "FP32", -1)
    LORA_TASK_ID = optional("lora_task_id", "UINT64")
    LORA_WEIGHTS = optional("lora_weights", "FP16", -1, -1, ragged=True)
    LORA_CONFIG = optional("lora_config", "INT32", -1, 3, ragged=True)
    GUIDED_DECODING_GUIDE_TYPE = optional("guided_decoding_guide_type", "STRING", ragged=True)
    GUIDED_DECODING_GUIDE = optional("guided_decoding_guide", "STRING", ragged=True)


class EnsembleOutputs(Statistics):
    """What a client gets."""

    TEXT_OUTPUT = Tensor("text_output", "STRING", (-1,))


class LLMAPIInputs(TensorSet):
    """What the model of the LLM API takes."""

    TEXT_INPUT = Tensor("text_input", "STRING", (-1,))
    STREAMING = optional("streaming", "BOOL")
    SAMPLING_PARAM_BEST_OF = optional("sampling_param_best_of", "INT32")
    SAMPLING_PARAM_TEMPERATURE = optional("sampling_param_temperature", "FP32")
    SAMPLING_PARAM_TOP_K = optional("sampling_param_top_k", "INT32")
    SAMPLING_PARAM_TOP_P = optional("sampling_param_top_p", "FP32")
    SAMPLING_PARAM_FREQUENCY_PENALTY = optional("sampling_param_frequency_penalty", "FP32")
    SAMPLING_PARAM_PRESENCE_PENALTY = optional("sampling_param_presence_penalty", "FP32")
    SAMPLING_PARAM_MAX_TOKENS = optional("sampling_param_max_tokens", "INT32")
    SAMPLING_PARAM_STOP = optional("sampling_param_stop", "STRING", -1)
    SAMPLING_PARAM_SEED = optional("sampling_param_seed", "UINT64")
    SAMPLING_PARAM_EXCLUDE_INPUT_FROM_OUTPUT = optional(
        "sampling_param_exclude_input_from_output", "BOOL"
    )
    SAMPLING_PARAM_RETURN_PERF_METRICS = optional("sampling_param_return_perf_metrics", "BOOL")
    RETURN_FINISH_REASON = optional("return_finish_reason", "BOOL")
    RETURN_STOP_REASON = optional("return_stop_reason", "BOOL")
    RETURN_CUMULATIVE_LOGPROB = optional("return_cumulative_logprob", "BOOL")
    STOP = optional("stop", "BOOL")


class LLMAPIOutputs(TensorSet):
    """What the model of the LLM API answers."""

    TEXT_OUTPUT = Tensor("text_output", "STRING", (-1,))
    FINISH_REASON = Tensor("finish_reason", "STRING", (-1,))
    STOP_REASON = Tensor("stop_reason", "STRING", (-1,))
    CUMULATIVE_LOGPROB = Tensor("cumulative_logprob", "FP32", (-1,))
    KV_CACHE_REUSED_BLOCK = Tensor("kv_cache_reused_block", "INT32", (-1,))
    KV_CACHE_MISSED_BLOCK = Tensor("kv_cache_missed_block", "INT32", (-1,))
    KV_CACHE_ALLOC_NEW_BLOCKS = Tensor("kv_cache_alloc_new_blocks", "INT32", (-1,))
    KV_CACHE_ALLOC_TOTAL_BLOCKS = Tensor("kv_cache_alloc_total_blocks", "INT32", (-1,))
    KV_CACHE_HIT_RATE = Tensor("kv_cache_hit_rate", "FP32", (-1,))
    ARRIVAL_TIME_NS = Tensor("arrival_time_ns", "INT64")
    FIRST_SCHEDULED_TIME_NS = Tensor("first_scheduled_time_ns", "INT64")
    FIRST_TOKEN_TIME_NS = Tensor("first_token_time_ns", "INT64")
    LAST_TOKEN_TIME_NS = Tensor("last_token_time_ns", "INT64")
    ACCEPTANCE_RATE = Tensor("acceptance_rate", "FP32")
    TOTAL_ACCEPTED_DRAFT_TOKENS = Tensor("total_accepted_draft_tokens", "INT32")
    TOTAL_DRAFT_TOKENS = Tensor("total_draft_tokens", "INT32")


CPP_BACKEND_MODEL = Model(TENSORRT_LLM, EngineInputs.all(), CppBackendOutputs.all())
"""The ``tensorrt_llm`` model of TensorRT-LLM's C++ backend."""

LLM_API_MODEL = Model(TENSORRT_LLM, LLMAPIInputs.all(), LLMAPIOutputs.all())
"""The ``tensorrt_llm`` model of TensorRT-LLM's LLM API: text in, text out, a model of its own that
no ensemble stands around."""
