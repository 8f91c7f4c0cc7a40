"""The ``tensorrt_llm_adapter`` model: TensorRT-LLM's backend, and what the ensemble needs of it.

The C++ backend's responses carry nothing that tells one stream's pieces from another's, its last
response does not look like the last, and it ends a request by an id that clients may share or leave
out. So this step calls it with an id of its own and hands its responses on, together with the
sequence's id, what preprocessing said of it, and in the end why it ended.

Triton's Python backend can lock itself up here (2.51, and later ones): a thread that the next
response of a stream has woken holds that stream's lock while it waits for the interpreter's; the
thread that brings responses waits for the stream's lock where another comes meanwhile, and holds
that of all streams; and a call that has just been answered wants the latter while it holds the
interpreter. So threads that wait for responses do nothing else, and one other does all the rest:
then they seldom wait for the interpreter as long as an engine takes for its next response. That
makes a lock-up rarer and does not rule it out (docs/tensorrt-llm.md), so a process that stands
still ends itself.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import count
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from contract.codes import Ending, FinishReason
from contract.errors import EngineError, InvalidRequestError
from contract.model_settings import AdapterSettings, from_model_config
from contract.models import OURS, TENSORRT_LLM_ADAPTER_MODEL, EngineInputs, EngineOutputs
from contract.names import TENSORRT_LLM
from contract.tensors import Tensor
from python_backend.serving.arrivals import answer_all
from python_backend.serving.encoding import Piece, number
from python_backend.serving.once import check_single, check_whole, is_decoupled
from python_backend.serving.probing import Prober
from python_backend.serving.sessions import Session, Sessions, Stream
from python_backend.serving.stop_request import Stop, stop_request
from python_backend.serving.triton_api import (
    Inputs,
    model_config,
    passed_on,
    refusal,
    triton_tensor,
)
from python_backend.serving.watchdog import Watchdog

_SET_HERE = (EngineInputs.STOP, EngineInputs.EXCLUDE_INPUT_IN_OUTPUT, EngineInputs.STREAMING)
_ENGINE_INPUTS = [
    tensor
    for tensor in TENSORRT_LLM_ADAPTER_MODEL.inputs
    if tensor.name not in OURS and tensor not in _SET_HERE
]
_ENGINE_OUTPUTS = [
    tensor for tensor in TENSORRT_LLM_ADAPTER_MODEL.outputs if tensor.name not in OURS
]


_FIRST = number(0)

_KEEP_SPENT_S = 1.0
"""Triton forgets a stream of responses a little after its end, and not from a thread of Python's:
so that it frees none of Python's arrays there, it must not be the last to know of them."""


