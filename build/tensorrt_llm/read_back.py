"""Reading a quantized checkpoint back: what its tensors stand for, against the original weights.

A wrong shard, scale or packing shows here and not on a rented GPU. Weights are dequantized by the
definition of their format, apart from the library that wrote them, one matrix at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from build.build_errors import BuildError
from build.checkpoint import Checkpoint
from build.tensorrt_llm.trtllm_settings import Form

Matrix = NDArray[np.float32]

_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
_INT4_BLOCK, _NVFP4_BLOCK = 128, 16

BOUNDS = {
    None: 1 / 256,  # bfloat16's own rounding, of a float32 checkpoint
    "FP8": 16 / 448 + 16 / 448,  # half the widest step; twice, for one scale of q, k and v
    "W8A8_SQ_PER_CHANNEL": 0.5 / 127,
    "W4A16_AWQ": 0.5 / 7,
    "NVFP4": 1 / 6 + 1 / 16,  # half the widest step, and the E4M3 scale's own rounding
}
"""For each of TensorRT-LLM's names of a format, the most that a weight may be off, as a part of
the largest weight that shares its scale."""

_ROUNDING = 0.01
"""What 16-bit factors of inputs (SmoothQuant's, AWQ's) add to that."""

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I8": np.int8,
    "U8": np.uint8,
}

# TensorRT-LLM's name of each product of a layer, and the checkpoint's.
_TRTLLM_PARTS = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.dense": ("self_attn.o_proj",),
    "mlp.fc": ("mlp.gate_proj",),
    "mlp.gate": ("mlp.up_proj",),
    "mlp.proj": ("mlp.down_proj",),
}


class ReadBack(NamedTuple):
    """One matrix of one rank, read back.

    Attributes:
        rank: Whose it is; 0 in the ``hf`` form.
        name: Its tensor's name.
        dtype: How it is stored, as safetensors names it.
        shape: Its shape in the file.
        error: The largest error of a weight, as a part of the largest weight that shares its scale.
    """

    rank: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    error: float


class _Stored:
    """The tensors of some safetensors files, by name."""

    def __init__(self, files: list[Path]) -> None:
        self._files = [_header(file) for file in files]
        self._paths = files

    def _find(self, name: str) -> tuple[Path, dict[str, Any], int]:
        for path, (entries, start) in zip(self._paths, self._files, strict=True):
            if name in entries:
                return path, entries[name], start
        raise BuildError(f"{self._paths[0].parent} has no tensor {name}")

    def get(self, name: str) -> NDArray[Any] | None:
        return self[name] if any(name in entries for entries, _ in self._files) else None

    def dtype(self, name: str) -> str:
        return str(self._find(name)[1]["dtype"])

    def __getitem__(self, name: str) -> NDArray[Any]:
        path, entry, start = self._find(name)
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        first, last = entry["data_offsets"]
        count = (last - first) // dtype.itemsize
        data = np.fromfile(path, dtype, count, offset=start + first)
        return data.reshape(entry["shape"])


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's entries and where its data begins; numpy has no E4M3 of its own."""
    with safe_open(path, framework="numpy"):  # checks the file
        pass
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length


def read_back(folder: Path, form: Form, checkpoint: Checkpoint) -> Iterator[ReadBack]:
    """Dequantize every product of a quantized checkpoint and compare it with the original.

    Args:
        folder: What :func:`~build.tensorrt_llm.modelopt_quantize.quantize_checkpoint` wrote.
        form: Which form that is.
        checkpoint: The checkpoint it was made of.

    Raises:
        BuildError: A tensor is missing or has another shape than its shard asks for.
    """
    config = json.loads((folder / "config.json").read_bytes())
    if form == "hf":
        yield from _read_hf(folder, config, checkpoint)
    else:
        yield from _read_trtllm(folder, config, checkpoint)


