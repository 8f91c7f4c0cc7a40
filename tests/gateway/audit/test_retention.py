from __future__ import annotations

import time
from datetime import date

import pytest

from gateway.audit.audit_errors import AuditError
from gateway.audit.audit_segments import PRUNED, segments, writers
from gateway.audit.audit_settings import AuditSettings
from gateway.audit.chain import Link
from gateway.audit.keys import AuditKeys
from gateway.audit.log import FileAuditLog, key_path
from gateway.audit.retention import prune
from gateway.audit.verification import heads, verify
from tests.gateway.audit.conftest import principal, record

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
            await log.begin(f"{day}-{number}", now, principal(), "demo")
            await log.append(record(f"{day}-{number}", time=now))
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
    await log.begin("more", time.time(), principal(), "demo")
    await log.append(record("more"))
    prune(settings.directory, keys, date(2027, 1, 19))
    assert numbers(settings)[0] > left[0]
    await log.close()
    [report] = verify(settings.directory, keys, before)
    assert report.problems == []


async def test_the_segment_that_is_written_stays(settings, log, keys):
    prune(settings.directory, keys, date(2999, 1, 1))
    assert len(numbers(settings)) == 1
    await log.close()
    assert verify(settings.directory, keys)[0].problems == []
    await FileAuditLog.open(settings).close()
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
    assert verify(settings.directory, keys)[0].problems
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
    assert prune(settings.directory, keys, date(2027, 1, 17)) == [first]


async def test_what_is_not_counted_yet_stays(settings, log, keys):
    [writer] = heads(settings.directory)
    assert prune(settings.directory, keys, date(2999, 1, 1), counted={}) == []
    assert prune(settings.directory, keys, date(2999, 1, 1), {writer: Link(5, "")}) == []
    assert prune(settings.directory, keys, date(2999, 1, 1), heads(settings.directory))
    await log.close()
