"""The requests that are under way: their sequences, how these are found, when their time is up.

A session is one request, a stream one of its sequences as the client sees it. They know where
answers go and what was sent; who makes the tokens, an engine here or NVIDIA's backend, adds what it
knows by a kind of stream of its own.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Generic, TypeVar

import triton_python_backend_utils as pb_utils

from contract.errors import RequestTimeoutError
from python_backend.serving.encoding import Piece, encode
from python_backend.serving.stop_request import Stop
from python_backend.serving.triton_api import refusal

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_PROBE = Piece()


class Stream:
    """One sequence of a request, and what its client was sent of it.

    Attributes:
        session: The request that it belongs to.
        id: Tells its pieces from those of any other.
        batch_index: Which prompt of the request's batch it continues.
        sequence_index: Which of that prompt's continuations it is.
        queued: Whether it has news on the way to the client.
        ended: Whether its last response was sent.
        last_sent_s: When the last response was sent or decided on.
    """

    session: Session[Any]
    last_sent_s: float

    def __init__(
        self, sequence_id: int, batch_index: int, sequence_index: int, context: bytes | None
    ) -> None:
        self.id = sequence_id
        self.batch_index = batch_index
        self.sequence_index = sequence_index
        self.queued = False
        self.ended = False
        self._context = context

    def take_context(self) -> bytes | None:
        """What preprocessing said of it, for its first response; None after that."""
        context, self._context = self._context, None
        return context

    def probe(self) -> None:
        """Send nothing, so that a client that went away shows."""
        self.session.send(self, _PROBE)


S = TypeVar("S", bound=Stream)


class Session(Generic[S]):
    """One request: its streams, and where their answers go. Any thread may send.

    Attributes:
        request_id: As its client chose it; clients may share one or leave it out.
        streams: Its sequences.
        batch_size: How many prompts it has.
        num_return_sequences: How many continuations of each.
        probes: Whether its client shows only where empty responses arrive: it is in an ensemble.
        timeout_s: Seconds that the answer may take.
        deadline_s: When its time is up, on the clock.
    """

    def __init__(
        self,
        request: pb_utils.InferenceRequest,
        streams: Sequence[S],
        *,
        batch_size: int = 1,
        num_return_sequences: int = 1,
        probes: bool = False,
        timeout_s: float = math.inf,
        waited_s: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open a request's streams.

        Args:
            request: Triton's.
            streams: Its sequences.
            batch_size: How many prompts it has.
            num_return_sequences: How many continuations of each.
            probes: Whether its client shows only where empty responses arrive.
            timeout_s: Seconds that the answer may take.
            waited_s: Those of them that are gone.
            clock: What time it is.
        """
        self.request_id: str = request.request_id()
        self.streams = streams
        self.batch_size = batch_size
        self.num_return_sequences = num_return_sequences
        self.probes = probes
        self.timeout_s = timeout_s
        self.deadline_s = clock() + timeout_s - waited_s
        self._sender = request.get_response_sender()
        self._unended = len(streams)
        self._lock = Lock()
        self._clock = clock
        for stream in streams:
            stream.session = self
            stream.last_sent_s = clock()

    @property
    def unended(self) -> list[S]:
        """The streams whose last response was not sent."""
        return [stream for stream in self.streams if not stream.ended]

    def send(self, stream: S, piece: Piece) -> None:
        """Send a piece of a stream; one with a reason is the stream's last."""
        with self._lock:
            if not stream.ended:
                self._send(stream, encode(stream, piece), ends=bool(piece.finish_reason))

    def fail(self, stream: S, error: Exception) -> None:
        """End a stream with an error."""
        with self._lock:
            if not stream.ended:
                self._send(stream, refusal(error), ends=True)

    def fail_all(self, response: pb_utils.InferenceResponse) -> None:
        """End all streams that have not ended with one response, an error."""
        with self._lock:
            if self._unended:
                self._unended = 0
                for stream in self.streams:
                    stream.ended = True
                self._sender.send(response, flags=_FINAL)

    def is_abandoned(self) -> bool:
        """Whether the client went away; in an ensemble it never seems so."""
        return self._unended > 0 and bool(self._sender.is_cancelled())

    def _send(self, stream: S, response: pb_utils.InferenceResponse, ends: bool) -> None:
        """The last response of all streams is Triton's final one as well."""
        stream.ended = ends
        stream.last_sent_s = self._clock()
        self._unended -= ends
        self._sender.send(response, flags=0 if self._unended else _FINAL)


class Sessions(Generic[S]):
    """The streams that are open, by their ids and by their requests' ids. Any thread may call.

    Attributes:
        by_id: The open streams by their ids, to be read.
    """

    def __init__(self) -> None:
        self.by_id: dict[int, S] = {}
        self._by_request_id: defaultdict[str, dict[int, S]] = defaultdict(dict)
        self._deadlines: list[tuple[float, int]] = []
        self._lock = Lock()

    def open(self, session: Session[S]) -> None:
        """Take in the streams of a request."""
        with self._lock:
            for stream in session.streams:
                self.by_id[stream.id] = stream
                self._by_request_id[session.request_id][stream.id] = stream
                if session.deadline_s < math.inf:
                    heapq.heappush(self._deadlines, (session.deadline_s, stream.id))

    def close(self, stream: S) -> None:
        """Forget a stream."""
        request_id = stream.session.request_id
        with self._lock:
            del self.by_id[stream.id]
            del self._by_request_id[request_id][stream.id]
            if not self._by_request_id[request_id]:
                del self._by_request_id[request_id]

    def streams(self) -> list[S]:
        """All that are open, the oldest first."""
        with self._lock:
            return list(self.by_id.values())

    def named(self, stop: Stop) -> list[S]:
        """The open streams that a request to stop means."""
        with self._lock:
            if stop.sequence_id is None:
                return list(self._by_request_id.get(stop.request_id, {}).values())
            stream = self.by_id.get(stop.sequence_id)
            if stream is None:
                return []
            if stop.client_gone:
                return [each for each in stream.session.streams if each.id in self.by_id]
            return [stream]

    def overdue(self, now_s: float) -> list[S]:
        """The open streams whose time is up; each is named once."""
        if not self._deadlines or self._deadlines[0][0] > now_s:
            return []
        found = []
        with self._lock:
            while self._deadlines and self._deadlines[0][0] <= now_s:
                _, sequence_id = heapq.heappop(self._deadlines)
                if sequence_id in self.by_id:
                    found.append(self.by_id[sequence_id])
        return found


def timeout_error(session: Session[Any], num_tokens: int, max_tokens: int) -> RequestTimeoutError:
    """What a client is told whose time is up."""
    return RequestTimeoutError(
        f"the request's timeout of {session.timeout_s:g} s expired after "
        f"{num_tokens} of {max_tokens} tokens"
    )
