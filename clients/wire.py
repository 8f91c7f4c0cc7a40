"""The ensemble's inputs as values: checked against the contract, then encoded for the wire.

A request is a mapping of input names to flat lists of values, one request a batch. Names, types and
shapes come from `contract.models`; this module only knows how a type looks in Python.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.client_errors import InvalidRequestError
from contract.models import ENSEMBLE_MODEL
from contract.tensors import Value

Values = Mapping[str, Sequence[Value]]

_INPUTS = {tensor.name: tensor for tensor in ENSEMBLE_MODEL.inputs}
_DTYPES: dict[str, type[Any]] = {
    "BOOL": np.bool_,
    "INT32": np.int32,
    "UINT64": np.uint64,
    "FP32": np.float32,
    "STRING": np.object_,
}

_BOUNDS = {"INT32": (-(2**31), 2**31 - 1), "UINT64": (0, 2**64 - 1)}


def check(inputs: Values) -> None:
    """Check that values fit the types of the inputs that they are for.

    What a value may mean is the server's to say; here is only what the wire cannot carry, so that
    both protocols refuse the same.

    Raises:
        InvalidRequestError: A value is of another type, or out of the type's range.
    """
    for name, values in inputs.items():
        for value in values:
            problem = _problem(_INPUTS[name].data_type, value)
            if problem:
                raise InvalidRequestError(f"{name} is {value!r}; it must be {problem}", name)


def _problem(data_type: str, value: Value) -> str | None:
    """What a value should have been, None if it is."""
    if data_type == "STRING":
        return None if isinstance(value, str) and _is_unicode(value) else "Unicode text"
    if data_type == "BOOL":
        return None if isinstance(value, bool) else "True or False"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "a number"
    if data_type == "FP32":
        return None if math.isfinite(value) else "a finite number"
    least, most = _BOUNDS[data_type]
    if not isinstance(value, int) or not least <= value <= most:
        return f"a whole number from {least} to {most}"
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def wire_type(name: str) -> str:
    """An input's type as the inference protocol spells it."""
    data_type = _INPUTS[name].data_type
    return "BYTES" if data_type == "STRING" else data_type


def to_array(name: str, values: Sequence[Value]) -> NDArray[Any]:
    """An input's tensor with its batch dimension: ``[1, values]``, strings as UTF-8 ``bytes``."""
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return np.array([encoded], dtype=_DTYPES[_INPUTS[name].data_type])


def to_json(name: str, values: Sequence[Value]) -> Value | list[Value]:
    """An input as Triton's generate endpoints take it: a value alone, or a list of any length."""
    return list(values) if -1 in _INPUTS[name].dims else values[0]
