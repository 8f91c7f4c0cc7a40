"""What each family's settings and tensors are called in a GGUF file, and what was done to them.

Source: llama.cpp's ``convert_hf_to_gguf.py``, whose work is undone here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build import families
from build.build_errors import CheckpointError
from build.family import Family
from build.from_gguf.gguf_reader import GGUFFile, Stored

_ROOT = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")

_SETTINGS = {
    "embedding_length": ("hidden_size", int),
    "feed_forward_length": ("intermediate_size", int),
    "block_count": ("num_hidden_layers", int),
    "attention.head_count": ("num_attention_heads", int),
    "attention.head_count_kv": ("num_key_value_heads", int),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", float),
    "context_length": ("max_position_embeddings", int),
}
"""What every file says."""

_LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""All of Llama 3 have these; a file holds the factors that come of them."""


@dataclass(frozen=True)
class GGUFFamily:
    """An architecture in GGUF.

    Attributes:
        architecture: What ``config.json`` calls it; the build knows what else it is.
        parts: What a layer's tensors are called there, where it isn't as in Llama.
        permuted: Rows of queries and keys were put in pairs, as llama.cpp turns them.
        more: Further settings: what they are called here, and their kind.
        fixed: Settings that follow from the architecture.
    """

    architecture: str
    parts: Mapping[str, str] = field(default_factory=dict)
    permuted: bool = False
    more: Mapping[str, tuple[str, type]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        """What the build knows of it."""
        return families.FAMILIES[self.architecture]


_WINDOW = {"attention.sliding_window": ("sliding_window", int)}

FAMILIES = {
    "llama": GGUFFamily(
        "LlamaForCausalLM",
        permuted=True,
        fixed={"attention_bias": False, "mlp_bias": False},
    ),
    "qwen2": GGUFFamily("Qwen2ForCausalLM", fixed={"use_sliding_window": False}),
    "qwen3": GGUFFamily(
        "Qwen3ForCausalLM",
        parts={"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"},
        fixed={"use_sliding_window": False, "attention_bias": False},
    ),
    "phi3": GGUFFamily(
        "Phi3ForCausalLM",
        parts={"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
        more=_WINDOW,
    ),
    "gemma2": GGUFFamily(
        "Gemma2ForCausalLM",
        parts={
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        more=_WINDOW
        | {
            "attn_logit_softcapping": ("attn_logit_softcapping", float),
            "final_logit_softcapping": ("final_logit_softcapping", float),
        },
        fixed={"hidden_activation": "gelu_pytorch_tanh"},
    ),
    "smollm3": GGUFFamily(
        "SmolLM3ForCausalLM",
        permuted=True,
        # llama.cpp knows no other.
        fixed={"no_rope_layer_interval": 4, "use_sliding_window": False},
    ),
}
"""By what ``general.architecture`` says."""


def family_of(file: GGUFFile) -> tuple[str, GGUFFamily]:
    """A file's architecture, and what is known of it.

    Raises:
        CheckpointError: It is not one that is built, or the file is a part of several.
    """
    if (file.get("split.count", int, None) or 1) > 1:
        raise CheckpointError(
            f"{file.path} is one of several parts: join them with `llama-gguf-split --merge`"
        )
    name = file.get("general.architecture", str)
    if name not in FAMILIES:
        raise CheckpointError(
            f"{file.path} is of the architecture {name!r}; those that are built: "
            f"{', '.join(FAMILIES)}"
        )
    return name, FAMILIES[name]


def config_of(file: GGUFFile) -> dict[str, Any]:
    """What ``config.json`` would say.

    Raises:
        CheckpointError: A setting is missing, wrong, or not known and so not to be ignored.
    """
    name, family = family_of(file)
    settings = {**_SETTINGS, **family.more}
    read = {*settings, *_READ}
    for each in file.names():
        if each.startswith(f"{name}.") and each.removeprefix(f"{name}.") not in read:
            raise CheckpointError(f"{file.path} says {each}, which is not known for {name}")
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.family.model_type,
    }
    config |= family.fixed
    for key, (ours, kind) in settings.items():
        known = key in _SETTINGS or f"{name}.{key}" in file
        if known:
            config[ours] = file.get(f"{name}.{key}", kind)
    config["rms_norm_eps"] = _short(config["rms_norm_eps"])
    config |= _head_size(file, name, config)
    config |= _rotary(file, name, config)
    if name == "gemma2":
        # As llama.cpp does it: only the largest scales by the width.
        largest = config["num_hidden_layers"] == _GEMMA2_27B_LAYERS
        width = config["hidden_size"] // config["num_attention_heads"]
        config["query_pre_attn_scalar"] = width if largest else config["head_dim"]
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{file.path} has no token_embd.weight")
    config["vocab_size"] = int(embedding.shape[-1])
    config["tie_word_embeddings"] = "output.weight" not in file.tensors
    return config


_GEMMA2_27B_LAYERS = 46

_READ = {
    "attention.key_length",
    "attention.value_length",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.finetuned",
    "vocab_size",  # that of the embedding is taken
}


def _short(value: float) -> float:
    """A number as it was before it was made a float32."""
    return float(f"{value:.6g}")


def _head_size(file: GGUFFile, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    said = file.get(f"{name}.attention.key_length", int, None)
    if file.get(f"{name}.attention.value_length", int, said) != said:
        raise CheckpointError(f"{file.path}: keys and values have different sizes")
    heads = config["num_attention_heads"]
    if heads < 1 or config["hidden_size"] < heads:
        raise CheckpointError(f"{file.path}: {name}.attention.head_count is {heads}")
    return {"head_dim": said or config["hidden_size"] // heads}


def _rotary(file: GGUFFile, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """How positions turn."""
    said: dict[str, Any] = {
        "rope_theta": _short(file.get(f"{name}.rope.freq_base", float, 10_000.0) or 0.0)
    }
    turned = file.get(f"{name}.rope.dimension_count", int, None)
    if turned is not None and turned != config["head_dim"]:
        said["partial_rotary_factor"] = turned / config["head_dim"]
    original = file.get(f"{name}.rope.scaling.original_context_length", int, None)
    kind = file.get(f"{name}.rope.scaling.type", str, "none")
    factor = file.get(f"{name}.rope.scaling.factor", float, None)
    if "rope_freqs.weight" in file.tensors:
        said["rope_scaling"] = _llama3(file, said["rope_theta"], turned or config["head_dim"])
    elif "rope_factors_long.weight" in file.tensors:
        said["rope_scaling"] = {
            "rope_type": "longrope",
            "long_factor": file.vector("rope_factors_long.weight"),
            "short_factor": file.vector("rope_factors_short.weight"),
        }
        if original is not None:
            said["original_max_position_embeddings"] = original
        magnitude = file.get(f"{name}.rope.scaling.attn_factor", float, None)
        if magnitude is not None:
            said["rope_scaling"]["attention_factor"] = magnitude
    elif kind in ("linear", "yarn"):
        if factor is None:
            raise CheckpointError(f"{file.path} has no {name}.rope.scaling.factor")
        said["rope_scaling"] = {"rope_type": kind, "factor": factor}
        if kind == "yarn" and original is not None:
            said["rope_scaling"]["original_max_position_embeddings"] = original
    elif kind != "none":
        raise CheckpointError(f"{file.path}: {name}.rope.scaling.type is {kind!r}, not known")
    return said


def _llama3(file: GGUFFile, theta: float, size: int) -> dict[str, Any]:
    """The scaling that gives the factors of a file.

    Raises:
        CheckpointError: None of Llama 3's does.
    """
    stored = np.array(file.vector("rope_freqs.weight"))
    factor = float(stored.max()) if stored.size else 0.0
    wave = 2 * np.pi * theta ** (np.arange(0, size, 2) / size)
    low, high, original = (
        _LLAMA3[key]
        for key in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    between = (original / wave - low) / (high - low)  # type: ignore[operator]
    smooth = np.clip(between, 0, 1)
    wanted = 1 / ((1 - smooth) / max(factor, 1e-9) + smooth)
    if stored.shape != wanted.shape or not np.allclose(stored, wanted, rtol=1e-4):
        raise CheckpointError(f"{file.path}: rope_freqs.weight is not of Llama 3's scaling")
    return {**_LLAMA3, "factor": round(factor, 4)}


def tensors_of(file: GGUFFile, config: Mapping[str, Any]) -> dict[str, Stored]:
    """A file's tensors by the names that a Hugging Face checkpoint has for them.

    Raises:
        CheckpointError: One is not known.
    """
    _, family = family_of(file)
    parts = {**_PARTS, **family.parts}
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    found = {}
    for name, tensor in file.tensors.items():
        if name in _ROPE_FACTORS:
            continue
        match = _LAYER.fullmatch(name)
        part = match[2] if match else ""
        # llama.cpp has it in the norms' weights.
        offset = family.family.norm_offset if name.endswith("_norm.weight") else 0.0
        order = None
        if name in _ROOT:
            ours = _ROOT[name]
        elif match and part in parts:
            ours = f"model.layers.{int(match[1])}.{parts[part]}.{match[3]}"
            if family.permuted and part in heads:
                order = _order(file, name, int(tensor.shape[-1]), heads[part])
        else:
            raise CheckpointError(f"{file.path} has a tensor {name}, which is not known")
        found[ours] = Stored(tensor, order, offset)
    return found


def _order(file: GGUFFile, name: str, rows: int, heads: int) -> NDArray[np.int64]:
    """Where each row of queries or keys stands in a file that has their halves in pairs."""
    if heads < 1 or rows % (2 * heads):
        raise CheckpointError(f"{file.path}: {name} has {rows} rows, which are not {heads} heads")
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(rows)
