"""What the three models share in talking to Triton's Python backend."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

import python_backend
from contract import error_text
from contract.bounds import MAX_PARAMETERS_BYTES, Bound
from contract.error_text import Status
from contract.errors import (
    EngineError,
    InvalidRequestError,
    RequestTimeoutError,
    ServerBusyError,
)
from contract.model_settings import SafetySettings
from contract.tensors import Tensor
from python_backend.engine.engine_config import served_version
from python_backend.safety.policy import PolicyError
from python_backend.safety.policy_store import PolicyStore


def model_config(args: dict[str, str]) -> dict[str, Any]:
    """Triton's configuration of the model that is being initialized."""
    config: dict[str, Any] = json.loads(args["model_config"])
    return config


def resolve(args: dict[str, str], folder: str) -> Path:
    """What a setting names, relative to the model's version folder.

    Raises:
        EngineError: The path ends in ``*``, and no version there has a tokenizer.
    """
    version = Path(args["model_repository"]) / args["model_version"]
    path = version / folder
    if path.name != "*":
        return path.resolve()
    model = path.parent.resolve()
    served = served_version(model, holding="tokenizer.json")
    if served is None:
        raise EngineError(
            f"no version in {model} has a tokenizer: build an engine first (make build-engines)"
        )
    return served


def open_policies(settings: SafetySettings) -> PolicyStore:
    """The safety policies that the settings name, watched for changes."""
    path = (Path(python_backend.__file__).resolve().parents[1] / settings.policy_file).resolve()

    def on_reload(error: PolicyError | None) -> None:
        if error is None:
            pb_utils.Logger.log_info(f"{path}: the new safety policies are in force")
        else:
            pb_utils.Logger.log_error(f"the former safety policies stay in force: {error}")

    return PolicyStore(path, settings.policy_check_period_ms / 1000, on_reload)


def refusal(error: Exception) -> pb_utils.InferenceResponse:
    """The response that tells a client why it gets no answer, or no more of it.

    What nobody foresaw is logged as well: it is for the one who runs the server to look at.
    """
    codes = pb_utils.TritonError
    if isinstance(error, InvalidRequestError):
        text = error_text.write(Status.INVALID_ARGUMENT, str(error), error.param, error.code)
        return _failed(text, codes.INVALID_ARG)
    if isinstance(error, ServerBusyError):
        return _failed(error_text.write(Status.UNAVAILABLE, str(error)), codes.UNAVAILABLE)
    if isinstance(error, RequestTimeoutError):  # Triton has no code for it
        return _failed(error_text.write(Status.DEADLINE_EXCEEDED, str(error)), codes.UNAVAILABLE)
    pb_utils.Logger.log_error(f"a request failed: {error!r}")
    message = str(error) or repr(error)
    return _failed(error_text.write(Status.INTERNAL, message), codes.INTERNAL)


def passed_on(error: pb_utils.TritonError) -> pb_utils.InferenceResponse:
    """The response that hands on another model's error."""
    code = error.code()
    status = Status.INTERNAL
    if code == pb_utils.TritonError.INVALID_ARG:
        status = Status.INVALID_ARGUMENT
    elif code == pb_utils.TritonError.UNAVAILABLE:
        status = Status.UNAVAILABLE
    return _failed(error_text.write(status, error.message()), code)


