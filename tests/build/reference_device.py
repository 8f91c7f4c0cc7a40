"""A stand-in for a GPU: the graph for CUDA run by ONNX's reference evaluator, behind ONNX Runtime's
binding interface.

The operators of ``com.microsoft`` are written here from their documentation. Each computes in
float64 and rounds its result to float16. The kernels for CUDA compute in float32; what float64 adds
is that no rounding shows which rows stood beside each other.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = NDArray[Any]


def half(x: Array) -> Array:
    return x.astype(np.float16)


def normed(x: Array, weight: Array, epsilon: float) -> Array:
    x = x.astype(np.float64)
    scale = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon)
    return x / scale * weight.astype(np.float64)


class Gemm(OpRun):
    """The standard one, with sums that know no order."""

    def _run(self, a: Array, b: Array, c: Array | None = None, **attributes: Any) -> Any:
        assert attributes["transB"] == 1
        product = a.astype(np.float64) @ b.astype(np.float64).T
        return (half(product if c is None else product + c),)


class SimplifiedLayerNormalization(OpRun):
    epsilon: float

    def _run(self, x: Array, weight: Array, **attributes: Any) -> Any:
        return (half(normed(x, weight, self.epsilon)),)


class SkipSimplifiedLayerNormalization(OpRun):
    op_domain = "com.microsoft"
    epsilon: float

    def _run(self, x: Array, skip: Array, weight: Array, **attributes: Any) -> Any:
        total = x.astype(np.float64) + skip
        return half(normed(total, weight, self.epsilon)), None, None, half(total)

    @classmethod
    def _check_and_fix_outputs(cls, outputs: Any) -> Any:
        return outputs  # outputs that nobody asked for are None


class QuickGelu(OpRun):
    op_domain = "com.microsoft"
    alpha: float

    def _run(self, x: Array, **attributes: Any) -> Any:
        wide = x.astype(np.float64)
        return (half(wide / (1 + np.exp(-self.alpha * wide))),)


class MatMulNBits(OpRun):
    op_domain = "com.microsoft"
    N: int
    K: int
    bits: int
    accuracy_level: int

    def _run(
        self,
        x: Array,
        packed: Array,
        scales: Array,
        zero_points: Array,
        order: Array | None = None,
        bias: Array | None = None,
        **attributes: Any,
    ) -> Any:
        assert (self.bits, order, self.accuracy_level) == (4, None, 0)
        assert scales.dtype == x.dtype == np.float16
        blocks = packed.shape[1]
        zeros = np.stack([zero_points & 15, zero_points >> 4], axis=-1)
        zeros = zeros.reshape(self.N, -1)[:, :blocks].astype(np.float64)
        levels = np.stack([packed & 15, packed >> 4], axis=-1).reshape(self.N, blocks, -1)
        weights = (levels - zeros[..., None]) * scales[..., None].astype(np.float64)
        product = x.astype(np.float64) @ weights.reshape(self.N, -1)[:, : self.K].T
        return (half(product if bias is None else product + bias),)


class MatMulBlockQuantizedFp8Weight(OpRun):
    op_domain = "com.microsoft"
    block_size: int

    def _run(
        self,
        x: Array,
        values: Array,
        scales: Array,
        activation_scale: Array | None = None,
        bias: Array | None = None,
        **attributes: Any,
    ) -> Any:
        assert (self.block_size, activation_scale) == (128, None)
        assert x.dtype == np.float16
        assert scales.dtype == np.float32
        assert values.dtype == ml_dtypes.float8_e4m3fn
        spread = np.repeat(scales, self.block_size, axis=1)[:, : values.shape[1]]
        weights = values.astype(np.float64) * spread
        product = x.astype(np.float64) @ weights.T
        return (half(product if bias is None else product + bias),)


class PagedAttention(OpRun):
    op_domain = "com.microsoft"
    num_heads: int
    kv_num_heads: int
    scale: float
    softcap: float
    local_window_size: int
    do_rotary: int
    qk_norm_epsilon: float

    def _run(
        self,
        qkv: Array,
        key: None,
        value: None,
        key_cache: Array,
        value_cache: Array,
        starts: Array,
        past: Array,
        table: Array,
        cosines: Array | None,
        sines: Array | None,
        slots: None,
        sink: None,
        q_norm: Array | None,
        k_norm: Array | None,
        k_scale: None,
        v_scale: None,
        metadata: Array,
        **attributes: Any,
    ) -> Any:
        for each in (starts, past, table, metadata):
            assert each.dtype == np.int32, "the schema's S is int32"
        new = np.diff(starts)
        assert starts[0] == 0
        assert starts[-1] == len(qkv)
        assert len(past) == len(table) == len(new)
        assert new.max() <= metadata[0]
        assert (past + new).max() <= metadata[1]
        assert metadata[2] <= (past + new).max()
        heads, kv_heads = self.num_heads, self.kv_num_heads
        head_dim = qkv.shape[1] // (heads + 2 * kv_heads)
        block_tokens = key_cache.shape[1]
        assert (
            key_cache.shape
            == value_cache.shape
            == (len(key_cache), block_tokens, kv_heads, head_dim)
        )
        assert block_tokens >= 16
        assert block_tokens & (block_tokens - 1) == 0
        output = np.empty((len(qkv), heads * head_dim), np.float16)
        for sequence, count in enumerate(new):
            rows = slice(starts[sequence], starts[sequence + 1])
            parts = qkv[rows].reshape(count, -1, head_dim)
            query, key_, value_ = np.split(parts, [heads, heads + kv_heads], axis=1)
            positions = past[sequence] + np.arange(count)
            if q_norm is not None and k_norm is not None:
                query = normed(query, q_norm, self.qk_norm_epsilon)
                key_ = normed(key_, k_norm, self.qk_norm_epsilon)
            if self.do_rotary:
                assert cosines is not None
                assert sines is not None
                assert cosines.shape[1] % 8 == 0
                query, key_ = (
                    turned(x, cosines[positions], sines[positions]) for x in (query, key_)
                )
            blocks, offsets = table[sequence, positions // block_tokens], positions % block_tokens
            key_cache[blocks, offsets] = half(key_)
            value_cache[blocks, offsets] = value_
            total = int(past[sequence] + count)
            seen = table[sequence, : -(-total // block_tokens)]
            keys, values = (
                cache[seen].reshape(-1, kv_heads, head_dim)[:total].astype(np.float64)
                for cache in (key_cache, value_cache)
            )
            output[rows] = self._attend(half(query), keys, values, positions).reshape(count, -1)
        return output, key_cache, value_cache

    def _attend(self, query: Array, keys: Array, values: Array, positions: Array) -> Array:
        group = self.num_heads // self.kv_num_heads
        keys, values = (np.repeat(x, group, axis=1) for x in (keys, values))
        scores = np.einsum("qhd,khd->hqk", query.astype(np.float64), keys) * self.scale
        if self.softcap:
            scores = self.softcap * np.tanh(scores / self.softcap)
        distances = positions[:, None] - np.arange(len(keys))
        hidden = distances < 0
        if self.local_window_size > 0:
            hidden |= distances >= self.local_window_size
        scores = np.where(hidden, -np.inf, scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        attended: Array = np.einsum("hqk,khd->qhd", weights, values)
        return attended


def turned(x: Array, cosines: Array, sines: Array) -> Array:
    """The first elements of each head turned, the first half against the second."""
    x = x.astype(np.float64)
    cosines, sines = (each[:, None].astype(np.float64) for each in (cosines, sines))
    size = cosines.shape[-1]
    low, high, rest = x[..., :size], x[..., size : 2 * size], x[..., 2 * size :]
    return np.concatenate(
        [low * cosines - high * sines, high * cosines + low * sines, rest], axis=-1
    )


OPERATORS = [
    Gemm,
    SimplifiedLayerNormalization,
    SkipSimplifiedLayerNormalization,
    QuickGelu,
    MatMulBlockQuantizedFp8Weight,
    MatMulNBits,
    PagedAttention,
]


def view(address: int, shape: tuple[int, ...], dtype: Any) -> Array:
    """An array over memory that something else owns."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)


