"""How weights are stored in the graph: one small class for each precision (blocks of 32 are in
:mod:`build.block_storage`).

Weights keep the checkpoint's layout, a row for each output, so a fused product is its parts' rows
one after the other, nothing is transposed, and an embedding table can serve as output projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from build.onnx_writer import CONTRIB, OnnxGraph, tensor_type
from build.quantize import (
    FLOAT8,
    FLOAT8_BLOCK_SIZE,
    quantize_float8,
    quantize_int8,
)
from build.weight_tensors import Tensors

FLOAT32 = np.dtype(np.float32)


class WeightStorage(Protocol):
    """Writes the operators that hold large weights."""

    def embedding(self, table: str, ids: str, output: str) -> str:
        """Look up the rows ``ids [...]`` of a table into ``output [..., hidden]``."""

    def linear(self, x: str, weights: Sequence[str], output: str, bias: str = "") -> str:
        """Multiply ``x [rows, columns]`` into ``output [rows, outputs]``.

        Args:
            x: The value to multiply.
            weights: Tensors ``[outputs, columns]`` whose rows are put together.
            output: Name of the result.
            bias: A constant ``[outputs]`` of the graph to add, or nothing.
        """


StorageFactory: TypeAlias = Callable[[OnnxGraph, Tensors], WeightStorage]


class FloatStorage:
    """Everything in one floating point type. An output projection tied to the embedding is stored
    once.
    """

    def __init__(self, graph: OnnxGraph, tensors: Tensors, dtype: np.dtype[Any] = FLOAT32) -> None:
        self._graph = graph
        self._tensors = tensors
        self._dtype = dtype

    def embedding(self, table: str, ids: str, output: str) -> str:
        return self._graph.node("Gather", [self._weight([table]), ids], output)

    def linear(self, x: str, weights: Sequence[str], output: str, bias: str = "") -> str:
        # Gemm packs a transposed weight at load time as it would any other: measured, it is as
        # fast as a MatMul with the weight transposed on disk.
        inputs = [x, self._weight(weights)]
        return self._graph.node("Gemm", [*inputs, bias] if bias else inputs, output, transB=1)

    def _weight(self, names: Sequence[str]) -> str:
        shape = stacked_shape(self._tensors, names)
        blocks = stacked_blocks(self._tensors, names)
        return self._graph.weight("+".join(names), self._dtype, shape, blocks)


class Float8Storage:
    """Products in E4M3 with a scale for each 128 weights of a row, for CUDA.

    Activations stay in float16, as the embedding does. The operator is in ONNX Runtime since 1.31,
    for CUDA alone (microsoft/onnxruntime#29850).
    """

    def __init__(self, graph: OnnxGraph, tensors: Tensors) -> None:
        self._graph = graph
        self._tensors = tensors
        self._table = FloatStorage(graph, tensors, np.dtype(np.float16))

    def embedding(self, table: str, ids: str, output: str) -> str:
        return self._table.embedding(table, ids, output)

    def linear(self, x: str, weights: Sequence[str], output: str, bias: str = "") -> str:
        outputs, columns = stacked_shape(self._tensors, weights)
        name = "+".join(weights)
        scales: list[NDArray[np.float32]] = []

        def values() -> Iterator[NDArray[Any]]:
            for block in stacked_blocks(self._tensors, weights):
                rows = quantize_float8(block.astype(np.float32, copy=False))
                scales.append(rows.scales)
                yield rows.values

        blocks = -(-columns // FLOAT8_BLOCK_SIZE)
        inputs = [
            x,
            self._graph.weight(f"{name}/values", FLOAT8, (outputs, columns), values()),
            self._graph.weight(f"{name}/scales", FLOAT32, (outputs, blocks), scales),
        ]
        if bias:
            inputs += ["", bias]  # between them: a scale of the activations
        return self._graph.node(
            "MatMulBlockQuantizedFp8Weight",
            inputs,
            output,
            domain=CONTRIB,
            block_size=FLOAT8_BLOCK_SIZE,
        )


class Int8Storage:
    """Products in eight bits: a scale for each row of weights, and for each row of activations.

    Activations are rounded while the graph runs, each row by its own largest value. Integers add
    up without rounding, so a row's product is the same whatever rows stand beside it. The
    embedding table stays in the checkpoint's own dtype, as in four bits.

    Unsigned activations and signed weights are what ONNX Runtime is fast at: signed activations
    take a dozen times as long. Processors without VNNI instructions need a session option
    (:mod:`python_backend.engine.processor`).
    """

    def __init__(self, graph: OnnxGraph, tensors: Tensors) -> None:
        self._graph = graph
        self._tensors = tensors
        self._known: dict[str, tuple[str, str]] = {}

    def embedding(self, table: str, ids: str, output: str) -> str:
        return unrounded_embedding(self._graph, self._tensors, table, ids, output)

    def linear(self, x: str, weights: Sequence[str], output: str, bias: str = "") -> str:
        graph = self._graph
        levels, largest = self._rounded(x)
        weight, scales = self._weight(weights)
        step = graph.constant("int8/step", np.array(1 / 127, np.float32))
        zero = graph.constant("int8/zero", np.array(128, np.uint8))
        product = graph.node(
            "MatMulIntegerToFloat",
            [levels, weight, step, scales, zero],
            f"{output}/product",
            domain=CONTRIB,
        )
        if not bias:
            return graph.node("Mul", [product, largest], output)
        scaled = graph.node("Mul", [product, largest], f"{output}/scaled")
        return graph.node("Add", [scaled, bias], output)

    def _rounded(self, x: str) -> tuple[str, str]:
        """Each row of ``x``, from its largest magnitude down, in 255 levels around 128.

        Products of the same value share the work.

        A row of zeros divides to NaN, rounds to whatever level, and is multiplied by its largest
        magnitude in the end: to zeros.
        """
        if x in self._known:
            return self._known[x]
        graph = self._graph
        step = graph.constant("int8/step", np.array(1 / 127, np.float32))
        zero = graph.constant("int8/zero", np.array(128, np.uint8))
        axis = graph.constant("int8/columns", np.array([1], np.int64))
        magnitudes = graph.node("Abs", [x], f"{x}/magnitudes")
        largest = graph.node("ReduceMax", [magnitudes, axis], f"{x}/largest", keepdims=1)
        parts = graph.node("Div", [x, largest], f"{x}/parts")
        levels = graph.node("QuantizeLinear", [parts, step, zero], f"{x}/levels")
        self._known[x] = levels, largest
        return self._known[x]

    def _weight(self, names: Sequence[str]) -> tuple[str, str]:
        """Products want the weights transposed, ``[columns, outputs]``.

        A block is turned and written at a time. Of a block of 16-bit weights, seven times its
        bytes are in memory at most, and a float32 a row of the whole matrix.
        """
        outputs, columns = stacked_shape(self._tensors, names)
        name = "+".join(names)
        scales: list[NDArray[np.float32]] = []

        def levels() -> Iterator[NDArray[np.int8]]:
            for block in stacked_blocks(self._tensors, names):
                rows = quantize_int8(block.astype(np.float32, copy=False))
                scales.append(rows.scales)
                yield rows.levels

        weight = self._graph.weight(
            f"{name}/levels", np.dtype(np.int8), (columns, outputs), levels(), transposed=True
        )
        return weight, self._graph.weight(f"{name}/scales", FLOAT32, (outputs,), scales)


def unrounded_embedding(
    graph: OnnxGraph, tensors: Tensors, table: str, ids: str, output: str
) -> str:
    """Look rows up in a table that stays in the checkpoint's own dtype."""
    dtype = tensors.dtype(table)
    graph.weight(table, dtype, tensors.shape(table), tensors.blocks(table))
    if dtype == FLOAT32:
        return graph.node("Gather", [table, ids], output)
    rows = graph.node("Gather", [table, ids], f"{output}/{dtype}")
    return graph.node("Cast", [rows], output, to=tensor_type(FLOAT32))


def stacked_shape(tensors: Tensors, names: Sequence[str]) -> tuple[int, int]:
    """Rows and columns of some matrices, one below the other."""
    shapes = [tensors.shape(name) for name in names]
    return sum(rows for rows, _ in shapes), shapes[0][1]


def stacked_blocks(tensors: Tensors, names: Sequence[str]) -> Iterator[NDArray[Any]]:
    """Blocks of their rows."""
    return (block for name in names for block in tensors.blocks(name))