def quantization_format(folder: Path, form: Form) -> str | None:
    """TensorRT-LLM's name of the format that a folder's weights are in."""
    if form == "trtllm":
        config = json.loads((folder / "config.json").read_bytes())
        return config["quantization"]["quant_algo"]
    path = folder / "hf_quant_config.json"
    if not path.exists():
        return None
    return json.loads(path.read_bytes())["quantization"]["quant_algo"]


def check(folder: Path, form: Form, checkpoint: Checkpoint) -> list[ReadBack]:
    """Read a folder back, and refuse it where a weight is further off than its format allows.

    Raises:
        BuildError: A tensor is missing, misshapen or wrong; the first is named.
    """
    bound = BOUNDS[quantization_format(folder, form)]
    found = list(read_back(folder, form, checkpoint))
    for each in found:
        if not each.error <= bound + _ROUNDING:
            raise BuildError(
                f"{folder}: {each.name} of rank {each.rank} is off by {each.error:.3f} of its "
                f"largest weight; its format allows {bound}"
            )
    return found


def _read_hf(folder: Path, config: dict[str, Any], checkpoint: Checkpoint) -> Iterator[ReadBack]:
    stored = _Stored(sorted(folder.glob("*.safetensors")))
    algorithm = quantization_format(folder, "hf")
    for tensor in checkpoint.names():
        if not tensor.endswith("_proj.weight"):
            continue
        name = tensor.removesuffix(".weight")
        original = checkpoint.tensor(tensor).astype(np.float32)
        weight = _dequantized(
            algorithm,
            stored[tensor],
            stored.get(f"{name}.weight_scale"),
            stored.get(f"{name}.weight_scale_2"),
            original.shape[1],
        )
        factor = stored.get(f"{name}.pre_quant_scale")
        if factor is None:
            factor = _folded(stored, config, checkpoint, name)
        yield _compared(stored, 0, tensor, weight, original, factor, algorithm)


def _folded(
    stored: _Stored, config: dict[str, Any], checkpoint: Checkpoint, name: str
) -> NDArray[Any] | None:
    """The factor that ModelOpt moved into the norm before a product, where it has one."""
    layer, _, part = name.rpartition(".")
    gemma = config["architectures"] == ["Gemma2ForCausalLM"]  # adds 1 to its norms' weights
    if part in ("q_proj", "k_proj", "v_proj", "qkv_proj"):
        norm = "input_layernorm"
    elif part in ("gate_proj", "up_proj", "gate_up_proj"):
        norm = "pre_feedforward_layernorm" if gemma else "post_attention_layernorm"
    else:
        return None
    norm = f"{layer.rpartition('.')[0]}.{norm}.weight"
    before = checkpoint.tensor(norm).astype(np.float32) + gemma
    factor: NDArray[Any] = (stored[norm].astype(np.float32) + gemma) / np.where(before, before, 1)
    return factor


def _read_trtllm(
    folder: Path, config: dict[str, Any], checkpoint: Checkpoint
) -> Iterator[ReadBack]:
    tensor, pipeline = config["mapping"]["tp_size"], config["mapping"]["pp_size"]
    algorithm = config["quantization"]["quant_algo"]
    layers = config["num_hidden_layers"] // pipeline
    for rank in range(tensor * pipeline):
        stored = _Stored([folder / f"rank{rank}.safetensors"])
        stage, shard = divmod(rank, tensor)
        for index in range(layers):
            layer = f"model.layers.{stage * layers + index}"
            for name, parts in _TRTLLM_PARTS.items():
                full = f"transformer.layers.{index}.{name}"
                shards = [_shard(checkpoint, f"{layer}.{part}", shard, config) for part in parts]
                original = np.concatenate(shards)
                weight = _dequantized(
                    algorithm,
                    stored[f"{full}.weight"],
                    stored.get(f"{full}.weights_scaling_factor"),
                    stored.get(f"{full}.weights_scaling_factor_2"),
                    original.shape[1],
                )
                factor = stored.get(f"{full}.prequant_scaling_factor")
                yield _compared(stored, rank, f"{full}.weight", weight, original, factor, algorithm)


