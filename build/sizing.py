"""How much memory a model takes: weights, keys and values, activations; and which GPUs hold it.

Everything follows from ``config.json`` and a few limits, so a checkpoint need not be downloaded to
be sized. The plan of a build (``--dry-run``) and ``make sizing`` use these same functions. Bytes
are bytes; "GB" in what is printed is 10⁹ of them, "GiB" is 2³⁰.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict

from build.build_errors import CheckpointError
from build.families import FAMILIES

WeightFormat: TypeAlias = Literal[
    "fp32",
    "bf16",
    "fp16",
    "fp8_block",
    "int8",
    "int8_block",
    "int4",
    "fp8",
    "int8_sq",
    "int4_awq",
    "nvfp4",
]
KVFormat: TypeAlias = Literal["fp32", "fp16", "bf16", "fp8", "int8"]

BLOCK_TOKENS = 16
"""Tokens of a KV block, here and by default in TensorRT-LLM's neighbours."""

# Of an element, and of the scale that a token's keys, and its values, have for each head.
_KV_BYTES: dict[KVFormat, tuple[int, int]] = {
    "fp32": (4, 0),
    "fp16": (2, 0),
    "bf16": (2, 0),
    "fp8": (1, 0),
    "int8": (1, 4),
}


@dataclass(frozen=True)
class _Format:
    """How a product ``[rows, columns]`` and the rest are held in memory.

    Attributes:
        bits: Of one weight.
        group: Weights along a row that share a scale; 0 is the whole row.
        group_bytes: Of a scale and, where there are such, a minimum and the weights' sum.
        own_head: Whether the output projection is held as the products are, and so apart from the
            embedding even where the two are tied.
        rest_bytes: Of an element of the embedding and the norms; None is the checkpoint's own.
    """

    bits: int
    group: int
    group_bytes: float
    own_head: bool
    rest_bytes: int | None

    def product_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a product, the last group of a row filled up."""
        groups = -(-columns // self.group) if self.group else 1
        columns = groups * self.group or columns
        return round(rows * (columns * self.bits / 8 + groups * self.group_bytes))


# Ours (fp32, int8, int8_block, int4) are as the CPU engine packs them: in fp32 a tied output
# projection is packed apart, scales, minima and sums of blocks become fp16. So is fp8_block, our
# fp8 for CUDA (scales for 128); int4 for CUDA has zero points alone, 3.5 bytes less a block.
# The others are ModelOpt's: SmoothQuant has a scale for a row, AWQ an fp16 scale for 128, NVFP4 an
# fp8 scale for 16; they leave the output projection and the embedding in 16 bits.
_FORMATS: dict[WeightFormat, _Format] = {
    "fp32": _Format(32, 0, 0, own_head=True, rest_bytes=4),
    "bf16": _Format(16, 0, 0, own_head=False, rest_bytes=2),
    "fp16": _Format(16, 0, 0, own_head=False, rest_bytes=2),
    "int8": _Format(8, 0, 4, own_head=True, rest_bytes=None),
    "int8_block": _Format(8, 32, 4, own_head=True, rest_bytes=None),
    "int4": _Format(4, 32, 6, own_head=True, rest_bytes=None),
    "fp8_block": _Format(8, 128, 4, own_head=True, rest_bytes=2),
    "fp8": _Format(8, 0, 0, own_head=False, rest_bytes=2),
    "int8_sq": _Format(8, 0, 4, own_head=False, rest_bytes=2),
    "int4_awq": _Format(4, 128, 2, own_head=False, rest_bytes=2),
    "nvfp4": _Format(4, 16, 1, own_head=False, rest_bytes=2),
}


Computes: TypeAlias = Literal["gpu", "native", "graph"]
"""What computes: a GPU's kernels, our native decoder (int8 and int4), our ONNX graphs (fp32)."""

