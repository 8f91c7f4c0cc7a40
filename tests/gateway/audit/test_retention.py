from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from datetime import date
from typing import Any

import orjson
import pytest

from gateway.audit import retention
from gateway.audit.audit_errors import AuditError
from gateway.audit.audit_segments import PRUNED, segment_path, segments, writers
from gateway.audit.audit_settings import AuditSettings
from gateway.audit.chain import START, Link, read
from gateway.audit.keys import AuditKeys
from gateway.audit.log import FileAuditLog, key_path
from gateway.audit.retention import prune
from gateway.audit.verification import heads, pruned, verify
from tests.gateway.audit.conftest import begun, record

pytestmark = pytest.mark.anyio

DAY = 86_400


@pytest.fixture
async def log(settings: AuditSettings, monkeypatch: pytest.MonkeyPatch) -> FileAuditLog:
    """A log of five days, 2027-01-15 to -19, that is still written."""
    now = 1_800_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    log = FileAuditLog.open(settings)
    for day in range(5):
        now = 1_800_000_000.0 + day * DAY
        for number in range(2):  # the first of a day begins its segment
            ticket = await begun(log, f"{day}-{number}", now)
            await log.append(record(f"{day}-{number}", time=now), ticket)
    return log


@pytest.fixture
def keys(settings, log):
    return AuditKeys.load(key_path(settings))


def numbers(settings: AuditSettings) -> list[int]:
    [folder] = writers(settings.directory)
    return [segment.number for segment in segments(folder)]


async def test_what_is_old_goes_and_the_rest_verifies(settings, log, keys):
    before = heads(settings.directory)
    removed = prune(settings.directory, keys, date(2027, 1, 17))
    left = numbers(settings)
    assert len(removed) == left[0] > 0
    [report] = verify(settings.directory, keys, before)
    assert report.problems == []
    assert report.first.sequence >= 0
    # All of the days that are to be kept are there.
    text = b"".join(path.read_bytes() for path in settings.directory.rglob("0*.jsonl")).decode()
    assert all(f'"{day}-{number}"' in text for day in (2, 3, 4) for number in (0, 1))
    assert '"0-0"' not in text
    assert prune(settings.directory, keys, date(2027, 1, 17)) == []
    await log.append(record("more"), await begun(log, "more", time.time()))
    prune(settings.directory, keys, date(2027, 1, 19))
    assert numbers(settings)[0] > left[0]
    await log.close()
    [report] = verify(settings.directory, keys, before)
    assert report.problems == []


async def test_a_segment_goes_when_its_last_line_is_older_than_what_is_kept(settings, log, keys):
    [folder] = writers(settings.directory)
    first, second, *_ = [segment.path for segment in segments(folder)]
    assert b'"1-0"' in first.read_bytes()  # the first request of a day ends the segment before
    assert prune(settings.directory, keys, date(2027, 1, 16)) == []
    assert prune(settings.directory, keys, date(2027, 1, 17)) == [first]
    assert prune(settings.directory, keys, date(2027, 1, 18)) == [second]
    await log.close()


async def test_a_removal_is_on_disk_before_the_next_begins(settings, log, keys, monkeypatch):
    [folder] = writers(settings.directory)
    synced = []

    def sync(where):
        assert where == folder
        synced.append(numbers(settings))

    monkeypatch.setattr(retention, "sync_folder", sync)
    before = numbers(settings)
    removed = prune(settings.directory, keys, date(2027, 1, 17))
    assert synced == [before[count:] for count in range(1, len(removed) + 1)]


async def test_a_removal_leaves_a_note_of_what_went(settings, log, keys):
    [folder] = writers(settings.directory)
    went = [[orjson.loads(line) for line in each.lines()] for each in segments(folder)[:2]]
    prune(settings.directory, keys, date(2027, 1, 17))
    prune(settings.directory, keys, date(2027, 1, 18))
    notes = [orjson.loads(line) for line in (folder / PRUNED).read_bytes().splitlines()]
    assert [{**note, "mac": None} for note in notes] == [
        {
            "n": number,
            "event": "pruned",
            "time": 1_800_000_000.0 + 4 * DAY,
            "key": keys.current.fingerprint,
            "segment": number,
            "first_n": lines[0]["n"],
            "last_n": lines[-1]["n"],
            "last_mac": lines[-1]["mac"],
            "mac": None,
        }
        for number, lines in enumerate(went)
    ]
    [report] = verify(settings.directory, keys)
    assert report.first == Link(went[1][-1]["n"], went[1][-1]["mac"])
    assert pruned(folder, keys) == (1, report.first)
    await log.close()


