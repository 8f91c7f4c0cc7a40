"""Four-bit weights: the arithmetic, and that ONNX Runtime reads the layout as we mean it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from build.quantize import BLOCK_SIZE, Int4Rows, quantize_int4


def unpack(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def dequantize(quantized: Int4Rows, columns: int) -> NDArray[np.float64]:
    """The weights that the quantized rows stand for, ``[rows, columns]``."""
    rows, blocks = quantized.scales.shape
    levels = unpack(quantized.packed).astype(np.float64)
    zero_points = unpack(quantized.zero_points)[:, :blocks, None]
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
def test_a_weight_is_off_by_one_step_at_most_and_zero_stays_zero(rows):
    quantized = quantize_int4(rows)
    error = np.abs(dequantize(quantized, rows.shape[1]) - rows)
    steps = np.repeat(quantized.scales, BLOCK_SIZE, axis=1)[:, : rows.shape[1]]
    # Half a step from rounding the weight, and half a step more at an end of the range from
    # rounding the zero point.
    assert (error <= steps * 1.001 + 1e-30).all()
    assert (error[rows == 0] == 0).all()


def test_the_error_on_normal_weights():
    rows = np.random.default_rng(0).standard_normal((64, 1024), dtype=np.float32)
    assert relative_error(dequantize(quantize_int4(rows), 1024), rows) < 0.082


@pytest.mark.parametrize("columns", [32, 64, 96, 40, 7])
def test_onnxruntime_reads_the_layout(columns):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((5, columns), dtype=np.float32)
    quantized = quantize_int4(rows)
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
