"""A checkpoint's tensors under one set of names, whichever of them it stores packed together.

Phi-3 stores queries, keys and values as one matrix, and gate and up as another. Its parts are rows
of it, so a view gives them the names that other architectures store them under, and nothing after
it knows of packing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from build.build_errors import CheckpointError
from build.checkpoint import Checkpoint


class Tensors(Protocol):
    """Tensors by name."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""

    def dtype(self, name: str) -> np.dtype[Any]:
        """The dtype that a tensor is stored in."""

    def tensor(self, name: str) -> NDArray[Any]:
        """Read a whole tensor, in the dtype it is stored in."""

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """Read a matrix as consecutive blocks of whole rows."""


class _Rows(NamedTuple):
    """Some rows of a packed matrix."""

    packed: str
    rows: range


class UnpackedTensors:
    """A checkpoint's tensors, with the parts of packed matrices as tensors of their own.

    Args:
        checkpoint: The checkpoint, open.
        packed: Each packed matrix, with its parts' names and rows, in order.

    Raises:
        CheckpointError: A packed matrix is missing, or its rows are not its parts'.
    """

    def __init__(
        self, checkpoint: Checkpoint, packed: Mapping[str, Sequence[tuple[str, int]]]
    ) -> None:
        self._checkpoint = checkpoint
        self._parts: dict[str, _Rows] = {}
        for name, parts in packed.items():
            stored, start = checkpoint.shape(name), 0
            for part, rows in parts:
                self._parts[part] = _Rows(name, range(start, start + rows))
                start += rows
            if len(stored) != 2 or stored[0] != start:
                raise CheckpointError(
                    f"{name} has shape {list(stored)}, but config.json asks for {start} rows"
                )

    def shape(self, name: str) -> tuple[int, ...]:
        part = self._parts.get(name)
        if part is None:
            return self._checkpoint.shape(name)
        return (len(part.rows), self._checkpoint.shape(part.packed)[1])

    def dtype(self, name: str) -> np.dtype[Any]:
        part = self._parts.get(name)
        return self._checkpoint.dtype(name if part is None else part.packed)

    def tensor(self, name: str) -> NDArray[Any]:
        if name in self._parts:
            return np.concatenate(list(self.blocks(name)))
        return self._checkpoint.tensor(name)

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        part = self._parts.get(name)
        if part is None:
            return self._checkpoint.blocks(name)
        return self._checkpoint.blocks(part.packed, part.rows)
