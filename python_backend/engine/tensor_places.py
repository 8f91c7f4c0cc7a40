"""Where an engine's weights lie: the ``tensors.json`` beside them.

The graphs say it too, to ONNX Runtime. This says it to the native decoder, which reads the same
weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from contract.errors import EngineError
from python_backend.engine.engine_config import faults
from python_backend.engine.layers import Description

TENSORS_FILE = "tensors.json"

TensorType: TypeAlias = Literal["float32", "float16", "bfloat16", "int8", "uint8"]


class Tensor(Description):
    """Where a tensor lies in the weights file.

    Attributes:
        dtype: Of its elements, as numpy and ml_dtypes call it.
        shape: Its dimensions.
        offset: Its first byte.
    """

    dtype: TensorType
    shape: tuple[int, ...]
    offset: int = Field(ge=0)


_PLACES = TypeAdapter(dict[str, Tensor])


def load_places(folder: Path) -> dict[str, Tensor]:
    """Where each tensor of an engine folder lies, by its name.

    Raises:
        EngineError: The file is missing, or not such a list.
    """
    path = folder / TENSORS_FILE
    try:
        return _PLACES.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise EngineError(f"{path} is missing: build the engine anew") from None
    except ValidationError as error:
        raise EngineError(f"{path} does not list tensors: {faults(error)}") from None


def save_places(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write ``tensors.json`` into an engine folder."""
    (folder / TENSORS_FILE).write_bytes(_PLACES.dump_json(tensors) + b"\n")
