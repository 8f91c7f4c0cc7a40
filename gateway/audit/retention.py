"""Removing what is older than it has to be kept, so that the rest still verifies.

Whole segments go, the oldest first. Before one goes, a sealed note says which and where it ended,
so that a removal by anybody else shows.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path

from gateway.audit.audit_errors import AuditError
from gateway.audit.audit_segments import (
    PRUNED,
    Segment,
    segments,
    sync_folder,
    whole_lines,
    writers,
)
from gateway.audit.chain import START, BrokenLine, Link, read, seal
from gateway.audit.following import Follower
from gateway.audit.keys import AuditKeys
from gateway.audit.tail import cut_off, day_of
from gateway.audit.verification import pruned
from gateway.audit.writer import LineWriter


def prune(
    directory: Path,
    keys: AuditKeys,
    before: date,
    counted: Mapping[str, Link] | None = None,
    tell: Callable[[Path], object] = lambda path: None,
) -> list[Path]:
    """Remove segments all of whose lines are older than a day; return which.

    The last segment of a chain always stays, and so does one that was changed: whoever could make
    it look old would have its removal sealed. What is behind that one stays, too.

    Args:
        directory: The log. Gateways may write to it meanwhile.
        keys: Its keys.
        before: The first day to keep, UTC.
        counted: Up to where each chain is in the usage tables, by writer: nothing goes that isn't
            counted. None asks for no such thing.
        tell: Called with each segment that was removed.

    Raises:
        AuditError: A segment that may be old, or a note of an earlier removal, was changed, or no
            further note can be written. Other chains are pruned all the same.
    """
    removed: list[Path] = []
    problems: list[str] = []
    for folder in writers(directory):
        try:
            for path in _prune_chain(folder, keys, before, counted):
                removed.append(path)
                tell(path)
        except (AuditError, BrokenLine) as error:
            problems.append(str(error))
    if problems:
        raise AuditError("; ".join(problems))
    return removed


def _prune_chain(
    folder: Path, keys: AuditKeys, before: date, counted: Mapping[str, Link] | None
) -> Iterator[Path]:
    with (folder / "prune.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, _ = pruned(folder, keys)
        for segment in segments(folder)[:-1]:
            if segment.number > done:
                first, last, newest = _extent(segment, folder, keys)
                if day_of(newest) >= before.isoformat():
                    return
                if counted is not None and last.sequence > _counted(counted, folder):
                    return
                try:
                    _note(folder, keys, segment, first, last)
                except OSError as error:
                    raise AuditError(
                        f"{segment.path} stays: that it goes can't be noted: {error}"
                    ) from error
            segment.path.unlink()
            sync_folder(folder)
            yield segment.path


def _counted(counted: Mapping[str, Link], folder: Path) -> int:
    return counted.get(folder.name, START).sequence


def _extent(segment: Segment, folder: Path, keys: AuditKeys) -> tuple[Link, Link, float]:
    """Return the places of a segment's first and last lines, and the newest time in it.

    Raises:
        AuditError: Not every line is as it was written.
    """
    follower = Follower(keys, folder.name, START)
    links, newest = [], 0.0
    try:
        for line in segment.lines():
            newest = max(newest, follower.follow(line, segment.number)["time"])
            links.append(follower.link)
    except BrokenLine as error:
        number = len(links) + 1
        raise AuditError(f"{segment.path} stays: its line {number} {error}") from None
    if not links:
        raise AuditError(f"{segment.path} stays: it is empty, and others follow it")
    return links[0], links[-1], newest


def _note(folder: Path, keys: AuditKeys, segment: Segment, first: Link, last: Link) -> None:
    """Have a note on disk, whole or not at all."""
    path = folder / PRUNED
    new = not path.exists()
    if not new:
        cut_off(path)  # what a crash cut short
    link = START
    for before in [] if new else whole_lines(path):
        _, link = read(before)
    line, _ = seal(
        keys.current,
        link,
        {
            "event": "pruned",
            "time": time.time(),
            "key": keys.current.fingerprint,
            "segment": segment.number,
            "first_n": first.sequence,
            "last_n": last.sequence,
            "last_mac": last.mac,
        },
    )
    file = LineWriter(path, new=new)
    try:
        file.write(line)
        file.sync()
    finally:
        file.close()