class _Stream(Stream):
    """A sequence that the C++ backend continues.

    Attributes:
        max_tokens: As many tokens as it may have.
        num_tokens: As many as it has.
        stopped: Whether postprocessing ended it.
    """

    session: _Session

    def __init__(self, max_tokens: int, *identity: Any) -> None:
        super().__init__(*identity)
        self.max_tokens = max_tokens
        self.num_tokens = 0
        self.stopped = False

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended, when it has."""
        if self.stopped:
            return "cancelled"
        return "length" if self.num_tokens >= self.max_tokens else "stop"


@dataclass(frozen=True)
class _Call:
    """What the C++ backend is asked.

    Attributes:
        id: The request's id there, which nobody else has.
        request: The request.
        prompts: What a response begins with, for each row, where the client wants it.
        streaming: Whether the backend sends a response for each step.
    """

    id: str
    request: pb_utils.InferenceRequest
    prompts: list[NDArray[np.int32]] | None
    streaming: bool


class _Session(Session[_Stream]):
    """A request on its way through the C++ backend."""

    def __init__(self, call: _Call, *request: Any, **options: Any) -> None:
        super().__init__(*request, **options)
        self.call = call

    def stream_at(self, row: int, copy: int) -> _Stream:
        """The stream of a place in the request."""
        return self.streams[row * self.num_return_sequences + copy]


class _Arrival(NamedTuple):
    """What the engine says of a request: a response, or without one that there are no more."""

    session: _Session
    response: pb_utils.InferenceResponse | None
    error: Exception | None = None


class TritonPythonModel:
    """Calls the C++ backend for each request, and gives its responses an identity and an end."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the thread that asks whether clients are still there."""
        config = model_config(args)
        self._settings = from_model_config(AdapterSettings, config)
        self._decoupled = is_decoupled(config)
        self._ids = count(random.SystemRandom().getrandbits(60))
        self._sessions: Sessions[_Stream] = Sessions()
        self._period_s = self._settings.liveness_period_ms / 1000
        self._prober = Prober(self._period_s)
        self._closed = Event()
        self._watchdog = Watchdog(self._settings.hung_after_s + self._period_s)
        self._arrived: SimpleQueue[_Arrival] = SimpleQueue()
        self._spent: deque[tuple[float, Any]] = deque()
        Thread(target=self._run_sender, name="sender", daemon=True).start()
        self._prober_thread = Thread(target=self._run_prober, name="prober", daemon=True)
        self._prober_thread.start()

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        """Hand requests to the engine, each in a thread of its own, and end those named."""
        answer_all(requests, self._start, self._stop)

    def finalize(self) -> None:
        """End what is still running."""
        self._closed.set()
        self._prober_thread.join()
        for session in {stream.session for stream in self._sessions.streams()}:
            self._end(session)
        self._watchdog.close()

    def _start(self, request: pb_utils.InferenceRequest, inputs: Inputs) -> None:
        session = self._read(request, inputs)
        self._sessions.open(session)
        Thread(target=self._follow, args=(session,), daemon=True).start()

    def _read(self, request: pb_utils.InferenceRequest, inputs: Inputs) -> _Session:
        ids = inputs.required(EngineInputs.INPUT_IDS)
        batch = ids.shape[0]

        def scalars(tensor: Tensor, default: Any) -> list[Any]:
            return inputs.scalars(tensor, batch) or [default] * batch

        lengths = scalars(EngineInputs.INPUT_LENGTHS, ids.shape[1])
        max_tokens = scalars(EngineInputs.REQUEST_OUTPUT_LEN, 0)
        contexts = scalars(EngineInputs.STREAM_CONTEXT, b"")
        copies = max(scalars(EngineInputs.NUM_RETURN_SEQUENCES, 1))
        streaming = any(scalars(EngineInputs.STREAMING, False))
        if streaming and max(scalars(EngineInputs.BEAM_WIDTH, 1)) > 1:
            raise InvalidRequestError(
                "beam_width is above 1; beams can't be streamed", EngineInputs.BEAM_WIDTH.name
            )
        if not self._decoupled:
            check_whole(streaming, EngineInputs.STREAMING)
            check_single(batch, copies)
        excludes = self._settings.exclude_input_in_output
        echo = not streaming and not all(scalars(EngineInputs.EXCLUDE_INPUT_IN_OUTPUT, excludes))
        # Triton takes the request's memory back before the engine is done: copy.
        prompts = [ids[row, : lengths[row]].copy() for row in range(batch)] if echo else None
        engine_id = str(next(self._ids))
        engine_request = pb_utils.InferenceRequest(
            model_name=TENSORRT_LLM,
            request_id=engine_id,
            requested_output_names=[tensor.name for tensor in _ENGINE_OUTPUTS],
            inputs=_engine_inputs(inputs, batch, streaming),
        )
        return _Session(
            _Call(engine_id, engine_request, prompts, streaming),
            request,
            [
                _Stream(max_tokens[row], next(self._ids), row, copy, contexts[row])
                for row in range(batch)
                for copy in range(copies)
            ],
            batch_size=batch,
            num_return_sequences=copies,
            probes=self._decoupled and any(scalars(EngineInputs.LIVENESS_PROBES, False)),
        )

    def _stop(self, stop: Stop) -> None:
        named = self._sessions.named(stop)
        if named and stop.client_gone:
            self._prober.found_gone()
        for stream in named:
            stream.stopped = True
        for session in {stream.session for stream in named}:
            # The engine ends all sequences of a request at once, so the last of them decides.
            if all(stream.stopped for stream in session.unended):
                Thread(target=self._end, args=(session,), daemon=True).start()

    def _end(self, session: _Session) -> None:
        """End a request in the engine, TensorRT-LLM's own way."""
        list(self._asked(stop_request(TENSORRT_LLM, session.call.id)))

    def _asked(self, request: pb_utils.InferenceRequest) -> Iterable[pb_utils.InferenceResponse]:
        """What the engine answers; its model is decoupled as this one is."""
        return request.exec(decoupled=True) if self._decoupled else [request.exec()]

    # A session's thread

    def _follow(self, session: _Session) -> None:
        """Take what the engine answers, and do nothing with it here."""
        error = None
        try:
            responses = self._asked(session.call.request)
            for response in responses:
                self._arrived.put(_Arrival(session, response))
            self._spent.append((time.monotonic(), responses))
        except Exception as failure:  # whatever goes wrong, the client is told
            error = failure
        self._arrived.put(_Arrival(session, None, error))

    # The sender's thread

    def _run_sender(self) -> None:
        while True:
            arrival = self._arrived.get()
            try:
                self._take(arrival)
            except Exception as failure:  # one request's trouble is not another's
                self._try(partial(arrival.session.fail_all, _unasked(failure)))

    def _take(self, arrival: _Arrival) -> None:
        """Hand on a response, or end what has no more."""
        session, response, error = arrival
        if response is None:
            for stream in session.streams:
                self._sessions.close(stream)
            if error is not None:
                session.fail_all(_unasked(error))
            for stream in session.unended:
                session.send(stream, Piece(finish_reason=stream.finish_reason))
        elif response.has_error():
            session.fail_all(passed_on(response.error()))
        else:
            _hand_on(session, response)

    # The prober's thread

    def _run_prober(self) -> None:
        self._watchdog.alive()
        while not self._closed.wait(self._period_s):
            self._watchdog.alive()
            while self._spent and self._spent[0][0] < time.monotonic() - _KEEP_SPENT_S:
                self._spent.popleft()
            probed, asked = self._prober.round(self._sessions.streams())
            for stream in probed:
                self._try(stream.probe)
            for stream in asked:
                self._try(partial(self._ask, stream))

    def _ask(self, stream: _Stream) -> None:
        if not stream.stopped and stream.session.is_abandoned():
            self._stop(Stop(stream.id))

    def _try(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:  # one client's trouble is not another's
            pb_utils.Logger.log_warn(f"a response could not be sent: {error!r}")


def _unasked(failure: Exception) -> pb_utils.InferenceResponse:
    return refusal(EngineError(f"the engine can't be asked: {failure}"))


def _hand_on(session: _Session, response: pb_utils.InferenceResponse) -> None:
    outputs = {
        tensor: output.as_numpy()
        for tensor in _ENGINE_OUTPUTS
        if (output := pb_utils.get_output_tensor_by_name(response, tensor.name)) is not None
    }
    ids = outputs.pop(EngineOutputs.OUTPUT_IDS, None)
    lengths = outputs.pop(EngineOutputs.SEQUENCE_LENGTH, None)
    if ids is None or lengths is None:
        return
    row, copy = (
        int(outputs.pop(tensor, _FIRST).item())
        for tensor in (EngineOutputs.BATCH_INDEX, EngineOutputs.SEQUENCE_INDEX)
    )
    stream = session.stream_at(row, copy)
    beams = [
        beam[:length]
        for beam, length in zip(ids.reshape(lengths.size, -1), lengths.reshape(-1), strict=True)
    ]
    stream.num_tokens += max(beam.size for beam in beams)
    reason: Ending = "" if session.call.streaming else stream.finish_reason
    if session.call.prompts is not None:
        beams = [np.concatenate([session.call.prompts[row], beam]) for beam in beams]
    session.send(stream, Piece(beams, reason, outputs))


def _engine_inputs(inputs: Inputs, batch: int, streaming: bool) -> list[pb_utils.Tensor]:
    """What the engine is given: the request's own tensors, its prompt never part of the answer."""
    tensors = []
    for tensor, array in inputs.given(_ENGINE_INPUTS):
        # As_numpy shows Triton's memory, which is gone when the engine reads it.
        shaped = array.reshape(batch, 1) if tensor.scalar else array
        tensors.append(triton_tensor(tensor, shaped.copy()))
    for tensor, value in (
        (EngineInputs.EXCLUDE_INPUT_IN_OUTPUT, True),
        (EngineInputs.STREAMING, streaming),
    ):
        tensors.append(triton_tensor(tensor, np.full((batch, 1), value)))
    return tensors
