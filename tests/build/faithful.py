"""Tiny random checkpoints in every style of ``config.json``, computed by transformers and by us.

Each family has a base of small sizes; a case changes some of its settings. Weights are drawn for
the model that transformers makes of the very ``config.json`` that we read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from build.engine_folder import build_engine
from tests.build.packed import PackedEngine

ABSENT = object()
"""A setting that ``config.json`` leaves out."""

WINDOW, ORIGINAL, CONTEXT = 20, 64, 192
SHORT, LONG = 12, 100
DECODED = 30
VOCABULARY = 101

BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "use_cache": True,
    "initializer_range": 0.02,
    "attention_dropout": 0.0,
}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": False, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {
        "head_dim": 32,
        "use_sliding_window": False,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
        "attention_bias": False,
    },
    "phi3": {
        "sliding_window": None,
        "original_max_position_embeddings": ORIGINAL,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    },
    "gemma2": {
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 24,
        "sliding_window": WINDOW,
        "attn_logit_softcapping": 20.0,
        "final_logit_softcapping": 10.0,
        "attention_bias": False,
    },
    "smollm3": {
        "no_rope_layer_interval": 2,
        "use_sliding_window": False,
        "sliding_window": WINDOW,
        "attention_bias": False,
        "mlp_bias": False,
    },
}
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}


class Case(NamedTuple):
    """One checkpoint.

    Attributes:
        family: Its ``model_type``.
        style: Of transformers 4 or 5.
        changes: Of the family's base; a setting can be ``ABSENT``.
        rope: The rotary embedding's settings, its type among them.
        context_length: Limits the engine.
    """

    family: str
    style: int
    changes: dict[str, Any]
    rope: dict[str, Any]
    context_length: int | None = None

    def __str__(self) -> str:
        """What pytest calls it."""
        said = {**self.changes, **({"rope": self.rope} if self.rope else {})}
        words = [f"{name}={_word(value)}" for name, value in said.items()]
        return f"{self.family}-{self.style}-" + ",".join(words)[:70]

    def config(self) -> dict[str, Any]:
        """Its ``config.json``."""
        config = {
            "architectures": [ARCHITECTURES[self.family]],
            "model_type": self.family,
            **BASE,
            **OF_FAMILY[self.family],
            **_rope(self.style, self.rope),
            **self.changes,
        }
        return {name: value for name, value in config.items() if value is not ABSENT}


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return "+".join(_word(each) for each in value.values())
    return "absent" if value is ABSENT else str(value)


def _rope(style: int, rope: dict[str, Any]) -> dict[str, Any]:
    """The rotary embedding's settings as transformers 4 or 5 writes them."""
    if style == 5:
        full = {"rope_type": "default", "rope_theta": 10_000.0, **rope}
        return {"rope_parameters": full, "dtype": "float32", "transformers_version": "5.20.2"}
    rope = dict(rope)
    outside = {"rope_theta": rope.pop("rope_theta", 10_000.0)}
    if "partial_rotary_factor" in rope:
        outside["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    said = {"torch_dtype": "float32", "transformers_version": "4.57.1", **outside}
    return {**said, "rope_scaling": rope or None}


def tokens(count: int) -> list[int]:
    """So many tokens of no meaning."""
    return [(7 * index * index + 3 * index + 3) % VOCABULARY for index in range(count)]


def write(folder: Path, case: Case) -> Any:
    """Write a case's checkpoint; transformers' model of it.

    Raises:
        Exception: Whatever transformers raises where it can't make a model of it.
    """
    import torch
    import transformers

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(case.config()))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    config = transformers.AutoConfig.from_pretrained(folder)
    # Eager: transformers' fused attention leaves Gemma's soft caps out.
    with torch.device("cpu"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", dtype=torch.float32
        )
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        # Their own initial values are so small, and norms and biases so plain, that mistakes hide.
        torch.nn.init.normal_(
            parameter,
            mean=1.0 if parameter.ndim == 1 else 0.0,
            std=0.3 if parameter.ndim == 1 else 1.5 * parameter.shape[-1] ** -0.5,
            generator=generator,
        )
    tensors = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors")
    return model.eval()


def expected(model: Any, ids: list[int]) -> NDArray[np.float32]:
    """Transformers' log probabilities after every token, computed in one go."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    return np.asarray(torch.log_softmax(logits, dim=-1).numpy())


def actual(engine: PackedEngine, ids: list[int], sequence: int) -> NDArray[np.float32]:
    """Ours: the prompt in two chunks, then token by token."""
    engine.begin(sequence, len(ids))
    prompt = len(ids) - DECODED
    parts = [ids[: prompt // 2], ids[prompt // 2 : prompt], *([token] for token in ids[prompt:])]
    rows = [engine.step([(sequence, part)], every_token=True) for part in parts]
    logits = np.concatenate(rows).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)), np.float32)


def engine_of(folder: Path, context_length: int | None = None) -> PackedEngine:
    """The engine that we build of a checkpoint."""
    output = folder.with_name("engine")
    build_engine(folder, output, "fp32", context_length=context_length)
    return PackedEngine(output)


def compare(folder: Path, case: Case, lengths: tuple[int, ...] = (SHORT, LONG)) -> None:
    """Hold our log probabilities against transformers', for prompts of so many tokens."""
    model = write(folder, case)
    engine = engine_of(folder, case.context_length)
    for sequence, length in enumerate(lengths):
        ids = tokens(length + DECODED)
        np.testing.assert_allclose(
            actual(engine, ids, sequence), expected(model, ids), atol=1e-3, rtol=0
        )