async def test_a_note_that_finds_no_room_removes_nothing_and_harms_none(
    settings, log, keys, monkeypatch
):
    prune(settings.directory, keys, date(2027, 1, 17))
    before = numbers(settings)

    def some(write: Any) -> Any:
        def written(descriptor: int, data: bytes, *position: int) -> int:
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken: int = write(descriptor, data[: left.pop()], *position)
            return taken

        return written

    left = [40]
    with monkeypatch.context() as patch:
        for name in ("write", "pwrite"):
            patch.setattr(os, name, some(getattr(os, name)))
        with pytest.raises(AuditError, match=r"stays: .* No space"):
            prune(settings.directory, keys, date(2027, 1, 18))
    assert numbers(settings) == before
    assert [len(report.problems) for report in verify(settings.directory, keys)] == [0]
    assert prune(settings.directory, keys, date(2027, 1, 18))
    await log.close()
    assert [len(report.problems) for report in verify(settings.directory, keys)] == [0]


@pytest.mark.parametrize("kept", [0, 1])
async def test_a_note_cut_short_by_a_power_cut_is_none(settings, log, keys, kept):
    """The segment goes only after its note is on disk, so it is there still."""
    [folder] = writers(settings.directory)
    contents = {segment.path: segment.path.read_bytes() for segment in segments(folder)}
    for day in (17, 18)[: kept + 1]:
        [removed] = prune(settings.directory, keys, date(2027, 1, day))
    removed.write_bytes(contents[removed])
    note = folder / PRUNED
    note.write_bytes(note.read_bytes()[:-30])
    assert verify(settings.directory, keys)[0].problems == []
    assert prune(settings.directory, keys, date(2027, 1, day)) == [removed]
    assert note.read_bytes().count(b"\n") == kept + 1
    await log.close()
    assert verify(settings.directory, keys)[0].problems == []


async def test_every_chain_is_pruned_by_itself(settings, log, keys):
    other = FileAuditLog.open(settings)
    await other.close()
    names = [folder.name for folder in writers(settings.directory)]
    assert len(names) == 2
    removed = prune(settings.directory, keys, date(2999, 1, 1))
    assert {path.parent.name for path in removed} == {names[0]}  # the other has one segment
    assert pruned(writers(settings.directory)[1], keys) == (-1, START)
    await log.close()
    assert [report.problems for report in verify(settings.directory, keys)] == [[], []]


async def test_a_place_that_was_noted_and_went_by_retention_is_not_missed(settings, log, keys):
    [writer] = heads(settings.directory)
    prune(settings.directory, keys, date(2027, 1, 18))
    _, place = pruned(writers(settings.directory)[0], keys)
    for sequence in (place.sequence - 1, place.sequence):
        [report] = verify(settings.directory, keys, {writer: Link(sequence, "")})
        assert report.problems == []
    [report] = verify(settings.directory, keys, {writer: Link(place.sequence + 1, "")})
    assert len(report.problems) == 1
    await log.close()


async def test_the_segment_that_is_written_stays(settings, log, keys):
    prune(settings.directory, keys, date(2999, 1, 1))
    assert len(numbers(settings)) == 1
    await log.close()
    assert verify(settings.directory, keys)[0].problems == []
    await FileAuditLog.open(settings).close()
    assert verify(settings.directory, keys)[0].problems == []


async def test_removals_take_turns(settings, log, keys):
    [folder] = writers(settings.directory)
    before = numbers(settings)
    with (folder / "prune.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        removals = [
            threading.Thread(target=prune, args=(settings.directory, keys, date(2999, 1, 1)))
            for _ in range(2)
        ]
        for removal in removals:
            removal.start()
        time.sleep(0.2)
        assert numbers(settings) == before
    for removal in removals:
        removal.join()
    assert numbers(settings) == before[-1:]
    await log.close()
    assert verify(settings.directory, keys)[0].problems == []


