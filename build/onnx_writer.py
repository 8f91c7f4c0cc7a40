"""ONNX graphs under construction, the large weights of all of them streamed to one file.

A graph knows nodes, constants and weights by name, and nothing of transformers. A weight goes to
disk block by block while it is read, so no more than a block of it has to be in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from build.build_errors import CheckpointError
from python_backend.engine.tensor_places import Tensor, TensorType

# The IR version and operator sets that the graphs need, not the newest that `onnx` could write.
_IR_VERSION = 10
CONTRIB = "com.microsoft"
_OPSETS = {"": 21, CONTRIB: 1}
# Memory mapping wants weights to begin on a page.
_ALIGNMENT = 4096


class _Weight(NamedTuple):
    """Where a weight lies in the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    length: int


class WeightsFile:
    """The file that holds the weights of several graphs, each weight once, on pages of its own.

    Use it as a context manager around the calls that add weights.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file = path.open("wb")
        self._end = 0
        self._weights: dict[str, _Weight] = {}

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def __getitem__(self, name: str) -> _Weight:
        return self._weights[name]

    def tensors(self) -> dict[str, Tensor]:
        """Where each weight lies."""
        return {
            name: Tensor(
                dtype=cast(TensorType, str(weight.dtype)),
                shape=weight.shape,
                offset=weight.offset,
            )
            for name, weight in self._weights.items()
        }

    def add(
        self,
        name: str,
        dtype: np.dtype[Any],
        shape: Sequence[int],
        blocks: Iterable[NDArray[Any]],
        transposed: bool = False,
    ) -> None:
        """Write a weight while its rows arrive; one that is there already stays.

        Args:
            name: The weight's name in every graph.
            dtype: How its elements are stored.
            shape: The shape that it is to have.
            blocks: Consecutive rows of it; with ``transposed``, of its transpose.
            transposed: Write a matrix whose columns arrive.
        """
        if name in self._weights:
            return
        offset = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        write = self._write_columns if transposed else self._write_rows
        length = write(offset, dtype, shape, (_convert(name, block, dtype) for block in blocks))
        weight = _Weight(dtype, tuple(shape), offset, length)
        if length != int(np.prod(shape)) * dtype.itemsize:
            raise ValueError(f"{name}: {length} bytes for {dtype} {weight.shape}")
        self._weights[name] = weight
        self._end = offset + length

    def _write_rows(
        self,
        offset: int,
        dtype: np.dtype[Any],
        shape: Sequence[int],
        blocks: Iterable[NDArray[Any]],
    ) -> int:
        self._file.seek(offset)
        for block in blocks:
            self._file.write(np.ascontiguousarray(block).view(np.uint8).data)
        return self._file.tell() - offset

    def _write_columns(
        self,
        offset: int,
        dtype: np.dtype[Any],
        shape: Sequence[int],
        blocks: Iterable[NDArray[Any]],
    ) -> int:
        """Write each block's part of every row to where the row lies."""
        row_bytes = shape[1] * dtype.itemsize
        column_bytes = 0
        for block in blocks:
            columns = np.ascontiguousarray(block.T).view(np.uint8)
            for row, part in enumerate(columns):
                self._file.seek(offset + row * row_bytes + column_bytes)
                self._file.write(part.data)
            column_bytes += columns.shape[1]
        return shape[0] * column_bytes


class OnnxGraph:
    """Collects one graph, whose large weights go to a :class:`WeightsFile`."""

    def __init__(self, name: str, weights: WeightsFile) -> None:
        self._graph = onnx.GraphProto(name=name)
        self._weights = weights
        self._constants: set[str] = set()

    def input(self, name: str, dtype: type, shape: Sequence[int | str]) -> str:
        """Declare an input of the graph; a string in ``shape`` names a dimension that varies."""
        self._graph.input.append(_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: type, shape: Sequence[int | str]) -> None:
        """Declare that the value ``name`` is an output of the graph."""
        self._graph.output.append(_value_info(name, dtype, shape))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a small constant, kept in the graph itself; one that is there already stays."""
        if name not in self._constants:
            self._constants.add(name)
            self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def weight(
        self,
        name: str,
        dtype: np.dtype[Any],
        shape: Sequence[int],
        blocks: Iterable[NDArray[Any]],
        transposed: bool = False,
    ) -> str:
        """Add a large constant, as :meth:`WeightsFile.add` does; graphs may share it."""
        self._weights.add(name, dtype, shape, blocks, transposed)
        weight = self._weights[name]
        tensor = self._graph.initializer.add(
            name=name,
            dims=weight.shape,
            data_type=tensor_type(weight.dtype),
            data_location=onnx.TensorProto.EXTERNAL,
        )
        location = {
            "location": self._weights.name,
            "offset": weight.offset,
            "length": weight.length,
        }
        for key, value in location.items():
            tensor.external_data.add(key=key, value=str(value))
        return name

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        output: str,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add an operator with one output, and return the output's name."""
        return self.multi_node(op, inputs, [output], domain, **attributes)[0]

    def multi_node(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str = "",
        **attributes: Any,
    ) -> Sequence[str]:
        """Add an operator with several outputs; ``""`` skips an optional input or output."""
        name = next(output for output in outputs if output)
        self._graph.node.append(
            helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes)
        )
        return outputs

    def save(self, path: Path) -> None:
        """Write the graph, in the folder of its weights."""
        model = helper.make_model(
            self._graph,
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid(*opset) for opset in _OPSETS.items()],
            producer_name="trireme",
        )
        path.write_bytes(model.SerializeToString(deterministic=True))


def _convert(name: str, block: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A block of a weight in the dtype that it is stored in, which has to hold it."""
    if block.dtype == dtype:
        return block
    with np.errstate(over="ignore"):
        converted = block.astype(dtype)
    if dtype == np.float16 and not np.isfinite(converted).all():
        raise CheckpointError(
            f"{name} has weights beyond what fp16 can hold ({np.finfo(np.float16).max:.0f}): "
            "build it in another precision"
        )
    return converted


def tensor_type(dtype: np.dtype[Any]) -> int:
    """The ``TensorProto`` type of a numpy dtype (bfloat16 is that of ``ml_dtypes``)."""
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def _value_info(name: str, dtype: type, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, tensor_type(np.dtype(dtype)), shape)
