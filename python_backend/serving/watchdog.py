"""The end of a process that stands still: one that hangs in silence is worse than one that is gone.

A model whose process ended is seen by whoever started Triton, and its requests fail. One that hangs
keeps them for ever, and Triton goes on to say that it is ready.
"""

from __future__ import annotations

import faulthandler

_STDERR = 2


class Watchdog:
    """Ends the process unless it is told now and then that the interpreter still runs.

    What watches is a thread of C's that needs no interpreter, so it also sees a lock that was never
    given back. There is one in a process: the last that was told counts.
    """

    def __init__(self, patience_s: float) -> None:
        """Make one, which watches from the first :meth:`alive` on.

        Args:
            patience_s: How long the process may say nothing.
        """
        self._patience_s = patience_s

    def alive(self) -> None:
        """Begin to wait anew; where this comes too late, write each thread's place and end."""
        faulthandler.dump_traceback_later(self._patience_s, exit=True, file=_STDERR)

    def close(self) -> None:
        """Watch no more."""
        faulthandler.cancel_dump_traceback_later()
