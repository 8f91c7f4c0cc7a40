"""Tiny random checkpoints of every supported kind."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}

_LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

# Phi-4-mini's, in small: eight of each head's 16 elements turn.
_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.5, 2.0, 4.0, 8.0],
}

_TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "model": {
        "type": "BPE",
        "vocab": {"?": 0, **{letter: 3 + i for i, letter in enumerate(string.ascii_letters)}},
        "merges": [],
        "unk_token": "?",
    },
}

# What each kind of checkpoint has that the plain Llama has not. Qwen3's heads are wider than
# hidden_size / num_attention_heads, as in most of that family.
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-untied": {"tie_word_embeddings": False},
    "llama3-scaling": {"rope_scaling": _LLAMA3_SCALING},
    "mistral": {"architectures": ["MistralForCausalLM"], "tie_word_embeddings": False},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 1},
    "mistral-window": {"architectures": ["MistralForCausalLM"], "sliding_window": 5},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32},
    "phi3": {
        "architectures": ["Phi3ForCausalLM"],
        "tie_word_embeddings": False,
        "sliding_window": 7,
    },
    "phi3-long": {
        "architectures": ["Phi3ForCausalLM"],
        "partial_rotary_factor": 0.5,
        "original_max_position_embeddings": 64,
        "rope_scaling": _LONGROPE,
    },
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"],
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 24,
        "sliding_window": 4,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 5.0,
    },
    "smollm3": {"architectures": ["SmolLM3ForCausalLM"], "no_rope_layer_interval": 2},
}


def make_config(kind: str = "llama", **changes: Any) -> dict[str, Any]:
    """The ``config.json`` of a tiny checkpoint."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 101,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        **KINDS[kind],
        **changes,
    }


def make_tensors(config: dict[str, Any], dtype: str = "fp32") -> dict[str, NDArray[Any]]:
    """Random weights for a configuration, lively enough that every part matters."""
    rng = np.random.default_rng(7)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    architecture = config["architectures"][0]
    tensors: dict[str, NDArray[Any]] = {}

    def add(name: str, *shape: int, mean: float = 0.0) -> None:
        values = mean + rng.standard_normal(shape) * (0.3 if mean else 1.5 * shape[-1] ** -0.5)
        tensors[name] = values.astype(DTYPES[dtype])

    add("model.embed_tokens.weight", config["vocab_size"], hidden)
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        parts = (("q", heads), ("k", kv_heads), ("v", kv_heads))
        packed = architecture == "Phi3ForCausalLM"
        if packed:
            add(f"{layer}.self_attn.qkv_proj.weight", (heads + 2 * kv_heads) * head_dim, hidden)
            add(f"{layer}.mlp.gate_up_proj.weight", 2 * inner, hidden)
        for part, rows in () if packed else parts:
            add(f"{layer}.self_attn.{part}_proj.weight", rows * head_dim, hidden)
            if architecture == "Qwen2ForCausalLM":
                add(f"{layer}.self_attn.{part}_proj.bias", rows * head_dim)
            if architecture == "Qwen3ForCausalLM" and part != "v":
                add(f"{layer}.self_attn.{part}_norm.weight", head_dim, mean=1.0)
        add(f"{layer}.self_attn.o_proj.weight", hidden, heads * head_dim)
        for part in () if packed else ("gate", "up"):
            add(f"{layer}.mlp.{part}_proj.weight", inner, hidden)
        add(f"{layer}.mlp.down_proj.weight", hidden, inner)
        norms = ["input", "post_attention"]
        if architecture == "Gemma2ForCausalLM":
            norms += ["pre_feedforward", "post_feedforward"]
        for norm in norms:
            add(f"{layer}.{norm}_layernorm.weight", hidden, mean=1.0)
    add("model.norm.weight", hidden, mean=1.0)
    if not config["tie_word_embeddings"]:
        add("lm_head.weight", config["vocab_size"], hidden)
    return tensors


def write_checkpoint(
    folder: Path,
    config: dict[str, Any],
    tensors: dict[str, NDArray[Any]],
    shards: int = 1,
) -> Path:
    """Write a checkpoint folder, its weights in one file or in several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(_TOKENIZER))
    (folder / "tokenizer_config.json").write_text("{}")
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        names = list(tensors)[shard::shards]
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map.update(dict.fromkeys(names, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def make_checkpoint(
    folder: Path, kind: str = "llama", dtype: str = "fp32", shards: int = 1, **changes: Any
) -> Path:
    """Write a tiny checkpoint of a kind, some settings changed."""
    config = make_config(kind, **changes)
    return write_checkpoint(folder, config, make_tensors(config, dtype), shards)
