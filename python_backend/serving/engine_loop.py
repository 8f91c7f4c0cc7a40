"""The engine's thread: takes in what others ask, ends what has had its time, steps the engine, and
has the sender tell clients what came of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

import triton_python_backend_utils as pb_utils

from python_backend.engine.engine_core import EngineCore
from python_backend.serving.engine_metrics import EndReason, EngineMetrics
from python_backend.serving.engine_stream import EngineStream
from python_backend.serving.pacing import Outbox
from python_backend.serving.probing import Prober
from python_backend.serving.sessions import Session, Sessions, timeout_error
from python_backend.serving.stop_request import Stop


class EngineLoop:
    """Owns an engine and the sessions that it serves."""

    def __init__(
        self,
        engine: EngineCore,
        metrics: EngineMetrics,
        outbox: Outbox,
        prober: Prober,
        check_period_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a loop; ``run`` runs it.

        Args:
            engine: What makes the tokens.
            metrics: What is told of it.
            outbox: Where responses go.
            prober: Who says which clients are looked after.
            check_period_s: How often that is, and how often metrics are published.
            clock: What time it is.
        """
        self._engine = engine
        self._metrics = metrics
        self._outbox = outbox
        self._prober = prober
        self._check_period_s = check_period_s
        self._clock = clock
        self._next_check_s = clock()
        self._sessions: Sessions[EngineStream] = Sessions()
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    # Any thread

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for the engine, and what it was not yet asked."""
        return self._inbox.qsize() + self._engine.stats().num_waiting

    def start(self, session: Session[EngineStream]) -> None:
        """Have the sequences of a request generated, which the engine accepts."""
        self._inbox.put(partial(self._start, session))

    def stop(self, stop: Stop) -> None:
        """Have sequences ended."""
        self._inbox.put(partial(self._stop, stop))

    def end(self) -> None:
        """Have the thread end; what is still running ends as cancelled."""
        self._inbox.put(None)

    # The engine's thread

    def run(self) -> None:
        """Serve until the end."""
        while self.take_inbox():
            self.advance()
        for stream in self._sessions.streams():
            self._cancel(stream)
        self._outbox.close()

    def take_inbox(self) -> bool:
        """Do what other threads ask; wait for it where there is no work. False: time to end."""
        while not self._inbox.empty() or not self._engine.has_work:
            if self._inbox.empty():
                self._metrics.publish()
            job = self._inbox.get()
            if job is None:
                return False
            job()
        return True

    def advance(self) -> None:
        """Do a step, and what its time has come for."""
        for stream in self._sessions.overdue(self._clock()):
            self._engine.drop(stream.sequence)
            self._end(stream, "timeout", _timeout(stream))
        try:
            if self._engine.has_work:
                self._step()
        except Exception as error:  # whatever a step does, the requests that wait are served
            self._fail(error)
        if self._clock() >= self._next_check_s:
            self._check_clients()
            self._metrics.publish()
            self._next_check_s = self._clock() + self._check_period_s

    def _step(self) -> None:
        advanced = self._engine.step()
        self._metrics.step(advanced)
        streams = self._sessions.by_id
        for sequence in advanced:
            self._tell(streams[sequence.id])

    def _start(self, session: Session[EngineStream]) -> None:
        self._sessions.open(session)
        for stream in session.streams:
            self._engine.add(stream.sequence)

    def _stop(self, stop: Stop) -> None:
        named = self._sessions.named(stop)
        if named and stop.client_gone:
            self._prober.found_gone()
        for stream in named:
            self._cancel(stream)

    def _cancel(self, stream: EngineStream) -> None:
        self._engine.cancel(stream.sequence)
        self._tell(stream)

    def _tell(self, stream: EngineStream) -> None:
        """Have the client told of a stream's news."""
        if stream.sequence.failure is not None:
            self._end(stream, "error", stream.sequence.failure)
        elif stream.sequence.finish_reason:
            self._forget(stream, stream.sequence.finish_reason)
            self._outbox.put_news(stream)
        elif stream.reporting.streaming and not stream.queued:
            stream.queued = True
            self._outbox.put_news(stream)

    def _fail(self, error: Exception) -> None:
        """Answer what was running with the error; what waits goes on."""
        pb_utils.Logger.log_error(f"a step failed: {error!r}")
        for sequence in self._engine.drop_running():
            self._end(self._sessions.by_id[sequence.id], "error", error)

    def _end(self, stream: EngineStream, reason: EndReason, error: Exception) -> None:
        """Answer a sequence that the engine no longer has with an error."""
        self._forget(stream, reason)
        self._outbox.put(partial(stream.session.fail, stream, error))

    def _forget(self, stream: EngineStream, reason: EndReason) -> None:
        self._metrics.end(reason, stream.sequence)
        self._sessions.close(stream)

    def _check_clients(self) -> None:
        """See whether clients still wait."""
        probed, asked = self._prober.round(self._sessions.streams())
        for stream in asked:
            self._outbox.put(partial(self._ask, stream))
        for stream in probed:
            self._outbox.put(stream.probe)

    # The sender's thread

    def _ask(self, stream: EngineStream) -> None:
        if stream.session.is_abandoned():
            self.stop(Stop(stream.id))


def _timeout(stream: EngineStream) -> Exception:
    sequence = stream.sequence
    return timeout_error(stream.session, len(sequence.output), sequence.params.max_tokens)
