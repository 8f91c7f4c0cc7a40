"""As much of Triton's Python API as the models use, so that they can run without a server.

Import it before a model: it takes the place of ``triton_python_backend_utils``, which exists only
inside Triton.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.tensors import Model

_NUMPY = {
    "BOOL": np.bool_,
    "FP16": np.float16,
    "FP32": np.float32,
    "INT32": np.int32,
    "INT64": np.int64,
    "STRING": np.object_,
    "UINT64": np.uint64,
    "UINT8": np.uint8,
}


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self._name = name
        self._array = array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class Metric:
    """One series of a family, as it is published."""

    def __init__(self, buckets: list[float]) -> None:
        self.value = 0.0
        self.observed: list[float] = []
        self.buckets = buckets

    def set(self, value: float) -> None:
        self.value = value

    def increment(self, value: float) -> None:
        assert value >= 0
        self.value += value

    def observe(self, value: float) -> None:
        self.observed.append(value)


class MetricFamily:
    GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"
    made: dict[str, MetricFamily]

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.description, self.kind = description, kind
        self.series: dict[frozenset[tuple[str, str]], Metric] = {}
        MetricFamily.made[name] = self

    def Metric(  # noqa: N802
        self, labels: dict[str, str], buckets: list[float] | None = None
    ) -> Metric:
        return self.series.setdefault(frozenset(labels.items()), Metric(buckets or []))

    @property
    def value(self) -> float:
        """Of the only series."""
        (metric,) = self.series.values()
        return metric.value


MetricFamily.made = {}


class Logger:
    """What the models log, by level."""

    logged: list[tuple[str, str]] = []  # noqa: RUF012 - one log for all

    @classmethod
    def log_error(cls, message: str) -> None:
        cls.logged.append(("error", message))

    @classmethod
    def log_info(cls, message: str) -> None:
        cls.logged.append(("info", message))

    @classmethod
    def log_warn(cls, message: str) -> None:
        cls.logged.append(("warning", message))


class TritonError:
    INTERNAL, INVALID_ARG, UNAVAILABLE = 1, 3, 4

    def __init__(self, message: str, code: int | None = None) -> None:
        self.message = message
        self.code = code


class InferenceResponse:
    def __init__(self, tensors: Iterable[Tensor] = (), error: TritonError | None = None) -> None:
        self.outputs = {tensor.name(): tensor.as_numpy() for tensor in tensors}
        self.error = error


@dataclass
class Request:
    """A request that a model is given; also the sender of its responses."""

    tensors: dict[str, Tensor]
    cancelled: bool = False
    timeout_us: int = 0
    parameters_json: str = "{}"
    id: str = "r"
    responses: list[InferenceResponse] = field(default_factory=list)
    ended: bool = False

    def inputs(self) -> list[Tensor]:
        return list(self.tensors.values())

    def request_id(self) -> str:
        return self.id

    def timeout(self) -> int:
        return self.timeout_us

    def parameters(self) -> str:
        return self.parameters_json

    def is_cancelled(self) -> bool:
        return self.cancelled

    def get_response_sender(self) -> Request:
        return self

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        assert not self.ended
        self.responses += [] if response is None else [response]
        self.ended = bool(flags)


class InferenceRequest:
    """A request that a model makes.

    Attributes:
        made: All that were sent.
        answer: What another model answers.
    """

    made: list[InferenceRequest]
    answer: Callable[[InferenceRequest], Iterable[OtherResponse]]

    def __init__(
        self,
        model_name: str,
        inputs: list[Tensor],
        request_id: str = "",
        requested_output_names: Sequence[str] = (),
    ) -> None:
        self.model_name = model_name
        self.inputs = {tensor.name(): tensor.as_numpy() for tensor in inputs}
        self.request_id = request_id
        self.requested_output_names = requested_output_names

    def exec(self, decoupled: bool = False) -> Any:
        """All responses of a decoupled model, or the only one of another."""
        InferenceRequest.made.append(self)
        responses = InferenceRequest.answer(self)
        return responses if decoupled else next(iter(responses))


InferenceRequest.made = []
InferenceRequest.answer = lambda request: []


class OtherError:
    """Another model's error, as it shows to the one that called it."""

    def __init__(self, message: str, code: int) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class OtherResponse:
    """Another model's response, as it shows to the one that called it."""

    def __init__(self, error: OtherError | None = None, **outputs: NDArray[Any]) -> None:
        self.outputs = outputs
        self._error = error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> OtherError | None:
        return self._error


def get_output_tensor_by_name(response: OtherResponse, name: str) -> Tensor | None:
    return Tensor(name, response.outputs[name]) if name in response.outputs else None


def make_request(model: Model, cancelled: bool = False, **inputs: Any) -> Request:
    """A request to a model, its inputs in the types of the contract."""
    types = {tensor.name: _NUMPY[tensor.data_type] for tensor in model.inputs}
    tensors = {name: Tensor(name, np.array(value, types[name])) for name, value in inputs.items()}
    return Request(tensors, cancelled)


def initialize_args(folder: Path, **parameters: str) -> dict[str, str]:
    """What Triton initializes a model with whose version folder is ``folder/1``."""
    values = {name: {"string_value": text} for name, text in parameters.items()}
    policy = {"decoupled": True}
    config = {"name": folder.name, "parameters": values, "model_transaction_policy": policy}
    return {
        "model_config": json.dumps(config),
        "model_name": folder.name,
        "model_repository": str(folder),
        "model_version": "1",
    }


def undecoupled(args: dict[str, str]) -> dict[str, str]:
    """The same of a model that answers a request once."""
    config = json.loads(args["model_config"])
    config["model_transaction_policy"]["decoupled"] = False
    return {**args, "model_config": json.dumps(config)}


_module: Any = ModuleType("triton_python_backend_utils")
_module.Tensor = Tensor
_module.Logger = Logger
_module.MetricFamily = MetricFamily
_module.TritonError = TritonError
_module.InferenceRequest = InferenceRequest
_module.InferenceResponse = InferenceResponse
_module.get_output_tensor_by_name = get_output_tensor_by_name
_module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
sys.modules["triton_python_backend_utils"] = _module
