"""The ensemble over gRPC, with Triton's own client library.

A model that streams answers over the bidirectional `ModelStreamInfer` alone, so every request is a
stream of its own here, and ending the stream early cancels the request at the server.
"""

from __future__ import annotations

import queue
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import suppress
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc import RpcError  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException

from clients import tensors
from clients.errors import ClientError, DeadlineExceededError, server_error
from clients.request import Request
from clients.results import Outputs

# Without it Triton sends an error as text in the stream, its status lost.
_HEADERS = {"triton_grpc_error": "true"}
_CHANNEL = [
    ("grpc.max_send_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
    # By default a channel that has met a dead server looks again after up to two minutes only.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]


class GrpcTransport:
    """Sends requests over gRPC; threads may share it."""

    def __init__(self, address: str) -> None:
        self._address = address
        # Asks for readiness, and keeps the connection: channels of one address and the same
        # settings share it, so that a client for each request costs next to nothing.
        self._client = self._connect()

    def responses(self, request: Request) -> Generator[Outputs, None, None]:
        """Send a request and yield its responses; closing the generator cancels the request.

        Raises:
            ClientError: The request failed; `clients.errors` lists how it can.
        """
        answers: queue.SimpleQueue[tuple[Any, InferenceServerException | None]]
        answers = queue.SimpleQueue()
        final = False
        client = self._connect()  # holds one stream at a time
        try:
            client.start_stream(
                lambda result, error: answers.put((result, error)),
                stream_timeout=request.timeout_s,
                headers={**_HEADERS, **request.headers},
            )
            # Refused where the stream has failed already; the reason is among the answers.
            with suppress(InferenceServerException):
                client.async_stream_infer(**_arguments(request), enable_empty_final_response=True)
            while not final:
                result, error = _next(answers, request.timeout_s)
                if error is not None:
                    raise _error(error.message(), error.status(), self._address)
                final = result.get_response().parameters["triton_final_response"].bool_param
                outputs = _outputs(result)
                if outputs:
                    yield outputs
        finally:
            client.stop_stream(cancel_requests=not final)
            client.close()

    def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model can take requests; what does not answer is not ready."""
        try:
            return bool(self._client.is_model_ready(model, client_timeout=timeout_s))
        except InferenceServerException:
            return False

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _connect(self) -> Any:
        return triton.InferenceServerClient(self._address, channel_args=_CHANNEL)


class AsyncGrpcTransport:
    """Sends requests over gRPC from one event loop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client: Any = None

    async def responses(self, request: Request) -> AsyncGenerator[Outputs, None]:
        """Send a request and yield its responses; closing the generator cancels the request.

        Raises:
            ClientError: The request failed; `clients.errors` lists how it can.
        """
        stream = self._connected().stream_infer(
            _once(_arguments(request)),
            stream_timeout=request.timeout_s,
            headers={**_HEADERS, **request.headers},
        )
        try:
            async for result, error in stream:
                if error is not None:
                    raise _error(error.message(), error.status(), self._address)
                yield _outputs(result)
        except RpcError as error:
            raise _error(error.details(), str(error.code()), self._address) from None
        finally:
            stream.cancel()

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model can take requests; what does not answer is not ready."""
        try:
            return bool(await self._connected().is_model_ready(model, client_timeout=timeout_s))
        except InferenceServerException:
            return False

    async def aclose(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()

    def _connected(self) -> Any:
        """The client, made at first use: it belongs to the event loop that it is made in."""
        if self._client is None:
            self._client = triton_aio.InferenceServerClient(self._address, channel_args=_CHANNEL)
        return self._client


def _arguments(request: Request) -> dict[str, Any]:
    return {
        "model_name": request.model,
        "inputs": [_tensor(name, values) for name, values in request.inputs.items()],
        "request_id": request.request_id,
        "parameters": dict(request.parameters),
    }


def _tensor(name: str, values: Any) -> triton.InferInput:
    array = tensors.to_array(name, values)
    tensor = triton.InferInput(name, array.shape, tensors.wire_type(name))
    return tensor.set_data_from_numpy(array)


async def _once(arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield arguments


def _next(answers: queue.SimpleQueue[Any], timeout_s: float | None) -> Any:
    """The next answer. gRPC ends the stream when its time is up, and that is an answer too.

    Only a stream that the server closed before the final response leaves nothing to wait for.
    """
    try:
        return answers.get(timeout=timeout_s)
    except queue.Empty:
        raise DeadlineExceededError("the server stopped answering") from None


def _outputs(result: triton.InferResult) -> Outputs:
    # Read by hand: tritonclient's way costs several times as much, at every token.
    response = result.get_response()
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


def _error(message: str, status: str | None, address: str) -> ClientError:
    # gRPC tells all that it tried; the last is enough.
    message = message.rpartition("last error: ")[2]
    return server_error(message, status and status.removeprefix("StatusCode."), address)
