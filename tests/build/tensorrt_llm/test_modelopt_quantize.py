"""NVIDIA ModelOpt on tiny checkpoints, and its tensors read back: names, types, shards, values.

Runs in the environment of ``requirements/modelopt.txt``: ``make test-modelopt``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers

from build.build_errors import BuildError, CheckpointError
from build.checkpoint import Checkpoint
from build.recipe import TensorRTLLMCalibration
from build.tensorrt_llm.read_back import check, quantization_format
from build.tensorrt_llm.trtllm_settings import Form, TensorRTLLMTarget
from tests.build.checkpoints import make_config, make_tensors, write_checkpoint

pytest.importorskip("modelopt")
from build.tensorrt_llm.modelopt_quantize import quantize_checkpoint

pytestmark = pytest.mark.modelopt
torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # so little work is quicker on one

SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 64}
TEXTS = ["a b c d e f g h", "h g f e d c b a a a", "c a b"]

# For each format: its name in TensorRT-LLM, and the types of weights, of scales in the trtllm form.
FORMATS = {
    "none": (None, "BF16", {}),
    "fp8": (
        "FP8",
        "F8_E4M3",
        {"weights_scaling_factor": "F32", "activation_scaling_factor": "F32"},
    ),
    "int8_smoothquant": (
        "W8A8_SQ_PER_CHANNEL",
        "I8",
        {"weights_scaling_factor": "F32", "prequant_scaling_factor": "BF16"},
    ),
    "int4_awq": (
        "W4A16_AWQ",
        "I8",
        {"weights_scaling_factor": "F32", "prequant_scaling_factor": "BF16"},
    ),
    "nvfp4": (
        "NVFP4",
        "U8",
        {"weights_scaling_factor": "F8_E4M3", "weights_scaling_factor_2": "F32"},
    ),
}


def checkpoint(folder: Path, kind: str = "llama", dtype: str = "bf16", **changes: Any) -> Path:
    model_type = make_config(kind)["architectures"][0].removesuffix("ForCausalLM").lower()
    config = make_config(kind, **{"model_type": model_type, **SIZES, **changes})
    write_checkpoint(folder, config, make_tensors(config, dtype))
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate("abcdefgh?")}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def target_of(**settings: Any) -> TensorRTLLMTarget:
    return TensorRTLLMTarget.model_validate(settings)


def quantize(
    source: Path, folder: Path, target: TensorRTLLMTarget | None = None
) -> dict[Form, Path]:
    """Quantize into ``folder / "out"``."""
    target = target or target_of()
    return quantize_checkpoint(source, folder / "out", target, TEXTS, TensorRTLLMCalibration())


def types(folder: Path) -> dict[str, dict[str, str]]:
    """The type of each tensor of each file, from the files' headers."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        found[path.name] = {name: entry["dtype"] for name, entry in header.items()}
    return found


