"""A disk that is full, for real: a small file system of its own."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from gateway.audit.audit_settings import AuditSettings
from gateway.audit.log import FileAuditLog
from gateway.gateway_errors import AuditUnavailable
from gateway.interfaces import Ticket
from tests.gateway.audit.conftest import (
    begun,
    events,
    lines,
    principal,
    record,
    recovered,
    serve,
)
from tests.gateway.servers import fill

pytestmark = pytest.mark.anyio

_RESERVE = 16 << 10


@pytest.fixture
def settings(disk) -> AuditSettings:
    return AuditSettings(directory=disk / "audit", reserve_bytes=_RESERVE)


async def fill_until_refused(log: FileAuditLog, disk: Path) -> int:
    """Serve on a full disk until no request is taken in; return how many were."""
    fill(disk)
    for served in range(100):
        try:
            ticket = await begun(log, f"late-{served}")
        except AuditUnavailable:
            return served
        await log.append(record(f"late-{served}"), ticket)
    raise AssertionError("the disk is not full")


async def test_a_full_disk_stops_intake_and_loses_nothing(disk, settings, verified):
    log = FileAuditLog.open(settings)
    tickets = [await begun(log, f"running-{number}") for number in range(10)]
    await fill_until_refused(log, disk)
    with pytest.raises(AuditUnavailable, match="none is served without"):
        await log.check()
    for number, ticket in enumerate(tickets):  # what runs may end, in the reserve, and is on disk
        await log.append(record(f"running-{number}"), ticket)
    ends = [line["request_id"] for line in lines(settings.directory) if line["event"] == "end"]
    assert set(ends) >= {f"running-{number}" for number in range(10)}
    with pytest.raises(AuditUnavailable):
        await log.check()
    (disk / "filler").unlink()
    await recovered(log)
    await serve(log, "after")
    await log.close()
    [report] = verified()
    assert report.problems == []
    assert report.events["begin"] == report.events["end"]


async def test_what_the_reserve_has_no_room_for_is_written_later(disk, settings, verified):
    log = FileAuditLog.open(settings)
    # Their ends take twice the reserve.
    tickets = [await begun(log, f"running-{number}") for number in range(60)]
    await fill_until_refused(log, disk)
    told = 0
    for number, ticket in enumerate(tickets):
        try:
            await log.append(record(f"running-{number}"), ticket)
        except AuditUnavailable:
            told += 1
    assert 10 < told < 60
    with pytest.raises(AuditUnavailable):
        await log.change("ada", "keys.revoke", "k1")
    (disk / "filler").unlink()
    await recovered(log)
    await log.close()
    [report] = verified()
    assert report.problems == []
    assert report.events["begin"] == report.events["end"]


async def begin_and_fill(log: FileAuditLog, disk: Path, count: int) -> list[Ticket]:
    tickets = [await begun(log, f"running-{number}") for number in range(count)]
    fill(disk)
    return tickets


async def end_until_told(log: FileAuditLog, tickets: list[Ticket]) -> int:
    """End requests until one is not on disk; return how many were ended, it included."""
    for number, ticket in enumerate(tickets):
        try:
            await log.append(record(f"running-{number}"), ticket)
        except AuditUnavailable:
            return number + 1
    raise AssertionError("the disk and the reserve are not full")


async def test_the_first_to_find_no_room_stops_intake_whoever_it_is(disk, settings):
    log = FileAuditLog.open(settings)
    tickets = await begin_and_fill(log, disk, 60)
    await log.check()
    ended = await end_until_told(log, tickets)
    assert ended > 10  # in the space of the reserve
    with pytest.raises(AuditUnavailable):
        await log.check()
    with pytest.raises(AuditUnavailable):
        log.begin("late", 1.0, principal(), "demo")
    (disk / "filler").unlink()
    await log.close()


async def test_a_change_that_finds_no_room_is_told_and_stops_intake(disk, settings, verified):
    log = FileAuditLog.open(settings)
    fill(disk)
    for number in range(100):
        try:
            await log.change("ada", "keys.revoke", f"k{number}")
        except AuditUnavailable:
            break
    with pytest.raises(AuditUnavailable):
        await log.check()
    (disk / "filler").unlink()
    await log.close()
    [report] = verified()
    assert (report.problems, report.events["change"]) == ([], number)


async def test_what_waits_in_memory_keeps_its_place_before_what_comes_later(
    disk, settings, verified
):
    log = FileAuditLog.open(settings)
    tickets = await begin_and_fill(log, disk, 60)
    ended = await end_until_told(log, tickets)
    (disk / "filler").unlink()
    with pytest.raises(AuditUnavailable):  # it has room, but what comes before isn't written
        await log.append(record(f"running-{ended}"), tickets[ended])
    await log.close()  # and what waits is written
    [report] = verified()
    assert report.problems == []
    ends = [line["request_id"] for line in lines(settings.directory) if line["event"] == "end"]
    assert ends == [f"running-{number}" for number in range(ended + 1)]


async def test_a_process_ends_though_the_disk_stays_full(disk, settings, verified, caplog):
    log = FileAuditLog.open(settings)
    tickets = await begin_and_fill(log, disk, 60)
    ended = await end_until_told(log, tickets)
    fill(disk)  # the reserve, too
    await asyncio.wait_for(log.close(), 20)
    assert "audit records are lost" in caplog.text
    [report] = verified()
    assert (report.problems, report.events["end"]) == ([], ended - 1)


async def test_as_set_it_serves_unaudited_and_says_how_many(disk, settings, verified):
    log = FileAuditLog.open(settings.model_copy(update={"when_unavailable": "serve"}))
    await serve(log, "before")
    full = time.time()
    fill(disk)
    for number in range(200):
        await log.check()
        await serve(log, f"r{number}")
    (disk / "filler").unlink()
    end = time.monotonic() + 30
    while "gap" not in events(settings.directory):
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    await serve(log, "after")
    await log.close()
    [report] = verified()
    assert report.problems == []
    [gap] = [line for line in lines(settings.directory) if line["event"] == "gap"]
    assert gap["lost"] + report.events["end"] == 202
    assert gap["lost"] > 100
    assert full <= gap["since"] <= gap["time"] <= time.time()


async def test_what_was_served_unaudited_is_told_though_the_process_ends(disk, settings, verified):
    log = FileAuditLog.open(settings.model_copy(update={"when_unavailable": "serve"}))
    fill(disk)
    for number in range(200):
        await serve(log, f"r{number}")
    (disk / "filler").unlink()
    await log.close()  # before the log was tried again
    [report] = verified()
    assert report.problems == []
    [gap] = [line for line in lines(settings.directory) if line["event"] == "gap"]
    assert gap["lost"] + report.events["end"] == 200


async def test_a_process_that_ends_gives_its_reserve_back(disk, settings):
    before = os.statvfs(disk).f_bavail
    log = FileAuditLog.open(settings)
    held = before - os.statvfs(disk).f_bavail
    await log.close()
    left = before - os.statvfs(disk).f_bavail
    assert (held - left) * os.statvfs(disk).f_frsize == _RESERVE
