"""Tiny GGUF files, written as llama.cpp's converter writes them."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFWriter
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize
from numpy.typing import NDArray

from tests.build.checkpoints import make_config, make_tensors

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Phi3ForCausalLM": "phi3",
    "Gemma2ForCausalLM": "gemma2",
    "SmolLM3ForCausalLM": "smollm3",
}
_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA2 = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
TOKENS = ["<unk>", "<s>", "</s>", *string.ascii_letters, "Ġ", "Ġa", "ab", "Ġab"]


def write_gguf(
    path: Path,
    kind: str = "llama",
    stored: Type = Type.F32,
    settings: dict[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    **changes: Any,
) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Write a tiny file.

    Args:
        path: Where.
        kind: One of the kinds of checkpoints.
        stored: How matrices are stored; the rest is in float32.
        settings: More settings of the file, or others.
        leave_out: Settings that the file doesn't have.
        changes: Of the checkpoint's configuration.

    Returns:
        The configuration and the tensors that the file was made of.
    """
    config = make_config(kind, **changes)
    tensors = make_tensors(config)
    architecture = ARCHITECTURES[config["architectures"][0]]
    writer = GGUFWriter(path, architecture)
    for name, value in (_settings(config, architecture) | (settings or {})).items():
        if name not in leave_out:
            _add(writer, name, value)
    for name, values in tensors.items():
        ours, changed = _written(name, values, config, architecture)
        if values.ndim == 1 or stored == Type.F32:
            writer.add_tensor(ours, np.ascontiguousarray(changed))
        else:
            writer.add_tensor(ours, _blocks(changed, stored), raw_dtype=stored)
    for name, values in _factors(config).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config, tensors


def _blocks(values: NDArray[np.float32], stored: Type) -> NDArray[Any]:
    """A matrix in blocks; for those that the library only reads, any blocks with sane scales."""
    if stored not in (Type.Q4_K, Type.Q5_K, Type.Q6_K):
        return quantize(values, stored)
    size, num_bytes = GGML_QUANT_SIZES[stored]
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (*values.shape[:-1], values.shape[-1] // size, num_bytes))
    blocks = blocks.astype(np.uint8)
    scale = np.array([0.01], np.float16).view(np.uint8)
    if stored == Type.Q6_K:
        blocks[..., -2:] = scale
    else:
        blocks[..., :2] = blocks[..., 2:4] = scale
    return blocks.reshape(*values.shape[:-1], -1)


def _add(writer: GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


def _settings(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    found: dict[str, Any] = {
        "general.name": "tiny",
        "general.license": "apache-2.0",
        f"{architecture}.embedding_length": config["hidden_size"],
        f"{architecture}.feed_forward_length": config["intermediate_size"],
        f"{architecture}.block_count": config["num_hidden_layers"],
        f"{architecture}.attention.head_count": config["num_attention_heads"],
        f"{architecture}.attention.head_count_kv": config["num_key_value_heads"],
        f"{architecture}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{architecture}.attention.key_length": head,
        f"{architecture}.attention.value_length": head,
        f"{architecture}.context_length": config["max_position_embeddings"],
        f"{architecture}.rope.freq_base": config["rope_theta"],
        f"{architecture}.rope.dimension_count": int(head * config.get("partial_rotary_factor", 1)),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS
        + [f"x{i}" for i in range(config["vocab_size"] - len(TOKENS))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [1] * (config["vocab_size"] - 3),
        "tokenizer.ggml.merges": ["Ġ a", "a b", "Ġ ab"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    magnitude = (config.get("rope_scaling") or {}).get("attention_factor")
    if magnitude is not None:
        found[f"{architecture}.rope.scaling.attn_factor"] = magnitude
    for name, ours in (
        ("sliding_window", "attention.sliding_window"),
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
        ("original_max_position_embeddings", "rope.scaling.original_context_length"),
    ):
        if name in config:
            found[f"{architecture}.{ours}"] = config[name]
    return found


def _written(
    name: str, values: NDArray[np.float32], config: dict[str, Any], architecture: str
) -> tuple[str, NDArray[np.float32]]:
    """What a tensor is called in the file, and what is done to it."""
    if architecture == "gemma2" and name.endswith("norm.weight"):
        values = values + np.float32(1)
    if name in _WHOLE:
        return _WHOLE[name], values
    _, _, layer, rest = name.split(".", 3)
    part, ending = rest.rsplit(".", 1)
    if architecture in ("llama", "smollm3") and part in ("self_attn.q_proj", "self_attn.k_proj"):
        heads = config["num_attention_heads" if "q_proj" in part else "num_key_value_heads"]
        halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
        values = halves.swapaxes(1, 2).reshape(values.shape)
    names = _NAMES | (_GEMMA2 if architecture == "gemma2" else {})
    return f"blk.{layer}.{names[part]}.{ending}", values


def _factors(config: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Tensors that say how positions turn."""
    scaling = config.get("rope_scaling") or {}
    if scaling.get("type") == "longrope":
        return {
            f"rope_factors_{length}.weight": np.array(scaling[f"{length}_factor"], np.float32)
            for length in ("long", "short")
        }
    if scaling.get("rope_type") != "llama3":
        return {}
    head = config["hidden_size"] // config["num_attention_heads"]
    factors = []
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    original = scaling["original_max_position_embeddings"]
    for each in range(0, head, 2):
        wave = 2 * np.pi * config["rope_theta"] ** (each / head)
        if wave < original / high:
            factors.append(1.0)
        elif wave > original / low:
            factors.append(scaling["factor"])
        else:
            smooth = (original / wave - low) / (high - low)
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return {"rope_freqs.weight": np.array(factors, np.float32)}
