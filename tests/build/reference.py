"""An independent decoder in numpy float64, to compare graphs with.

It follows the published description of each architecture, takes weights by their checkpoint
names, recomputes everything for every token, and shares no code with ``build``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any  # NDArray[np.float64]; numpy's own types lose that on the way


def logits(
    config: dict[str, Any],
    tensors: dict[str, NDArray[Any]],
    tokens: list[int],
    num_tokens: int | None = None,
) -> Array:
    """The logits after each token, ``[tokens, vocab]``.

    ``num_tokens`` is what the sequence may grow to, by which LongRoPE's factors are chosen; by
    default more than the original context.
    """
    if num_tokens is not None and num_tokens <= config.get("original_max_position_embeddings", 0):
        scaling = config["rope_scaling"]
        scaling = {**scaling, "long_factor": scaling["short_factor"]}
        config = {**config, "rope_scaling": scaling}
    w = _unpacked(config, {name: tensor.astype(np.float64) for name, tensor in tensors.items()})
    eps = config["rms_norm_eps"]
    gemma = config["architectures"] == ["Gemma2ForCausalLM"]
    if gemma:
        w = {name: 1 + each if "norm" in name else each for name, each in w.items()}
    x = w["model.embed_tokens.weight"][tokens]
    if gemma:
        x = x * math.sqrt(config["hidden_size"])
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        h = _norm(x, w[f"{layer}.input_layernorm.weight"], eps)
        h = _attention(config, w, i, h)
        if gemma:
            h = _norm(h, w[f"{layer}.post_attention_layernorm.weight"], eps)
        x = x + h
        before = "pre_feedforward" if gemma else "post_attention"
        h = _norm(x, w[f"{layer}.{before}_layernorm.weight"], eps)
        gate, up = (h @ w[f"{layer}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        gate = _gelu(gate) if gemma else gate / (1 + np.exp(-gate))
        h = (gate * up) @ w[f"{layer}.mlp.down_proj.weight"].T
        if gemma:
            h = _norm(h, w[f"{layer}.post_feedforward_layernorm.weight"], eps)
        x = x + h
    x = _norm(x, w["model.norm.weight"], eps)
    head = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    return _capped(x @ w[f"{head}.weight"].T, config.get("final_logit_softcapping"))


def _unpacked(config: dict[str, Any], w: dict[str, Array]) -> dict[str, Array]:
    """Phi-3's packed matrices as the parts that other architectures store."""
    w = dict(w)
    for name in [name for name in w if "qkv_proj" in name]:
        groups = config["num_attention_heads"], config["num_key_value_heads"]
        head_dim = len(w[name]) // (groups[0] + 2 * groups[1])
        ends = [groups[0] * head_dim, (groups[0] + groups[1]) * head_dim]
        for part, rows in zip("qkv", np.split(w.pop(name), ends), strict=True):
            w[name.replace("qkv_proj", f"{part}_proj")] = rows
    for name in [name for name in w if "gate_up_proj" in name]:
        for part, rows in zip(("gate", "up"), np.split(w.pop(name), 2), strict=True):
            w[name.replace("gate_up_proj", f"{part}_proj")] = rows
    return w


def _norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _capped(x: Array, cap: float | None) -> Array:
    return cap * np.tanh(x / cap) if cap else x


def _attention(config: dict[str, Any], w: dict[str, Array], layer: int, h: Array) -> Array:
    name = f"model.layers.{layer}.self_attn"
    count, heads, kv_heads = len(h), config["num_attention_heads"], config["num_key_value_heads"]
    interval = config.get("no_rope_layer_interval")
    rotates = not interval or (layer + 1) % interval != 0
    parts = {}
    for part, part_heads in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        x = h @ w[f"{name}.{part}_proj.weight"].T + w.get(f"{name}.{part}_proj.bias", 0.0)
        x = x.reshape(count, part_heads, -1)
        if f"{name}.{part}_norm.weight" in w:
            x = _norm(x, w[f"{name}.{part}_norm.weight"], config["rms_norm_eps"])
        if part != "v" and rotates:
            cos, sin = _rotary(config, count)
            half = cos.shape[-1]
            low, high, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
            x = np.concatenate([low * cos - high * sin, high * cos + low * sin, rest], axis=-1)
        parts[part] = x
    scale = config.get("query_pre_attn_scalar") or parts["q"].shape[-1]
    window = config.get("sliding_window")
    if config["architectures"] == ["Gemma2ForCausalLM"] and layer % 2:
        window = None
    distance = np.arange(count)[:, None] - np.arange(count)
    seen = (distance >= 0) & (distance < (window or count))
    outputs = []
    for head in range(heads):
        kv_head = head * kv_heads // heads
        scores = parts["q"][:, head] @ parts["k"][:, kv_head].T / math.sqrt(scale)
        scores = _capped(scores, config.get("attn_logit_softcapping"))
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        outputs.append(weights / weights.sum(axis=-1, keepdims=True) @ parts["v"][:, kv_head])
    return np.concatenate(outputs, axis=-1) @ w[f"{name}.o_proj.weight"].T


def _rotary(config: dict[str, Any], count: int) -> tuple[Array, Array]:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    turned = int(head_dim * config.get("partial_rotary_factor", 1))
    scaling = config.get("rope_scaling") or {}
    frequencies, magnitude = [], 1.0
    for i in range(turned // 2):
        frequency = config["rope_theta"] ** (-2 * i / turned)
        if scaling.get("rope_type") == "llama3":
            wavelength = 2 * math.pi / frequency
            original = scaling["original_max_position_embeddings"]
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            if wavelength > original / low:
                frequency /= scaling["factor"]
            elif wavelength > original / high:
                smooth = (original / wavelength - low) / (high - low)
                frequency *= (1 - smooth) / scaling["factor"] + smooth
        if scaling.get("type") == "longrope":
            original, longest = (
                config[f"{kind}max_position_embeddings"] for kind in ("original_", "")
            )
            frequency /= scaling["long_factor"][i]
            magnitude = math.sqrt(1 + math.log(longest / original) / math.log(original))
        frequencies.append(frequency)
    angles = np.arange(count)[:, None] * np.array(frequencies)
    return magnitude * np.cos(angles)[:, None], magnitude * np.sin(angles)[:, None]
