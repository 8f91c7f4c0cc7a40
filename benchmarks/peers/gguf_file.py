"""The checkpoint as a GGUF file, which llama.cpp reads. Runs in llama.cpp's environment."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import ml_dtypes  # noqa: F401 - gives numpy the bfloat16 that safetensors returns
import numpy as np
from safetensors import safe_open

from benchmarks.bench_tokenizer import FIRST_WORD, tokens

_ARCHITECTURE = gguf.MODEL_ARCH.QWEN2


def write_gguf(checkpoint: Path, path: Path) -> None:
    """Write weights in bf16, norms and biases in fp32, and the tokenizer."""
    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[_ARCHITECTURE])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    _add_tokenizer(writer, config["eos_token_id"])
    names = gguf.get_tensor_name_map(_ARCHITECTURE, config["num_hidden_layers"])
    with safe_open(checkpoint / "model.safetensors", framework="numpy") as weights:
        for name in weights.keys():  # noqa: SIM118 - it is not a mapping
            tensor = weights.get_tensor(name).astype(np.float32)
            target = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert target is not None
            if tensor.ndim == 1:
                writer.add_tensor(target, tensor)
            else:
                kind = gguf.GGMLQuantizationType.BF16
                writer.add_tensor(target, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, eos_token_id: int) -> None:
    all_tokens = tokens()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(all_tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(all_tokens))
    # A list of merges is required, and may not be empty. Prompts come as ids, so it is never used.
    writer.add_token_merges([f"{all_tokens[FIRST_WORD][0]} {all_tokens[FIRST_WORD][1]}"])
    writer.add_eos_token_id(eos_token_id)
