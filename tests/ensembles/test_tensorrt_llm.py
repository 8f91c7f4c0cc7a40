"""The ``tensorrt_llm`` model of TensorRT-LLM's own backends, held against its release 1.2."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from contract.nvidia import CPP_BACKEND_MODEL, LLM_API_MODEL
from contract.settings_base import SettingsError
from ensembles.cpp_backend import CppBackendSettings
from ensembles.llm_api import KVCacheSettings, LLMAPISettings, TritonSettings
from ensembles.model_configs import render
from ensembles.repository import assemble, missing_engine, model_configs
from ensembles.repository_settings import RepositorySettings
from tests.contract import declared
from tests.ensembles import upstream

CPP_PARAMETERS = declared.ENGINE.parameters | {"recv_poll_period_ms"}
"""The template leaves the last one out, which ``model_instance_state.cc`` reads."""

EVERYTHING: dict[str, Any] = {
    "gpt_model_path": "/engines/a b",
    "encoder_model_path": "/engines/encoder",
    "batch_scheduler_policy": "max_utilization",
    "max_tokens_in_paged_kv_cache": 4096,
    "cross_kv_cache_fraction": 0.5,
    "kv_cache_host_memory_bytes": 1 << 30,
    "kv_cache_onboard_blocks": True,
    "max_attention_window_size": (4096, 8192),
    "sink_token_length": 4,
    "iter_stats_max_iterations": 100,
    "request_stats_max_iterations": 0,
    "recv_poll_period_ms": 1,
    "gpu_device_ids": ((0, 1), (2, 3)),
    "participant_ids": ((1, 2), (3, 4)),
    "num_nodes": 1,
    "communication": "orchestrator",
    "world_size": 2,
    "decoding_mode": "lookahead",
    "lookahead_window_size": 4,
    "lookahead_ngram_size": 4,
    "lookahead_verification_set_size": 4,
    "medusa_choices": "{0}, {0, 0}, {1}",
    "eagle_choices": "{0}, {1}",
    "speculative_decoding_fast_logits": True,
    "gpu_weights_percent": 0.5,
    "multi_block_mode": False,
    "enable_context_fmha_fp32_acc": True,
    "cuda_graph_mode": True,
    "cuda_graph_cache_size": 8,
    "lora_cache_optimal_adapter_size": 8,
    "lora_cache_max_adapter_size": 64,
    "lora_cache_gpu_memory_fraction": 0.05,
    "lora_cache_host_memory_bytes": 1 << 30,
    "lora_prefetch_dir": "/adapters",
    "guided_decoding_backend": "xgrammar",
    "xgrammar_tokenizer_info_path": "/xgrammar.json",
}
DEFAULTS = RepositorySettings(engine="tensorrt_llm")
FULL = RepositorySettings(
    engine="tensorrt_llm", max_batch_size=8, tensorrt_llm=CppBackendSettings(**EVERYTHING)
)


def cpp_config(settings: RepositorySettings) -> pb.ModelConfig:
    return model_configs(settings)["tensorrt_llm"]


@pytest.mark.parametrize("settings", [DEFAULTS, FULL], ids=["defaults", "everything"])
def test_triton_reads_the_configuration_that_was_meant(settings):
    for config in model_configs(settings).values():
        assert text_format.Parse(render(config), pb.ModelConfig()) == config


def test_every_parameter_is_one_that_the_backend_reads_and_none_is_missing():
    assert set(cpp_config(DEFAULTS).parameters) <= CPP_PARAMETERS
    assert set(cpp_config(FULL).parameters) == CPP_PARAMETERS


def test_values_are_written_as_the_backend_parses_them():
    read = {name: value.string_value for name, value in cpp_config(FULL).parameters.items()}
    assert read["gpu_device_ids"] == "0,1;2,3"
    assert read["max_attention_window_size"] == "4096,8192"
    assert (read["enable_chunked_context"], read["multi_block_mode"]) == ("true", "false")
    assert (read["kv_cache_free_gpu_mem_fraction"], read["max_beam_width"]) == ("0.9", "1")
    assert read["FORCE_CPU_ONLY_INPUT_TENSORS"] == "no"


def test_what_the_backend_does_without_a_default_for_is_always_written():
    # model_instance_state.cc reads these outside any try.
    required = {"gpt_model_type", "tokenizer_dir", "guided_decoding_backend"}
    assert required | {"xgrammar_tokenizer_info_path"} <= set(cpp_config(DEFAULTS).parameters)


def test_queue_streaming_and_instances():
    config = cpp_config(FULL)
    assert (config.backend, config.max_batch_size) == ("tensorrtllm", 8)
    assert config.model_transaction_policy.decoupled
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 1024
    assert (config.instance_group[0].count, config.instance_group[0].kind) == (2, 2)


def test_the_tensors_are_those_of_the_release():
    assert {tensor.name: tensor for tensor in CPP_BACKEND_MODEL.inputs} == declared.ENGINE.inputs
    assert {tensor.name: tensor for tensor in CPP_BACKEND_MODEL.outputs} == declared.ENGINE.outputs
    for entries, expected in (
        (LLM_API_MODEL.inputs, upstream.LLM_INPUTS),
        (LLM_API_MODEL.outputs, upstream.LLM_OUTPUTS),
    ):
        assert {tensor.name: tensor.data_type for tensor in entries} == expected


def test_a_leader_has_a_server_for_each_rank():
    assert CppBackendSettings().launch(Path("/r")).startswith("tritonserver --model-repository=/r")
    words = shlex.split(CppBackendSettings(world_size=2).launch(Path("/a b")))
    ranks = " ".join(words[2:]).split(" : ")
    assert words[:2] == ["mpirun", "--allow-run-as-root"]
    assert len(ranks) == 2
    assert words.count("--model-repository=/a b") == 2
    assert "--load-model=tensorrt_llm" not in ranks[0]
    assert "--load-model=tensorrt_llm" in ranks[1]


def test_an_orchestrator_is_one_server_that_starts_its_ranks():
    spawning = CppBackendSettings(communication="orchestrator", world_size=2).launch(Path("/r"))
    assert spawning.startswith("TRTLLM_ORCHESTRATOR=1 TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES=1 triton")
    joining = CppBackendSettings(**EVERYTHING).launch(Path("/r"))
    assert "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES=0 tritonserver" in joining


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("tensorrt_llm.batch_schedule_policy=x", "the nearest is batch_scheduler_policy"),
        ("tensorrt_llm.kv_cache_free_gpu_mem_fraction=1.5", "less than or equal to 1"),
        ("tensorrt_llm.max_queue_size=-1", "greater than or equal to 0"),
        ("tensorrt_llm.decoding_mode=lookahead", "needs lookahead_window_size"),
        ("tensorrt_llm.guided_decoding_backend=xgrammar", "needs xgrammar_tokenizer_info_path"),
        ("tensorrt_llm.gpt_model_type=V1", "enable_chunked_context needs"),
        ("tensorrt_llm.participant_ids=[[1]]", "participant_ids needs communication=orchestrator"),
        ("tensorrt_llm.gpu_device_ids=[[0,1]]", "gpu_device_ids has 2 of an instance; world_size"),
        ("tensorrt_llm.medusa_choices=0,0", "medusa_choices is '0,0'"),
        ("llm_api.kv_cache_config.free_memory=1", "the nearest is free_gpu_memory_fraction"),
        ("llm_api.max_batchsize=1", "the nearest is max_batch_size"),
    ],
)
def test_a_wrong_setting_is_named(assignment, message):
    with pytest.raises(SettingsError) as error:
        RepositorySettings.from_assignments([assignment])
    assert message in str(error.value)


def test_an_engine_is_looked_for_and_named_by_its_whole_path(tmp_path):
    assemble(tmp_path, DEFAULTS)
    config = pb.ModelConfig()
    text_format.Parse((tmp_path / "tensorrt_llm/config.pbtxt").read_text(), config)
    folder = tmp_path / "tensorrt_llm" / "1"
    assert config.parameters["gpt_model_path"].string_value == str(folder)
    assert not (folder / "model.py").exists()
    advice = missing_engine(tmp_path, DEFAULTS)
    assert advice is not None
    assert advice.startswith(f"{folder} has no engine: `make build-engines`")
    (folder / "rank0.engine").touch()
    assert missing_engine(tmp_path, DEFAULTS) is None


def test_the_llm_apis_arguments_are_those_of_the_release(tmp_path):
    settings = RepositorySettings(
        engine="llm_api",
        llm_api=LLMAPISettings(
            model="/models/hf",
            max_seq_len=4096,
            guided_decoding_backend="xgrammar",
            kv_cache_config=KVCacheSettings(
                max_tokens=1, max_attention_window=(4096,), host_cache_size=0
            ),
        ),
    )
    assert assemble(tmp_path, settings) == ["tensorrt_llm"]
    read = json.loads((tmp_path / "tensorrt_llm/1/model.yaml").read_text())  # YAML holds JSON
    assert set(read) == upstream.LLM_ARGUMENTS
    assert set(read["kv_cache_config"]) <= upstream.KV_CACHE_CONFIG
    assert set(read["kv_cache_config"]) == set(KVCacheSettings.model_fields)
    assert set(read["scheduler_config"]) == {"capacity_scheduler_policy"}
    assert set(read["triton_config"]) == upstream.TRITON_CONFIG == set(TritonSettings.model_fields)
    config = pb.ModelConfig()
    text_format.Parse((tmp_path / "tensorrt_llm/config.pbtxt").read_text(), config)
    # These two are for model.yaml to say, and an error in config.pbtxt.
    assert config.max_batch_size == 0
    assert not config.HasField("model_transaction_policy")


def test_the_llm_api_stands_alone_and_says_what_it_lacks(tmp_path):
    settings = RepositorySettings(engine="llm_api")
    assemble(tmp_path, settings)
    version = tmp_path / "tensorrt_llm" / "1"
    assert "copy model.py and helpers.py" in str(missing_engine(tmp_path, settings))
    (version / "model.py").touch()
    assert f"{version}/hf has no checkpoint" in str(missing_engine(tmp_path, settings))
    (version / "hf").mkdir()
    (version / "hf" / "config.json").touch()
    assert missing_engine(tmp_path, settings) is None
    assemble(tmp_path / "ensemble-too", RepositorySettings())
    with pytest.raises(SettingsError, match="stands alone"):
        assemble(tmp_path / "ensemble-too", settings)
