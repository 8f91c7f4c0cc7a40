"""Where a chain ends, for the process that goes on with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from gateway.audit.audit_segments import Segment, segments, whole_lines
from gateway.audit.chain import START, BrokenLine, Link, check, read
from gateway.audit.keys import AuditKeys
from gateway.audit.records import Fields


@dataclass
class Tail:
    """Where a chain ends.

    Attributes:
        link: Its last line.
        segment: Its last segment; -1 where there is none.
        day: The day that segment began.
        key: Fingerprint of that segment's key.
        still_open: Beginnings without an end, by their numbers.
        dropped_bytes: Length of a line that was cut short, and is gone.
    """

    link: Link
    segment: int
    day: str
    key: str
    still_open: dict[int, Fields]
    dropped_bytes: int


def read_tail(folder: Path, keys: AuditKeys) -> Tail:
    """Read where a chain ends and mend its end.

    Raises:
        BrokenLine: Its last segment is not what was written.
    """
    tail = Tail(START, -1, "", "", {}, 0)
    found = segments(folder)
    while found:
        last = found.pop()
        tail.dropped_bytes += cut_off(last.path)
        if last.path.stat().st_size:
            return _read_tail(last, keys, tail)
        last.path.unlink()  # a crash came between its creation and its first line
    return tail


def _read_tail(segment: Segment, keys: AuditKeys, tail: Tail) -> Tail:
    lines = segment.lines()
    line = next(lines)
    fields, link = read(line)
    key = keys.find(str(fields.get("key")))
    if key is None:
        raise BrokenLine(f"{segment.path}:1 was written with a key that is not there")
    try:
        _, link = check(key, Link(link.sequence - 1, str(fields.get("previous"))), line)
        still_open = {int(each.pop("n")): each for each in fields["open"]}
        for line in lines:
            said, link = check(key, link, line)
            if said["event"] == "begin":
                still_open[link.sequence] = {k: said[k] for k in said if k not in ("n", "mac")}
            elif said["event"] in ("end", "interrupted"):
                still_open.pop(said["begun"], None)
    except BrokenLine as error:
        raise BrokenLine(f"{segment.path}: after number {link.sequence} a line {error}") from None
    day = day_of(fields["time"])
    return Tail(link, segment.number, day, key.fingerprint, still_open, tail.dropped_bytes)


def cut_off(path: Path) -> int:
    """Take a last line without an end off a file; return its length in bytes."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        whole = sum(len(line) for line in whole_lines(path))
        file.truncate(whole)
        os.fsync(file.fileno())
    return size - whole


def day_of(time: float) -> str:
    """Return the day of a moment, UTC, as ``YYYY-MM-DD``."""
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d")