class Binding:
    """What ``onnxruntime.IOBinding`` does, for memory of the host."""

    def __init__(self) -> None:
        self.inputs: dict[str, Array] = {}
        self.outputs: dict[str, Array] = {}

    def bind_cpu_input(self, name: str, array: Array) -> None:
        assert array.flags.c_contiguous
        self.inputs[name] = array

    def bind_ortvalue_input(self, name: str, value: ort.OrtValue) -> None:
        self.inputs[name] = view(value.data_ptr(), tuple(value.shape()), np.float16)

    def bind_ortvalue_output(self, name: str, value: ort.OrtValue) -> None:
        self.outputs[name] = view(value.data_ptr(), tuple(value.shape()), np.float16)

    def bind_output(
        self, name: str, kind: str, index: int, dtype: Any, shape: tuple[int, ...], address: int
    ) -> None:
        assert (kind, index) == ("cpu", 0)
        self.outputs[name] = view(address, tuple(shape), dtype)


@dataclass
class _Described:
    name: str
    shape: list[int | str]


class ReferenceSession:
    """What ``onnxruntime.InferenceSession`` does, on the reference evaluator.

    Attributes:
        steps: The inputs of each run that were not caches.
    """

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        self._graph = model.graph
        self._evaluator = ReferenceEvaluator(model, new_ops=OPERATORS)
        self.steps: list[dict[str, Array]] = []

    def get_inputs(self) -> list[_Described]:
        return [_described(each) for each in self._graph.input]

    def get_outputs(self) -> list[_Described]:
        return [_described(each) for each in self._graph.output]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding) -> None:
        self.steps.append(
            {name: x.copy() for name, x in binding.inputs.items() if "cache" not in name}
        )
        names = list(binding.outputs)
        computed = self._evaluator.run(names, binding.inputs)
        for name, value in zip(names, computed, strict=True):
            bound = binding.outputs[name]
            assert (value.shape, value.dtype) == (bound.shape, bound.dtype), name
            if "cache" in name:  # written in place
                assert np.shares_memory(value, bound)
            else:
                bound[...] = value


def _described(info: onnx.ValueInfoProto) -> _Described:
    dims = info.type.tensor_type.shape.dim
    return _Described(info.name, [each.dim_param or each.dim_value for each in dims])


class ReferenceDevice:
    """Memory of the host in place of a GPU's.

    Attributes:
        sessions: Those that were loaded.
        allocated_bytes: What was asked for.
    """

    name, kind, index = "the reference evaluator", "cpu", 0

    def __init__(self) -> None:
        self.sessions: list[ReferenceSession] = []
        self.allocated_bytes = 0
        self._arrays: list[Array] = []

    def allocate(self, shape: tuple[int, ...], dtype: type) -> ort.OrtValue:
        # Not zeros: the memory of a device holds anything at first.
        array: Array = np.full(shape, 7, dtype)
        self._arrays.append(array)
        self.allocated_bytes += array.nbytes
        return ort.OrtValue.ortvalue_from_numpy(array)

    def load(self, path: Path) -> Any:
        session = ReferenceSession(path)
        self.sessions.append(session)
        return session
