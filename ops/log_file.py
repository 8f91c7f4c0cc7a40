"""A log that a process appends to, and that stays of a bounded size."""

from __future__ import annotations

import shutil
from pathlib import Path

MOST_BYTES = 32 << 20
"""A log above this is put aside."""
KEPT = 5
"""How many logs are kept that were put aside: `triton.log.1` is the newest."""


def rotate(log: Path, most_bytes: int = MOST_BYTES) -> bool:
    """Put a log aside, where it is long, and begin a new one; the oldest of :data:`KEPT` goes.

    The file stays the same and is emptied, so that a process goes on with it that has it open to
    append. What it writes in the moment between the copy and that is lost.
    """
    if not log.exists() or log.stat().st_size <= most_bytes:
        return False
    for number in reversed(range(1, KEPT)):
        older = aside(log, number)
        if older.exists():
            older.replace(aside(log, number + 1))
    shutil.copyfile(log, aside(log, 1))
    with log.open("r+b") as file:
        file.truncate(0)
    return True


def aside(log: Path, number: int) -> Path:
    """Where a log lies that was put aside so many times ago."""
    return log.with_name(f"{log.name}.{number}")


def since(log: Path, start: int) -> str:
    """What was written from a place on; all of it where the log was emptied since."""
    with log.open("rb") as file:
        file.seek(start if start <= log.stat().st_size else 0)
        return file.read().decode(errors="replace")
