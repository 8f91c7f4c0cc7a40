"""From ``config.json`` to a decoder's description, and the features that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build.build_errors import CheckpointError
from build.checkpoint import Checkpoint
from build.decoder import DecoderSpec, describe_decoder
from build.rotary import Llama3Scaling, LongropeScaling, RotaryEmbedding
from python_backend.engine.layers import RmsNorm
from tests.build.checkpoints import make_checkpoint, make_config, make_tensors, write_checkpoint
from tests.python_backend.engine.descriptions import heads

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def describe(
    folder: Path, kind: str = "llama", context_length: int | None = None, **changes: Any
) -> DecoderSpec:
    with Checkpoint(make_checkpoint(folder, kind, **changes)) as checkpoint:
        return describe_decoder(checkpoint, context_length)


def test_a_spec_holds_what_the_config_says(tmp_path):
    spec = describe(tmp_path, "qwen3")
    attention = spec.layers[1].attention
    assert (spec.architecture, len(spec.layers)) == ("Qwen3ForCausalLM", 2)
    assert attention.heads == heads(4, 2, 32)
    assert (attention.heads.q_size, attention.heads.kv_size) == (128, 64)
    assert spec.decoder.lm_head.weights == (spec.decoder.embedding,)
    assert attention.q_norm == RmsNorm(
        weight="model.layers.1.self_attn.q_norm.weight", width=32, eps=1e-5
    )
    assert attention.k_norm == RmsNorm(
        weight="model.layers.1.self_attn.k_norm.weight", width=32, eps=1e-5
    )


def test_settings_that_old_configs_leave_out(tmp_path):
    config = make_config(num_key_value_heads=4)
    folder = write_checkpoint(tmp_path, config, make_tensors(config))
    for setting in ("num_key_value_heads", "rope_theta", "hidden_act"):
        del config[setting]
    write_checkpoint(tmp_path, config, make_tensors(make_config(num_key_value_heads=4)))
    with Checkpoint(folder) as checkpoint:
        spec = describe_decoder(checkpoint)
    assert {each.num_kv_heads for each in spec.decoder.heads} == {4}
    assert spec.rotary == RotaryEmbedding(dim=16, theta=10_000.0, scaling=None)


def test_rope_parameters_of_transformers_5(tmp_path):
    parameters = {**LLAMA3, "rope_theta": 500000.0}
    spec = describe(tmp_path, rope_theta=None, rope_parameters=parameters)
    assert spec.rotary == RotaryEmbedding(16, 500_000.0, Llama3Scaling(8.0, 1.0, 4.0, 8192))


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones():
    scaling = Llama3Scaling(8.0, 1.0, 4.0, original_context=8192)
    wavelengths = np.array([10.0, 8192 / 4, 8192 / 2, 8192, 1e6])
    scaled = 2 * np.pi / scaling.scale(2 * np.pi / wavelengths)
    # Half-way in frequency turns is a third of the way from low (1) to high (4).
    kept = (2 - 1) / 3
    middle = wavelengths[2] / (kept + (1 - kept) / 8)
    np.testing.assert_allclose(scaled, [10.0, 8192 / 4, middle, 8192 * 8, 8e6])


def test_the_context_can_be_limited_but_not_stretched(tmp_path):
    assert describe(tmp_path).context_length == 128
    assert describe(tmp_path, context_length=50).context_length == 50
    for length in (0, -1, 129):
        with pytest.raises(CheckpointError, match="context length must be between 1 and 128"):
            describe(tmp_path, context_length=length)


@pytest.mark.parametrize(
    ("kind", "changes", "windows"),
    [
        ("mistral", {"sliding_window": 32}, (32, 32)),
        ("mistral", {"sliding_window": 128}, (0, 0)),
        ("mistral", {"sliding_window": None}, (0, 0)),
        ("qwen2", {"sliding_window": 32, "use_sliding_window": False}, (0, 0)),
        ("qwen2", {"sliding_window": 32, "use_sliding_window": True}, (32, 32)),
        (
            "qwen2",
            {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 1},
            (0, 32),
        ),
        ("gemma2", {"sliding_window": 32}, (32, 0)),
        ("gemma2", {"layer_types": ["full_attention", "sliding_attention"]}, (0, 4)),
        ("gemma2", {"layer_types": ["full_attention", "full_attention"]}, (0, 0)),
        ("phi3", {}, (7, 7)),
        ("smollm3", {"sliding_window": 9, "use_sliding_window": True}, (0, 9)),
        ("smollm3", {"sliding_window": 9}, (0, 0)),
    ],
)
def test_which_layers_have_a_sliding_window(tmp_path, kind, changes, windows):
    found = describe(tmp_path, kind, **changes).decoder.heads
    assert tuple(each.window for each in found) == windows


def test_longrope_takes_the_factors_of_the_context_it_is_built_for(tmp_path):
    long = describe(tmp_path, "phi3-long")
    short = describe(tmp_path, "phi3-long", context_length=64)
    magnitude = float(np.sqrt(1 + np.log(2) / np.log(64)))
    assert long.rotary.scaling == LongropeScaling((1.5, 2.0, 4.0, 8.0), magnitude)
    assert short.rotary.scaling == LongropeScaling((1.0, 1.1, 1.2, 1.3), magnitude)
    assert (long.rotary.dim, {each.rotary_dim for each in long.decoder.heads}) == (8, {8})
    assert long.rotary_table().shape == (2, 128, 4)
    np.testing.assert_allclose(long.rotary_table()[:, 0, 0], [magnitude, 0], rtol=1e-6)


def test_settings_that_gemma_leaves_out(tmp_path):
    config = make_config("gemma2", head_dim=256, sliding_window=16)
    folder = write_checkpoint(tmp_path, config, make_tensors(config))
    for setting in ("head_dim", "tie_word_embeddings", "attn_logit_softcapping"):
        del config[setting]
    write_checkpoint(tmp_path, config, make_tensors(make_config("gemma2", head_dim=256)))
    with Checkpoint(folder) as checkpoint:
        spec = describe_decoder(checkpoint)
    found = spec.decoder.heads[0]
    assert (found.head_dim, found.logit_softcap) == (256, 50)
    assert spec.decoder.lm_head.weights == (spec.decoder.embedding,)


@pytest.mark.parametrize(
    ("changes", "unrotated"),
    [
        ({}, (1,)),
        ({"no_rope_layers": [0, 1]}, (0,)),
        ({"no_rope_layers": None, "no_rope_layer_interval": 4}, ()),
    ],
)
def test_layers_without_a_rotary_embedding(tmp_path, changes, unrotated):
    found = describe(tmp_path, "smollm3", **changes).decoder.heads
    assert tuple(index for index, each in enumerate(found) if not each.rotary_dim) == unrotated
    assert {each.rotary_dim for each in found} <= {0, 16}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["GemmaForCausalLM"]},
            "GemmaForCausalLM is not supported; .*LlamaForCausalLM, MistralForCausalLM, Qwen2",
        ),
        ({"architectures": None}, "no architecture is not supported"),
        ({"hidden_act": "gelu"}, "activation 'gelu' is not supported"),
        ({"attention_bias": True}, "attention_bias is not supported for LlamaForCausalLM"),
        ({"mlp_bias": True}, "mlp_bias is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"already quantized \(gptq\)"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "'yarn' is not supported, only llama3"),
        ({"rope_scaling": {"type": "longrope"}}, "has no short_factor of 8 numbers"),
        ({"layer_types": ["chunked_attention"] * 2, "sliding_window": 4}, "'chunked_attention'"),
        ({"layer_types": ["full_attention"], "sliding_window": 4}, "not one a layer"),
        ({"no_rope_layers": [1]}, "not one a layer"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "has no factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.2}}, "turns 3 of a head's 16 elements"),
        ({"num_hidden_layers": None}, "config.json has no num_hidden_layers"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers = 'two', not a positive number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0, not a positive number"),
        ({"hidden_size": 63.5}, "hidden_size = 63.5, not a whole number"),
        ({"num_key_value_heads": 3}, "4 heads do not divide among 3 KV heads"),
        ({"head_dim": 24}, "heads of 24 are not supported, only multiples of 16"),
        ({"num_hidden_layers": 3}, r"no tensor model\.layers\.2\.input_layernorm\.weight"),
        ({"tie_word_embeddings": False}, r"no tensor lm_head\.weight"),
        (
            {"vocab_size": 100},
            r"model\.embed_tokens\.weight has shape \[101, 64\], .* asks for \[100, 64\]",
        ),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, changes, message):
    tensors = make_tensors(make_config())
    folder = write_checkpoint(tmp_path, make_config(**changes), tensors)
    with Checkpoint(folder) as checkpoint, pytest.raises(CheckpointError, match=message):
        describe_decoder(checkpoint)