# Of the MLP's width and of further residuals: a GPU's product has both halves and then one; the
# native decoder writes their product, and it once more in eight bits; a graph holds the result of
# each of its operators.
_MLP_WIDTHS: dict[Computes, tuple[float, int]] = {
    "gpu": (3, 0),
    "native": (1.25, 0),
    "graph": (4, 2),
}


class Memory(BaseModel):
    """Bytes that serving takes.

    Attributes:
        weights_bytes: The weights as the engine holds them.
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
        if family := FAMILIES.get(architecture):
            config = family.completed(config)
        heads, hidden = size("num_attention_heads"), size("hidden_size")
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
        return cls(
            hidden_size=hidden,
            intermediate_size=size("intermediate_size"),
            num_layers=size("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=size("num_key_value_heads", heads),
            head_dim=size("head_dim", max(1, hidden // heads)),
            vocab_size=size("vocab_size"),
            context_length=size("max_position_embeddings"),
            tied=bool(config.get("tie_word_embeddings")),
            qkv_bias=bool(family and family.qkv_bias) or bool(config.get("attention_bias")),
            qk_norm=architecture.startswith("Qwen3"),
            norms=4 if family and family.post_norms else 2,
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

    def weights_bytes(self, weights: WeightFormat, head: WeightFormat | None = None) -> int:
        """Bytes of the weights in memory, in a format; the output projection may be in another."""
        stored = _FORMATS[weights]
        rest: float = stored.rest_bytes or self.dtype_bytes
        table = self.vocab_size * self.hidden_size
        if self.tied and (head or weights) == "int8_block":
            rest = 1 + 4 / 32  # its rows are read in the file, where scales are float32
        total = self.num_layers * sum(stored.product_bytes(*each) for each in self.products())
        total += round(table * rest) + self._vector_elements * (stored.rest_bytes or 4)
        if stored.own_head:
            return total + _FORMATS[head or weights].product_bytes(
                self.vocab_size, self.hidden_size
            )
        return total + (0 if self.tied else round(table * rest))

    def kv_bytes_per_token(self, kv: KVFormat) -> int:
        """Keys and values of one token, all layers."""
        element_bytes, scale_bytes = _KV_BYTES[kv]
        head_bytes = self.head_dim * element_bytes + scale_bytes
        return 2 * self.num_layers * self.num_kv_heads * head_bytes

    def kv_cache_bytes(self, kv: KVFormat, sequences: int, tokens: int) -> int:
        """Keys and values of so many sequences of so many tokens, in whole blocks."""
        blocks = -(-tokens // BLOCK_TOKENS)
        return sequences * blocks * BLOCK_TOKENS * self.kv_bytes_per_token(kv)

    def activations_bytes(
        self, tokens: int, sequences: int, element_bytes: int, computes: Computes = "gpu"
    ) -> int:
        """What one step holds beside weights and cache, at its widest place.

        Residual, normed residual, queries with keys and values, attention's result, and what the
        MLP holds; float32 logits for each sequence; the rotary table.
        """
        width = 2 * self.hidden_size + 2 * self.q_size + 2 * self.kv_size
        mlp, residuals = _MLP_WIDTHS[computes]
        width += round(mlp * self.intermediate_size) + residuals * self.hidden_size
        table = self.context_length * self.head_dim * 4
        return tokens * width * element_bytes + sequences * self.vocab_size * 4 + table


_CPU_ENGINE: dict[WeightFormat, Computes] = {
    "fp32": "graph",
    "int8": "native",
    "int8_block": "native",
    "int4": "native",
}
_DEFAULT_KV: dict[Computes, KVFormat] = {"gpu": "fp16", "native": "int8", "graph": "fp32"}


def cpu_activations_bytes(
    shape: ModelShape, weights: WeightFormat, tokens: int, sequences: int
) -> int:
    """What a step of the CPU engine holds beside weights and cache."""
    return shape.activations_bytes(tokens, sequences, 4, _CPU_ENGINE[weights])


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
    for gpu in GPUS:
        usable = usable_bytes(gpu)
        ways = (
            Fit(gpu, tensor, stages, gpu_bytes(shape, memory, tensor, stages), usable)
            for stages in (1, 2, 4)
            for tensor in (1, 2, 4, 8)
            if shape.num_heads % tensor == 0 and shape.num_layers % stages == 0
        )
        holding = [fit for fit in ways if fit.gpu_bytes <= fit.usable_bytes]
        if holding:
            found.append(min(holding, key=lambda fit: (fit.gpus, fit.pipeline_parallel)))
    return found


def usable_bytes(gpu: str) -> int:
    """What a model may take of a GPU."""
    return int(GPUS[gpu] * 10**9 * _USABLE)


def gpu_bytes(shape: ModelShape, memory: Memory, tensor: int, stages: int) -> int:
    """What a model takes of each GPU, so many sharing each layer, in so many stages."""
    copies = max(1, tensor // shape.num_kv_heads)
    return (
        memory.weights_bytes // (tensor * stages)
        + memory.kv_cache_bytes * copies // (tensor * stages)
        + memory.activations_bytes
        + _CONTEXT_BYTES
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Size a checkpoint from its ``config.json``; returns the exit code."""
    options = _parser().parse_args(arguments)
    path = options.config / "config.json" if options.config.is_dir() else options.config
    try:
        shape = ModelShape.from_config(json.loads(path.read_bytes()))
    except (CheckpointError, OSError, ValueError) as error:
        print(f"error: {path}: {error}", file=sys.stderr)
        return 1
    context = options.context or shape.context_length
    computes = _CPU_ENGINE.get(options.weights, "gpu")
    kv: KVFormat = options.kv or _DEFAULT_KV[computes]
    memory = Memory(
        weights_bytes=shape.weights_bytes(options.weights),
        kv_cache_bytes=shape.kv_cache_bytes(kv, options.sequences, context),
        activations_bytes=shape.activations_bytes(
            options.step_tokens, options.sequences, 2 if computes == "gpu" else 4, computes
        ),
    )
    print(
        f"{shape.parameters / 1e9:,.2f} billion parameters, weights {options.weights}, KV cache "
        f"{kv}\n{options.sequences} sequences of {context:,} tokens, {options.step_tokens:,} "
        f"tokens a step\n"
        f"weights      {memory.weights_bytes / 1e9:9,.2f} GB\n"
        f"KV cache     {memory.kv_cache_bytes / 1e9:9,.2f} GB, full "
        f"({shape.kv_bytes_per_token(kv):,} bytes a token)\n"
        f"activations  {memory.activations_bytes / 1e9:9,.2f} GB\n"
        f"together     {memory.total_bytes / 1e9:9,.2f} GB\n\n{_fit_table(fits(shape, memory))}"
    )
    return 0


def _fit_table(found: list[Fit]) -> str:
    if not found:
        return "No GPU of the list holds it, not even 32 of one kind."
    rows = ["| GPU | how many | tensor parallel | pipeline parallel | GB of each |"]
    rows.append("|---|---:|---:|---:|---:|")
    rows += [
        f"| {fit.gpu} | {fit.gpus} | {fit.tensor_parallel} | {fit.pipeline_parallel} "
        f"| {fit.gpu_bytes / 1e9:.1f} of {fit.usable_bytes / 1e9:.1f} |"
        for fit in found
    ]
    return "\n".join(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m build.sizing", description=main.__doc__)
    parser.add_argument("config", type=Path, help="a config.json, or the folder that holds it")
    parser.add_argument("--weights", choices=get_args(WeightFormat), default="bf16")
    parser.add_argument("--kv", choices=get_args(KVFormat), help="by default what the engine takes")
    parser.add_argument("--sequences", type=int, default=32, help="at once (%(default)s)")
    parser.add_argument("--context", type=int, help="tokens of each (the model's all)")
    parser.add_argument("--step-tokens", type=int, default=8192, help="of a step (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
