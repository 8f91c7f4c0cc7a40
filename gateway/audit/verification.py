"""Whether a log is whole: every line as it was written, none missing, none moved, none too many.

What a chain can't show by itself is that its end was cut off. Anchors do: places of the chain that
were noted elsewhere, in the database of usage or by hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.audit.audit_errors import AuditError
from gateway.audit.audit_segments import PRUNED, Segment, segments, whole_lines, writers
from gateway.audit.chain import START, BrokenLine, Link, check, read
from gateway.audit.keys import AuditKey, AuditKeys


@dataclass
class ChainReport:
    """What is known of one chain.

    Attributes:
        writer: Its name.
        lines: Lines that verified.
        events: How many there are of each event.
        first: The place before its first line; not the start where retention removed some.
        last: The place of its last line.
        problems: What is wrong, each with its file and line.
    """

    writer: str
    lines: int = 0
    events: dict[str, int] = field(default_factory=dict)
    first: Link = START
    last: Link = START
    problems: list[str] = field(default_factory=list)


def verify(
    directory: Path, keys: AuditKeys, anchors: Mapping[str, Link] | None = None
) -> list[ChainReport]:
    """Check every line of a log.

    Args:
        directory: The log.
        keys: The keys that it was written with.
        anchors: A place of each chain, by writer, that was noted before.
    """
    reports = {folder.name: _verify_chain(folder, keys, anchors) for folder in writers(directory)}
    for writer in anchors or {}:
        if writer not in reports:
            reports[writer] = ChainReport(writer, problems=[f"{directory / writer} is gone"])
    return list(reports.values())


def pruned(folder: Path, keys: AuditKeys) -> tuple[int, Link]:
    """Return the last segment of a chain that retention removed, and its last line's place.

    Segment -1 where none was. A note without an end is none: its segment was not removed yet.

    Raises:
        BrokenLine: The file that says so was changed.
    """
    segment, link, place = -1, START, START
    path = folder / PRUNED
    if not path.exists():
        return segment, place
    for number, line in enumerate(whole_lines(path), 1):
        try:
            fields, _ = read(line)
            fields, link = check(_key(keys, fields), link, line)
        except BrokenLine as error:
            raise BrokenLine(f"{path}:{number} {error}") from None
        segment, place = fields["segment"], Link(fields["last_n"], fields["last_mac"])
    return segment, place


def _verify_chain(folder: Path, keys: AuditKeys, anchors: Mapping[str, Link] | None) -> ChainReport:
    report = ChainReport(folder.name)
    try:
        removed, place = pruned(folder, keys)
    except BrokenLine as error:
        report.problems.append(str(error))
        return report
    # A crash may have come between the note of a removal and the removal.
    here = [segment for segment in segments(folder) if segment.number > removed]
    report.first = report.last = place
    anchor = (anchors or {}).get(folder.name)
    if anchor is not None and anchor.sequence <= place.sequence:
        anchor = None  # what it names is gone by retention
    expected = removed + 1
    for segment in here:
        if segment.number != expected:
            report.problems.append(f"{folder}: {_gone(expected, segment.number - 1)}")
            report.last = _before(segment, report.last)
        _verify_segment(segment, keys, report, anchor)
        expected = segment.number + 1
    if anchor is not None and report.last.sequence < anchor.sequence:
        report.problems.append(
            f"{folder}: ends with line {report.last.sequence}, and line {anchor.sequence} was there"
        )
    return report


def _gone(first: int, last: int) -> str:
    return f"segment {first} is gone" if first == last else f"segments {first} to {last} are gone"


def _before(segment: Segment, last: Link) -> Link:
    """The place before a segment, as its first line says: what is gone doesn't make it wrong."""
    for line in segment.lines():
        with contextlib.suppress(BrokenLine):
            fields, link = read(line)
            return Link(link.sequence - 1, str(fields.get("previous")))
        break
    return last


def _verify_segment(
    segment: Segment, keys: AuditKeys, report: ChainReport, anchor: Link | None
) -> None:
    key: AuditKey | None = None
    for number, line in enumerate(segment.lines(), 1):
        try:
            fields, link = read(line)
            if number == 1:
                key = _key(keys, fields)
            assert key is not None
            check(key, report.last, line)
            if anchor is not None and link.sequence == anchor.sequence and link.mac != anchor.mac:
                raise BrokenLine("is not the line that was there before")
        except BrokenLine as error:
            report.problems.append(f"{segment.path}:{number} {error}")
            if key is None:
                return
            # To tell one change from many, go on from what the line says that it is.
            report.last = _claimed(line, report.last)
            continue
        report.last = link
        report.lines += 1
        event = str(fields.get("event"))
        report.events[event] = report.events.get(event, 0) + 1


def _key(keys: AuditKeys, fields: dict[str, Any]) -> AuditKey:
    key = keys.find(str(fields.get("key")))
    if key is None:
        raise BrokenLine("was written with a key that is not there")
    return key


def _claimed(line: bytes, before: Link) -> Link:
    try:
        return read(line)[1]
    except BrokenLine:
        return Link(before.sequence + 1, before.mac)


def heads(directory: Path) -> dict[str, Link]:
    """Return where each chain ends now, to be noted elsewhere.

    Raises:
        AuditError: A chain's last line is none: its end has to be verified first.
    """
    found = {}
    for folder in writers(directory):
        for segment in reversed(segments(folder)):
            *_, last = (b"", *segment.lines())
            if last:  # else a crash came between its creation and its first line
                try:
                    found[folder.name] = read(last)[1]
                except BrokenLine as error:
                    raise AuditError(f"the last line of {segment.path} {error}") from None
                break
    return found