@pytest.mark.parametrize("quantization", FORMATS)
@pytest.mark.parametrize("mapping", [(1, 1), (2, 1), (1, 2), (2, 2)], ids=str)
def test_a_sharded_tensorrt_llm_checkpoint_reads_back(tmp_path, quantization, mapping):
    tensor, pipeline = mapping
    # AWQ's blocks are 128 wide, so a shard of 256 columns is the smallest that holds two.
    source = checkpoint(tmp_path / "checkpoint", tie_word_embeddings=False)
    target = target_of(
        forms=("trtllm",),
        weights=quantization,
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
    )
    folder = quantize(source, tmp_path, target)["trtllm"]
    algorithm, weights, scales = FORMATS[quantization]
    config = json.loads((folder / "config.json").read_bytes())
    assert config["quantization"]["quant_algo"] == algorithm
    assert config["mapping"]["tp_size"] == tensor
    assert config["mapping"]["pp_size"] == pipeline
    assert (config["rotary_base"], config["dtype"]) == (10_000.0, "bfloat16")
    with Checkpoint(source) as opened:
        found = check(folder, "trtllm", opened)
    assert len(found) == 5 * (2 // pipeline) * tensor * pipeline
    assert {each.dtype for each in found} == {weights}
    files = types(folder)
    assert sorted(files) == [f"rank{rank}.safetensors" for rank in range(tensor * pipeline)]
    for rank, tensors in enumerate(files.values()):
        first, last = rank < tensor, rank >= tensor * (pipeline - 1)
        assert ("transformer.vocab_embedding.weight" in tensors) == first
        assert ("lm_head.weight" in tensors) == ("transformer.ln_f.weight" in tensors) == last
        for name, dtype in scales.items():
            assert tensors[f"transformer.layers.0.mlp.fc.{name}"] == dtype


@pytest.mark.parametrize("quantization", list(FORMATS)[1:])
def test_a_hugging_face_checkpoint_reads_back(tmp_path, quantization):
    source = checkpoint(tmp_path / "checkpoint")
    target = target_of(forms=("hf",), weights=quantization)
    folder = quantize(source, tmp_path, target)["hf"]
    assert quantization_format(folder, "hf") == FORMATS[quantization][0]
    config = json.loads((folder / "config.json").read_bytes())
    assert (config["rope_theta"], config["architectures"]) == (10_000.0, ["LlamaForCausalLM"])
    assert config["quantization_config"]["quant_method"] == "modelopt"
    assert (folder / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    with Checkpoint(source) as opened:
        assert len(check(folder, "hf", opened)) == 14


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3"])
def test_other_architectures(tmp_path, kind):
    # As transformers 5 writes it: TensorRT-LLM 1.2 would take its own rotary base instead.
    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    source = checkpoint(
        tmp_path / "checkpoint", kind, num_key_value_heads=2, rope_theta=None, rope_parameters=rope
    )
    target = target_of(tensor_parallel=2)
    folders = quantize(source, tmp_path, target)
    with Checkpoint(source) as opened:
        for form, folder in folders.items():
            check(folder, form, opened)
            config = json.loads((folder / "config.json").read_bytes())
            assert config["rotary_base" if form == "trtllm" else "rope_theta"] == 500_000.0


@pytest.mark.parametrize("quantization", ["fp8", "int4_awq"])
@pytest.mark.parametrize(("kind", "products"), [("phi3", 4), ("gemma2", 7), ("smollm3", 7)])
def test_architectures_with_a_hugging_face_form_only(tmp_path, kind, products, quantization):
    source = checkpoint(tmp_path / "checkpoint", kind, pad_token_id=0)
    with pytest.raises(CheckpointError, match=r"take forms: \[hf\]"):
        quantize(source, tmp_path)
    target = target_of(forms=("hf",), weights=quantization)
    folder = quantize(source, tmp_path, target)["hf"]
    assert quantization_format(folder, "hf") == FORMATS[quantization][0]
    with Checkpoint(source) as opened:
        assert len(check(folder, "hf", opened)) == 2 * products


@pytest.mark.parametrize("kv_cache", ["fp8", "int8"])
@pytest.mark.parametrize("quantization", ["none", "fp8", "int8_smoothquant", "int4_awq"])
def test_scales_of_keys_and_values(tmp_path, quantization, kv_cache):
    source = checkpoint(tmp_path / "checkpoint", dtype="fp16")
    forms: tuple[Form, ...] = ("trtllm",) if kv_cache == "int8" else ("trtllm", "hf")
    target = target_of(forms=forms, weights=quantization, kv_cache=kv_cache)
    folders = quantize(source, tmp_path, target)
    config = json.loads((folders["trtllm"] / "config.json").read_bytes())
    assert config["quantization"]["kv_cache_quant_algo"] == kv_cache.upper()
    scales = load_file_of(folders["trtllm"] / "rank0.safetensors", "kv_cache_scaling_factor")
    assert len(scales) == 2
    assert all(value > 0 for value in scales.values())
    if "hf" in folders:
        config = json.loads((folders["hf"] / "hf_quant_config.json").read_bytes())
        assert config["quantization"]["kv_cache_quant_algo"] == "FP8"
        assert len(load_file_of(folders["hf"] / "model.safetensors", "k_proj.k_scale")) == 2


def load_file_of(path: Path, ending: str) -> dict[str, float]:
    with safe_open(path, framework="numpy") as tensors:
        names = [name for name in list(tensors.keys()) if name.endswith(ending)]
        return {name: tensors.get_tensor(name).item() for name in names}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"tensor_parallel": 3}, "num_attention_heads is 4, which doesn't divide among 3 GPUs"),
        ({"pipeline_parallel": 4}, "num_hidden_layers is 2, which doesn't divide among 4 GPUs"),
    ],
)
def test_a_model_that_does_not_divide_is_refused(tmp_path, mapping, message):
    source = checkpoint(tmp_path / "checkpoint")
    target = target_of(**mapping)
    with pytest.raises(BuildError, match=message):
        quantize(source, tmp_path, target)


def test_shards_too_narrow_for_awq_are_refused_and_the_former_build_stays(tmp_path):
    source = checkpoint(tmp_path / "checkpoint")
    target = target_of(forms=("trtllm",), tensor_parallel=4)
    former = quantize(source, tmp_path, target)["trtllm"]
    target = target.model_copy(update={"weights": "int4_awq"})
    with pytest.raises(BuildError, match="not divisible for block size 128"):
        quantize(source, tmp_path, target)
    with Checkpoint(source) as opened:
        check(former, "trtllm", opened)


@pytest.mark.parametrize("fault", ["swapped shards", "a wrong scale", "a missing rank"])
def test_a_damaged_checkpoint_does_not_read_back(tmp_path, fault):
    source = checkpoint(tmp_path / "checkpoint")
    target = target_of(
        forms=("trtllm",),
        weights="int8_smoothquant",
        tensor_parallel=2,
    )
    folder = quantize(source, tmp_path, target)["trtllm"]
    first, second = folder / "rank0.safetensors", folder / "rank1.safetensors"
    if fault == "swapped shards":
        shutil.move(first, folder / "kept")
        shutil.move(second, first)
        shutil.move(folder / "kept", second)
    elif fault == "a wrong scale":
        scale_up(first, "transformer.layers.0.mlp.proj.weights_scaling_factor")
    else:
        second.unlink()
    with Checkpoint(source) as opened, pytest.raises((BuildError, OSError)):
        check(folder, "trtllm", opened)


def scale_up(path: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    tensors[name] = tensors[name] * torch.tensor(1.05)
    save_file(tensors, path)
