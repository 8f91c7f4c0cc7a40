"""The orchestrator's side of a worker: a process that computes only while it is asked to."""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.memory_use import family, memory_bytes
from benchmarks.peers.prepare import ROOT, worker_environment


class WorkerError(Exception):
    """A worker failed, fell silent or died; the message has the end of its log."""


class Worker:
    """One worker process, stopped between its turns.

    Between two requests the whole process group is held by SIGSTOP, so that no thread of a system
    that waits, spinning or polling, takes time from the one that is measured.

    Attributes:
        name: For error messages.
        timeout_s: How long an answer may take.
        pid: The process.
        ready: What the worker said once it had loaded its model.
    """

    def __init__(self, name: str, command: list[str], log: Path, timeout_s: float = 900) -> None:
        """Start the process and wait until it has loaded its model.

        Args:
            name: For error messages.
            command: The program, which speaks the protocol of ``benchmarks.peers.worker``.
            log: Takes its standard error.
            timeout_s: How long an answer may take.

        Raises:
            WorkerError: It didn't get ready.
        """
        self.name = name
        self._log = log
        self.timeout_s = timeout_s
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=worker_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self.pid = self._process.pid
        try:
            self.ready: dict[str, Any] = self._answer()["ready"]
        except BaseException:
            self.stop()
            raise
        self._signal(signal.SIGSTOP)

    def run(
        self, prompts: list[list[int]], output_tokens: int, end_ids: Sequence[int] = ()
    ) -> float:
        """Have all prompts continued.

        Args:
            prompts: Token ids of each.
            output_tokens: How many each is to get, or at most where it may end.
            end_ids: Tokens that end an answer.

        Returns:
            Seconds from the prompts' arrival in the worker to the last token. Where answers may
            end, as many as all of ``output_tokens`` would have taken at the same rate.

        Raises:
            WorkerError: The system failed, or did not generate what was asked for.
        """
        request = {"prompts": prompts, "output_tokens": output_tokens, "end_ids": list(end_ids)}
        answer = self._ask(request)
        generated: list[int] = answer["generated"]
        asked = [output_tokens] * len(prompts)
        ended = end_ids and len(generated) == len(prompts) and max(generated) <= output_tokens
        if generated != asked and not (ended and min(generated) >= 0 and sum(generated)):
            raise WorkerError(
                f"{self.name} was asked for {output_tokens} tokens for each of {len(prompts)} "
                f"prompts and generated {generated}"
            )
        return float(answer["seconds"]) * sum(asked) / sum(generated)

    def logits(self, tokens: Sequence[int], rows: int, file: Path) -> NDArray[np.float32]:
        """What the system predicts after each of the last ``rows`` tokens, ``[rows, vocab]``.

        Args:
            tokens: Token ids.
            rows: How many of them.
            file: Carries the result, which is valid until the next call.

        Raises:
            WorkerError: The system failed.
        """
        answer = self._ask({"tokens": list(tokens), "rows": rows, "file": str(file)})
        return np.memmap(file, np.float32, "r", shape=(rows, answer["vocab_size"]))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Have the worker go on until it has answered."""
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._error("ended") from None
        answer = self._answer()
        self._signal(signal.SIGSTOP)
        return answer

    @property
    def memory_bytes(self) -> int:
        """Proportional resident memory of the worker and all that it started."""
        return sum(map(memory_bytes, family(self.pid)))

    def stop(self, grace_s: float = 20) -> None:
        """End the worker: ask first, then kill."""
        self._signal(signal.SIGCONT)
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._signal(signal.SIGKILL)  # what it started and left behind
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(self.timeout_s):
                raise self._error(f"was silent for {self.timeout_s:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._error("ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.name} failed:\n{answer['error']}")
        return answer

    def _error(self, what: str) -> WorkerError:
        end = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
        return WorkerError(f"{self.name} {what} ({self._log}):\n{end}")

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """In the child, before exec: a stopped worker must not outlive a comparison that was killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
