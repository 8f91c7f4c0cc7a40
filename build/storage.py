"""How weights are stored in the graph: one small class for each precision.

Weights keep the checkpoint's layout, a row for each output, so a fused product is its parts' rows
one after the other, nothing is transposed, and an embedding table can serve as output projection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from build.onnx_writer import CONTRIB, OnnxGraph, tensor_type
from build.quantize import (
    BLOCK_SIZE,
    FLOAT8,
    FLOAT8_BLOCK_SIZE,
    Int4Rows,
    quantize_float8,
    quantize_int4,
    quantize_int8,
    quantize_int8_blocks,
)
from build.weight_tensors import Tensors

_FLOAT32 = np.dtype(np.float32)
# MatMulNBits then quantizes the activations to int8 as well, which is what makes it fast.
_INT8_ACTIVATIONS = 4


Rounding: TypeAlias = Callable[[Sequence[str]], Callable[[NDArray[np.float32]], Int4Rows]]


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

    def __init__(self, graph: OnnxGraph, tensors: Tensors, dtype: np.dtype[Any] = _FLOAT32) -> None:
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
        shape = _stacked_shape(self._tensors, names)
        blocks = _stacked_blocks(self._tensors, names)
        return self._graph.weight("+".join(names), self._dtype, shape, blocks)


class Int4Storage:
    """Products in four bits with a scale and a zero point for each 32 weights of a row.

    The embedding table is not rounded: a lookup reads a few rows of it, so that would cost quality
    and gain no time. For a CPU it stays in the checkpoint's own dtype.

    Args:
        graph: Gets the operators.
        tensors: The weights.
        rounding: For the names of a product's weights, what rounds rows of it; zero points whole
            for a GPU.
        dtype: Of activations and scales: float32 for a CPU, float16 for a GPU.
        in_eight_bits: Weights that are stored as :class:`Int8BlockStorage` has them.
    """

    def __init__(
        self,
        graph: OnnxGraph,
        tensors: Tensors,
        rounding: Rounding = lambda names: quantize_int4,
        dtype: np.dtype[Any] = _FLOAT32,
        in_eight_bits: Collection[str] = (),
    ) -> None:
        self._graph = graph
        self._tensors = tensors
        self._rounding = rounding
        self._dtype = dtype
        self._in_eight_bits = in_eight_bits
        self._eight_bits = Int8BlockStorage(graph, tensors, in_eight_bits)
        self._sums: dict[str, str] = {}

    def embedding(self, table: str, ids: str, output: str) -> str:
        if table in self._in_eight_bits:
            return self._eight_bits.embedding(table, ids, output)
        if self._dtype != _FLOAT32:
            return FloatStorage(self._graph, self._tensors, self._dtype).embedding(
                table, ids, output
            )
        return _unrounded_embedding(self._graph, self._tensors, table, ids, output)

    def linear(self, x: str, weights: Sequence[str], output: str, bias: str = "") -> str:
        if weights[0] in self._in_eight_bits:
            return self._eight_bits.linear(x, weights, output, bias)
        outputs, columns = _stacked_shape(self._tensors, weights)
        round_rows = self._rounding(weights)
        rows = [
            round_rows(block.astype(np.float32, copy=False))
            for block in _stacked_blocks(self._tensors, weights)
        ]
        name, groups = "+".join(weights), -(-columns // BLOCK_SIZE)
        on_cpu = self._dtype == _FLOAT32
        scales = [each.scales.astype(self._dtype, copy=False) for each in rows]
        inputs = [
            x,
            self._graph.weight(
                f"{name}/packed",
                np.dtype(np.uint8),
                (outputs, groups, BLOCK_SIZE // 2),
                [each.packed for each in rows],
            ),
            self._graph.weight(f"{name}/scales", self._dtype, (outputs, groups), scales),
        ]
        if not on_cpu:
            zero_points = [each.packed_zero_points for each in rows]
            shape = outputs, zero_points[0].shape[1]
            inputs.append(
                self._graph.weight(f"{name}/zero_points", np.dtype(np.uint8), shape, zero_points)
            )
            inputs += ["", bias] if bias else []
        product = self._graph.node(
            "MatMulNBits",
            inputs,
            f"{output}/levels" if on_cpu else output,
            domain=CONTRIB,
            N=outputs,
            K=columns,
            bits=4,
            block_size=BLOCK_SIZE,
            accuracy_level=_INT8_ACTIVATIONS if on_cpu else 0,
        )
        if not on_cpu:
            return product
        # The operator rounds activations where zero points are whole alone. Without any, level 8
        # stands for zero; what it stands for here comes on top, times the sums of the blocks.
        middles = self._graph.weight(
            f"{name}/middles", _FLOAT32, (outputs, groups), [each.middles for each in rows]
        )
        inputs = [self._block_sums(x, columns, groups), middles, *([bias] if bias else [])]
        rest = self._graph.node("Gemm", inputs, f"{output}/middles", transB=1)
        return self._graph.node("Add", [product, rest], output)

    def _block_sums(self, x: str, columns: int, groups: int) -> str:
        """The sums of each block of ``x [rows, columns]``, rounded as the operator rounds it.

        Products of one value share them.
        """
        if x in self._sums:
            return self._sums[x]
        graph, padded = self._graph, x
        if columns % BLOCK_SIZE:
            spare = np.array([0, 0, 0, groups * BLOCK_SIZE - columns], np.int64)
            pads = graph.constant(f"blocks/spare_{columns}", spare)
            padded = graph.node("Pad", [x, pads], f"{x}/padded")
        shape = graph.constant(f"blocks/{groups}", np.array([-1, groups, BLOCK_SIZE], np.int64))
        blocks = graph.node("Reshape", [padded, shape], f"{x}/blocks")
        axis = graph.constant("blocks/axis", np.array([2], np.int64))
        step = graph.constant("blocks/step", np.array(1 / 127, np.float32))
        least = graph.constant("blocks/least", np.array(1e-30, np.float32))  # of a block of zeros
        magnitudes = graph.node("Abs", [blocks], f"{x}/block_magnitudes")
        largest = graph.node("ReduceMax", [magnitudes, axis], f"{x}/block_largest", keepdims=1)
        scales = graph.node("Mul", [largest, step], f"{x}/block_scales")
        scales = graph.node("Max", [scales, least], f"{x}/block_steps")
        levels = graph.node("Div", [blocks, scales], f"{x}/block_parts")
        levels = graph.node("Round", [levels], f"{x}/block_levels")
        levels = graph.node("Mul", [levels, scales], f"{x}/block_rounded")
        self._sums[x] = graph.node("ReduceSum", [levels, axis], f"{x}/block_sums", keepdims=0)
        return self._sums[x]


class Int8BlockStorage:
    """Products in eight bits with a scale for each 32 weights of a row.

    Activations are rounded in the same blocks, each by its own largest value, so that one that
    stands out costs its neighbours alone. An embedding table that is the output projection, too, is
    stored once; any other stays in the checkpoint's own dtype.
    """

    def __init__(self, graph: OnnxGraph, tensors: Tensors, projects: Collection[str] = ()) -> None:
        """Write into a graph.

        Args:
            graph: The graph.
            tensors: The weights.
            projects: Tensors of the output projection.
        """
        self._graph = graph
        self._tensors = tensors
        self._projects = projects

    def embedding(self, table: str, ids: str, output: str) -> str:
        if table not in self._projects:
            return _unrounded_embedding(self._graph, self._tensors, table, ids, output)
        graph, (_, columns) = self._graph, self._tensors.shape(table)
        blocks, scales = self._rounded([table])
        levels = graph.node("Gather", [blocks, ids], f"{output}/levels")
        levels = graph.node("Cast", [levels], f"{output}/floats", to=tensor_type(_FLOAT32))
        zero = graph.constant("int8_block/zero", np.array(128, np.float32))
        levels = graph.node("Sub", [levels, zero], f"{output}/centred")
        each = graph.node("Gather", [scales, ids], f"{output}/scales")
        axis = graph.constant("int8_block/axis", np.array([-1], np.int64))
        each = graph.node("Unsqueeze", [each, axis], f"{output}/scales_of_blocks")
        rows = graph.node("Mul", [levels, each], f"{output}/rows_of_blocks")
        whole = -(-columns // BLOCK_SIZE) * BLOCK_SIZE
        shape = graph.constant("int8_block/shape", np.array([-1, whole], np.int64))
        if whole == columns:
            return graph.node("Reshape", [rows, shape], output)
        rows = graph.node("Reshape", [rows, shape], f"{output}/padded")
        start, end = (
            graph.constant(f"int8_block/{name}", np.array([value], np.int64))
            for name, value in (("start", 0), ("end", columns))
        )
        return graph.node("Slice", [rows, start, end, axis], output)

    def linear(self, x: str, weights: Sequence[str], output: str, bias: str = "") -> str:
        outputs, columns = _stacked_shape(self._tensors, weights)
        inputs = [x, *self._rounded(weights)]
        if bias:
            inputs += ["", "", bias]
        return self._graph.node(
            "MatMulNBits",
            inputs,
            output,
            domain=CONTRIB,
            N=outputs,
            K=columns,
            bits=8,
            block_size=BLOCK_SIZE,
            accuracy_level=_INT8_ACTIVATIONS,
        )

    def _rounded(self, weights: Sequence[str]) -> list[str]:
        """Blocks and scales of some matrices, one below the other."""
        outputs, columns = _stacked_shape(self._tensors, weights)
        name, groups = "+".join(weights), -(-columns // BLOCK_SIZE)
        scales: list[NDArray[np.float32]] = []

        def blocks() -> Iterator[NDArray[np.uint8]]:
            for block in _stacked_blocks(self._tensors, weights):
                rows = quantize_int8_blocks(block.astype(np.float32, copy=False))
                scales.append(rows.scales)
                yield rows.blocks

        shape = (outputs, groups, BLOCK_SIZE)
        return [
            self._graph.weight(f"{name}/blocks", np.dtype(np.uint8), shape, blocks()),
            self._graph.weight(f"{name}/scales", _FLOAT32, shape[:2], scales),
        ]


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
        outputs, columns = _stacked_shape(self._tensors, weights)
        name = "+".join(weights)
        scales: list[NDArray[np.float32]] = []

        def values() -> Iterator[NDArray[Any]]:
            for block in _stacked_blocks(self._tensors, weights):
                rows = quantize_float8(block.astype(np.float32, copy=False))
                scales.append(rows.scales)
                yield rows.values

        blocks = -(-columns // FLOAT8_BLOCK_SIZE)
        inputs = [
            x,
            self._graph.weight(f"{name}/values", FLOAT8, (outputs, columns), values()),
            self._graph.weight(f"{name}/scales", _FLOAT32, (outputs, blocks), scales),
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
        return _unrounded_embedding(self._graph, self._tensors, table, ids, output)

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
        outputs, columns = _stacked_shape(self._tensors, names)
        name = "+".join(names)
        scales: list[NDArray[np.float32]] = []

        def levels() -> Iterator[NDArray[np.int8]]:
            for block in _stacked_blocks(self._tensors, names):
                rows = quantize_int8(block.astype(np.float32, copy=False))
                scales.append(rows.scales)
                yield rows.levels

        weight = self._graph.weight(
            f"{name}/levels", np.dtype(np.int8), (columns, outputs), levels(), transposed=True
        )
        return weight, self._graph.weight(f"{name}/scales", _FLOAT32, (outputs,), scales)


def _unrounded_embedding(
    graph: OnnxGraph, tensors: Tensors, table: str, ids: str, output: str
) -> str:
    """Look rows up in a table that stays in the checkpoint's own dtype."""
    dtype = tensors.dtype(table)
    graph.weight(table, dtype, tensors.shape(table), tensors.blocks(table))
    if dtype == _FLOAT32:
        return graph.node("Gather", [table, ids], output)
    rows = graph.node("Gather", [table, ids], f"{output}/{dtype}")
    return graph.node("Cast", [rows], output, to=tensor_type(_FLOAT32))


def _stacked_shape(tensors: Tensors, names: Sequence[str]) -> tuple[int, int]:
    shapes = [tensors.shape(name) for name in names]
    return sum(rows for rows, _ in shapes), shapes[0][1]


def _stacked_blocks(tensors: Tensors, names: Sequence[str]) -> Iterator[NDArray[Any]]:
    return (block for name in names for block in tensors.blocks(name))
