"""Weights in blocks of 32 along a row, in four bits and in eight, as ``MatMulNBits`` reads them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from build.onnx_writer import CONTRIB, OnnxGraph, tensor_type
from build.quantize import BLOCK_SIZE, Int4Rows, quantize_int4, quantize_int8_blocks
from build.storage import (
    FLOAT32,
    FloatStorage,
    stacked_blocks,
    stacked_shape,
    unrounded_embedding,
)
from build.weight_tensors import Tensors

# MatMulNBits then quantizes the activations to int8 as well, which is what makes it fast.
_INT8_ACTIVATIONS = 4

Rounding: TypeAlias = Callable[[Sequence[str]], Callable[[NDArray[np.float32]], Int4Rows]]


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
        dtype: np.dtype[Any] = FLOAT32,
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
        if self._dtype != FLOAT32:
            return FloatStorage(self._graph, self._tensors, self._dtype).embedding(
                table, ids, output
            )
        return unrounded_embedding(self._graph, self._tensors, table, ids, output)

    def linear(self, x: str, weights: Sequence[str], output: str, bias: str = "") -> str:
        if weights[0] in self._in_eight_bits:
            return self._eight_bits.linear(x, weights, output, bias)
        outputs, columns = stacked_shape(self._tensors, weights)
        round_rows = self._rounding(weights)
        rows = [
            round_rows(block.astype(np.float32, copy=False))
            for block in stacked_blocks(self._tensors, weights)
        ]
        name, groups = "+".join(weights), -(-columns // BLOCK_SIZE)
        on_cpu = self._dtype == FLOAT32
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
            f"{name}/middles", FLOAT32, (outputs, groups), [each.middles for each in rows]
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
            return unrounded_embedding(self._graph, self._tensors, table, ids, output)
        graph, (_, columns) = self._graph, self._tensors.shape(table)
        blocks, scales = self._rounded([table])
        levels = graph.node("Gather", [blocks, ids], f"{output}/levels")
        levels = graph.node("Cast", [levels], f"{output}/floats", to=tensor_type(FLOAT32))
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
        outputs, columns = stacked_shape(self._tensors, weights)
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
        outputs, columns = stacked_shape(self._tensors, weights)
        name, groups = "+".join(weights), -(-columns // BLOCK_SIZE)
        scales: list[NDArray[np.float32]] = []

        def blocks() -> Iterator[NDArray[np.uint8]]:
            for block in stacked_blocks(self._tensors, weights):
                rows = quantize_int8_blocks(block.astype(np.float32, copy=False))
                scales.append(rows.scales)
                yield rows.blocks

        shape = (outputs, groups, BLOCK_SIZE)
        return [
            self._graph.weight(f"{name}/blocks", np.dtype(np.uint8), shape, blocks()),
            self._graph.weight(f"{name}/scales", FLOAT32, shape[:2], scales),
        ]
