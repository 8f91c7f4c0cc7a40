"""A checkpoint of Qwen2.5-0.5B's shape with random weights, for measurements of speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from benchmarks.bench_tokenizer import END, VOCAB_SIZE, write_tokenizer

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": END,
}


def make_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint, unless it is there.

    Returns:
        The folder.
    """
    if (folder / "model.safetensors").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray[Any, Any]:
        values = rng.standard_normal(shape, dtype=np.float32) * 0.02
        return values.astype(ml_dtypes.bfloat16)

    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    key_width = CONFIG["num_key_value_heads"] * hidden // CONFIG["num_attention_heads"]
    tensors = {"model.embed_tokens.weight": random(CONFIG["vocab_size"], hidden)}
    for layer in range(CONFIG["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        for part, width in (("q", hidden), ("k", key_width), ("v", key_width)):
            tensors[f"{name}.self_attn.{part}_proj.weight"] = random(width, hidden)
            tensors[f"{name}.self_attn.{part}_proj.bias"] = random(width)
        tensors[f"{name}.self_attn.o_proj.weight"] = random(hidden, hidden)
        for part in ("gate", "up"):
            tensors[f"{name}.mlp.{part}_proj.weight"] = random(inner, hidden)
        tensors[f"{name}.mlp.down_proj.weight"] = random(hidden, inner)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{name}.{norm}.weight"] = np.ones(hidden, dtype=ml_dtypes.bfloat16)
    tensors["model.norm.weight"] = np.ones(hidden, dtype=ml_dtypes.bfloat16)
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    save_file(tensors, folder / "model.safetensors")
    return folder
