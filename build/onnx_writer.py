"""An ONNX graph under construction, its large weights streamed to a file beside it.

The writer knows nodes, constants and values by name, and nothing of transformers. A weight goes to
disk block by block while it is read, so no more than a block of it has to be in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

# The IR version and operator sets that the graph needs, not the newest that `onnx` could write.
_IR_VERSION = 10
_OPSETS = {"": 21, "com.microsoft": 1}
# Memory mapping wants weights to begin on a page.
_ALIGNMENT = 4096


class OnnxWriter:
    """Collects a graph and writes it as ``<name>`` with its weights in ``<name>.data``.

    Use it as a context manager around the calls that add weights; :meth:`save` comes last.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data_name = f"{path.name}.data"
        self._data = (path.parent / self._data_name).open("wb")
        self._graph = onnx.GraphProto(name=path.stem)

    def __enter__(self) -> OnnxWriter:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._data.close()

    def input(self, name: str, dtype: type, shape: Sequence[int | str]) -> str:
        """Declare an input of the graph; a string in ``shape`` names a dimension that varies."""
        self._graph.input.append(_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: type, shape: Sequence[int | str]) -> None:
        """Declare that the value ``name`` is an output of the graph."""
        self._graph.output.append(_value_info(name, dtype, shape))

    def declare(self, name: str, dtype: type, shape: Sequence[int | str]) -> str:
        """State the type and shape of a value where ONNX Runtime could not infer them."""
        self._graph.value_info.append(_value_info(name, dtype, shape))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a small constant, kept in the graph itself."""
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def weight(
        self,
        name: str,
        dtype: np.dtype[Any],
        shape: Sequence[int],
        blocks: Iterable[NDArray[Any]],
    ) -> str:
        """Add a large constant, written to the data file as the blocks of its rows arrive."""
        offset = -(-self._data.tell() // _ALIGNMENT) * _ALIGNMENT
        self._data.seek(offset)
        for block in blocks:
            self._data.write(np.ascontiguousarray(block, dtype).view(np.uint8).data)
        length = self._data.tell() - offset
        if length != int(np.prod(shape)) * dtype.itemsize:
            raise ValueError(f"{name}: {length} bytes for {dtype} {tuple(shape)}")
        tensor = self._graph.initializer.add(
            name=name,
            dims=shape,
            data_type=tensor_type(dtype),
            data_location=onnx.TensorProto.EXTERNAL,
        )
        location = {"location": self._data_name, "offset": offset, "length": length}
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

    def save(self) -> None:
        """Write the graph."""
        self._data.close()
        model = helper.make_model(
            self._graph,
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid(*opset) for opset in _OPSETS.items()],
            producer_name="trireme",
        )
        self._path.write_bytes(model.SerializeToString(deterministic=True))


def tensor_type(dtype: np.dtype[Any]) -> int:
    """The ``TensorProto`` type of a numpy dtype (bfloat16 is that of ``ml_dtypes``)."""
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def _value_info(name: str, dtype: type, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, tensor_type(np.dtype(dtype)), shape)
