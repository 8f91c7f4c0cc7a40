"""From ``config.json`` to a decoder's description, and the features that are refused."""

from __future__ import annotations

import re
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


def test_the_old_form_of_the_rotary_embedding_goes_first(tmp_path):
    newer = {"rope_type": "linear", "factor": 2.0, "rope_theta": 3.0}
    spec = describe(tmp_path, rope_scaling=LLAMA3, rope_parameters=newer)
    assert spec.rotary == RotaryEmbedding(16, 10_000.0, Llama3Scaling(8.0, 1.0, 4.0, 8192))


def test_an_original_context_outside_goes_before_that_of_the_rotary_embedding(tmp_path):
    spec = describe(tmp_path, rope_scaling=LLAMA3, original_max_position_embeddings=50)
    assert spec.rotary.scaling == Llama3Scaling(8.0, 1.0, 4.0, 50)
    left_out = {name: value for name, value in LLAMA3.items() if not name.startswith("original")}
    spec = describe(tmp_path, rope_scaling=left_out)
    assert spec.rotary.scaling == Llama3Scaling(8.0, 1.0, 4.0, 128)


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
        ("mistral", {}, (0, 0)),
        (
            "mistral",
            {"sliding_window": 9, "layer_types": ["full_attention", "sliding_attention"]},
            (0, 9),
        ),
        ("llama", {"sliding_window": 9, "layer_types": ["sliding_attention"] * 2}, (0, 0)),
        ("phi3", {"layer_types": ["full_attention"] * 2}, (7, 7)),
        (
            "smollm3",
            {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
            (9, 0),
        ),
        ("qwen2", {"sliding_window": 32, "use_sliding_window": False}, (0, 0)),
        ("qwen2", {"sliding_window": 32, "use_sliding_window": True}, (0, 0)),
        (
            "qwen2",
            {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 0},
            (32, 32),
        ),
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


def test_longrope_has_short_factors_for_sequences_within_the_original_context(tmp_path):
    both = describe(tmp_path, "phi3-long")
    one = describe(tmp_path, "phi3-long", context_length=64)
    magnitude = float(np.sqrt(1 + np.log(2) / np.log(64)))
    long = LongropeScaling((1.5, 2.0, 4.0, 8.0), magnitude)
    short = LongropeScaling((1.0, 1.1, 1.2, 1.3), magnitude)
    assert both.rotary == RotaryEmbedding(8, 10_000.0, long, short, 64)
    assert one.rotary == RotaryEmbedding(8, 10_000.0, short)
    assert {each.rotary_dim for each in both.decoder.heads} == {8}
    table = both.rotary_table()
    assert table.shape == (2, 128 + 64, 4)
    np.testing.assert_array_equal(table[:, :128], both.for_every_length().rotary_table())
    np.testing.assert_array_equal(table[:, 128:], one.rotary_table())
    for first in (0, 128):
        np.testing.assert_allclose(table[:, first, 0], [magnitude, 0], rtol=1e-6)


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
        (
            {"rope_scaling": {"type": "su", "factor": 4.0}},
            "'su' is not supported for LlamaForCausalLM; those that are: linear, dynamic, yarn",
        ),
        ({"rope_scaling": {"rope_type": None}}, "rotary scaling None is not supported"),
        ({"rope_scaling": {"rope_type": "linear"}}, "has no factor"),
        ({"rope_scaling": {"rope_type": "dynamic"}}, "has no factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "x"}}, "factor = 'x', not a positive"),
        ({"rope_parameters": {"full_attention": {}}}, "for full_attention alone"),
        (
            {"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}},
            "high_freq_factor = 1.0, not more than low_freq_factor",
        ),
        (
            {"rope_scaling": LLAMA3, "partial_rotary_factor": 0.5},
            "partial_rotary_factor = 0.5 beside the rotary scaling 'llama3' is not supported",
        ),
        ({"rope_theta": None}, "config.json has no rope_theta"),
        ({"rope_theta": "1e4"}, "rope_theta = '1e4', not a positive number"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings = None, not true or false"),
        ({"per_layer_config": {"0": {}}}, "per_layer_config is not supported"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder is not supported"),
        ({"compression_config": {"format": "x"}}, r"already quantized \(compression_config\)"),
        ({"model_type": "mistral"}, "model_type = 'mistral' beside LlamaForCausalLM"),
        (
            {"transformers_version": "5.21.0", "new_trick": 3},
            "written by transformers 5.21.0 and says new_trick = 3, .*not known for Llama",
        ),
        ({"rope_scaling": {"type": "longrope"}}, "has no short_factor of 8 numbers"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "has no factor"),
        ({"num_hidden_layers": None}, "num_hidden_layers = None, not a positive number"),
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


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("mistral", {"layer_types": ["chunked_attention"] * 2}, "'chunked_attention'"),
        ("mistral", {"layer_types": ["full_attention"]}, "not one a layer"),
        ("mistral", {"sliding_window": 0}, "sliding_window = 0, not a positive number"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 0, "max_window_layers": 0}, "= 0"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "sliding_window = None, not the"),
        ("gemma2", {"sliding_window": None}, "sliding_window = None, not the width of the window"),
        ("gemma2", {"head_dim": None}, "head_dim = None"),
        ("gemma2", {"use_bidirectional_attention": True}, "is not supported for Gemma2ForCausalLM"),
        ("smollm3", {"no_rope_layers": [1]}, "not one a layer"),
        ("smollm3", {"no_rope_layer_interval": None}, "no_rope_layer_interval = None"),
        ("phi3", {"partial_rotary_factor": 0.2}, "turns 3 of a head's 16 elements"),
        ("phi3", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "'linear' is not"),
        ("phi3", {"rope_scaling": {"rope_type": "su"}}, "has no short_factor of 8 numbers"),
    ],
)
def test_what_a_family_does_not_support_is_named(tmp_path, kind, changes, message):
    with pytest.raises(CheckpointError, match=message):
        describe(tmp_path, kind, **changes)


def test_an_output_projection_that_is_not_the_embedding_is_built(tmp_path):
    config = make_config()
    tensors = make_tensors(make_config(tie_word_embeddings=False))
    folder = write_checkpoint(tmp_path, config, tensors)
    with Checkpoint(folder) as checkpoint:
        spec = describe_decoder(checkpoint)
    assert spec.decoder.lm_head.weights == ("lm_head.weight",)
    assert "lm_head.weight is not model.embed_tokens.weight" in spec.notes[0]


def test_an_output_projection_that_is_the_embedding_is_not_built_twice(tmp_path):
    tensors = make_tensors(make_config())
    embedding = tensors["model.embed_tokens.weight"]
    folder = write_checkpoint(tmp_path, make_config(), tensors | {"lm_head.weight": embedding})
    with Checkpoint(folder) as checkpoint:
        spec = describe_decoder(checkpoint)
    assert (spec.decoder.lm_head.weights, spec.notes) == ((spec.decoder.embedding,), ())


def test_the_only_table_of_tied_ones_serves_for_both(tmp_path):
    tensors = make_tensors(make_config())
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    with Checkpoint(write_checkpoint(tmp_path, make_config(), tensors)) as checkpoint:
        decoder = describe_decoder(checkpoint).decoder
    assert (decoder.embedding, decoder.lm_head.weights) == ("lm_head.weight", ("lm_head.weight",))


@pytest.mark.parametrize(
    ("kind", "changes", "note"),
    [
        (
            "llama",
            {"sliding_window": 4, "use_cache": True},
            "ignored: sliding_window of config.json",
        ),
        ("llama", {"attention_multiplier": 2.0}, "ignored: attention_multiplier of config.json"),
        ("qwen2", {"attention_bias": True}, "attention_bias of config.json, not of Qwen2"),
        ("llama", {"partial_rotary_factor": 0.5}, "ignored: partial_rotary_factor"),
        ("llama", {"rope_scaling": {"mrope_section": [1]}}, "ignored: mrope_section of the rotary"),
        (
            "phi3-long",
            {},
            "short factors for requests .* at most 64 tokens together, long ones for",
        ),
    ],
)
def test_what_a_person_should_know_of_a_checkpoint_is_noted(tmp_path, kind, changes, note):
    (found,) = describe(tmp_path, kind, **changes).notes
    assert re.search(note, found)


def test_tensors_that_nothing_reads_are_noted(tmp_path):
    tensors = make_tensors(make_config())
    bias = np.zeros(64, np.float32)
    more = {"model.layers.0.self_attn.q_proj.bias": bias, "model.rotary_emb.inv_freq": bias}
    with Checkpoint(write_checkpoint(tmp_path, make_config(), tensors | more)) as checkpoint:
        (note,) = describe_decoder(checkpoint).notes
    assert note.startswith("ignored: the tensor model.layers.0.self_attn.q_proj.bias, not of Llama")
