"""Weights in few bits: the arithmetic, and that ONNX Runtime reads the layout as we mean it."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from build.gptq import Gptq
from build.quantize import (
    BLOCK_SIZE,
    Int4Rows,
    quantize_float8,
    quantize_int4,
    quantize_int8,
    quantize_int8_blocks,
    search_int4,
)


def unpack(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def dequantize(quantized: Int4Rows, columns: int) -> NDArray[np.float64]:
    """The weights that the quantized rows stand for, ``[rows, columns]``."""
    rows = len(quantized.scales)
    levels = unpack(quantized.packed).astype(np.float64)
    zero_points = quantized.zero_points[:, :, None].astype(np.float64)
    scales = quantized.scales[:, :, None].astype(np.float64)
    values: NDArray[np.float64] = (levels - zero_points) * scales
    return values.reshape(rows, -1)[:, :columns]


def relative_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 3 * BLOCK_SIZE)),
        elements=st.floats(-1000, 1000, width=32),
    )
)
@example(np.array([[1e-6]], dtype=np.float32))
def test_with_whole_zero_points_a_weight_is_off_by_one_step_at_most_and_zero_stays_zero(rows):
    quantized = quantize_int4(rows, whole=True)
    assert set(np.unique(quantized.zero_points)) <= set(range(16))
    error = np.abs(dequantize(quantized, rows.shape[1]) - rows)
    steps = np.repeat(quantized.scales, BLOCK_SIZE, axis=1)[:, : rows.shape[1]]
    # Half a step from rounding the weight, and half a step more at an end of the range from
    # rounding the zero point. A step is a float16, which below 2**-14 is rounded to 2**-25, and a
    # weight is up to 15 steps from zero.
    assert (error <= steps * 1.001 + 15 * 2.0**-25).all()
    assert (error[rows == 0] == 0).all()


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 3 * BLOCK_SIZE)),
        elements=st.floats(-1000, 1000, width=32),
    )
)
def test_a_weight_is_off_by_half_a_step_at_most(rows):
    quantized = quantize_int4(rows)
    error = np.abs(dequantize(quantized, rows.shape[1]) - rows)
    steps, zeros = (
        np.repeat(np.abs(each), BLOCK_SIZE, axis=1)[:, : rows.shape[1]]
        for each in (quantized.scales, quantized.zero_points * quantized.scales)
    )
    # Scale and minimum are float16: the one is off by 2**-11 of it, up to 15 times, and so is the
    # other; below 2**-14 they are rounded to 2**-25.
    assert (error <= steps * 0.51 + zeros * 1.001 * 2.0**-11 + 16 * 2.0**-25).all()


@pytest.mark.parametrize("whole", [False, True])
@given(
    rows=arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 3 * BLOCK_SIZE)),
        elements=st.floats(-1000, 1000, width=32),
    )
)
def test_searched_levels_are_never_worse_than_spanning_ones(whole, rows):
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK_SIZE)))  # which a block is fitted to
    columns = rows.shape[1]
    spanning = dequantize(quantize_int4(rows, whole), columns) - rows
    searched = dequantize(search_int4(rows, whole), columns) - rows
    for start in range(0, columns, BLOCK_SIZE):
        block = slice(start, start + BLOCK_SIZE)
        least = (spanning[:, block] ** 2).sum(axis=1)
        assert ((searched[:, block] ** 2).sum(axis=1) <= least * 1.001 + 1e-6).all()
    assert not whole or (searched[rows == 0] == 0).all()


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 40)),
        elements=st.floats(-1000, 1000, width=32),
    )
)
def test_a_weight_in_eight_bits_is_off_by_half_a_step_at_most(rows):
    levels, scales = quantize_int8(rows)
    error = np.abs(levels * scales[:, None].astype(np.float64) - rows)
    assert (error <= 0.5001 * scales[:, None] + 1e-40).all()
    assert (levels >= -127).all()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
@pytest.mark.parametrize("quantize", [quantize_int4, search_int4])
def test_blocks_of_a_gguf_file_are_taken_as_they_are(kind, quantize):
    """What four bits with a scale, or with a minimum too, stand for is not rounded again."""
    rows = np.random.default_rng(4).standard_normal((300, 320), dtype=np.float32)
    rows[:10] *= 1e-3
    type_ = gguf.GGMLQuantizationType[kind]
    held = gguf.quants.dequantize(gguf.quants.quantize(rows, type_), type_)
    assert relative_error(held, rows) > 0.05
    taken = quantize(held)
    minima = (-taken.zero_points * taken.scales).astype(np.float16).astype(np.float32)
    levels = unpack(taken.packed).reshape(300, -1, BLOCK_SIZE)
    again = levels * taken.scales[..., None] + minima[..., None]
    np.testing.assert_array_equal(again.reshape(300, -1), held)


def test_eight_bit_blocks_of_a_gguf_file_are_taken_as_they_are():
    rows = np.random.default_rng(4).standard_normal((300, 320), dtype=np.float32)
    type_ = gguf.GGMLQuantizationType.Q8_0
    held = gguf.quants.dequantize(gguf.quants.quantize(rows, type_), type_)
    assert not np.array_equal(held, rows)
    taken = quantize_int8_blocks(held)
    again = (taken.blocks.astype(np.float32) - 128) * taken.scales[..., None]
    np.testing.assert_array_equal(again.reshape(300, -1), held)


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 3 * BLOCK_SIZE)),
        elements=st.floats(-1000, 1000, width=32),
    )
)
def test_a_weight_in_blocks_of_eight_bits_is_off_by_half_a_step_at_most(rows):
    blocks, scales = quantize_int8_blocks(rows)
    held = ((blocks.astype(np.float64) - 128) * scales[..., None]).reshape(len(rows), -1)
    steps = np.repeat(scales, BLOCK_SIZE, axis=1)
    error = np.abs(held[:, : rows.shape[1]] - rows)
    # The scale is a float16, off by 2**-11, and 127 times in the largest weight.
    assert (error <= (steps * 0.57 + 128 * 2.0**-25)[:, : rows.shape[1]]).all()
    assert blocks.min() >= 1


def test_the_error_on_normal_weights():
    rows = np.random.default_rng(0).standard_normal((64, 1024), dtype=np.float32)
    assert relative_error(dequantize(quantize_int4(rows, whole=True), 1024), rows) < 0.082
    assert relative_error(dequantize(search_int4(rows, whole=True), 1024), rows) < 0.078
    assert relative_error(dequantize(quantize_int4(rows), 1024), rows) < 0.080
    assert relative_error(dequantize(search_int4(rows), 1024), rows) < 0.074
    held = quantize_int8_blocks(rows)
    eight = (held.blocks.astype(np.float32) - 128) * held.scales[..., None]
    assert relative_error(eight.reshape(64, -1), rows) < 0.0055
    levels, scales = quantize_int8(rows)
    assert relative_error(levels * scales[:, None], rows) < 0.0085


def gptq_of_unrelated_inputs(rows: NDArray[np.float32]) -> Int4Rows:
    return Gptq(np.eye(rows.shape[1], dtype=np.float32)).quantize(rows)


@pytest.mark.parametrize("columns", [32, 64, 96, 40, 7])
@pytest.mark.parametrize("quantize", [quantize_int4, search_int4, gptq_of_unrelated_inputs])
def test_onnxruntime_reads_the_layout(columns, quantize):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((5, columns), dtype=np.float32)
    quantized = quantize(rows)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "weight", "scales", "zero_points"],
        ["y"],
        domain="com.microsoft",
        N=5,
        K=columns,
        bits=4,
        block_size=BLOCK_SIZE,
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 5])],
        [
            numpy_helper.from_array(quantized.packed, "weight"),
            numpy_helper.from_array(quantized.scales, "scales"),
            numpy_helper.from_array(quantized.zero_points, "zero_points"),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    product = session.run(None, {"x": np.eye(columns, dtype=np.float32)})[0]
    np.testing.assert_allclose(product.T, dequantize(quantized, columns), atol=1e-6)


@pytest.mark.parametrize("columns", [128, 300])
def test_float8_is_within_half_a_step_of_each_weight(columns):
    rows = np.random.default_rng(2).standard_normal((7, columns), dtype=np.float32)
    rows[3] = 0
    rows[4, 5] = 1e30  # an outlier is the concern of its own block
    values, scales = quantize_float8(rows)
    assert (values.shape, scales.shape) == (rows.shape, (7, -(-columns // 128)))
    spread = np.repeat(scales, 128, axis=1)[:, :columns]
    read = values.astype(np.float32) * spread
    assert np.isfinite(read).all()
    # E4M3 has three bits behind the point, and below 2**-6 steps of 2**-9.
    allowed = np.maximum(np.abs(rows) / 16, spread * 2.0**-10)
    assert (np.abs(read - rows) <= allowed * (1 + 1e-5)).all()
