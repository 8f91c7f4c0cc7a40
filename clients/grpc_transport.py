"""The ensemble over gRPC.

A model that streams answers over the bidirectional `ModelStreamInfer` alone, so every request is a
stream of its own here, and ending the stream early cancels the request at the server.

The messages are tritonclient's own. Its client classes are passed by: they write the one request as
if more would follow, and where the server ends the stream before that is over, Python's gRPC says
«Internal error from Core», or that the caller cancelled, instead of what the server said. Here the
request and the end of the requests leave at once, which costs less, too.

An error of a model comes as a text in the stream, with its status in it: see `contract.error_text`.
Triton has a header that makes it end the stream with the status instead, and dies of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import MAX_GRPC_MESSAGE_SIZE, service_pb2, service_pb2_grpc

from clients import wire
from clients.aside import aside
from clients.client_errors import ClientError, server_error
from clients.request import Request
from clients.results import Outputs
from contract.ensemble import ensemble_steps
from contract.models import PostprocessingInputs, PostprocessingOutputs, PreprocessingOutputs
from contract.names import POSTPROCESSING, PREPROCESSING
from contract.stopping import stop_inputs

_CHANNEL = [
    ("grpc.max_send_message_length", MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE_SIZE),
    # By default a channel that has met a dead server looks again after up to two minutes only.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]


_STOP_TIMEOUT_S = 1.0
_BYTES_PER_ENTRY = 16
"""Of a response: a text and its length, a number or two."""


class GrpcTransport:
    """Sends requests over gRPC; threads may share it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.insecure_channel(address, options=_CHANNEL)
        self._calls = _Calls(self._channel)

    def responses(self, request: Request) -> Generator[Outputs, None, None]:
        """Send a request and yield its responses; closing the generator cancels the request.

        Raises:
            ClientError: The request failed; `clients.client_errors` lists how it can.
        """
        call = self._calls.infer(
            _message(request), timeout=request.timeout_s, metadata=_metadata(request)
        )
        try:
            for response in call:
                yield _outputs(response, self._address)
        except grpc.RpcError as error:
            raise _error(error, self._address) from None
        finally:
            call.cancel()

    def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model can take requests; what does not answer is not ready."""
        try:
            return bool(self._calls.is_ready(_is_ready(model), timeout=timeout_s).ready)
        except grpc.RpcError:
            return False

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class AsyncGrpcTransport:
    """Sends requests over gRPC from one event loop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel: Any = None
        self._calls: _Calls | None = None

    async def responses(self, request: Request) -> AsyncGenerator[Outputs, None]:
        """Send a request and yield its responses; closing the generator cancels the request.

        Raises:
            ClientError: The request failed; `clients.client_errors` lists how it can.
        """
        message = await aside(partial(_message, request), num_bytes=request.num_bytes)
        call = self._connected().infer(
            message, timeout=request.timeout_s, metadata=_metadata(request)
        )
        try:
            async for response in call:
                entries = len(response) // _BYTES_PER_ENTRY
                yield await aside(partial(_outputs, response, self._address), entries)
        except grpc.RpcError as error:
            raise _error(error, self._address) from None
        finally:
            call.cancel()

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model can take requests; what does not answer is not ready."""
        try:
            answer = await self._connected().is_ready(_is_ready(model), timeout=timeout_s)
            return bool(answer.ready)
        except grpc.RpcError:
            return False

    async def stop(self, model: str, request_id: str) -> None:
        """End the requests of an id in an engine's model: they answer with what there is.

        Raises:
            ClientError: The server didn't take that.
        """
        call = self._connected().infer(_stop(model, request_id), timeout=_STOP_TIMEOUT_S)
        try:
            async for _ in call:
                pass
        except grpc.RpcError as error:
            raise _error(error, self._address) from None
        finally:
            call.cancel()

    async def tokens(self, request: Request) -> list[int]:
        """The tokens of a request's prompt, which the ensemble's first step makes.

        Raises:
            ClientError: It makes none of it; `clients.client_errors` lists how that can be.
        """
        outputs = await self._ask(partial(_to_preprocessing, request), request)
        return list(outputs[PreprocessingOutputs.INPUT_ID.name])

    async def text(self, request: Request, token_ids: Sequence[int]) -> str:
        """The text of tokens, which the ensemble's last step makes, held to its policy.

        Raises:
            ClientError: It makes none of them.
        """
        outputs = await self._ask(partial(_to_postprocessing, request, token_ids), request)
        return str(outputs[PostprocessingOutputs.OUTPUT.name][0])

    async def _ask(self, write: Callable[[], bytes], request: Request) -> Outputs:
        """Send a message that has one response."""
        message = await aside(write, num_bytes=request.num_bytes)
        call = self._connected().infer(
            message, timeout=request.timeout_s, metadata=_metadata(request)
        )
        try:
            outputs: Outputs = {}
            async for response in call:
                entries = len(response) // _BYTES_PER_ENTRY
                outputs = await aside(partial(_outputs, response, self._address), entries)
            return outputs
        except grpc.RpcError as error:
            raise _error(error, self._address) from None
        finally:
            call.cancel()

    async def aclose(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()

    def _connected(self) -> _Calls:
        """The calls, made at first use: they belong to the event loop that they are made in."""
        if self._calls is None:
            self._channel = grpc.aio.insecure_channel(self._address, options=_CHANNEL)
            self._calls = _Calls(self._channel)
        return self._calls


class _Calls:
    """What can be asked over a channel of either kind.

    What goes in and comes out of `infer` is bytes: large ones are not for the event loop to make.
    """

    def __init__(self, channel: Any) -> None:
        # On the wire a stream of one request is the request and the stream's end.
        self.infer = channel.unary_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        self.is_ready = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelReady


def _message(request: Request) -> bytes:
    message = _empty(request, request.model)
    for name, values in request.inputs.items():
        _add(message, name, wire.wire_type(name), wire.to_array(name, values))
    return bytes(message.SerializeToString())


def _to_preprocessing(request: Request) -> bytes:
    """A request to the ensemble's first step, which knows the inputs by names of its own."""
    inputs = request.inputs
    message = _empty(request, PREPROCESSING)
    for into, name in ensemble_steps()[0].input_map.items():
        if name in inputs:
            _add(message, into, wire.wire_type(name), wire.to_array(name, inputs[name]))
    return bytes(message.SerializeToString())


