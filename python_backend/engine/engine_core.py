"""What serving knows of an engine: the whole of it, so that a second engine is a class beside this.

An engine continues sequences. Serving makes each one (`Sequence`), asks the engine to ``check`` and
then ``add`` it, and calls ``step`` as long as it ``has_work``. At a step the engine appends tokens
to the sequences that it advanced and returns these; a sequence whose ``finish_reason`` was set
thereby has left the engine. Everything else (requests, streams, deadlines, who is still there, the
metrics) is serving's.

One thread owns an engine and calls it; what any thread may call says so. An engine has no clock and
no thread of its own that anyone would notice. ``tests/python_backend/sample_engine.py`` is a whole
one, as small as can be; ``tests/python_backend/test_engine_core.py`` holds every engine to what is
promised here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from python_backend.engine.sequence import SamplingParams, Sequence


@dataclass(frozen=True)
class EngineStats:
    """How an engine stands: its queues and its KV cache. An engine without blocks says 0 of them.

    Attributes:
        num_running: Sequences that get tokens.
        num_waiting: Sequences that wait for room.
        num_preempted: How often a running sequence had to wait again, since the engine was loaded.
        num_used_blocks: Blocks of the KV cache that sequences use.
        num_cached_blocks: Unused blocks that hold the beginnings of known sequences.
        num_blocks: Blocks in all.
        block_bytes: Memory that one takes.
        num_looked_up_blocks: Full blocks of prompts that were looked up among the known ones.
        num_reused_blocks: Those of them that were found.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_preempted: int = 0
    num_used_blocks: int = 0
    num_cached_blocks: int = 0
    num_blocks: int = 0
    block_bytes: int = 0
    num_looked_up_blocks: int = 0
    num_reused_blocks: int = 0


class EngineCore(Protocol):
    """Continues many sequences at once.

    Attributes:
        batch_size: Sequences that the last step computed, also those that got no token yet.
    """

    batch_size: int

    @property
    def name(self) -> str:
        """What computes, for the one who reads the log."""

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a sequence where its request names no other; at least one."""

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits or runs."""

    def check(self, prompt: NDArray[np.int32], params: SamplingParams) -> SamplingParams:
        """Refuse what can never run. Any thread may call this.

        Args:
            prompt: int32 ``[tokens]``.
            params: How it is to be sampled.

        Returns:
            How it is sampled: ``max_tokens`` is cut to the room where that is asked for.

        Raises:
            InvalidRequestError: It can't; the message names the input and the bound.
        """

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence that ``check`` accepts."""

    def step(self) -> list[Sequence]:
        """Advance what can run.

        Returns:
            The sequences that got a token or ended. One that ended has left the engine.

        Raises:
            EngineError: It failed. What was running is to be given up with ``drop_running``; what
                waits goes on.
        """

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence now, as ``cancelled``. One that has ended stays as it is."""

    def drop(self, sequence: Sequence) -> None:
        """Give up a sequence that has not ended; it gets no reason to have finished."""

    def drop_running(self) -> list[Sequence]:
        """Give up what runs, after a failure; what waits is untouched.

        Returns:
            What was given up.
        """

    def stats(self) -> EngineStats:
        """How it stands now. Any thread may call this; its figures need not be of one moment."""
