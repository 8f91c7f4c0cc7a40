"""``trtllm-build``'s options in TensorRT-LLM 1.2, recorded so that a misspelt one shows here.

From NVIDIA/TensorRT-LLM: ``tensorrt_llm/commands/build.py`` at 65f1d15 and the ``cli_plugin_args``
and fields of ``tensorrt_llm/plugin/plugin.py`` (the pydantic ``PluginConfig`` of 1.1 and later).
Those are the stored versions nearest to the tag v1.2.1, which could not be fetched itself; the
release's documentation (``commands/trtllm-build``) lists the same. A line is an option and its
values: ``int``, ``text``, ``flag`` (no value), ``texts`` (several) or the words that it takes.
"""

from __future__ import annotations

import argparse

_DTYPES = "auto float16 float32 bfloat16 int32 disable"
_SWITCH = "enable disable"

OPTIONS = {
    line.split()[0]: line.split()[1:]
    for line in f"""
checkpoint_dir text
model_config text
build_config text
model_cls_file text
model_cls_name text
output_dir text
max_batch_size int
max_input_len int
max_seq_len int
max_beam_width int
max_num_tokens int
opt_num_tokens int
max_encoder_input_len int
max_prompt_embedding_table_size int
kv_cache_type continuous paged disabled
input_timing_cache text
output_timing_cache text
profiling_verbosity layer_names_only detailed none
strip_plan flag
weight_sparsity flag
weight_streaming flag
fast_build flag
workers int
log_level internal_error error warning info verbose debug trace
enable_debug_output flag
visualize_network text
dry_run flag
monitor_memory flag
logits_dtype float16 float32
gather_context_logits flag
gather_generation_logits flag
gather_all_token_logits flag
lora_dir texts
lora_ckpt_source hf nemo
lora_target_modules texts
max_lora_rank int
speculative_decoding_mode {
        "draft_tokens_external lookahead_decoding medusa explicit_draft_tokens eagle"
    }
max_draft_len int
bert_attention_plugin {_DTYPES}
gpt_attention_plugin {_DTYPES}
gemm_plugin auto float16 float32 bfloat16 int32 fp8 nvfp4 disable
gemm_swiglu_plugin fp8 disable
fp8_rowwise_gemm_plugin {_DTYPES}
lora_plugin {_DTYPES}
dora_plugin {_SWITCH}
moe_plugin {_DTYPES}
mamba_conv1d_plugin {_DTYPES}
nccl_plugin {_DTYPES}
low_latency_gemm_plugin fp8 disable
low_latency_gemm_swiglu_plugin fp8 disable
gemm_allreduce_plugin float16 bfloat16 disable
context_fmha {_SWITCH}
bert_context_fmha_fp32_acc {_SWITCH}
remove_input_padding {_SWITCH}
tokens_per_block int
use_paged_context_fmha {_SWITCH}
use_fp8_context_fmha {_SWITCH}
fuse_fp4_quant {_SWITCH}
multiple_profiles {_SWITCH}
paged_state {_SWITCH}
streamingllm {_SWITCH}
norm_quant_fusion {_SWITCH}
reduce_fusion {_SWITCH}
user_buffer {_SWITCH}
use_fused_mlp {_SWITCH}
pp_reduce_scatter {_SWITCH}
""".strip().splitlines()
}


def parser() -> argparse.ArgumentParser:
    """A parser that takes what ``trtllm-build`` takes, and nothing else."""
    made = argparse.ArgumentParser("trtllm-build", exit_on_error=False, allow_abbrev=False)
    for name, values in OPTIONS.items():
        if values == ["flag"]:
            made.add_argument(f"--{name}", action="store_true")
        elif values == ["int"]:
            made.add_argument(f"--{name}", type=int)
        elif values == ["texts"]:
            made.add_argument(f"--{name}", nargs="+")
        elif values == ["text"]:
            made.add_argument(f"--{name}")
        else:
            made.add_argument(f"--{name}", choices=values)
    return made
