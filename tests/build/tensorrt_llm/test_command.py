"""The command that builds an engine: every option is one that ``trtllm-build`` has."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, get_args

import pytest

from build.recipe import Limits
from build.tensorrt_llm.command import in_container, trtllm_build
from build.tensorrt_llm.trtllm_settings import CONTAINER, MODELOPT, EngineBuild, TensorRTLLMTarget
from contract.settings_base import SettingsError, from_assignments
from tests.build.tensorrt_llm import upstream

EVERYTHING: dict[str, Any] = {
    "max_input_len": 3000,
    "opt_num_tokens": 64,
    "max_prompt_embedding_table_size": 16,
    "gemm_plugin": "fp8",
    "gemm_swiglu_plugin": "fp8",
    "low_latency_gemm_plugin": "fp8",
    "low_latency_gemm_swiglu_plugin": "fp8",
    "gemm_allreduce_plugin": "bfloat16",
    "lora_plugin": "auto",
    "use_fp8_context_fmha": "enable",
    "multiple_profiles": "enable",
    "reduce_fusion": "enable",
    "user_buffer": "enable",
    "norm_quant_fusion": "enable",
    "fuse_fp4_quant": "enable",
    "use_fused_mlp": "disable",
    "pp_reduce_scatter": "enable",
    "logits_dtype": "float32",
    "gather_context_logits": True,
    "gather_generation_logits": True,
    "max_lora_rank": 8,
    "lora_target_modules": ("attn_q", "attn_v"),
    "speculative_decoding_mode": "lookahead_decoding",
    "max_draft_len": 83,
    "strip_plan": True,
    "weight_streaming": True,
    "weight_sparsity": True,
    "fast_build": True,
}

LIMITS = Limits(max_num_sequences=8, context_length=4096, max_num_tokens=2048)


def parsed(build: EngineBuild) -> dict[str, Any]:
    command = trtllm_build(LIMITS, build, Path("/c"), Path("/e"))
    assert command[0] == "trtllm-build"
    return vars(upstream.parser().parse_args(command[1:]))


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_trtllm_build_takes_the_command_and_reads_what_is_meant(settings):
    build = EngineBuild(**settings)
    read = parsed(build)
    assert (read["checkpoint_dir"], read["output_dir"]) == ("/c", "/e")
    assert (read["max_batch_size"], read["max_seq_len"], read["max_num_tokens"]) == (8, 4096, 2048)
    for name, value in build:
        expected = list(value) if isinstance(value, tuple) and value else value or None
        assert (read[name] or None) == expected, name


def test_every_setting_is_an_option_and_every_word_is_one_that_it_takes():
    assert set(EVERYTHING) <= set(EngineBuild.model_fields) <= set(upstream.OPTIONS)
    for name, field in EngineBuild.model_fields.items():
        words = {word for word in _words(field.annotation) if isinstance(word, str)}
        assert not words or words == set(upstream.OPTIONS[name]), name


def _words(annotation: Any) -> list[Any]:
    return [
        word
        for each in get_args(annotation)
        for word in (_words(each) if get_args(each) else [each])
    ]


def test_a_misspelt_option_would_be_refused():
    with pytest.raises(SystemExit):
        upstream.parser().parse_args(["--max_batchsize", "8"])


def test_the_container_sees_the_folder_under_the_same_path():
    line = in_container(["trtllm-build", "--output_dir", "/a b/engine"], Path("/a b"))
    words = shlex.split(line)
    assert words[:3] == ["docker", "run", "--rm"]
    assert words[words.index("--volume") + 1] == "/a b:/a b"
    assert words[words.index(CONTAINER) :] == [
        CONTAINER,
        "trtllm-build",
        "--output_dir",
        "/a b/engine",
    ]


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["build.max_beam=8"], "the nearest is max_beam_width"),
        (["build.max_beam_width=0"], "build.max_beam_width is 0: input should be greater"),
        (["build.tokens_per_block=48"], "tokens_per_block is 48, not a power of two"),
        (["build.kv_cache_type=continuous"], "use_paged_context_fmha needs kv_cache_type=paged"),
        (["build.max_draft_len=3"], "speculative_decoding_mode and max_draft_len go together"),
        (["build.speculative_decoding_mode=eagle"], "go together"),
        (["build.user_buffer=enable"], "user_buffer needs reduce_fusion=enable"),
        (["build.max_lora_rank=8"], "need lora_plugin"),
        (["build.workers=2"], "more than the 1 ranks"),
        (["weights=fp4"], "weights is 'fp4'"),
        (["kv_cache=int8"], "the hf form has no int8 KV cache"),
        (["tensor_parallel=0"], "tensor_parallel is 0"),
        (["activations=int8"], "fp8 weights compute with fp8 activations, not int8"),
        (['forms=["hf"]', "weights=none"], "nothing is quantized"),
        (["forms=[]"], "forms is []"),
    ],
)
def test_settings_that_do_not_go_together_are_named(assignments, message):
    with pytest.raises(SettingsError) as error:
        from_assignments(TensorRTLLMTarget, assignments)
    assert message in str(error.value)


def test_the_release_of_modelopt_is_the_one_that_is_installed():
    lock = (Path(__file__).parents[3] / "requirements" / "modelopt.txt").read_text()
    assert f"\nnvidia-modelopt=={MODELOPT} \\\n" in lock
