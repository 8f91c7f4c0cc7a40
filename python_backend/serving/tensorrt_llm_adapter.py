"""The ``tensorrt_llm_adapter`` model: TensorRT-LLM's backend, and what the ensemble needs of it.

The C++ backend's responses carry nothing that tells one stream's pieces from another's, its last
response does not look like the last, and it ends a request by an id that clients may share or leave
out. So this step calls it with an id of its own and hands its responses on, together with the
sequence's id, what preprocessing said of it, and in the end why it ended.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Event, Lock, Thread
from types import MappingProxyType
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from contract.errors import InvalidRequestError
from contract.model_settings import AdapterSettings, from_model_config
from contract.models import OURS, TENSORRT_LLM_ADAPTER_MODEL
from contract.names import TENSORRT_LLM
from python_backend.serving.triton_api import Inputs, invalid_argument, model_config

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_SCALARS = frozenset(each.name for each in TENSORRT_LLM_ADAPTER_MODEL.inputs if each.scalar)
_SET_HERE = ("stop", "exclude_input_in_output", "streaming")
_ENGINE_INPUTS = [
    name
    for name in TENSORRT_LLM_ADAPTER_MODEL.input_names()
    if name not in OURS and name not in _SET_HERE
]
_ENGINE_OUTPUTS = [name for name in TENSORRT_LLM_ADAPTER_MODEL.output_names() if name not in OURS]

_Index = tuple[int, int]
"""A sequence's place in its request: which prompt of the batch, which of its sequences."""


@dataclass
class _Sequence:
    """One sequence of a request.

    Attributes:
        id: Its id for postprocessing.
        context: What goes with its first response; None after that.
        max_tokens: As many tokens as it may have.
        num_tokens: As many as it has.
        stopped: Whether postprocessing ended it.
        ended: Whether its last response was sent.
    """

    id: int
    context: bytes | None
    max_tokens: int
    num_tokens: int = 0
    stopped: bool = False
    ended: bool = False

    @property
    def finish_reason(self) -> str:
        """Why it ended, when it has."""
        if self.stopped:
            return "cancelled"
        return "length" if self.num_tokens >= self.max_tokens else "stop"


@dataclass
class _Run:
    """One request on its way through the engine.

    Attributes:
        id: Its id for the engine.
        client_id: Its id as the client chose it.
        sender: Where its responses go.
        engine_request: What the engine is asked.
        sequences: Its sequences.
        prompts: What a response begins with, for each row, where the client wants it.
        streaming: Whether the engine sends a response for each step.
        probes: Whether to send empty responses while there is no news.
        lock: Held while a response is sent.
        last_sent_s: When that was last.
    """

    id: str
    client_id: str
    sender: Any
    engine_request: Any
    sequences: dict[_Index, _Sequence]
    prompts: list[NDArray[np.int32]] | None
    streaming: bool
    probes: bool
    lock: Lock = field(default_factory=Lock)
    last_sent_s: float = field(default_factory=time.monotonic)

    @property
    def unended(self) -> list[tuple[_Index, _Sequence]]:
        """The sequences whose last response was not sent."""
        return [each for each in self.sequences.items() if not each[1].ended]

    def place_of(self, index: _Index) -> dict[str, NDArray[Any]]:
        """Which sequence a response is of, where there are several."""
        names = ("batch_index", "sequence_index")
        several = [max(places) > 0 for places in zip(*self.sequences, strict=True)]
        return {
            name: np.array([[place]], dtype=np.int32)
            for name, place, many in zip(names, index, several, strict=True)
            if many
        }


