"""A limit on how large a file may be (`ulimit -f`), for real."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterator

import pytest

from gateway.audit.audit_errors import AuditError
from gateway.audit.audit_segments import segments, writers
from gateway.audit.audit_settings import AuditSettings
from gateway.audit.log import FileAuditLog
from tests.gateway.audit.conftest import begun, record, serve

pytestmark = pytest.mark.anyio

_LIMIT = 64 << 10


@pytest.fixture
def settings(tmp_path) -> AuditSettings:
    return AuditSettings(directory=tmp_path / "audit", reserve_bytes=4096)


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Sets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sizes(settings: AuditSettings) -> list[int]:
    return [
        each.path.stat().st_size
        for folder in writers(settings.directory)
        for each in segments(folder)
    ]


async def test_a_segment_ends_before_the_limit(settings, limit, verified):
    limit(_LIMIT)
    log = FileAuditLog.open(settings)
    for number in range(300):
        await serve(log, f"r{number}")
    await log.close()
    assert len(sizes(settings)) > 4
    [report] = verified()
    assert (report.problems, report.events["end"]) == ([], 300)


async def test_many_at_once_go_on_in_the_next_one(settings, limit, verified):
    """More than fit between two syncs, and a sync of the former segment is under way."""
    limit(_LIMIT)
    log = FileAuditLog.open(settings)
    tickets = [log.begin(f"r{number}", 1.0, record().principal, "demo") for number in range(250)]
    await asyncio.gather(
        *(log.append(record(f"r{number}"), ticket) for number, ticket in enumerate(tickets))
    )
    await asyncio.gather(*(ticket.written for ticket in tickets))
    await log.check()
    await log.close()
    assert len(sizes(settings)) > 2
    [report] = verified()
    assert (report.problems, report.events["end"]) == ([], 250)


async def test_one_that_is_set_later_holds_as_well(settings, limit, verified):
    log = FileAuditLog.open(settings)
    while sizes(settings)[0] < _LIMIT:
        await serve(log)
    limit(_LIMIT)
    await serve(log, "late")
    await log.close()
    log = FileAuditLog.open(settings)
    await begun(log, "another process")
    await log.close()
    assert len(sizes(settings)) == 2
    assert verified()[0].problems == []


async def test_a_segment_that_is_too_long_is_not_gone_on_with(settings, limit, verified):
    log = FileAuditLog.open(settings)
    while sizes(settings)[0] < _LIMIT:
        await serve(log)
    await log.close()
    limit(_LIMIT)
    log = FileAuditLog.open(settings)
    await serve(log, "late")
    await log.close()
    assert len(sizes(settings)) == 2
    assert verified()[0].problems == []


def test_one_below_the_reserve_is_told_at_the_start(settings, limit):
    limit(2048)
    with pytest.raises(AuditError, match=r"reserve_bytes is 4096, .* at most 2048 .*LimitFSIZE"):
        FileAuditLog.open(settings)
