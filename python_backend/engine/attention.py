"""Paged attention: the C kernel, and what it computes in numpy where there are no kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from python_backend.engine.engine_config import KVDtype
from python_backend.engine.kernels import load_kernels
from python_backend.engine.kernels.structures import LANES, Batch, structure_of
from python_backend.engine.layers import Heads

BLOCK_TOKENS = LANES
"""Tokens of a block: the lanes of the kernel's vectors."""


@dataclass(frozen=True)
class Layout:
    """Where keys and values lie in a block pool, and how heads share them.

    In float32 the pool is ``[blocks, layers, 2, num_kv_heads, 16 * head_dim]``; keys lie transposed
    in a block, ``[head_dim, 16]``, values ``[16, head_dim]``. In int8 it is bytes, ``[blocks,
    layers, num_kv_heads, 32 * head_dim + 128]``: keys, values and their scales
    (``kernels/attention_int8.c``).

    Attributes:
        num_layers: Decoder layers.
        num_heads: Query heads a layer.
        num_kv_heads: Key and value heads a layer.
        head_dim: Width of one head.
        kv_dtype: How keys and values are stored, ``float32`` or ``int8``.
        block_tokens: Tokens of a block.
    """

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    kv_dtype: KVDtype = "float32"

    block_tokens = BLOCK_TOKENS

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pool's elements."""
        return np.dtype(np.float32 if self.kv_dtype == "float32" else np.uint8)

    @property
    def block_shape(self) -> tuple[int, ...]:
        """Shape of one block, all layers."""
        if self.kv_dtype == "float32":
            return (self.num_layers, 2, self.num_kv_heads, BLOCK_TOKENS * self.head_dim)
        scales_bytes = 2 * BLOCK_TOKENS * 4
        return (self.num_layers, self.num_kv_heads, 2 * BLOCK_TOKENS * self.head_dim + scales_bytes)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, all layers."""
        return int(np.prod(self.block_shape)) * self.dtype.itemsize


@dataclass(frozen=True)
class PackedBatch:
    """New tokens of several sequences, packed without padding.

    Attributes:
        starts: int32 ``[sequences + 1]``, the first packed token of each.
        lengths: int32 ``[sequences]``, tokens that each has in the cache already.
        rotary_starts: int32 ``[sequences]``, the row of cosines and sines that each one's first
            position has.
        tables: int32 ``[sequences, width]``, their blocks.
    """

    starts: NDArray[np.int32]
    lengths: NDArray[np.int32]
    rotary_starts: NDArray[np.int32]
    tables: NDArray[np.int32]


class Attention(Protocol):
    """Attention of one layer for a packed batch."""

    def __call__(
        self,
        layer: int,
        batch: PackedBatch,
        qkv: NDArray[np.float32],
        output: NDArray[np.float32],
    ) -> None:
        """Write the new tokens' keys and values into their blocks and attend.

        Args:
            layer: Which layer.
            batch: Whose tokens.
            qkv: ``[tokens, (num_heads + 2 * num_kv_heads) * head_dim]``, not rotated.
            output: ``[tokens, num_heads * head_dim]``, written.
        """


def load_attention(
    layout: Layout,
    pool: NDArray[Any],
    rotary: NDArray[np.float32],
    num_threads: int,
    heads: Sequence[Heads],
    smoothing: NDArray[np.float32] | None = None,
) -> Attention:
    """The fastest attention that this machine can run.

    Args:
        layout: The pool's layout.
        pool: ``[blocks, *layout.block_shape]``.
        rotary: ``[2, rows, rotary_dim / 2]``, cosines and sines.
        num_threads: Threads to compute with.
        heads: How each layer attends.
        smoothing: For int8: see :class:`KernelAttention`.
    """
    kernels = load_kernels(num_threads)
    if kernels is None:
        return NumpyAttention(layout, pool, rotary, heads)
    return KernelAttention(kernels, layout, pool, rotary, heads, smoothing)


def can_attend_int8(num_threads: int) -> bool:
    """Whether this machine has the kernels for keys and values in int8."""
    kernels = load_kernels(num_threads)
    return kernels is not None and bool(kernels.trireme_attends_int8())


class KernelAttention:
    """The C kernel over one pool."""

    def __init__(
        self,
        kernels: ctypes.CDLL,
        layout: Layout,
        pool: NDArray[Any],
        rotary: NDArray[np.float32],
        heads: Sequence[Heads],
        smoothing: NDArray[np.float32] | None = None,
    ) -> None:
        """Describe a pool to the kernel.

        Args:
            kernels: The compiled kernels.
            layout: The pool's layout.
            pool: ``[blocks, *layout.block_shape]``.
            rotary: ``[2, rows, rotary_dim / 2]``, cosines and sines.
            heads: How each layer attends.
            smoothing: For int8, ``[layers, num_kv_heads, head_dim]``: what keys are divided and
                queries multiplied by before they are rounded.
        """
        kind = structure_of(Heads)
        self._run = kernels.trireme_attention
        self._run.restype = None
        self._run.argtypes = (ctypes.POINTER(Batch), ctypes.POINTER(kind), ctypes.c_int)
        self._heads = [kind(**each.model_dump(exclude_none=True)) for each in heads]
        # Kept alive: the kernel knows their addresses only.
        self._arrays = (pool, rotary, smoothing)
        self._batch = Batch(
            blocks=pool.ctypes.data,
            block_stride=layout.block_bytes,
            layer_stride=layout.block_bytes // layout.num_layers,
            kv_bits=8 * layout.dtype.itemsize,
            smoothing=None if smoothing is None else smoothing.ctypes.data,
            cosines=rotary[0].ctypes.data,
            sines=rotary[1].ctypes.data,
            rotary_half=rotary.shape[2],
        )

    def __call__(
        self,
        layer: int,
        batch: PackedBatch,
        qkv: NDArray[np.float32],
        output: NDArray[np.float32],
    ) -> None:
        described = self.describe(batch)
        described.qkv = qkv.ctypes.data
        described.output = output.ctypes.data
        self._run(ctypes.byref(described), ctypes.byref(self._heads[layer]), layer)

    def describe(self, batch: PackedBatch) -> ctypes.Structure:
        """What the kernel is told of a batch; valid until the next call.

        The arrays of ``batch`` have to live as long as it is used.
        """
        self._batch.num_sequences = batch.lengths.size
        self._batch.starts = batch.starts.ctypes.data
        self._batch.lengths = batch.lengths.ctypes.data
        self._batch.rotary_starts = batch.rotary_starts.ctypes.data
        self._batch.tables = batch.tables.ctypes.data
        self._batch.table_width = batch.tables.shape[1]
        return self._batch


class NumpyAttention:
    """What the kernel computes, in numpy, over keys and values in float32."""

    def __init__(
        self,
        layout: Layout,
        pool: NDArray[np.float32],
        rotary: NDArray[np.float32],
        heads: Sequence[Heads],
    ) -> None:
        self._layout = layout
        self._heads = heads
        self._pool = pool
        self._rotary = rotary

    def __call__(
        self,
        layer: int,
        batch: PackedBatch,
        qkv: NDArray[np.float32],
        output: NDArray[np.float32],
    ) -> None:
        each = zip(batch.lengths.tolist(), batch.rotary_starts.tolist(), strict=True)
        for sequence, (length, rotary_start) in enumerate(each):
            tokens = slice(batch.starts[sequence], batch.starts[sequence + 1])
            output[tokens] = self._attend(
                layer, batch.tables[sequence], length, rotary_start, qkv[tokens]
            )

    def _attend(
        self,
        layer: int,
        table: NDArray[np.int32],
        length: int,
        rotary_start: int,
        qkv: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        layout, count, described = self._layout, len(qkv), self._heads[layer]
        heads = qkv.reshape(count, -1, layout.head_dim)
        query = heads[:, : layout.num_heads]
        key = heads[:, layout.num_heads : -layout.num_kv_heads]
        positions = np.arange(length, length + count)
        if described.rotary_dim:
            rows = rotary_start + positions
            query, key = (rotate_heads(part, rows, *self._rotary) for part in (query, key))
        total = length + count
        blocks = table[: -(-total // BLOCK_TOKENS)]
        pool = self._pool[:, layer]
        shape = (len(blocks), layout.num_kv_heads, layout.head_dim, BLOCK_TOKENS)
        keys = pool[blocks, 0].reshape(shape).transpose(0, 3, 1, 2)
        values = pool[blocks, 1].reshape(len(blocks), layout.num_kv_heads, BLOCK_TOKENS, -1)
        keys = keys.reshape(-1, layout.num_kv_heads, layout.head_dim)
        values = values.transpose(0, 2, 1, 3).reshape(keys.shape)
        keys[positions] = key
        values[positions] = heads[:, -layout.num_kv_heads :]
        self._write(layer, blocks, keys, values)
        group = layout.num_heads // layout.num_kv_heads
        keys, values = (np.repeat(part[:total], group, axis=1) for part in (keys, values))
        scores = np.einsum("qhd,khd->hqk", query, keys) * described.scale
        if (cap := described.logit_softcap) is not None:
            scores = cap * np.tanh(scores / cap)
        distances = positions[:, None] - np.arange(total)
        scores[:, (distances < 0) | (distances >= (described.window or total))] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        attended: NDArray[np.float32] = np.einsum("hqk,khd->qhd", weights, values)
        return attended.reshape(count, -1)

    def _write(
        self,
        layer: int,
        blocks: NDArray[np.int32],
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
    ) -> None:
        shape = (len(blocks), BLOCK_TOKENS, self._layout.num_kv_heads, self._layout.head_dim)
        flat = (len(blocks), self._layout.num_kv_heads, -1)
        self._pool[blocks, layer, 0] = keys.reshape(shape).transpose(0, 2, 3, 1).reshape(flat)
        self._pool[blocks, layer, 1] = values.reshape(shape).transpose(0, 2, 1, 3).reshape(flat)


def rotate_heads(
    heads: NDArray[np.float32],
    rows: NDArray[np.int64],
    cosines: NDArray[np.float32],
    sines: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Turn heads by their positions' angles.

    Args:
        heads: ``[tokens, heads, head_dim]``.
        rows: ``[tokens]``, where their positions' cosines and sines are.
        cosines: ``[rows, rotary_dim / 2]``.
        sines: The same.
    """
    cosines, sines = cosines[rows, None], sines[rows, None]
    half = cosines.shape[-1]
    low, high, rest = np.split(heads, [half, 2 * half], axis=-1)
    turned = [low * cosines - high * sines, high * cosines + low * sines]
    return np.concatenate([*turned, rest], axis=-1)
