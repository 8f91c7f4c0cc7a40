"""Every architecture that is built, and its settings with their defaults.

Defaults are those of transformers 5 (``transformers/models/*/configuration_*.py``); transformers 4
has the same. ``tests/build/test_transformers_settings.py`` holds the tables against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from build.build_errors import CheckpointError
from build.family import Family, Field
from build.model_config import count, flag, listed, number, optional, settings, size, text, tokens


def _table(**changes: int | Field) -> dict[str, Field]:
    """A family's settings: what all have, and its own; a number alone is a size."""
    given = {
        name: Field(each, size) if isinstance(each, int) else each for name, each in changes.items()
    }
    return {
        "head_dim": Field(None, optional(size)),
        "hidden_act": Field("silu", text),
        "rms_norm_eps": Field(1e-6, number),
        "tie_word_embeddings": Field(False, flag),
        "eos_token_id": Field(None, tokens),
        "rope_theta": Field(10_000.0, optional(number)),
        "rope_parameters": Field(None, settings),
        "rope_scaling": Field(None, settings),
        "partial_rotary_factor": Field(None, optional(number)),
        "original_max_position_embeddings": Field(None, optional(size)),
    } | given


_QWEN: dict[str, int | Field] = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 22_016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": Field(32, optional(size)),
    "max_position_embeddings": 32_768,
    "sliding_window": Field(4096, optional(count)),
    "use_sliding_window": Field(False, flag),
    "max_window_layers": Field(28, count),
    "layer_types": Field(None, optional(listed(text))),
}

_EVERY = (
    Family(
        architecture="LlamaForCausalLM",
        model_type="llama",
        refused=("attention_bias", "mlp_bias"),
        table=_table(
            vocab_size=32_000,
            hidden_size=4096,
            intermediate_size=11_008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=Field(None, optional(size)),
            max_position_embeddings=2048,
            eos_token_id=Field(2, tokens),
        ),
    ),
    Family(
        architecture="MistralForCausalLM",
        model_type="mistral",
        windows="every layer",
        table=_table(
            vocab_size=32_000,
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=Field(8, optional(size)),
            max_position_embeddings=131_072,
            eos_token_id=Field(2, tokens),
            sliding_window=Field(4096, optional(size)),
            # With it transformers takes its class for Ministral.
            layer_types=Field(None, optional(listed(text))),
        ),
    ),
    Family(
        architecture="Qwen2ForCausalLM",
        model_type="qwen2",
        windows="Qwen",
        qkv_bias=True,
        table=_table(**_QWEN),
    ),
    Family(
        architecture="Qwen3ForCausalLM",
        model_type="qwen3",
        windows="Qwen",
        qk_norm=True,
        refused=("attention_bias",),
        table=_table(**_QWEN, head_dim=128),
    ),
    Family(
        architecture="Phi3ForCausalLM",
        model_type="phi3",
        windows="every layer",
        packed=True,
        turns_partly=True,
        # Early checkpoints call it after SuScaled, some after yarn; it was LongRoPE all along.
        rope_types={
            "default": "default",
            **dict.fromkeys(("longrope", "su", "yarn"), "longrope"),
        },
        table=_table(
            vocab_size=32_064,
            hidden_size=3072,
            intermediate_size=8192,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=Field(None, optional(size)),
            max_position_embeddings=4096,
            rms_norm_eps=Field(1e-5, number),
            eos_token_id=Field(32_000, tokens),
            original_max_position_embeddings=4096,
            sliding_window=Field(None, optional(size)),
        ),
    ),
    Family(
        architecture="Gemma2ForCausalLM",
        model_type="gemma2",
        windows="Gemma-2",
        post_norms=True,
        norm_offset=1.0,
        scales_embedding=True,
        refused=("attention_bias", "use_bidirectional_attention"),
        table={
            name: each
            for name, each in _table(
                vocab_size=256_000,
                hidden_size=2304,
                intermediate_size=9216,
                num_hidden_layers=26,
                num_attention_heads=8,
                num_key_value_heads=4,
                max_position_embeddings=8192,
                head_dim=256,
                hidden_activation=Field("gelu_pytorch_tanh", text),
                tie_word_embeddings=Field(True, flag),
                eos_token_id=Field(1, tokens),
                query_pre_attn_scalar=Field(256, number),
                sliding_window=Field(4096, optional(size)),
                layer_types=Field(None, optional(listed(text))),
                attn_logit_softcapping=Field(50.0, optional(number)),
                final_logit_softcapping=Field(30.0, optional(number)),
            ).items()
            if name != "hidden_act"  # its checkpoints say this, too, and hidden_activation is read
        },
    ),
    Family(
        architecture="SmolLM3ForCausalLM",
        model_type="smollm3",
        windows="SmolLM3",
        refused=("attention_bias", "mlp_bias"),
        table=_table(
            vocab_size=128_256,
            hidden_size=2048,
            intermediate_size=11_008,
            num_hidden_layers=36,
            num_attention_heads=16,
            num_key_value_heads=Field(4, optional(size)),
            max_position_embeddings=32_768,
            tie_word_embeddings=Field(True, flag),
            eos_token_id=Field(128_001, tokens),
            rope_theta=Field(2_000_000.0, optional(number)),
            sliding_window=Field(None, optional(size)),
            use_sliding_window=Field(False, flag),
            layer_types=Field(None, optional(listed(text))),
            no_rope_layers=Field(None, optional(listed(count))),
            no_rope_layer_interval=4,
        ),
    ),
)

FAMILIES = {family.architecture: family for family in _EVERY}
ARCHITECTURES = tuple(FAMILIES)


def family_of(config: Mapping[str, Any]) -> Family:
    """A checkpoint's architecture.

    Raises:
        CheckpointError: It is not one that is built, or ``model_type`` is another family's.
    """
    names = config.get("architectures") or ["no architecture"]
    name = next((name for name in names if name in FAMILIES), None)
    if name is None:
        raise CheckpointError(
            f"{names[0]} is not supported; the architectures that are: {', '.join(ARCHITECTURES)}"
        )
    family, said = FAMILIES[name], config.get("model_type")
    if said is not None and said != family.model_type:
        raise CheckpointError(
            f"config.json says model_type = {said!r} beside {name}, which is {family.model_type!r}"
        )
    return family
