"""How weights are stored in the graph: one small class for each precision.

Weights keep the checkpoint's layout, a row for each output, so a fused product is its parts' rows
one after the other, nothing is transposed, and an embedding table can serve as output projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from build.checkpoint import Checkpoint
from build.onnx_writer import OnnxGraph, tensor_type
from build.quantize import BLOCK_SIZE, Int4Rows, quantize_int4

_FLOAT32 = np.dtype(np.float32)
# MatMulNBits then quantizes the activations to int8 as well, which is what makes it fast.
_INT8_ACTIVATIONS = 4


class WeightStorage(Protocol):
    """Writes the operators that hold large weights."""

    def embedding(self, table: str, ids: str, output: str) -> str:
        """Look up the rows ``ids [...]`` of a table into float32 ``output [..., hidden]``."""

    def linear(self, x: str, weights: Sequence[str], output: str, bias: str = "") -> str:
        """Multiply float32 ``x [rows, columns]`` into ``output [rows, outputs]``.

        Args:
            x: The value to multiply.
            weights: Tensors ``[outputs, columns]`` whose rows are put together.
            output: Name of the result.
            bias: A constant ``[outputs]`` of the graph to add, or nothing.
        """


class Float32Storage:
    """Everything in float32. An output projection tied to the embedding is stored once."""

    def __init__(self, graph: OnnxGraph, checkpoint: Checkpoint) -> None:
        self._graph = graph
        self._checkpoint = checkpoint

    def embedding(self, table: str, ids: str, output: str) -> str:
        return self._graph.node("Gather", [self._weight([table]), ids], output)

    def linear(self, x: str, weights: Sequence[str], output: str, bias: str = "") -> str:
        # Gemm packs a transposed weight at load time as it would any other: measured, it is as
        # fast as a MatMul with the weight transposed on disk.
        inputs = [x, self._weight(weights)]
        return self._graph.node("Gemm", [*inputs, bias] if bias else inputs, output, transB=1)

    def _weight(self, names: Sequence[str]) -> str:
        shape = _stacked_shape(self._checkpoint, names)
        blocks = _stacked_blocks(self._checkpoint, names)
        return self._graph.weight("+".join(names), _FLOAT32, shape, blocks)


class Int4Storage:
    """Products in four bits with a scale and a zero point for each 32 weights of a row.

    The embedding table stays in the checkpoint's own dtype: a lookup reads a few rows of it, so
    rounding it would cost quality and gain no time.
    """

    def __init__(self, graph: OnnxGraph, checkpoint: Checkpoint) -> None:
        self._graph = graph
        self._checkpoint = checkpoint

    def embedding(self, table: str, ids: str, output: str) -> str:
        dtype = self._checkpoint.dtype(table)
        shape = self._checkpoint.shape(table)
        self._graph.weight(table, dtype, shape, self._checkpoint.blocks(table))
        if dtype == _FLOAT32:
            return self._graph.node("Gather", [table, ids], output)
        rows = self._graph.node("Gather", [table, ids], f"{output}/{dtype}")
        return self._graph.node("Cast", [rows], output, to=tensor_type(_FLOAT32))

    def linear(self, x: str, weights: Sequence[str], output: str, bias: str = "") -> str:
        outputs, columns = _stacked_shape(self._checkpoint, weights)
        quantized = [
            quantize_int4(block.astype(np.float32, copy=False))
            for block in _stacked_blocks(self._checkpoint, weights)
        ]
        name = "+".join(weights)
        inputs = [x]
        for part, arrays in zip(Int4Rows._fields, zip(*quantized, strict=True), strict=True):
            shape = (outputs, *arrays[0].shape[1:])
            inputs.append(self._graph.weight(f"{name}/{part}", arrays[0].dtype, shape, arrays))
        if bias:
            inputs += ["", bias]
        return self._graph.node(
            "MatMulNBits",
            inputs,
            output,
            domain="com.microsoft",
            N=outputs,
            K=columns,
            bits=4,
            block_size=BLOCK_SIZE,
            accuracy_level=_INT8_ACTIVATIONS,
        )


def _stacked_shape(checkpoint: Checkpoint, names: Sequence[str]) -> tuple[int, int]:
    shapes = [checkpoint.shape(name) for name in names]
    return sum(rows for rows, _ in shapes), shapes[0][1]


def _stacked_blocks(checkpoint: Checkpoint, names: Sequence[str]) -> Iterator[NDArray[Any]]:
    return (block for name in names for block in checkpoint.blocks(name))
