"""Packing an engine's weights for the native decoder, and describing its parts to it.

What the kernels are told follows from the description (:mod:`python_backend.engine.layers`): this
goes through its fields, whatever kind of part they belong to.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import EngineError
from python_backend.engine.engine_config import WEIGHTS_FILE, EngineConfig
from python_backend.engine.kernels import structures as c
from python_backend.engine.layers import Description, Layer, Norm, Pair, Part, Product
from python_backend.engine.tensor_places import load_places

PRECISIONS = ("int8", "int8_block", "int4")
"""What the native decoder computes with."""
_MARKS = {"int8": "levels", "int8_block": "blocks", "int4": "packed"}
"""What an engine calls a product's levels, by how they are stored."""


class NativeWeights:
    """An engine's weights, packed as they are asked for."""

    def __init__(
        self, kernels: ctypes.CDLL, folder: Path, config: EngineConfig, arena: Arena
    ) -> None:
        """Open an engine's weights.

        Args:
            kernels: What packs them.
            folder: The engine folder.
            config: Its description.
            arena: Where they go.

        Raises:
            EngineError: From here and from every method: the weights can't be read, or are not
                those that ``config`` describes; or the kernels lack what it describes.
        """
        self._pack = kernels.trireme_pack
        self._pack.restype = None
        self._pack.argtypes = (ctypes.POINTER(c.Packing),)
        self._kernels = kernels
        self._arena = arena
        self._decoder = config.decoder
        self._tensors = load_places(folder)
        self._path = folder / WEIGHTS_FILE
        self._parts: list[ctypes.Structure] = []
        try:
            with self._path.open("rb") as file:
                self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise EngineError(f"{self._path} can't be read: {error}") from error
        self._file: NDArray[np.uint8] = np.frombuffer(self._mapping, dtype=np.uint8)

    def release(self) -> None:
        """Let go of what was packed; what is read of the file from now on comes back by itself."""
        self._mapping.madvise(mmap.MADV_DONTNEED)

    def layer(self, layer: Layer) -> c.Layer:
        """A layer, which lives as long as this."""
        return c.Layer(
            attention=self._part("attention", layer.attention, layer.attention.kind),
            feed_forward=self._part("feed_forward", layer.feed_forward, layer.feed_forward.kind),
        )

    def _part(self, sort: str, part: Part, kind: str) -> c.Part:
        data = self._structure(part)
        self._parts.append(data)  # kept alive: the decoder knows its address only
        run = c.function(self._kernels, sort, kind)
        return c.Part(run=run, data=ctypes.addressof(data))

    def _structure(self, description: Description) -> ctypes.Structure:
        fields = {
            name: self._value(name, getattr(description, name))
            for name in type(description).model_fields
            if name != "kind"
        }
        kind = c.structure_of(type(description))
        return kind(**{name: value for name, value in fields.items() if value is not None})

    def _value(self, name: str, value: Any) -> Any:
        """What a field of a structure is to be, for that of a description."""
        if isinstance(value, Norm):
            return self.norm(value)
        if isinstance(value, Product):
            return self.linear(value)
        if isinstance(value, Pair):
            return self.linear(value.first, value.second)
        if isinstance(value, Description):
            return self._structure(value)
        return self._choice(name, value) if isinstance(value, str) else value

    def _choice(self, name: str, word: str) -> int:
        known = c.choices(self._kernels, name)
        if word not in known:
            raise EngineError(f"the kernels know no {name} {word!r}, only {', '.join(known)}")
        return known.index(word)

    def embedding(self) -> dict[str, int]:
        """The decoder's fields of the token embedding, whose rows are read where the file is."""
        name, size = self._decoder.embedding, self._decoder.vocab_size
        if f"{name}/{_MARKS['int8_block']}" in self._tensors and name not in self._tensors:
            groups = round_up(self._decoder.hidden_size, c.GROUP) // c.GROUP
            rows = self._rounded(name, "int8_block", size, self._decoder.hidden_size, groups)
            return {
                "embedding": rows["levels"],
                "embedding_scales": rows["scales"],
                "embedding_dtype": self._choice("embedding_dtype", "int8_block"),
            }
        array = self._tensor(name, None, (size, self._decoder.hidden_size))
        dtype = self._choice("embedding_dtype", self._tensors[name].dtype)
        return {"embedding": array.ctypes.data, "embedding_dtype": dtype}

    def norm(self, norm: Norm) -> c.Norm:
        """A norm."""
        weight = self._tensor(norm.weight, "float32", (norm.width,)).ctypes.data
        return c.Norm(run=c.function(self._kernels, "norm", norm.kind), weight=weight, eps=norm.eps)

    def linear(self, *products: Product) -> c.Linear:
        """Pack a product; of two of the same shape, vectors of their outputs alternate."""
        first, every = products[0], len(products)
        storage = self._storage(first)
        outputs, columns = first.outputs, first.columns
        padded = round_up(columns, c.GROUP)
        panels = -(-outputs * every // c.PANEL)
        groups = 1 if storage == "int8" else padded // c.GROUP
        width, scale_type = (1, np.float32) if storage == "int8" else (groups, np.float16)
        panel_bytes = c.PANEL // 2 if storage == "int4" else c.PANEL
        levels = self._arena.zeros(panels, padded, panel_bytes, dtype=np.uint8)
        scales = self._arena.zeros(panels, width, c.PANEL, dtype=scale_type)
        linear = c.Linear(
            storage=self._choice("weights", storage),
            inputs=columns,
            columns=padded,
            outputs=outputs,
            panels=panels,
            levels=levels.ctypes.data,
            scales=scales.ctypes.data,
        )
        if storage != "int8":
            totals = self._arena.zeros(panels, groups, c.PANEL, dtype=np.float16)
            linear.totals = totals.ctypes.data
        if storage == "int4":
            minima = self._arena.zeros(panels, groups, c.PANEL, dtype=np.float16)
            linear.minima = minima.ctypes.data
        for offset, product in enumerate(products):
            packing = c.Packing(
                storage=linear.storage,
                outputs=outputs,
                columns=columns,
                padded=padded,
                every=every,
                offset=offset,
                to_levels=linear.levels,
                to_scales=linear.scales,
                to_minima=linear.minima,
                to_totals=linear.totals,
                **self._rounded(product.name, storage, outputs, columns, groups),
            )
            self._pack(ctypes.byref(packing))
        if first.bias_name is not None:
            values = self._arena.zeros(panels * c.PANEL)
            values[:outputs] = self._tensor(first.bias_name, "float32", (outputs,))
            linear.bias = values.ctypes.data
        return linear

    def _storage(self, product: Product) -> str:
        """How a product's weights are stored, which is not the same for all of an engine."""
        for storage, mark in _MARKS.items():
            if f"{product.name}/{mark}" in self._tensors:
                return storage
        raise EngineError(f"{self._path} has no {product.name}: build the engine anew")

    def _rounded(
        self, name: str, storage: str, outputs: int, columns: int, groups: int
    ) -> dict[str, int]:
        """The addresses of a product's levels and what belongs to them, in the file."""
        mark = f"{name}/{_MARKS[storage]}"
        if storage == "int8":
            levels = self._tensor(mark, "int8", (columns, outputs))
            scales = self._tensor(f"{name}/scales", "float32", (outputs,))
            return {"levels": levels.ctypes.data, "scales": scales.ctypes.data}
        group_bytes = c.GROUP // 2 if storage == "int4" else c.GROUP
        found = {"levels": self._tensor(mark, "uint8", (outputs, groups, group_bytes))}
        found["scales"] = self._tensor(f"{name}/scales", "float32", (outputs, groups))
        if storage == "int4":
            found["middles"] = self._tensor(f"{name}/middles", "float32", (outputs, groups))
        return {field: array.ctypes.data for field, array in found.items()}

    def _tensor(self, name: str, dtype: str | None, shape: tuple[int, ...]) -> NDArray[Any]:
        """A tensor of the file, checked; one of bfloat16 comes as uint16."""
        tensor = self._tensors.get(name)
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


def round_up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


class Arena:
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
        size_bytes = round_up(count * np.dtype(dtype).itemsize, self._LINE_BYTES)
        if not self.mappings or self._used + size_bytes > len(self.mappings[-1]):
            length = max(round_up(size_bytes, self._PAGE_BYTES), self._MAPPING_BYTES)
            mapping = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            mapping.madvise(mmap.MADV_HUGEPAGE)
            self.mappings.append(mapping)
            self._used = 0
        offset, self._used = self._used, self._used + size_bytes
        array: NDArray[Any] = np.frombuffer(self.mappings[-1], dtype, count, offset)
        return array.reshape(shape)
