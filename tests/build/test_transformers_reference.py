"""The engines against transformers' own models, for each supported architecture."""

from __future__ import annotations

import numpy as np
import pytest

from build.engine_folder import build_engine
from tests.build.packed import PackedEngine

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.torch

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "max_position_embeddings": 256,
    "eos_token_id": 2,
}
ROPE = {
    "default": {"rope_type": "default", "rope_theta": 10_000.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.4],
    "long_factor": [1.0, 1.5, 2.0, 4.0, 8.0, 16.0],
}
TOKENS = [(7 * i * i + 3) % 101 for i in range(150)]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Llama", {"tie_word_embeddings": True}),
        ("Llama", {"tie_word_embeddings": False, "rope_parameters": ROPE["llama3"]}),
        ("Mistral", {"sliding_window": None}),
        ("Mistral", {"sliding_window": 160}),
        ("Qwen2", {"tie_word_embeddings": True}),
        ("Mistral", {"sliding_window": 20}),
        ("Qwen3", {"tie_word_embeddings": False, "head_dim": 32}),
        ("Phi3", {"pad_token_id": 0}),
        ("Phi3", {"pad_token_id": 0, "sliding_window": 37}),
        (
            "Phi3",
            {
                "pad_token_id": 0,
                "tie_word_embeddings": True,
                "rope_parameters": LONGROPE,
                "original_max_position_embeddings": 64,
            },
        ),
        ("Gemma2", {"head_dim": 32, "sliding_window": 40, "query_pre_attn_scalar": 24}),
        ("Gemma2", {"head_dim": 16, "tie_word_embeddings": False}),
        ("SmolLM3", {"num_hidden_layers": 5, "pad_token_id": 0}),
        (
            "SmolLM3",
            {
                "tie_word_embeddings": False,
                "no_rope_layers": [0, 1],
                "use_sliding_window": True,
                "sliding_window": 30,
                "pad_token_id": 0,
            },
        ),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_those_of_transformers(tmp_path, name, settings, dtype):
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(
        **{"rope_parameters": ROPE["default"], **SIZES, **settings}
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config).to(getattr(torch, dtype))
    for parameter in model.parameters():
        # Their own initial values are so small, and norms and biases so plain, that mistakes hide.
        torch.nn.init.normal_(
            parameter,
            mean=1.0 if parameter.ndim == 1 else 0.0,
            std=0.3 if parameter.ndim == 1 else 1.5 * parameter.shape[-1] ** -0.5,
        )
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder, max_shard_size="40KB" if dtype == "bfloat16" else "5GB")
    (folder / "tokenizer.json").write_text("{}")
    # Read back, and not `model.float()`: rotary frequencies are buffers, rounded by `model.to`.
    # Eager: transformers' fused attention leaves Gemma's soft caps out.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        expected = model.eval()(torch.tensor([TOKENS])).logits[0].numpy()

    build_engine(folder, tmp_path / "engine", "fp32")
    engine = PackedEngine(tmp_path / "engine")
    # Prefill in two chunks, then decode.
    for start, end in ((0, 100), (100, 146), *((at, at + 1) for at in range(146, 150))):
        actual = engine.step([(0, TOKENS[start:end])])[0]
        np.testing.assert_allclose(actual, expected[end - 1], atol=1e-3)