async def test_a_removal_by_hand_shows(settings, log, keys):
    await log.close()
    [folder] = writers(settings.directory)
    segments(folder)[0].path.unlink()
    assert verify(settings.directory, keys)[0].problems
    prune(settings.directory, keys, date(2027, 1, 17))
    assert verify(settings.directory, keys)[0].problems


async def test_a_note_of_a_removal_can_be_neither_changed_nor_taken_away(settings, log, keys):
    await log.close()
    prune(settings.directory, keys, date(2027, 1, 17))
    [folder] = writers(settings.directory)
    note = folder / PRUNED
    whole = note.read_bytes()
    note.write_bytes(whole.replace(b'"segment":0', b'"segment":1', 1))
    [problem] = verify(settings.directory, keys)[0].problems
    assert problem == f"{note}:1 was changed, or the line before it was"
    with pytest.raises(AuditError, match="was changed"):
        prune(settings.directory, keys, date(2027, 1, 18))
    note.unlink()
    assert verify(settings.directory, keys)[0].problems
    note.write_bytes(whole)
    assert verify(settings.directory, keys)[0].problems == []


async def test_a_crash_between_note_and_removal_is_made_good(settings, log, keys):
    await log.close()
    [folder] = writers(settings.directory)
    first = segments(folder)[0].path
    content = first.read_bytes()
    prune(settings.directory, keys, date(2027, 1, 17))
    first.write_bytes(content)
    assert verify(settings.directory, keys)[0].problems == []
    noted = (folder / PRUNED).read_bytes()
    assert prune(settings.directory, keys, date(2027, 1, 17)) == [first]
    assert (folder / PRUNED).read_bytes() == noted


async def test_what_is_not_counted_yet_stays(settings, log, keys):
    [writer] = heads(settings.directory)
    assert prune(settings.directory, keys, date(2999, 1, 1), counted={}) == []
    assert prune(settings.directory, keys, date(2999, 1, 1), {writer: Link(5, "")}) == []
    first, *_, last = segments(writers(settings.directory)[0])
    *_, end = (read(line)[1] for line in first.lines())
    for counted, removed in ((end.sequence - 1, []), (end.sequence, [first.path])):
        noted = {writer: Link(counted, "")}
        assert prune(settings.directory, keys, date(2999, 1, 1), noted) == removed
    assert prune(settings.directory, keys, date(2999, 1, 1), heads(settings.directory))
    assert numbers(settings) == [last.number]
    await log.close()


async def test_a_segment_that_was_made_to_look_old_stays(settings, log, keys):
    [folder] = writers(settings.directory)
    path = segments(folder)[1].path
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"time":180', b'"time":170'))
    assert path.read_bytes() != whole
    told: list[Any] = []
    with pytest.raises(AuditError, match="stays: its line 1 was changed"):
        prune(settings.directory, keys, date(2027, 1, 17), tell=told.append)
    assert told == [segment_path(folder, 0)]
    path.write_bytes(whole)
    [report] = verify(settings.directory, keys)
    assert report.problems == []


@pytest.mark.parametrize("damage", [b"", b"nonsense\n"])
async def test_what_is_no_segment_stays_and_others_are_pruned(settings, log, keys, damage):
    other = FileAuditLog.open(settings)
    await other.close()
    first, second = writers(settings.directory)
    segment_path(first, 0).write_bytes(damage)
    segment_path(second, 1).write_bytes(b"")
    with pytest.raises(AuditError, match=r"00000000\.jsonl stays: it"):
        prune(settings.directory, keys, date(2999, 1, 1))
    assert [each.number for each in segments(second)] == [1]


async def test_where_a_chain_ends_is_told_of_what_was_written(settings, log):
    [folder] = writers(settings.directory)
    ends = heads(settings.directory)
    empty = segment_path(folder, segments(folder)[-1].number + 1)
    empty.write_bytes(b"")
    assert heads(settings.directory) == ends
    empty.write_bytes(b"nonsense\n")
    with pytest.raises(AuditError, match=r"the last line of .* is not a sealed line"):
        heads(settings.directory)
