"""The tensors of TensorRT-LLM 1.2's own models, recorded so that a drift shows.

From ``triton_backend/all_models/inflight_batcher_llm/*/config.pbtxt`` of NVIDIA/TensorRT-LLM. Where
those have a placeholder, such as the type of the logits, this has what its documentation fills in.
A line is a name, a type and the dimensions; ``optional`` may be left out of a request, ``scalar``
is reshaped to one value a row, ``ragged`` may differ in shape within a batch.
"""

from __future__ import annotations

from contract.tensors import Tensor


def _read(table: str) -> dict[str, Tensor]:
    tensors = {}
    for line in table.split("\n"):
        if line:
            name, data_type, dims, *flags = line.split()
            shape = tuple(int(size) for size in dims.split(","))
            tensors[name] = Tensor(name, data_type, shape, **dict.fromkeys(flags, True))
    return tensors


ENSEMBLE_INPUTS = _read("""
text_input STRING 1
decoder_text_input STRING 1 optional
max_tokens INT32 1
num_return_sequences INT32 1 optional
bad_words STRING -1 optional
stop_words STRING -1 optional
exclude_input_in_output BOOL 1 optional
end_id INT32 1 optional
pad_id INT32 1 optional
top_k INT32 1 optional
top_p FP32 1 optional
temperature FP32 1 optional
length_penalty FP32 1 optional
repetition_penalty FP32 1 optional
min_tokens INT32 1 optional
presence_penalty FP32 1 optional
frequency_penalty FP32 1 optional
seed UINT64 1 optional
return_log_probs BOOL 1 optional
return_context_logits BOOL 1 optional
return_generation_logits BOOL 1 optional
return_perf_metrics BOOL 1 optional
return_num_input_tokens BOOL 1 optional
return_num_output_tokens BOOL 1 optional
beam_width INT32 1 optional
stream BOOL 1 optional
prompt_embedding_table FP16 -1,-1 optional
prompt_table_extra_id UINT64 1 optional
prompt_vocab_size INT32 1 optional
embedding_bias_words STRING -1 optional
embedding_bias_weights FP32 -1 optional
lora_task_id UINT64 1 optional
lora_weights FP16 -1,-1 optional ragged
lora_config INT32 -1,3 optional ragged
guided_decoding_guide_type STRING 1 optional ragged
guided_decoding_guide STRING 1 optional ragged
""")

_STATISTICS = """
cum_log_probs FP32 -1
output_log_probs FP32 -1,-1
context_logits FP32 -1,-1
generation_logits FP32 -1,-1,-1
batch_index INT32 1
sequence_index INT32 1
kv_cache_alloc_new_blocks INT32 1
kv_cache_reused_blocks INT32 1
kv_cache_alloc_total_blocks INT32 1
arrival_time_ns INT64 1
first_scheduled_time_ns INT64 1
first_token_time_ns INT64 1
last_token_time_ns INT64 1
acceptance_rate FP32 1
total_accepted_draft_tokens INT32 1
total_draft_tokens INT32 1
num_input_tokens INT32 1
num_output_tokens INT32 1
"""

ENSEMBLE_OUTPUTS = _read("text_output STRING -1" + _STATISTICS)