def _failed(text: str, code: Any) -> pb_utils.InferenceResponse:
    """The code becomes the status over HTTP and of a unary call; a stream has the text alone."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))


def triton_tensor(tensor: Tensor, array: NDArray[Any]) -> pb_utils.Tensor:
    """A tensor of the contract with its values."""
    return pb_utils.Tensor(tensor.name, array)


class Inputs:
    """The inputs of one request, whose rows are its batch.

    Attributes:
        text_bytes: How much text was read so far.
    """

    def __init__(self, request: pb_utils.InferenceRequest) -> None:
        self.text_bytes = 0
        self._parameters: dict[str, Any] | None = None
        self._request = request
        # Read once: Triton's own look-up by name makes all of them anew each time.
        self._tensors: dict[str, pb_utils.Tensor] = {
            tensor.name(): tensor for tensor in request.inputs()
        }

    def parameters(self) -> dict[str, Any]:
        """The request's parameters, as its client named them.

        Raises:
            InvalidRequestError: They are too many.
        """
        if self._parameters is None:
            text = self._request.parameters() or "{}"
            if len(text) > MAX_PARAMETERS_BYTES:
                raise InvalidRequestError(
                    f"the request parameters have {len(text)} bytes; they must have at most "
                    f"{MAX_PARAMETERS_BYTES}"
                )
            self._parameters = json.loads(text)
        return self._parameters

    def timeout_us(self) -> int:
        """The request's timeout in microseconds; 0 is none.

        Triton's ``generate`` endpoints leave it among the parameters, where a client may have
        written anything.

        Raises:
            InvalidRequestError: It is not a number of microseconds.
        """
        timeout_us: Any = self._request.timeout() or self.parameters().get("timeout", 0)
        if not isinstance(timeout_us, int) or isinstance(timeout_us, bool) or timeout_us < 0:
            raise InvalidRequestError(
                f"timeout is {timeout_us!r}; it must be a whole number of microseconds, 0 or more"
            )
        return timeout_us

    def array(self, tensor: Tensor) -> NDArray[Any] | None:
        """An input as ``[batch, …]``, or None where the request leaves it out."""
        given = self._tensors.get(tensor.name)
        return None if given is None else given.as_numpy()

    def given(self, tensors: Iterable[Tensor]) -> Iterator[tuple[Tensor, NDArray[Any]]]:
        """Those of some inputs that the request has."""
        return (
            (tensor, given.as_numpy())
            for tensor in tensors
            if (given := self._tensors.get(tensor.name)) is not None
        )

    def required(self, tensor: Tensor) -> NDArray[Any]:
        """An input that the contract has in every request.

        Raises:
            InvalidRequestError: It is missing.
        """
        array = self.array(tensor)
        if array is None:
            raise InvalidRequestError(f"{tensor.name} is missing", tensor.name)
        return array

    def scalars(self, tensor: Tensor, batch: int) -> list[Any] | None:
        """One value for each row, or None where the request leaves the input out.

        Raises:
            InvalidRequestError: The input has another number of rows than the request.
        """
        array = self.array(tensor)
        if array is None:
            return None
        if array.size != batch:
            raise InvalidRequestError(
                f"{tensor.name} has {array.size} values; "
                f"it must have one for each of the {batch} rows",
                tensor.name,
            )
        values: list[Any] = array.reshape(-1).tolist()
        return values

    def texts(
        self, tensor: Tensor, shown_as: str, bound: Bound | None = None
    ) -> list[list[str]] | None:
        """Strings of each row, or None where the request leaves the input out.

        Args:
            tensor: The input.
            shown_as: What the client calls it, for the error.
            bound: What a row may be.

        Raises:
            InvalidRequestError: A row is out of bounds, or a string is not UTF-8.
        """
        array = self.array(tensor)
        if array is None:
            return None
        for row in array.reshape(len(array), -1):
            size = sum(map(len, row))
            self.text_bytes += size
            if bound is not None:
                _check_bound(shown_as, bound, len(row), size)
        return [[_decode(value, shown_as) for value in row.reshape(-1)] for row in array]


def _check_bound(name: str, bound: Bound, count: int, size: int) -> None:
    if count > bound.most:
        raise InvalidRequestError(
            f"{name} has {count} texts; it must have at most {bound.most}", name
        )
    if size > bound.most_bytes:
        raise InvalidRequestError(
            f"{name} has {size} bytes; it must have at most {bound.most_bytes}",
            name,
            code=bound.code,
        )


def _decode(value: Any, name: str) -> str:
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"{name} is not valid UTF-8: byte {error.start} is 0x{data[error.start]:02x}", name
        ) from None
