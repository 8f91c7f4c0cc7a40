"""The files of an audit log: `<directory>/<writer>/<number>.jsonl`."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PRUNED = "pruned.jsonl"
"""The file that says which segments of a chain retention removed."""

_NAME = re.compile(r"(\d{8})\.jsonl")


@dataclass(frozen=True)
class Segment:
    """One file of a chain.

    Attributes:
        number: Its number in the chain, from 0.
        path: Where it is.
    """

    number: int
    path: Path

    def lines(self, start: int = 0) -> Iterator[bytes]:
        """Yield its whole lines from a position on."""
        return whole_lines(self.path, start)


def whole_lines(path: Path, start: int = 0) -> Iterator[bytes]:
    """Yield a file's whole lines from a position on. One without an end is not yet one."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                yield line


def writers(directory: Path) -> list[Path]:
    """Return the folders of all chains in a log."""
    if not directory.is_dir():
        return []
    return sorted(each for each in directory.iterdir() if each.is_dir() and any(segments(each)))


def segments(writer: Path) -> list[Segment]:
    """Return the segments of a chain in order."""
    found = ((_NAME.fullmatch(each.name), each) for each in writer.iterdir())
    return sorted(
        (Segment(int(name[1]), path) for name, path in found if name),
        key=lambda segment: segment.number,
    )


def segment_path(writer: Path, number: int) -> Path:
    """Return where a segment of a chain is."""
    return writer / f"{number:08d}.jsonl"


def sync_folder(folder: Path) -> None:
    """Have a folder's new and removed names on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """Lock a file for this process; None where another has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except BlockingIOError:
        os.close(descriptor)
        return None
