"""A GGUF file, open: its settings by name, and its tensors in the shapes that they had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, overload

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize
from numpy.typing import NDArray

from build.build_errors import CheckpointError
from build.from_gguf.gguf_header import HeaderError, check_header

MAGIC = b"GGUF"

_PLAIN = {Type.F32: "F32", Type.F16: "F16", Type.BF16: "BF16"}
TYPES = (
    *_PLAIN,
    *(Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1),
    *(Type.Q4_K, Type.Q5_K, Type.Q6_K),
)
"""What tensors may be stored as."""

_T = TypeVar("_T")
_NO_DEFAULT: Any = object()


class GGUFFile:
    """An open GGUF file.

    Attributes:
        path: Where it lies.
        tensors: Its tensors, by its own names.

    Raises:
        CheckpointError: It is missing, truncated or damaged, or its bytes are in the wrong order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                magic = file.read(len(MAGIC))
                if magic != MAGIC:
                    raise CheckpointError(f"{path} is no GGUF file: it begins with {magic!r}")
                check_header(file, path.stat().st_size - len(MAGIC))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
        except HeaderError as error:
            raise CheckpointError(f"{path} is truncated or damaged: {error}") from None
        try:
            self._reader = GGUFReader(path)
            self._fields = {name: each.contents() for name, each in self._reader.fields.items()}
        except Exception as error:  # the library finds damage by what breaks on its way
            raise CheckpointError(
                f"{path} is truncated or damaged, download it again: {error}"
            ) from None
        self.tensors = {each.name: each for each in self._reader.tensors}
        for each in self.tensors.values():
            if each.tensor_type not in TYPES:
                raise CheckpointError(
                    f"{path} stores {each.name} as {each.tensor_type.name}; what is read: "
                    f"{', '.join(kind.name for kind in TYPES)}"
                )

    def names(self) -> list[str]:
        """The names of its settings."""
        return sorted(self._fields)

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    @overload
    def get(self, name: str, kind: type[_T]) -> _T: ...

    @overload
    def get(self, name: str, kind: type[_T], default: _T | None) -> _T | None: ...

    def get(self, name: str, kind: type[_T], default: Any = _NO_DEFAULT) -> _T | None:
        """A setting.

        Raises:
            CheckpointError: It is missing, and there is no default, or of another kind.
        """
        value = self._fields.get(name, default)
        if value is _NO_DEFAULT:
            raise CheckpointError(f"{self.path} has no {name}")
        if kind is float and type(value) is int:
            value = float(value)
        if value is not default and type(value) is not kind:
            raise CheckpointError(f"{self.path}: {name} is {str(value)[:60]!r}, no {kind.__name__}")
        return value

    def items(self, name: str, kind: type[_T]) -> list[_T]:
        """A setting that is a list.

        Raises:
            CheckpointError: It is missing, or something in it is of another kind.
        """
        values = self.get(name, list)
        wrong = next((each for each in values if type(each) is not kind), None)
        if wrong is not None:
            raise CheckpointError(f"{self.path}: {name} holds {wrong!r}, no {kind.__name__}")
        return values

    def vector(self, name: str) -> list[float]:
        """A small tensor that is a setting: one of numbers by which positions turn.

        Raises:
            CheckpointError: It has more than one dimension, or holds what is no number.
        """
        values = Stored(self.tensors[name])[:]
        if values.ndim != 1 or not np.isfinite(values).all():
            raise CheckpointError(f"{self.path}: {name} is no list of numbers")
        return [float(each) for each in values]


@dataclass(frozen=True)
class _Found:
    """A file, the same by whatever name it is opened."""

    path: Path = field(compare=False)
    is_it: tuple[int, ...]


def open_gguf(path: Path) -> GGUFFile:
    """Open a file, or take the one that was opened last: reading a tokenizer takes seconds.

    Raises:
        CheckpointError: As `GGUFFile`.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    return _opened(_Found(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)))


@lru_cache(maxsize=1)
def _opened(found: _Found) -> GGUFFile:
    return GGUFFile(found.path)


class Stored:
    """A tensor of a file, read by rows as a tensor of safetensors is.

    Args:
        tensor: As the file has it.
        order: The file's row for each of ours; None where they are in order.
        offset: Subtracted from each value.
    """

    def __init__(
        self, tensor: ReaderTensor, order: NDArray[np.int64] | None = None, offset: float = 0.0
    ) -> None:
        self._tensor = tensor
        self._order = order
        self._offset = offset

    def get_shape(self) -> Sequence[int]:
        """Rows first: GGUF names the innermost dimension first."""
        return [int(size) for size in reversed(self._tensor.shape)]

    def get_dtype(self) -> str:
        """As safetensors names it: what is stored in blocks is read as float32."""
        return "F32" if self._offset else _PLAIN.get(self._tensor.tensor_type, "F32")

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        stored = (
            self._tensor.data[rows] if self._order is None else self._tensor.data[self._order[rows]]
        )
        kind = self._tensor.tensor_type
        if kind == Type.BF16:
            values: NDArray[Any] = np.ascontiguousarray(stored).view(ml_dtypes.bfloat16)
        elif kind in _PLAIN:
            values = np.array(stored)
        else:
            values = dequantize(stored, kind)
        return values - np.float32(self._offset) if self._offset else values
