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


def logits(config: dict[str, Any], tensors: dict[str, NDArray[Any]], tokens: list[int]) -> Array:
    """The logits after each token, ``[tokens, vocab]``."""
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    eps = config["rms_norm_eps"]
    cos, sin = _rotary(config, len(tokens))
    x = w["model.embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        h = _norm(x, w[f"{layer}.input_layernorm.weight"], eps)
        x = x + _attention(config, w, f"{layer}.self_attn", h, cos, sin)
        h = _norm(x, w[f"{layer}.post_attention_layernorm.weight"], eps)
        gate, up = (h @ w[f"{layer}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{layer}.mlp.down_proj.weight"].T
    x = _norm(x, w["model.norm.weight"], eps)
    head = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    return x @ w[f"{head}.weight"].T


def _norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def _attention(
    config: dict[str, Any], w: dict[str, Array], name: str, h: Array, cos: Array, sin: Array
) -> Array:
    count, heads, kv_heads = len(h), config["num_attention_heads"], config["num_key_value_heads"]
    parts = {}
    for part, part_heads in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        x = h @ w[f"{name}.{part}_proj.weight"].T + w.get(f"{name}.{part}_proj.bias", 0.0)
        x = x.reshape(count, part_heads, -1)
        if f"{name}.{part}_norm.weight" in w:
            x = _norm(x, w[f"{name}.{part}_norm.weight"], config["rms_norm_eps"])
        if part != "v":
            low, high = np.split(x, 2, axis=-1)
            x = np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
        parts[part] = x
    outputs = []
    for head in range(heads):
        kv_head = head * kv_heads // heads
        scores = parts["q"][:, head] @ parts["k"][:, kv_head].T
        scores = scores / math.sqrt(parts["q"].shape[-1])
        scores = np.where(np.tri(count, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        outputs.append(weights / weights.sum(axis=-1, keepdims=True) @ parts["v"][:, kv_head])
    return np.concatenate(outputs, axis=-1) @ w[f"{name}.o_proj.weight"].T


def _rotary(config: dict[str, Any], count: int) -> tuple[Array, Array]:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    frequencies = []
    for i in range(head_dim // 2):
        frequency = config["rope_theta"] ** (-2 * i / head_dim)
        scaling = config.get("rope_scaling")
        if scaling:
            wavelength = 2 * math.pi / frequency
            original = scaling["original_max_position_embeddings"]
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            if wavelength > original / low:
                frequency /= scaling["factor"]
            elif wavelength > original / high:
                smooth = (original / wavelength - low) / (high - low)
                frequency *= (1 - smooth) / scaling["factor"] + smooth
        frequencies.append(frequency)
    angles = np.arange(count)[:, None] * np.array(frequencies)
    return np.cos(angles)[:, None], np.sin(angles)[:, None]