class TritonPythonModel:
    """Calls the C++ backend for each request, and gives its responses an identity and an end."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the thread that asks whether clients are still there."""
        self._settings = from_model_config(AdapterSettings, model_config(args))
        self._ids = count(random.SystemRandom().getrandbits(60))
        self._runs: dict[str, _Run] = {}
        self._by_sequence: dict[int, _Run] = {}
        self._by_client_id: defaultdict[str, dict[str, _Run]] = defaultdict(dict)
        self._lock = Lock()
        self._closed = Event()
        self._prober = Thread(target=self._probe, name="prober", daemon=True)
        self._prober.start()

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        """Hand requests to the engine, each in a thread of its own, and end those named."""
        for request in requests:
            inputs = Inputs(request)
            try:
                stop = inputs.array("stop")
                if stop is not None and stop.any():
                    self._take_stop(request, inputs)
                else:
                    run = self._take(request, inputs)
                    Thread(target=self._follow, args=(run,), daemon=True).start()
            except InvalidRequestError as error:
                request.get_response_sender().send(invalid_argument(error), flags=_FINAL)

    def finalize(self) -> None:
        """End what is still running."""
        self._closed.set()
        self._prober.join()
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            _stop(run)

    # Triton's thread

    def _take(self, request: pb_utils.InferenceRequest, inputs: Inputs) -> _Run:
        ids = inputs.required("input_ids")
        batch = ids.shape[0]
        lengths = inputs.scalars("input_lengths", batch) or [ids.shape[1]] * batch
        max_tokens = inputs.scalars("request_output_len", batch) or [0] * batch
        contexts = inputs.scalars("stream_context", batch) or [b""] * batch
        copies = max(inputs.scalars("num_return_sequences", batch) or [1])
        streaming = any(inputs.scalars("streaming", batch) or [])
        if streaming and max(inputs.scalars("beam_width", batch) or [1]) > 1:
            raise InvalidRequestError("beam_width is above 1; beams can't be streamed")
        exclude = inputs.scalars("exclude_input_in_output", batch)
        echo = not streaming and not all(exclude or [self._settings.exclude_input_in_output])
        run_id = str(next(self._ids))
        run = _Run(
            run_id,
            request.request_id(),
            request.get_response_sender(),
            pb_utils.InferenceRequest(
                model_name=TENSORRT_LLM,
                request_id=run_id,
                requested_output_names=_ENGINE_OUTPUTS,
                inputs=_engine_inputs(inputs, batch, streaming),
            ),
            {
                (row, copy): _Sequence(next(self._ids), contexts[row], max_tokens[row])
                for row in range(batch)
                for copy in range(copies)
            },
            # Triton takes the request's memory back before the engine is done: copy.
            [ids[row, : lengths[row]].copy() for row in range(batch)] if echo else None,
            streaming,
            probes=any(inputs.scalars("liveness_probes", batch) or []),
        )
        with self._lock:
            self._runs[run_id] = run
            self._by_client_id[run.client_id][run_id] = run
            for sequence in run.sequences.values():
                self._by_sequence[sequence.id] = run
        return run

    def _take_stop(self, request: pb_utils.InferenceRequest, inputs: Inputs) -> None:
        sequence_ids = inputs.scalars("sequence_id", batch=1)
        request_id = request.request_id()
        if sequence_ids is None and not request_id:
            raise InvalidRequestError("stop needs a request id or a sequence_id to say what ends")
        with self._lock:
            if sequence_ids is not None:
                run = self._by_sequence.get(sequence_ids[0])
                runs = [] if run is None else [run]
            else:
                runs = list(self._by_client_id.get(request_id, {}).values())
        for run in runs:
            for sequence in run.sequences.values():
                sequence.stopped |= sequence_ids is None or sequence.id == sequence_ids[0]
            # The engine ends all sequences of a request at once, so the last of them decides.
            if all(each.stopped for each in run.sequences.values()):
                Thread(target=_stop, args=(run,), daemon=True).start()
        request.get_response_sender().send(pb_utils.InferenceResponse([]), flags=_FINAL)

    # A run's thread

    def _follow(self, run: _Run) -> None:
        """Hand on what the engine answers."""
        error = None
        try:
            for response in run.engine_request.exec(decoupled=True):
                if response.has_error():
                    error = response.error()
                    break
                self._hand_on(run, response)
        except Exception as failure:  # whatever goes wrong, the client is told
            error = pb_utils.TritonError(f"the engine can't be asked: {failure}")
        self._forget(run)
        if error is not None:
            with run.lock:
                if run.unended:
                    run.sender.send(pb_utils.InferenceResponse(error=error), flags=_FINAL)
            return
        for index, sequence in run.unended:
            self._send(run, index, sequence.finish_reason)

    def _hand_on(self, run: _Run, response: pb_utils.InferenceResponse) -> None:
        outputs = {
            name: tensor.as_numpy()
            for name in _ENGINE_OUTPUTS
            if (tensor := pb_utils.get_output_tensor_by_name(response, name)) is not None
        }
        ids, lengths = outputs.pop("output_ids", None), outputs.pop("sequence_length", None)
        if ids is None or lengths is None:
            return
        row = int(outputs["batch_index"].item()) if "batch_index" in outputs else 0
        copy = int(outputs["sequence_index"].item()) if "sequence_index" in outputs else 0
        sequence = run.sequences[row, copy]
        beams = [
            beam[:length]
            for beam, length in zip(ids.reshape(lengths.size, -1), lengths.reshape(-1), strict=True)
        ]
        sequence.num_tokens += max(beam.size for beam in beams)
        reason = "" if run.streaming else sequence.finish_reason
        if run.prompts is not None:
            beams = [np.concatenate([run.prompts[row], beam]) for beam in beams]
        self._send(run, (row, copy), reason, beams, outputs)

    def _send(
        self,
        run: _Run,
        index: _Index,
        reason: str,
        beams: Sequence[NDArray[np.int32]] = (),
        statistics: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    ) -> None:
        """Send a response of one sequence; the last one of all is Triton's final one as well."""
        with run.lock:
            sequence = run.sequences[index]
            if sequence.ended:
                return
            run.last_sent_s = time.monotonic()
            statistics = {**run.place_of(index), **statistics}
            response = _response(sequence, beams, reason, statistics)
            run.sender.send(response, flags=0 if run.unended else _FINAL)

    def _forget(self, run: _Run) -> None:
        with self._lock:
            del self._runs[run.id]
            del self._by_client_id[run.client_id][run.id]
            if not self._by_client_id[run.client_id]:
                del self._by_client_id[run.client_id]
            for sequence in run.sequences.values():
                del self._by_sequence[sequence.id]

    # The prober's thread

    def _probe(self) -> None:
        """Call postprocessing where nothing else does: only there a client that left shows."""
        period_s = self._settings.liveness_period_ms / 1000
        while not self._closed.wait(period_s):
            with self._lock:
                runs = list(self._runs.values())
            for run in runs:
                if run.probes and time.monotonic() - run.last_sent_s >= period_s:
                    self._send_probes(run)

    def _send_probes(self, run: _Run) -> None:
        try:
            for index, _ in run.unended:
                self._send(run, index, "")
        except Exception as error:  # one client's trouble is not another's
            pb_utils.Logger.log_warn(f"a response could not be sent: {error!r}")