ENGINE_INPUTS = _read("""
input_ids INT32 -1 optional ragged
encoder_input_features FP16 -1,-1 optional ragged
encoder_output_lengths INT32 1 optional scalar
input_lengths INT32 1 scalar
request_output_len INT32 1 scalar
num_return_sequences INT32 1 optional scalar
draft_input_ids INT32 -1 optional ragged
decoder_input_ids INT32 -1 optional ragged
decoder_input_lengths INT32 1 optional scalar
draft_logits FP32 -1,-1 optional ragged
draft_acceptance_threshold FP32 1 optional scalar
end_id INT32 1 optional scalar
pad_id INT32 1 optional scalar
stop_words_list INT32 2,-1 optional ragged
bad_words_list INT32 2,-1 optional ragged
embedding_bias FP32 -1 optional ragged
beam_width INT32 1 optional scalar
temperature FP32 1 optional scalar
runtime_top_k INT32 1 optional scalar
runtime_top_p FP32 1 optional scalar
runtime_top_p_min FP32 1 optional scalar
runtime_top_p_decay FP32 1 optional scalar
runtime_top_p_reset_ids INT32 1 optional scalar
len_penalty FP32 1 optional scalar
early_stopping BOOL 1 optional scalar
repetition_penalty FP32 1 optional scalar
min_tokens INT32 1 optional scalar
beam_search_diversity_rate FP32 1 optional scalar
presence_penalty FP32 1 optional scalar
frequency_penalty FP32 1 optional scalar
seed UINT64 1 optional scalar
return_log_probs BOOL 1 optional scalar
return_context_logits BOOL 1 optional scalar
return_generation_logits BOOL 1 optional scalar
return_perf_metrics BOOL 1 optional scalar
return_num_input_tokens BOOL 1 optional scalar
return_num_output_tokens BOOL 1 optional scalar
exclude_input_in_output BOOL 1 optional scalar
stop BOOL 1 optional scalar
streaming BOOL 1 optional scalar
prompt_embedding_table FP16 -1,-1 optional ragged
prompt_table_extra_ids UINT64 -1 optional ragged
prompt_vocab_size INT32 1 optional scalar
cross_attention_mask BOOL -1,-1 optional ragged
mrope_rotary_cos_sin FP32 -1 optional
mrope_position_deltas INT64 1 optional
lora_task_id UINT64 1 optional scalar
lora_weights FP16 -1,-1 optional ragged
lora_config INT32 -1,3 optional ragged
context_phase_params UINT8 -1 optional ragged
skip_cross_attn_blocks BOOL 1 optional ragged
retention_token_range_starts INT32 -1 optional ragged
retention_token_range_ends INT32 -1 optional ragged
retention_token_range_priorities INT32 -1 optional ragged
retention_token_range_durations_ms INT32 -1 optional ragged
retention_decode_priority INT32 1 optional ragged
retention_decode_duration_ms INT32 1 optional ragged
guided_decoding_guide_type STRING 1 optional ragged
guided_decoding_guide STRING 1 optional ragged
lookahead_window_size INT32 1 optional ragged
lookahead_ngram_size INT32 1 optional ragged
lookahead_verification_set_size INT32 1 optional ragged
""")

ENGINE_OUTPUTS = _read(
    "output_ids INT32 -1,-1\nsequence_length INT32 -1\ncontext_phase_params UINT8 -1" + _STATISTICS
)

PREPROCESSING_INPUTS = _read("""
QUERY STRING 1
DECODER_QUERY STRING 1 optional
IMAGE_BYTES UINT8 -1,-1,-1,-1 optional
IMAGE_URL STRING 1 optional
IMAGES STRING -1 optional
VIDEO_BYTES UINT8 -1,-1,-1,-1 optional
REQUEST_OUTPUT_LEN INT32 1
BAD_WORDS_DICT STRING -1 optional
STOP_WORDS_DICT STRING -1 optional
EMBEDDING_BIAS_WORDS STRING -1 optional
EMBEDDING_BIAS_WEIGHTS FP32 -1 optional
END_ID INT32 1 optional
PAD_ID INT32 1 optional
PROMPT_TABLE_EXTRA_ID UINT64 1 optional
""")

PREPROCESSING_OUTPUTS = _read("""
INPUT_ID INT32 -1
REQUEST_INPUT_LEN INT32 1
DECODER_INPUT_ID INT32 -1
REQUEST_DECODER_INPUT_LEN INT32 1
BAD_WORDS_IDS INT32 2,-1
STOP_WORDS_IDS INT32 2,-1
EMBEDDING_BIAS FP32 -1
REQUEST_OUTPUT_LEN INT32 -1
OUT_END_ID INT32 1
OUT_PAD_ID INT32 1
OUT_PROMPT_TABLE_EXTRA_IDS UINT64 -1
""")

POSTPROCESSING_INPUTS = _read("TOKENS_BATCH INT32 -1,-1\nSEQUENCE_LENGTH INT32 -1")
POSTPROCESSING_OUTPUTS = _read("OUTPUT STRING -1")

ENSEMBLE_MAPS = {
    "preprocessing": {
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
    },
    "tensorrt_llm": {
        "runtime_top_k": "top_k",
        "runtime_top_p": "top_p",
        "len_penalty": "length_penalty",
        "streaming": "stream",
        **{
            name: name
            for name in (
                "exclude_input_in_output temperature repetition_penalty min_tokens "
                "presence_penalty frequency_penalty seed return_log_probs return_context_logits "
                "return_generation_logits return_perf_metrics return_num_input_tokens "
                "return_num_output_tokens num_return_sequences beam_width prompt_embedding_table "
                "prompt_vocab_size lora_task_id lora_weights lora_config "
                "guided_decoding_guide_type guided_decoding_guide"
            ).split()
        },
    },
}
"""Which of the ensemble's inputs reaches which input of a step."""