def _shard(checkpoint: Checkpoint, name: str, shard: int, config: dict[str, Any]) -> Matrix:
    """A rank's part of a matrix: columns where the inputs are divided, else rows.

    Where there are fewer KV heads than ranks, each head has copies on several.
    """
    matrix = checkpoint.tensor(f"{name}.weight").astype(np.float32)
    ranks, axis = config["mapping"]["tp_size"], int(name.endswith(("o_proj", "down_proj")))
    if name.endswith(("k_proj", "v_proj")) and ranks > config["num_key_value_heads"]:
        shard, ranks = shard * config["num_key_value_heads"] // ranks, config["num_key_value_heads"]
    part: Matrix = np.split(matrix, ranks, axis=axis)[shard]
    return part


def _dequantized(
    algorithm: str | None,
    stored: NDArray[Any],
    scale: NDArray[Any] | None,
    scale_2: NDArray[Any] | None,
    columns: int,
) -> Matrix:
    """The weights ``[rows, columns]`` that a stored matrix stands for, factors apart."""
    if algorithm is None:
        return stored.astype(np.float32)
    if scale is None:
        raise BuildError(f"a matrix in {algorithm} has no scale")
    scale = scale.astype(np.float32)
    if algorithm == "FP8":
        return stored.astype(np.float32) * scale
    if algorithm == "W8A8_SQ_PER_CHANNEL":
        return stored.astype(np.float32) * scale.reshape(-1, 1)
    if algorithm == "W4A16_AWQ":
        packed = stored.view(np.uint8)  # two rows a byte, the first in the low four bits
        levels = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1, columns).astype(np.int8)
        levels[levels > 7] -= 16
        return levels * np.repeat(scale, _INT4_BLOCK, axis=1)
    if algorithm == "NVFP4":
        if scale_2 is None:
            raise BuildError("a matrix in NVFP4 has no second scale")
        packed = stored.view(np.uint8)  # two columns a byte
        values = _E2M1[np.stack([packed & 15, packed >> 4], axis=2).reshape(-1, columns)]
        return values * np.repeat(scale, _NVFP4_BLOCK, axis=1) * scale_2.astype(np.float32)
    raise BuildError(f"the format {algorithm} can't be read back")


def _compared(
    stored: _Stored,
    rank: int,
    name: str,
    weight: Matrix,
    original: Matrix,
    factor: NDArray[Any] | None,
    algorithm: str | None,
) -> ReadBack:
    """Compare a matrix with the weights it was made of, each multiplied by its input's factor."""
    if weight.shape != original.shape:
        raise BuildError(
            f"{name} of rank {rank} holds {list(weight.shape)} weights; "
            f"its shard has {list(original.shape)}"
        )
    # The format rounds weight / factor, so that is where its error is to be measured.
    target = original if factor is None else original / factor.astype(np.float32)
    error = np.abs(weight - target)
    largest = _largest(algorithm, np.abs(target))
    worst = float(np.max(error / np.where(largest == 0, 1, largest), initial=0))
    return ReadBack(rank, name, stored.dtype(name), stored[name].shape, worst)


def _largest(algorithm: str | None, magnitudes: Matrix) -> Matrix:
    """For each weight, the largest one that shares its scale."""
    block = {"W4A16_AWQ": _INT4_BLOCK, "NVFP4": _NVFP4_BLOCK}.get(algorithm or "")
    if block is not None:
        rows, columns = magnitudes.shape
        tops = magnitudes.reshape(rows, columns // block, block).max(axis=2)
        return np.repeat(tops, block, axis=1)
    if algorithm == "FP8":
        return magnitudes.max(keepdims=True)
    return magnitudes.max(axis=1, keepdims=True)