def _engine_inputs(inputs: Inputs, batch: int, streaming: bool) -> list[pb_utils.Tensor]:
    """What the engine is given: the request's own tensors, its prompt never part of the answer."""
    tensors = []
    for name in _ENGINE_INPUTS:
        array = inputs.array(name)
        if array is None:
            continue
        # As_numpy shows Triton's memory, which is gone when the engine reads it.
        array = array.reshape(batch, 1) if name in _SCALARS else array
        tensors.append(pb_utils.Tensor(name, array.copy()))
    for name, value in (("exclude_input_in_output", True), ("streaming", streaming)):
        tensors.append(pb_utils.Tensor(name, np.full((batch, 1), value)))
    return tensors


def _response(
    sequence: _Sequence,
    beams: Sequence[NDArray[np.int32]],
    reason: str,
    statistics: Mapping[str, NDArray[Any]],
) -> pb_utils.InferenceResponse:
    """One response, batch dimension 1; without beams it has no tokens."""
    beams = beams or [np.zeros(0, dtype=np.int32)]
    ids = np.zeros((1, len(beams), max(beam.size for beam in beams)), dtype=np.int32)
    for row, beam in zip(ids[0], beams, strict=True):
        row[: beam.size] = beam
    outputs: dict[str, NDArray[Any]] = {
        **statistics,
        "output_ids": ids,
        "sequence_length": np.array([[beam.size for beam in beams]], dtype=np.int32),
        "sequence_id": np.array([[sequence.id]], dtype=np.uint64),
    }
    if reason:
        outputs["finish_reason"] = np.array([[reason.encode()]], dtype=object)
    if sequence.context is not None:
        outputs["stream_context"] = np.array([[sequence.context]], dtype=object)
        sequence.context = None
    sequence.ended = bool(reason)
    return pb_utils.InferenceResponse([pb_utils.Tensor(*each) for each in outputs.items()])


def _stop(run: _Run) -> None:
    """End a request in the engine, TensorRT-LLM's own way."""
    stop = pb_utils.InferenceRequest(
        model_name=TENSORRT_LLM,
        request_id=run.id,
        requested_output_names=[],
        inputs=[
            pb_utils.Tensor("input_ids", np.zeros((1, 1), dtype=np.int32)),
            pb_utils.Tensor("input_lengths", np.ones((1, 1), dtype=np.int32)),
            pb_utils.Tensor("request_output_len", np.ones((1, 1), dtype=np.int32)),
            pb_utils.Tensor("stop", np.ones((1, 1), dtype=bool)),
        ],
    )
    list(stop.exec(decoupled=True))
