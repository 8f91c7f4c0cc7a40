"""How much memory a model takes: weights, keys and values, activations; and which GPUs hold it.

Everything follows from ``config.json`` and a few limits, so a checkpoint need not be downloaded to
be sized. The plan of a build (``--dry-run``) and ``make sizing`` use these same functions. Bytes
are bytes; "GB" in what is printed is 10⁹ of them, "GiB" is 2³⁰.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict

from build.errors import CheckpointError

WeightFormat: TypeAlias = Literal[
    "fp32", "bf16", "fp16", "fp8", "int8", "int4", "int8_sq", "int4_awq", "nvfp4"
]
KVFormat: TypeAlias = Literal["fp32", "fp16", "bf16", "fp8", "int8"]

BLOCK_TOKENS = 16
"""Tokens of a KV block, here and by default in TensorRT-LLM's neighbours."""

_KV_BYTES: dict[KVFormat, float] = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}


@dataclass(frozen=True)
class _Format:
    """How a product ``[rows, columns]`` and the rest are stored.

    Attributes:
        bits: Of one weight.
        group: Weights along a row that share a scale; 0 is the whole row.
        group_bytes: Of a scale and, where there is one, its zero point.
        rounds_head: Whether the output projection is stored so as well.
        rest_bytes: Of an element of the embedding and the norms; None is the checkpoint's own.
    """

    bits: int
    group: int
    group_bytes: float
    rounds_head: bool
    rest_bytes: int | None

    def product_bytes(self, rows: int, columns: int) -> int:
        groups = 1 if not self.group else -(-columns // self.group)
        columns = columns if not self.group or self.bits >= 8 else groups * self.group
        return round(rows * (columns * self.bits / 8 + groups * self.group_bytes))


# Ours (fp32, int8, int4) are those of build/storage.py. The others are ModelOpt's: FP8 has a scale
# for a tensor, SmoothQuant one for a row, AWQ an fp16 scale for 128, NVFP4 an fp8 scale for 16;
# they leave the output projection and the embedding in 16 bits.
_FORMATS: dict[WeightFormat, _Format] = {
    "fp32": _Format(32, 0, 0, rounds_head=True, rest_bytes=4),
    "bf16": _Format(16, 0, 0, rounds_head=True, rest_bytes=2),
    "fp16": _Format(16, 0, 0, rounds_head=True, rest_bytes=2),
    "int8": _Format(8, 0, 4, rounds_head=True, rest_bytes=None),
    "int4": _Format(4, 32, 4.5, rounds_head=True, rest_bytes=None),
    "fp8": _Format(8, 0, 0, rounds_head=False, rest_bytes=2),
    "int8_sq": _Format(8, 0, 4, rounds_head=False, rest_bytes=2),
    "int4_awq": _Format(4, 128, 2, rounds_head=False, rest_bytes=2),
    "nvfp4": _Format(4, 16, 1, rounds_head=False, rest_bytes=2),
}


class Memory(BaseModel):
    """Bytes that serving takes.

    Attributes:
        weights_bytes: The engine's weights.
        kv_cache_bytes: Keys and values at full occupancy.
        activations_bytes: What one step of the largest size needs beside them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights_bytes: int
    kv_cache_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_cache_bytes + self.activations_bytes


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder-only transformer, as ``config.json`` gives them.

    Attributes:
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLP.
        num_layers: Decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        head_dim: Width of one head.
        vocab_size: Rows of the embedding.
        context_length: Most tokens of a sequence.
        tied: Whether the output projection is the embedding.
        qkv_bias: Whether queries, keys and values have biases.
        qk_norm: Whether queries and keys are normed by head.
        norms: RMS norms a layer.
        dtype_bytes: Of an element of the checkpoint.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    tied: bool
    qkv_bias: bool = False
    qk_norm: bool = False
    norms: int = 2
    dtype_bytes: int = 2

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read ``config.json``.

        Raises:
            CheckpointError: A size is missing or not a positive whole number.
        """

        def size(name: str, default: int | None = None) -> int:
            value = config.get(name)
            value = default if value is None else value
            if type(value) is not int or value < 1:
                raise CheckpointError(f"config.json says {name} = {value!r}, not a size")
            return value

        architecture = str((config.get("architectures") or [""])[0])
        heads, hidden = size("num_attention_heads"), size("hidden_size")
        qk_norm = architecture.startswith("Qwen3")
        gemma2 = architecture.startswith("Gemma2")
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
        return cls(
            hidden_size=hidden,
            intermediate_size=size("intermediate_size"),
            num_layers=size("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=size("num_key_value_heads", heads),
            head_dim=size(
                "head_dim", 256 if gemma2 else 128 if qk_norm else max(1, hidden // heads)
            ),
            vocab_size=size("vocab_size"),
            context_length=size("max_position_embeddings"),
            tied=bool(config.get("tie_word_embeddings", gemma2)),
            qkv_bias=architecture.startswith("Qwen2") or bool(config.get("attention_bias")),
            qk_norm=qk_norm,
            norms=4 if gemma2 else 2,
            dtype_bytes=4 if dtype == "float32" else 2,
        )

    @property
    def q_size(self) -> int:
        """Width of the queries, all heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the keys (and of the values), all heads together."""
        return self.num_kv_heads * self.head_dim

    def products(self) -> list[tuple[int, int]]:
        """Rows and columns of each matrix product of one layer."""
        return [
            (self.q_size + 2 * self.kv_size, self.hidden_size),
            (self.hidden_size, self.q_size),
            (2 * self.intermediate_size, self.hidden_size),
            (self.hidden_size, self.intermediate_size),
        ]

    @property
    def _vector_elements(self) -> int:
        """Norms and biases, all layers."""
        layer = self.norms * self.hidden_size
        layer += (self.q_size + 2 * self.kv_size) * self.qkv_bias
        layer += 2 * self.head_dim * self.qk_norm
        return layer * self.num_layers + self.hidden_size

    @property
    def parameters(self) -> int:
        """How many parameters the checkpoint has."""
        layer = sum(rows * columns for rows, columns in self.products())
        tables = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return layer * self.num_layers + tables + self._vector_elements

    def weights_bytes(self, weights: WeightFormat) -> int:
        """Bytes of the weights in a format."""
        stored = _FORMATS[weights]
        rest = stored.rest_bytes or self.dtype_bytes
        table = self.vocab_size * self.hidden_size
        total = self.num_layers * sum(stored.product_bytes(*each) for each in self.products())
        total += table * rest + self._vector_elements * (stored.rest_bytes or 4)
        if not stored.rounds_head:
            return total + (0 if self.tied else table * rest)
        if self.tied and stored.rest_bytes is not None:
            return total  # stored once, for both
        return total + stored.product_bytes(self.vocab_size, self.hidden_size)

    def kv_bytes_per_token(self, kv: KVFormat) -> int:
        """Keys and values of one token, all layers."""
        return round(2 * self.num_layers * self.kv_size * _KV_BYTES[kv])

    def kv_cache_bytes(self, kv: KVFormat, sequences: int, tokens: int) -> int:
        """Keys and values of so many sequences of so many tokens, in whole blocks."""
        blocks = -(-tokens // BLOCK_TOKENS)
        return sequences * blocks * BLOCK_TOKENS * self.kv_bytes_per_token(kv)

    def activations_bytes(self, tokens: int, sequences: int, element_bytes: int) -> int:
        """What one step holds beside weights and cache, at its widest place.

        Residual, normed residual, queries with keys and values, attention's result, and the MLP's
        two halves with their product; and float32 logits for each sequence.
        """
        width = 2 * self.hidden_size + 2 * self.q_size + 2 * self.kv_size
        width += 3 * self.intermediate_size
        return tokens * width * element_bytes + sequences * self.vocab_size * 4


GPUS: dict[str, int] = {
    "L4": 24,
    "A10G": 24,
    "L40S": 48,
    "A100-40GB": 40,
    "A100-80GB": 80,
    "H100-80GB": 80,
    "H200": 141,
    "B200": 180,
}
"""GPUs and their memory in GB, as NVIDIA's data sheets give it."""

_USABLE = 0.90
"""Share of a GPU's memory to plan with: TensorRT-LLM's default free-memory fraction."""

_CONTEXT_BYTES = 1 << 30
"""What CUDA, NCCL and the engine's runtime take on each GPU: an allowance, not a measurement."""


@dataclass(frozen=True)
class Fit:
    """One way to hold a model.

    Attributes:
        gpu: Its name.
        tensor_parallel: GPUs that share each layer.
        pipeline_parallel: Stages, each with a part of the layers.
        gpu_bytes: Taken of each GPU.
        usable_bytes: Usable of each GPU.
    """

    gpu: str
    tensor_parallel: int
    pipeline_parallel: int
    gpu_bytes: int
    usable_bytes: int

    @property
    def gpus(self) -> int:
        """How many GPUs."""
        return self.tensor_parallel * self.pipeline_parallel


def fits(shape: ModelShape, memory: Memory) -> list[Fit]:
    """For each kind of GPU, the fewest that hold a model; kinds that can't are left out.

    Tensor parallelism up to 8 comes first (one machine), then pipeline stages. Weights and cache
    are divided evenly; KV heads fewer than ranks are kept by several ranks each, as TensorRT-LLM
    does. Activations are whole on every GPU.
    """
    found = []
    for gpu, gigabytes in GPUS.items():
        usable = int(gigabytes * 10**9 * _USABLE)
        ways = (
            Fit(gpu, tensor, stages, _share(shape, memory, tensor, stages), usable)
            for stages in (1, 2, 4)
            for tensor in (1, 2, 4, 8)
            if shape.num_heads % tensor == 0 and shape.num_layers % stages == 0
        )
        holding = [fit for fit in ways if fit.gpu_bytes <= fit.usable_bytes]
        if holding:
            found.append(min(holding, key=lambda fit: (fit.gpus, fit.pipeline_parallel)))
    return found


def _share(shape: ModelShape, memory: Memory, tensor: int, stages: int) -> int:
    copies = max(1, tensor // shape.num_kv_heads)
    return (
        memory.weights_bytes // (tensor * stages)
        + memory.kv_cache_bytes * copies // (tensor * stages)
        + memory.activations_bytes
        + _CONTEXT_BYTES
    )


WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)
KV_FORMATS: tuple[KVFormat, ...] = get_args(KVFormat)
