"""The ``tensorrt_llm`` model on ONNX Runtime.

Three threads: Triton's, which checks requests and hands them over; the engine's, which owns the
engine and runs it step by step; and the sender's, since sending a response takes longer than the
engine can wait. All that a response costs, in Triton, in postprocessing and here, is taken from the
engine's cores, so streams get only so many of them a second: where there are more tokens, a
stream's next response carries all that it has by then.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from contract.errors import InvalidRequestError, RequestTimeoutError, ServerBusyError
from contract.model_settings import OnnxEngineSettings, from_model_config
from python_backend.artifact import load_public_key, verify_artifact
from python_backend.engine.cuda_device import choose_device
from python_backend.engine.engine_config import EngineConfig
from python_backend.engine.onnx_engine import Engine, available_cores
from python_backend.engine.sequence import LogProbs, Sequence
from python_backend.serving.engine_metrics import EngineMetrics
from python_backend.serving.generation_request import GenerationRequest, Reporting, read_request
from python_backend.serving.pacer import Pacer
from python_backend.serving.triton_api import (
    Inputs,
    invalid_argument,
    model_config,
    resolve,
    unavailable,
)

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_RESPONSES_PER_CORE_S = 32
"""Each costs two to three milliseconds of a core beside a large engine: together up to a tenth."""
_FIRST_TOKENS = 2
"""A stream's first text is there with its second token: only that ends the first word, which a
safety policy may have to hold back."""


class _Request:
    """One Triton request: where its responses go, and how many sequences still run.

    Attributes:
        deadline_s: When its time is up, on the monotonic clock.
    """

    def __init__(
        self,
        request: pb_utils.InferenceRequest,
        generation: GenerationRequest,
        contexts: list[bytes],
    ) -> None:
        self.id: str = request.request_id()
        self.sender = request.get_response_sender()
        self.generation = generation
        self.deadline_s = time.monotonic() + (generation.timeout_us / 1e6 or math.inf)
        self.streams = [
            _Stream(
                self,
                Sequence(row.prompt, row.params, row.priority),
                row.batch_index,
                row.sequence_index,
                contexts[row.batch_index],
            )
            for row in generation.rows
        ]
        self.unfinished = len(self.streams)


class _Stream:
    """One sequence of a request, and how much of it was sent.

    Attributes:
        queued: Whether the sender has yet to look at it.
        context: What goes back with the first response; None after that.
        ended: Whether its last response was sent.
    """

    def __init__(
        self,
        request: _Request,
        sequence: Sequence,
        batch_index: int,
        sequence_index: int,
        context: bytes,
    ) -> None:
        self.request = request
        self.sequence = sequence
        self.batch_index = batch_index
        self.sequence_index = sequence_index
        self.context: bytes | None = context
        self.sent = 0
        self.cum_log_prob = 0.0
        self.queued = False
        self.ended = False
        self.last_sent_s = time.monotonic()

    def take(self) -> _Piece:
        """All that was not sent yet. The engine may go on meanwhile, so the reason comes first."""
        reason = self.sequence.finish_reason
        tokens = self.sequence.output[self.sent :]
        before, self.sent = self.sent, self.sent + len(tokens)
        self.last_sent_s = time.monotonic()
        log_probs = self.sequence.log_probs[before : self.sent]
        self.cum_log_prob += sum(each.chosen for each in log_probs)
        return _Piece(self, tokens, log_probs, self.cum_log_prob, reason)


@dataclass(frozen=True)
class _Piece:
    """Tokens of a stream on their way to the client. No tokens and no reason: a liveness probe."""

    stream: _Stream
    tokens: list[int]
    log_probs: list[LogProbs]
    cum_log_prob: float
    finish_reason: str


class TritonPythonModel:
    """Generates tokens for many requests at once."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine that the settings name and start its threads."""
        self._settings = from_model_config(OnnxEngineSettings, model_config(args))
        folder = resolve(args, self._settings.engine_dir)
        if self._settings.trusted_key:
            verify_artifact(folder, load_public_key(resolve(args, self._settings.trusted_key)))
        config = EngineConfig.load(folder)
        provider, gpu = self._settings.execution_provider, self._settings.device_id
        self._engine = Engine(
            folder,
            max_sequences=self._settings.max_num_sequences,
            max_num_tokens=self._settings.max_num_tokens,
            kv_cache_bytes=self._settings.kv_cache_bytes,
            kv_cache_dtype=self._settings.kv_cache_dtype,
            num_threads=self._settings.num_threads,
            device=choose_device(config, provider, gpu),
        )
        pb_utils.Logger.log_info(f"the engine runs on: {self._engine.runner.name}")
        self._metrics = EngineMetrics(args["model_name"], args["model_version"], self._engine)
        self._streams: dict[int, _Stream] = {}
        self._by_request_id: defaultdict[str, set[int]] = defaultdict(set)
        self._deadlines: list[tuple[float, int]] = []
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._outbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        per_s = self._settings.stream_responses_per_s or _RESPONSES_PER_CORE_S * available_cores()
        self._responses_per_s = per_s
        self._pacer = Pacer(per_s, burst=max(per_s // 10, 1))
        self._paced: deque[_Stream] = deque()
        self._threads = [
            Thread(target=self._run_engine, name="engine"),
            Thread(target=self._run_sender, name="sender"),
        ]
        for thread in self._threads:
            thread.start()

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        """Check requests and hand them to the engine."""
        for request in requests:
            inputs = Inputs(request)
            try:
                stop = inputs.array("stop")
                if stop is not None and stop.any():
                    self._take_stop(request, inputs)
                else:
                    self._take(request, inputs)
            except InvalidRequestError as error:
                request.get_response_sender().send(invalid_argument(error), flags=_FINAL)
            except ServerBusyError as error:
                request.get_response_sender().send(unavailable(error), flags=_FINAL)

    def finalize(self) -> None:
        """End the threads; what is still running ends as cancelled."""
        self._inbox.put(None)
        for thread in self._threads:
            thread.join()

    # Triton's thread

    def _take(self, request: pb_utils.InferenceRequest, inputs: Inputs) -> None:
        generation = read_request(
            inputs,
            default_end_ids=self._engine.config.end_token_ids,
            exclude_input=self._settings.exclude_input_in_output,
        )
        for row in generation.rows:
            self._engine.check(row.prompt, row.params)
        waiting = self._inbox.qsize() + len(self._engine.scheduler.waiting)
        if waiting + len(generation.rows) > self._settings.max_queue_size:
            raise ServerBusyError(
                f"the queue is full: {waiting} sequences wait and this request has "
                f"{len(generation.rows)}; max_queue_size is {self._settings.max_queue_size}"
            )
        contexts = inputs.scalars("stream_context", generation.batch_size)
        taken = _Request(request, generation, contexts or [b""] * generation.batch_size)
        self._inbox.put(lambda: self._start(taken))

    def _take_stop(self, request: pb_utils.InferenceRequest, inputs: Inputs) -> None:
        sequence_ids = inputs.scalars("sequence_id", batch=1)
        request_id = request.request_id()
        if sequence_ids is None and not request_id:
            raise InvalidRequestError("stop needs a request id or a sequence_id to say what ends")
        self._inbox.put(lambda: self._stop(sequence_ids, request_id))
        request.get_response_sender().send(pb_utils.InferenceResponse([]), flags=_FINAL)

    # The engine's thread

    def _run_engine(self) -> None:
        next_check_s = time.monotonic()
        while self._take_inbox():
            self._expire()
            try:
                if self._engine.has_work:
                    self._step()
            except Exception as error:  # whatever a step does, the requests that wait are served
                self._fail(error)
            if time.monotonic() >= next_check_s:
                self._check_clients()
                self._metrics.publish()
                period_s = self._settings.cancellation_check_period_ms / 1000
                next_check_s = time.monotonic() + period_s
        for stream in list(self._streams.values()):
            self._cancel(stream)
        self._outbox.put(None)

    def _step(self) -> None:
        advanced = self._engine.step()
        self._metrics.step(advanced)
        for sequence in advanced:
            self._emit(self._streams[sequence.id])

    def _take_inbox(self) -> bool:
        """Do what other threads ask; wait for it where there is no work. False: time to end."""
        while not self._inbox.empty() or not self._engine.has_work:
            if self._inbox.empty():
                self._metrics.publish()
            job = self._inbox.get()
            if job is None:
                return False
            job()
        return True

    def _start(self, request: _Request) -> None:
        for stream in request.streams:
            self._streams[stream.sequence.id] = stream
            if request.id:
                self._by_request_id[request.id].add(stream.sequence.id)
            if request.deadline_s < math.inf:
                heapq.heappush(self._deadlines, (request.deadline_s, stream.sequence.id))
            self._engine.add(stream.sequence)

    def _stop(self, sequence_ids: list[int] | None, request_id: str) -> None:
        named = sequence_ids or list(self._by_request_id.get(request_id, set()))
        for sequence_id in named:
            if sequence_id in self._streams:
                self._cancel(self._streams[sequence_id])

    def _cancel(self, stream: _Stream) -> None:
        self._engine.cancel(stream.sequence)
        self._emit(stream)

    def _emit(self, stream: _Stream) -> None:
        if stream.sequence.finished:
            self._forget(stream, stream.sequence.finish_reason)
            self._outbox.put(lambda: self._send_news(stream))
        elif stream.request.generation.reporting.streaming and not stream.queued:
            stream.queued = True
            # First tokens don't wait; nor do last ones, above.
            take = self._paced.append if stream.sent >= _FIRST_TOKENS else self._send_news
            self._outbox.put(lambda: take(stream))

    def _expire(self) -> None:
        """End what has had its time, whether it waits or runs."""
        while self._deadlines and self._deadlines[0][0] <= time.monotonic():
            _, sequence_id = heapq.heappop(self._deadlines)
            stream = self._streams.get(sequence_id)
            if stream is not None:
                self._engine.drop(stream.sequence)
                self._end(stream, "timeout", unavailable(_timeout_error(stream)))

    def _forget(self, stream: _Stream, reason: str) -> None:
        sequence_id, request_id = stream.sequence.id, stream.request.id
        self._metrics.end(reason)
        del self._streams[sequence_id]
        if request_id:
            self._by_request_id[request_id].discard(sequence_id)
            if not self._by_request_id[request_id]:
                del self._by_request_id[request_id]

    def _fail(self, error: Exception) -> None:
        """Answer what was running with the error; what waits goes on."""
        pb_utils.Logger.log_error(f"a step failed: {error!r}")
        for sequence in self._engine.drop_running():
            response = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            self._end(self._streams[sequence.id], "error", response)

    def _end(self, stream: _Stream, reason: str, response: pb_utils.InferenceResponse) -> None:
        """Answer a sequence that the engine no longer has with an error."""
        self._forget(stream, reason)
        self._outbox.put(lambda: self._send(stream, response, ends=True))

    def _check_clients(self) -> None:
        """See whether clients still wait.

        In an ensemble that shows only at its last step, which an empty piece calls; those that were
        silent the longest are probed, with a quarter of the responses that streams may have. A
        client of the engine itself shows at the response sender.
        """
        period_s = self._settings.cancellation_check_period_ms / 1000
        silent_since_s = time.monotonic() - period_s
        silent = []
        for stream in list(self._streams.values()):
            if not stream.request.generation.liveness_probes:
                self._outbox.put(lambda stream=stream: self._check_sender(stream))  # type: ignore[misc]
            elif stream.last_sent_s <= silent_since_s and not stream.queued:
                silent.append(stream)
        silent.sort(key=lambda stream: stream.last_sent_s)
        for stream in silent[: max(int(self._responses_per_s * period_s / 4), 1)]:
            stream.last_sent_s = time.monotonic()
            self._outbox.put(lambda stream=stream: self._probe(stream))  # type: ignore[misc]

    # The sender's thread

    def _run_sender(self) -> None:
        while (job := self._next_job()) is not None:
            try:
                job()
            except Exception as error:  # one client's trouble is not another's
                pb_utils.Logger.log_warn(f"a response could not be sent: {error!r}")

    def _next_job(self) -> Callable[[], None] | None:
        """What has to be done now; where there is nothing, the next stream whose turn has come."""
        wait_s = self._pacer.wait_s(time.monotonic()) if self._paced else None
        try:
            return self._outbox.get(timeout=wait_s)
        except Empty:
            stream = self._paced.popleft()
            self._pacer.spend(time.monotonic())
            return lambda: self._send_news(stream)

    def _send_news(self, stream: _Stream) -> None:
        stream.queued = False
        if stream.ended:
            return
        piece = stream.take()
        if piece.tokens or piece.finish_reason:
            response = pb_utils.InferenceResponse(_outputs(piece))
            self._send(stream, response, ends=bool(piece.finish_reason))

    def _probe(self, stream: _Stream) -> None:
        if not stream.ended:
            response = pb_utils.InferenceResponse(_outputs(_Piece(stream, [], [], 0.0, "")))
            self._send(stream, response, ends=False)

    def _send(self, stream: _Stream, response: pb_utils.InferenceResponse, ends: bool) -> None:
        stream.ended = ends
        request = stream.request
        request.unfinished -= ends
        request.sender.send(response, flags=0 if request.unfinished else _FINAL)

    def _check_sender(self, stream: _Stream) -> None:
        if stream.request.unfinished and stream.request.sender.is_cancelled():
            sequence_id = stream.sequence.id
            self._inbox.put(lambda: self._stop([sequence_id], ""))


def _timeout_error(stream: _Stream) -> RequestTimeoutError:
    timeout_s = stream.request.generation.timeout_us / 1e6
    return RequestTimeoutError(
        f"the request's timeout of {timeout_s:g} s expired after "
        f"{len(stream.sequence.output)} of {stream.sequence.params.max_tokens} tokens"
    )


def _outputs(piece: _Piece) -> list[pb_utils.Tensor]:
    """The tensors of one response, batch dimension 1, as TensorRT-LLM's."""
    stream = piece.stream
    sequence, generation = stream.sequence, stream.request.generation
    reporting = generation.reporting
    ids = np.asarray(piece.tokens, dtype=np.int32)
    if reporting.echo and piece.finish_reason:
        ids = np.concatenate([sequence.prompt, ids])
    outputs: dict[str, Any] = {
        "output_ids": ids[None, None],
        "sequence_length": np.array([[ids.size]], dtype=np.int32),
        "sequence_id": np.array([[sequence.id]], dtype=np.uint64),
    }
    if piece.finish_reason:
        outputs["finish_reason"] = np.array([[piece.finish_reason.encode()]], dtype=object)
    if stream.context is not None:
        outputs["stream_context"] = np.array([[stream.context]], dtype=object)
        stream.context = None
    if generation.batch_size > 1:
        outputs["batch_index"] = np.array([[stream.batch_index]], dtype=np.int32)
    if generation.num_return_sequences > 1:
        outputs["sequence_index"] = np.array([[stream.sequence_index]], dtype=np.int32)
    outputs.update(_reported(piece, sequence, reporting))
    return [pb_utils.Tensor(name, array) for name, array in outputs.items()]


def _reported(piece: _Piece, sequence: Sequence, reporting: Reporting) -> dict[str, NDArray[Any]]:
    """The statistics that a request asks for."""
    outputs: dict[str, NDArray[Any]] = {}
    if sequence.params.reports_log_probs:
        outputs["cum_log_probs"] = np.array([[piece.cum_log_prob]], dtype=np.float32)
        chosen = [each.chosen for each in piece.log_probs]
        outputs["output_log_probs"] = np.array([[chosen]], dtype=np.float32)
    if width := sequence.params.num_top_log_probs:
        ids = [each.top_ids for each in piece.log_probs]
        values = [each.top for each in piece.log_probs]
        shape = (1, 1, len(ids), -1 if ids else width)
        outputs["top_log_prob_ids"] = np.array(ids, dtype=np.int32).reshape(shape)
        outputs["top_log_probs"] = np.array(values, dtype=np.float32).reshape(shape)
    if reporting.num_input_tokens:
        outputs["num_input_tokens"] = np.array([[sequence.prompt.size]], dtype=np.int32)
    if reporting.num_output_tokens:
        outputs["num_output_tokens"] = np.array([[len(piece.tokens)]], dtype=np.int32)
    if reporting.perf_metrics:
        new, reused = sequence.num_new_blocks, sequence.num_reused_blocks
        for name, blocks in (("alloc_new", new), ("reused", reused), ("alloc_total", new + reused)):
            outputs[f"kv_cache_{name}_blocks"] = np.array([[blocks]], dtype=np.int32)
        for name, time_ns in (
            ("arrival", sequence.arrival_ns),
            ("first_scheduled", sequence.first_scheduled_ns),
            ("first_token", sequence.first_token_ns),
            ("last_token", sequence.last_token_ns),
        ):
            outputs[f"{name}_time_ns"] = np.array([[time_ns]], dtype=np.int64)
        outputs["acceptance_rate"] = np.zeros((1, 1), dtype=np.float32)
        for name in ("total_accepted_draft_tokens", "total_draft_tokens"):
            outputs[name] = np.zeros((1, 1), dtype=np.int32)
    return outputs
