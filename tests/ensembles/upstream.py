"""What TensorRT-LLM 1.2's LLM API takes as a model of Triton's, recorded.

From NVIDIA/TensorRT-LLM: ``triton_backend/all_models/llmapi/tensorrt_llm/{config.pbtxt,
1/model.yaml}`` at c8c6df0, its ``1/model.py`` and ``tensorrt_llm/llmapi/llm_args.py`` (1.2 release
candidates): the stored versions nearest to the tag v1.2.1, which could not be fetched itself.
"""

from __future__ import annotations

LLM_ARGUMENTS = frozenset(
    """
    model backend tensor_parallel_size pipeline_parallel_size max_batch_size max_num_tokens
    max_seq_len max_beam_width enable_chunked_prefill guided_decoding_backend kv_cache_config
    scheduler_config triton_config
    """.split()
)
KV_CACHE_CONFIG = frozenset(
    """
    enable_block_reuse max_tokens max_attention_window sink_token_length free_gpu_memory_fraction
    host_cache_size onboard_blocks cross_kv_cache_fraction secondary_offload_min_priority
    event_buffer_max_size attention_dp_events_gather_period_ms enable_partial_reuse
    copy_on_partial_reuse use_uvm max_gpu_total_bytes dtype mamba_ssm_cache_dtype tokens_per_block
    """.split()
)
TRITON_CONFIG = frozenset({"max_batch_size", "decoupled", "cancellation_check_period_ms"})

LLM_INPUTS = dict(
    line.split()
    for line in """
    text_input STRING
    streaming BOOL
    sampling_param_best_of INT32
    sampling_param_temperature FP32
    sampling_param_top_k INT32
    sampling_param_top_p FP32
    sampling_param_frequency_penalty FP32
    sampling_param_presence_penalty FP32
    sampling_param_max_tokens INT32
    sampling_param_stop STRING
    sampling_param_seed UINT64
    sampling_param_exclude_input_from_output BOOL
    sampling_param_return_perf_metrics BOOL
    return_finish_reason BOOL
    return_stop_reason BOOL
    return_cumulative_logprob BOOL
    stop BOOL
    """.strip().splitlines()
)
LLM_OUTPUTS = dict(
    line.split()
    for line in """
    text_output STRING
    finish_reason STRING
    stop_reason STRING
    cumulative_logprob FP32
    kv_cache_reused_block INT32
    kv_cache_missed_block INT32
    kv_cache_alloc_new_blocks INT32
    kv_cache_alloc_total_blocks INT32
    kv_cache_hit_rate FP32
    arrival_time_ns INT64
    first_scheduled_time_ns INT64
    first_token_time_ns INT64
    last_token_time_ns INT64
    acceptance_rate FP32
    total_accepted_draft_tokens INT32
    total_draft_tokens INT32
    """.strip().splitlines()
)
