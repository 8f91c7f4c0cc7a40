"""A Triton in this process: its gRPC stream and its generate endpoints, with scripted answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from contract import error_text
from contract.error_text import Status

Array = NDArray[Any]
Outputs = dict[str, Array]


def text(value: str, finish_reason: str = "", **more: Array) -> Outputs:
    """One response of the ensemble."""
    return {
        "text_output": np.array([value.encode()], dtype=np.object_),
        "finish_reason": np.array([[finish_reason.encode()]], dtype=np.object_),
        **more,
    }


def int32(value: int) -> Array:
    return np.array([[value]], dtype=np.int32)


@dataclass(frozen=True)
class Failure:
    """An error in place of a response: what kind a model of ours calls it, the message, the input.

    Without a kind it is one of Triton's own. Either way it has a text alone, as in a real Triton.
    """

    kind: str | None
    message: str
    param: str | None = None

    @property
    def text(self) -> str:
        if self.kind is None:
            return self.message
        return error_text.write(Status(self.kind), self.message, self.param)


Step = Outputs | Failure | float
"""A response, an error, or a pause in seconds."""

HANG = float("inf")
"""A pause until the client goes away, or the fake does."""


@dataclass
class Received:
    """A request as it came over the wire."""

    request_id: str
    inputs: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class FakeTriton:
    """What the fake answers, and what it saw.

    Attributes:
        script: What happens, in order.
        received: Requests so far; inputs as arrays over gRPC, as JSON values over HTTP.
        cancelled: Set when a client goes away before its answer ends.
        left: Set when a client or the fake goes away.
        ready: Whether the model is.
    """

    script: Sequence[Step] = field(default_factory=lambda: [text("yes", "stop")])
    received: list[Received] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    ready: bool = True
    urls: dict[str, str] = field(default_factory=dict)

    def cancel(self) -> None:
        """Take note of a client that goes away."""
        self.cancelled.set()
        self.left.set()

    def steps(self) -> Iterator[tuple[Outputs | Failure, bool]]:
        """Each response, and whether it is the final one."""
        for index, step in enumerate(self.script):
            if step == HANG:
                self.left.wait()
            elif isinstance(step, float):
                time.sleep(step)
            else:
                yield step, index == len(self.script) - 1


class _Grpc(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, fake: FakeTriton) -> None:
        self.fake = fake

    def ModelReady(self, request, context):  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=self.fake.ready)

    def _ended(self, answered: threading.Event) -> None:
        if not answered.is_set():
            self.fake.cancel()

    def ModelStreamInfer(self, request_iterator, context):  # noqa: N802
        for request in request_iterator:
            inputs = {
                tensor.name: _array(tensor, raw)
                for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
            }
            headers = dict(context.invocation_metadata())
            parameters = {
                name: getattr(value, value.WhichOneof("parameter_choice"))
                for name, value in request.parameters.items()
            }
            self.fake.received.append(Received(request.id, inputs, headers, parameters))
            answered = threading.Event()
            context.add_callback(lambda answered=answered: self._ended(answered))
            for step, final in self.fake.steps():
                if isinstance(step, Failure):
                    answered.set()
                    yield service_pb2.ModelStreamInferResponse(error_message=step.text)
                    return
                response = service_pb2.ModelInferResponse(id=request.id)
                response.parameters["triton_final_response"].bool_param = final
                for name, array in step.items():
                    datatype = np_to_triton_dtype(array.dtype)
                    response.outputs.add(name=name, datatype=datatype, shape=array.shape)
                    response.raw_output_contents.append(
                        serialize_byte_tensor(array).item()
                        if datatype == "BYTES"
                        else array.tobytes()
                    )
                if final:
                    answered.set()
                yield service_pb2.ModelStreamInferResponse(infer_response=response)


def _array(tensor, raw: bytes) -> Array:
    if tensor.datatype == "BYTES":
        flat = deserialize_bytes_tensor(raw)
    else:
        flat = np.frombuffer(raw, dtype=triton_to_np_dtype(tensor.datatype))
    array: Array = flat.reshape(tuple(tensor.shape))
    return array


class _Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeTriton

    def do_GET(self):
        self._reply(200 if self.fake.ready else 400, b"")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.fake.received.append(Received(body.pop("id", ""), body))
        if self.path.endswith("/generate_stream"):
            self._stream()
        else:
            (step, _), *_ = self.fake.steps()
            status = 400 if isinstance(step, Failure) else 200
            self._reply(status, json.dumps(_fields(step)).encode())

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        begun = False
        try:
            for step, _ in self.fake.steps():
                if not begun:
                    self.send_response(400 if isinstance(step, Failure) else 200)
                    self.send_header("content-type", "text/event-stream; charset=utf-8")
                    self.send_header("transfer-encoding", "chunked")
                    self.end_headers()
                    begun = True
                data = f"data: {json.dumps(_fields(step))}\n\n".encode()
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                if isinstance(step, Failure):
                    break
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True
            self.fake.cancel()

    def log_message(self, *args):
        pass


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args):
        """Say nothing of a client that speaks another protocol."""


def _fields(step: Outputs | Failure) -> dict[str, Any]:
    """A response as the generate endpoints word it: single values alone, others as flat lists."""
    if isinstance(step, Failure):
        return {"error": step.text}
    fields: dict[str, Any] = {"model_name": "ensemble", "model_version": "1"}
    for name, array in step.items():
        values = [v.decode() if isinstance(v, bytes) else v for v in array.reshape(-1).tolist()]
        fields[name] = values[0] if len(values) == 1 else values
    return fields


def start(fake: FakeTriton) -> Iterator[FakeTriton]:
    """Serve the fake over both protocols until the generator is closed."""
    rpc = grpc.server(ThreadPoolExecutor(max_workers=8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Grpc(fake), rpc)
    fake.urls["grpc"] = f"127.0.0.1:{rpc.add_insecure_port('127.0.0.1:0')}"
    rpc.start()
    http = _HttpServer(("127.0.0.1", 0), type("Handler", (_Http,), {"fake": fake}))
    fake.urls["http"] = f"127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        fake.left.set()
        rpc.stop(grace=0)
        http.shutdown()
        thread.join()
        http.server_close()
