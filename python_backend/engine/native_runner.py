"""Running a quantized decoder in C: a step is one call (``kernels/decoder.c``).

The weights are those that the graphs name, packed at load time in the order in which the kernels
read them. What is computed is what the graphs compute, up to the rounding of floats.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import EngineError
from python_backend.engine.attention import KernelAttention, Layout
from python_backend.engine.description import DecoderDescription, Layer, Tensor
from python_backend.engine.engine_config import WEIGHTS_FILE, EngineConfig
from python_backend.engine.kernels import load_kernels
from python_backend.engine.kv_cache import KVMemory
from python_backend.engine.runner import Limits, Packer, load_rotary, load_smoothing
from python_backend.engine.scheduler import Scheduled

_PANEL = 64
_LANES = 16
_GROUP = 32
_GATES = {"silu": 2, "gelu_tanh": 3}
_BITS = {"int8": 8, "int4": 4}
_EMBEDDING_DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}


class _Linear(ctypes.Structure):
    """Mirrors ``Linear`` in linear.h."""

    _fields_ = (
        ("bits", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("panels", ctypes.c_int32),
        ("levels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("zeros", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class _Layer(ctypes.Structure):
    """Mirrors ``Layer`` in decoder.c."""

    _fields_ = (
        ("attention_norm", ctypes.c_void_p),
        ("qkv", _Linear),
        ("q_norm", ctypes.c_void_p),
        ("k_norm", ctypes.c_void_p),
        ("attention_output", _Linear),
        ("post_attention_norm", ctypes.c_void_p),
        ("mlp_norm", ctypes.c_void_p),
        ("gate_up", _Linear),
        ("down", _Linear),
        ("post_mlp_norm", ctypes.c_void_p),
    )


class _Decoder(ctypes.Structure):
    """Mirrors ``Decoder`` in decoder.c."""

    _fields_ = (
        ("num_layers", ctypes.c_int32),
        ("hidden_size", ctypes.c_int32),
        ("intermediate_size", ctypes.c_int32),
        ("vocab_size", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("embedding_dtype", ctypes.c_int32),
        ("norm_eps", ctypes.c_float),
        ("embedding_scale", ctypes.c_float),
        ("logit_softcap", ctypes.c_float),
        ("embedding", ctypes.c_void_p),
        ("final_norm", ctypes.c_void_p),
        ("lm_head", _Linear),
        ("layers", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("normed", ctypes.c_void_p),
        ("qkv", ctypes.c_void_p),
        ("attended", ctypes.c_void_p),
        ("gated", ctypes.c_void_p),
        ("levels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
    )


class _Step(ctypes.Structure):
    """Mirrors ``Step`` in decoder.c."""

    _fields_ = (
        ("num_tokens", ctypes.c_int32),
        ("num_rows", ctypes.c_int32),
        ("ids", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    )


class _Packing(ctypes.Structure):
    """Mirrors ``Packing`` in linear.c."""

    _fields_ = (
        ("levels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("zeros", ctypes.c_void_p),
        ("bits", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("padded", ctypes.c_int32),
        ("every", ctypes.c_int32),
        ("offset", ctypes.c_int32),
        ("to_levels", ctypes.c_void_p),
        ("to_scales", ctypes.c_void_p),
        ("to_zeros", ctypes.c_void_p),
    )


def load_native_runner(
    folder: Path, config: EngineConfig, memory: KVMemory, layout: Layout, limits: Limits
) -> NativeRunner | None:
    """The native runner, if it can run this engine on this machine.

    Args:
        folder: The engine folder.
        config: Its description.
        memory: Where keys and values lie.
        layout: How they lie there.
        limits: What to make room for.

    Raises:
        EngineError: A file is damaged or not the one that ``config`` describes.
    """
    description = DecoderDescription.load(folder)
    if description is None or config.precision not in _BITS:
        return None
    kernels = load_kernels(limits.num_threads)
    if kernels is None or not hasattr(kernels, "trireme_decode"):
        return None
    return NativeRunner(kernels, folder, config, description, memory, layout, limits)


class NativeRunner:
    """The C decoder and its packed weights."""

    def __init__(
        self,
        kernels: ctypes.CDLL,
        folder: Path,
        config: EngineConfig,
        description: DecoderDescription,
        memory: KVMemory,
        layout: Layout,
        limits: Limits,
    ) -> None:
        """Pack the weights; the arguments are those of :func:`load_native_runner`."""
        kernels.trireme_instructions.restype = ctypes.c_char_p
        self.name = f"native decoder ({kernels.trireme_instructions().decode()})"
        self._decode = kernels.trireme_decode
        self._decode.restype = None
        self._packer = Packer(limits)
        arena = _Arena()
        self._logits = arena.zeros(limits.max_sequences, config.vocab_size)
        weights = _Weights(kernels, folder, config, description, arena)
        self._attention = KernelAttention(
            kernels,
            layout,
            memory.blocks,
            load_rotary(folder, config),
            config.attention,
            load_smoothing(folder, config),
        )
        layers = (_Layer * config.num_layers)(*map(weights.layer, description.layers))
        attended = config.num_heads * config.head_dim
        widest = max(attended, config.hidden_size, description.intermediate_size)
        widest = _padded(widest, _GROUP)
        tokens = limits.max_tokens
        arrays = {
            "residual": arena.zeros(tokens, config.hidden_size),
            "normed": arena.zeros(tokens, config.hidden_size),
            "qkv": arena.zeros(tokens, attended + 2 * config.num_kv_heads * config.head_dim),
            "attended": arena.zeros(tokens, attended),
            "gated": arena.zeros(tokens, description.intermediate_size),
            "levels": arena.zeros(tokens, widest, dtype=np.int8),
            "scales": arena.zeros(tokens, widest // _GROUP),
            "sums": arena.zeros(tokens, widest // _GROUP),
        }
        embedding, dtype = weights.embedding()
        self._decoder = _Decoder(
            num_layers=config.num_layers,
            hidden_size=config.hidden_size,
            intermediate_size=description.intermediate_size,
            vocab_size=config.vocab_size,
            activation=_GATES[description.activation],
            embedding_dtype=dtype,
            norm_eps=description.norm_eps,
            embedding_scale=description.embedding_scale,
            logit_softcap=description.logit_softcap or 0.0,
            embedding=embedding,
            final_norm=weights.vector(description.final_norm),
            lm_head=weights.linear([description.lm_head], config.vocab_size, config.hidden_size),
            layers=ctypes.addressof(layers),
            **{name: array.ctypes.data for name, array in arrays.items()},
        )
        weights.release()
        # Kept alive: the decoder knows their addresses only.
        self._alive = (arena, layers, weights)

    def run(self, work: list[Scheduled]) -> NDArray[np.float32]:
        packed = self._packer.pack(work)
        step = _Step(
            num_tokens=packed.ids.size,
            num_rows=packed.rows.size,
            ids=packed.ids.ctypes.data,
            rows=packed.rows.ctypes.data,
            logits=self._logits.ctypes.data,
        )
        batch = self._attention.describe(packed.batch)
        self._decode(ctypes.byref(self._decoder), ctypes.byref(batch), ctypes.byref(step))
        return self._logits[: packed.rows.size]


class _Weights:
    """Packs an engine's weights."""

    def __init__(
        self,
        kernels: ctypes.CDLL,
        folder: Path,
        config: EngineConfig,
        description: DecoderDescription,
        arena: _Arena,
    ) -> None:
        self._kernels = kernels
        self._arena = arena
        self._config = config
        self._description = description
        self._path = folder / WEIGHTS_FILE
        self._bits = _BITS[config.precision]
        try:
            with self._path.open("rb") as file:
                self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise EngineError(f"{self._path} can't be read: {error}") from error
        self._file: NDArray[np.uint8] = np.frombuffer(self._mapping, dtype=np.uint8)

    def release(self) -> None:
        """Let go of what was packed; what is read of the file from now on comes back by itself."""
        self._mapping.madvise(mmap.MADV_DONTNEED)

    def layer(self, layer: Layer) -> _Layer:
        config, intermediate = self._config, self._description.intermediate_size
        attended = config.num_heads * config.head_dim
        qkv = attended + 2 * config.num_kv_heads * config.head_dim
        head = config.head_dim
        return _Layer(
            attention_norm=self.vector(layer.attention_norm),
            qkv=self.linear([layer.qkv], qkv, config.hidden_size, layer.qkv_bias),
            q_norm=self.optional(layer.q_norm, head),
            k_norm=self.optional(layer.k_norm, head),
            attention_output=self.linear([layer.attention_output], config.hidden_size, attended),
            post_attention_norm=self.optional(layer.post_attention_norm),
            mlp_norm=self.vector(layer.mlp_norm),
            gate_up=self.linear([layer.gate, layer.up], intermediate, config.hidden_size),
            down=self.linear([layer.down], config.hidden_size, intermediate),
            post_mlp_norm=self.optional(layer.post_mlp_norm),
        )

    def embedding(self) -> tuple[int, int]:
        """The address of the token embedding, and the number of its dtype."""
        name = self._description.embedding
        shape = (self._config.vocab_size, self._config.hidden_size)
        array = self._tensor(name, None, shape)
        return array.ctypes.data, _EMBEDDING_DTYPES[self._description.tensors[name].dtype]

    def vector(self, name: str, size: int | None = None) -> int:
        """The address of a float32 vector, by default as wide as the residual stream."""
        return self._tensor(name, "float32", (size or self._config.hidden_size,)).ctypes.data

    def optional(self, name: str | None, size: int | None = None) -> int | None:
        """The same of a vector that not every decoder has."""
        return None if name is None else self.vector(name, size)

    def linear(
        self, names: list[str], outputs: int, columns: int, bias: str | None = None
    ) -> _Linear:
        """Pack a product; of two, vectors of their outputs alternate.

        Args:
            names: Weights ``[outputs, columns]`` each, one or two of them.
            outputs: Of each.
            columns: Inputs.
            bias: A bias ``[outputs]``, if any.
        """
        padded, every = _padded(columns, _GROUP), len(names)
        panels = -(-outputs * every // _PANEL)
        groups = padded // _GROUP
        zeros_of = self._arena.zeros
        if self._bits == 8:
            levels = zeros_of(panels, padded, _PANEL, dtype=np.uint8)
            scales = zeros_of(panels, _PANEL)
            zeros = None
        else:
            levels = zeros_of(panels, padded, _PANEL // 2, dtype=np.uint8)
            scales = zeros_of(panels, groups, _PANEL, dtype=np.float16)
            zeros = zeros_of(panels, groups, _PANEL // 2, dtype=np.uint8)
        for offset, name in enumerate(names):
            if self._bits == 8:
                from_levels = self._tensor(f"{name}/levels", "int8", (columns, outputs))
                from_scales = self._tensor(f"{name}/scales", "float32", (outputs,))
                from_zeros = None
            else:
                shape = (outputs, groups)
                from_levels = self._tensor(f"{name}/packed", "uint8", (*shape, _GROUP // 2))
                from_scales = self._tensor(f"{name}/scales", "float32", shape)
                from_zeros = self._tensor(
                    f"{name}/zero_points", "uint8", (outputs, -(-groups // 2))
                )
            packing = _Packing(
                levels=from_levels.ctypes.data,
                scales=from_scales.ctypes.data,
                zeros=None if from_zeros is None else from_zeros.ctypes.data,
                bits=self._bits,
                outputs=outputs,
                columns=columns,
                padded=padded,
                every=every,
                offset=offset,
                to_levels=levels.ctypes.data,
                to_scales=scales.ctypes.data,
                to_zeros=None if zeros is None else zeros.ctypes.data,
            )
            self._kernels.trireme_pack(ctypes.byref(packing))
        linear = _Linear(
            bits=self._bits,
            columns=padded,
            panels=panels,
            levels=levels.ctypes.data,
            scales=scales.ctypes.data,
        )
        if zeros is not None:
            linear.zeros = zeros.ctypes.data
        if bias is not None:
            values = self._arena.zeros(panels * _PANEL)
            values[:outputs] = self._tensor(bias, "float32", (outputs,))
            linear.bias = values.ctypes.data
        return linear

    def _tensor(self, name: str, dtype: str | None, shape: tuple[int, ...]) -> NDArray[Any]:
        """A tensor of the file, checked; one of bfloat16 comes as uint16."""
        tensor: Tensor | None = self._description.tensors.get(name)
        if tensor is None or tensor.shape != shape or dtype not in (None, tensor.dtype):
            raise EngineError(
                f"{self._path} has no {name} of {dtype or 'some type'} {list(shape)}: "
                "build the engine anew"
            )
        found = np.dtype("uint16" if tensor.dtype == "bfloat16" else tensor.dtype)
        end = tensor.offset + int(np.prod(shape)) * found.itemsize
        if end > self._file.size:
            raise EngineError(f"{self._path} ends before {name} does: build the engine anew")
        return self._file[tensor.offset : end].view(found).reshape(shape)


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


class _Arena:
    """Hands out zeroed memory from a few large mappings, so that most of it is on huge pages.

    Attributes:
        mappings: What has to stay alive as long as the memory is used.
    """

    _MAPPING_BYTES = 64 << 20
    _PAGE_BYTES = 2 << 20
    _LINE_BYTES = 64

    def __init__(self) -> None:
        self.mappings: list[mmap.mmap] = []
        self._used = 0

    def zeros(self, *shape: int, dtype: type = np.float32) -> NDArray[Any]:
        """An array of zeros that begins on a cache line."""
        count = int(np.prod(shape))
        size_bytes = _padded(count * np.dtype(dtype).itemsize, self._LINE_BYTES)
        if not self.mappings or self._used + size_bytes > len(self.mappings[-1]):
            length = max(_padded(size_bytes, self._PAGE_BYTES), self._MAPPING_BYTES)
            mapping = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            mapping.madvise(mmap.MADV_HUGEPAGE)
            self.mappings.append(mapping)
            self._used = 0
        offset, self._used = self._used, self._used + size_bytes
        array: NDArray[Any] = np.frombuffer(self.mappings[-1], dtype, count, offset)
        return array.reshape(shape)
