"""Descriptions of decoders that no checkpoint has."""

from __future__ import annotations

from typing import Any

from python_backend.engine.engine_config import EngineConfig
from python_backend.engine.layers import (
    Decoder,
    GatedFeedForward,
    GroupedAttention,
    Heads,
    Layer,
    Pair,
    Product,
    RmsNorm,
)


def heads(num_heads: int = 4, num_kv_heads: int = 2, head_dim: int = 16, **more: Any) -> Heads:
    """Plain causal attention, if nothing else is said."""
    plain = {"scale": head_dim**-0.5, "rotary_dim": head_dim}
    return Heads(
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, **{**plain, **more}
    )


def decoder(
    *layers: Heads, vocab_size: int = 10, hidden_size: int = 64, inner: int = 96
) -> Decoder:
    """A decoder whose layers attend in a given way."""
    return Decoder(
        embedding="embedding",
        layers=tuple(
            _layer(f"layers.{i}", each, hidden_size, inner) for i, each in enumerate(layers)
        ),
        final_norm=_norm("norm", hidden_size),
        lm_head=_product("lm_head", vocab_size, hidden_size),
    )


def edited(config: EngineConfig, name: str, value: int) -> EngineConfig:
    """An engine's description with another ``vocab_size``, ``num_layers``, or number of its heads,
    and all that follows from it.
    """
    values = config.model_dump()
    found = values["decoder"]
    if name == "vocab_size":
        found["lm_head"]["rows"] = (value,)
    elif name == "num_layers":
        found["layers"] = (found["layers"] * value)[:value]
    else:
        for layer in found["layers"]:
            attention = layer["attention"]
            attention["heads"] |= {name: value}
            attention["heads"]["rotary_dim"] = min(
                attention["heads"][each] for each in ("rotary_dim", "head_dim")
            )
            new = Heads(**attention["heads"])
            attention["qkv"]["rows"] = (new.q_size, new.kv_size, new.kv_size)
            attention["output"]["columns"] = new.q_size
    return EngineConfig.model_validate(values)


def _layer(name: str, heads: Heads, hidden: int, inner: int) -> Layer:
    return Layer(
        attention=GroupedAttention(
            norm=_norm(f"{name}.attention_norm", hidden),
            heads=heads,
            qkv=_product(f"{name}.qkv", heads.qkv_size, hidden),
            output=_product(f"{name}.output", hidden, heads.q_size),
        ),
        feed_forward=GatedFeedForward(
            norm=_norm(f"{name}.norm", hidden),
            activation="silu",
            gate_up=Pair(
                first=_product(f"{name}.gate", inner, hidden),
                second=_product(f"{name}.up", inner, hidden),
            ),
            down=_product(f"{name}.down", hidden, inner),
        ),
    )


def _norm(name: str, width: int) -> RmsNorm:
    return RmsNorm(weight=name, width=width, eps=1e-5)


def _product(name: str, rows: int, columns: int) -> Product:
    return Product(weights=(name,), rows=(rows,), columns=columns)
