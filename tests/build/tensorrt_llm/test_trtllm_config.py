"""What the exported ``config.json`` is given that TensorRT-LLM would else guess."""

from __future__ import annotations

import pytest

from build.build_errors import CheckpointError
from build.tensorrt_llm.trtllm_config import check_architecture, completed, rope_settings
from tests.build.checkpoints import make_config

LLAMA3 = {"rope_type": "llama3", "factor": 8.0}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rope_theta": 5e5}, (5e5, None)),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, (5e5, LLAMA3)),
        ({"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}, (5e5, LLAMA3)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, (1e6, None)),
        ({"rope_scaling": None}, (1e4, None)),
    ],
)
def test_the_rotary_embedding_of_old_and_new_configs(config, expected):
    assert rope_settings(config) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("llama", {"attn_bias": False, "rotary_base": 10_000.0, "tie_word_embeddings": True}),
        ("mistral", {"attn_bias": False, "tie_word_embeddings": False}),
        ("qwen2", {"attn_bias": True, "qwen_type": "qwen2", "seq_length": 8192}),
        ("qwen3", {"attn_bias": False, "qwen_type": "qwen3", "use_logn_attn": False}),
    ],
)
def test_what_each_architecture_is_given(kind, expected):
    made = completed({"hidden_size": 64}, make_config(kind))
    assert {"hidden_size": 64, **expected}.items() <= made.items()
    assert ("qwen_type" in made) == kind.startswith("qwen")


@pytest.mark.parametrize("kind", ["phi3", "gemma2", "smollm3"])
def test_an_architecture_without_a_tensorrt_llm_checkpoint_is_refused_by_name(kind):
    config = make_config(kind)
    with pytest.raises(CheckpointError, match=f"{config['architectures'][0]} has no TensorRT-LLM"):
        check_architecture(config)