def _to_postprocessing(request: Request, token_ids: Sequence[int]) -> bytes:
    """A request to the last, without a sequence: it makes a text of the tokens and no more."""
    message = _empty(request, POSTPROCESSING)
    for tensor, array in (
        (PostprocessingInputs.TOKENS_BATCH, np.array([[token_ids]], np.int32)),
        (PostprocessingInputs.SEQUENCE_LENGTH, np.array([[len(token_ids)]], np.int32)),
    ):
        _add(message, tensor.name, tensor.data_type, array)
    return bytes(message.SerializeToString())


def _empty(request: Request, model: str) -> Any:
    """A request of the same id and parameters, without inputs."""
    message = service_pb2.ModelInferRequest(model_name=model, id=request.request_id)
    for name, value in request.parameters.items():
        _set_parameter(message.parameters[name], value)
    return message


def _add(message: Any, name: str, datatype: str, array: NDArray[Any]) -> None:
    message.inputs.add(name=name, datatype=datatype, shape=array.shape)
    raw = _sized(array.flat) if array.dtype.hasobject else array.tobytes()
    message.raw_input_contents.append(raw)


def _sized(texts: Iterable[bytes]) -> bytes:
    """Each text with its length in bytes before it, little-endian."""
    return b"".join(part for text in texts for part in (len(text).to_bytes(4, "little"), text))


def _stop(model: str, request_id: str) -> bytes:
    """A request to end another."""
    message = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for tensor, array in stop_inputs().items():
        _add(message, tensor.name, tensor.data_type, array)
    return bytes(message.SerializeToString())


def _set_parameter(parameter: Any, value: str | int | float | bool) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value


def _metadata(request: Request) -> tuple[tuple[str, str], ...]:
    return tuple((name.lower(), value) for name, value in request.headers.items())


def _is_ready(model: str) -> Any:
    return service_pb2.ModelReadyRequest(name=model)


def _outputs(raw_message: bytes, address: str) -> Outputs:
    """Read a response; by hand, as tritonclient's way costs several times as much a token.

    Raises:
        ClientError: It is an error.
    """
    message = service_pb2.ModelStreamInferResponse.FromString(raw_message)
    if message.error_message:
        raise server_error(message.error_message, None, address)
    response = message.infer_response
    return {
        output.name: _texts(raw) if output.datatype == "BYTES" else _numbers(output.datatype, raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


_DTYPES = {"INT32": "<i4", "FP32": "<f4", "INT64": "<i8", "UINT64": "<u8", "BOOL": "?"}


def _numbers(datatype: str, raw: bytes) -> list[Any]:
    return np.frombuffer(raw, _DTYPES[datatype]).tolist()


def _texts(raw: bytes) -> list[str]:
    """Each text has its length in bytes before it, little-endian."""
    texts, start = [], 0
    while start < len(raw):
        begin = start + 4
        start = begin + int.from_bytes(raw[start:begin], "little")
        texts.append(raw[begin:start].decode("utf-8", errors="replace"))
    return texts


def _error(error: Any, address: str) -> ClientError:
    # gRPC tells all that it tried; the last is enough.
    message = error.details().rpartition("last error: ")[2]
    return server_error(message, error.code().name, address)
