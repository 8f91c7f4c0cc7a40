from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from sqlalchemy import Engine, select

from gateway.audit.audit_segments import segment_path, segments, writers
from gateway.audit.audit_settings import AuditSettings
from gateway.audit.keys import AuditKeys
from gateway.audit.log import FileAuditLog, key_path
from gateway.audit.retention import prune
from gateway.audit.verification import heads, verify
from gateway.database import open_database, usage
from gateway.gateway_errors import LimitsUnavailable
from gateway.limits.account import Account, Holder, Period
from gateway.limits.limit import Limits
from gateway.usage.ledger import Ledger
from tests.gateway.audit.conftest import begun, principal, record

pytestmark = pytest.mark.anyio

TIME = 1_800_000_000.0  # 2027-01-15
DAY = 86_400


@pytest.fixture
def settings(tmp_path):
    return AuditSettings(directory=tmp_path / "audit", segment_bytes=4096, reserve_bytes=4096)


@pytest.fixture
def engine(database_url):
    return open_database(database_url)


@pytest.fixture
def ledger(engine, settings):
    return open_ledger(engine, settings)


def open_ledger(engine: Engine, settings: AuditSettings) -> Ledger:
    return Ledger(engine, settings.directory, AuditKeys.load_or_create(key_path(settings)))


def sums(engine: Engine, *, charged: bool = False) -> dict[tuple[str, ...], tuple[int, ...]]:
    """What clients were told, or what they are charged, by the sums' keys."""
    with engine.connect() as connection:
        rows = connection.execute(select(usage).order_by(*usage.primary_key))
        which = slice(10, 13) if charged else slice(5, 10)
        return {tuple(row[:5]): tuple(row[which]) for row in rows}


async def write(log: FileAuditLog, number: int, tenant: str = "acme", **fields: Any) -> None:
    who = replace(principal(tenant), key_id=fields.pop("key_id", "k1"))
    time = fields.pop("time", TIME)
    ticket = await begun(log, f"r{number}", time, who)
    await log.append(replace(record(f"r{number}", time=time, **fields), principal=who), ticket)


async def test_usage_is_by_day_tenant_application_key_and_model(ledger, engine, settings):
    log = FileAuditLog.open(settings)
    await write(log, 1)
    await write(log, 2, prompt_tokens=100, output_tokens=10, status=502, finish_reasons=("error",))
    await write(log, 3, status=499, finish_reasons=("cancelled",))
    await write(log, 4, tenant="globex")
    await write(log, 5, time=TIME + DAY, key_id="corp:chat")
    ledger.fold()
    await log.close()
    assert sums(engine) == {
        ("2027-01-15", "acme", "chat", "k1", "demo"): (3, 1, 0, 114, 20),
        ("2027-01-15", "globex", "chat", "k1", "demo"): (1, 0, 0, 7, 5),
        ("2027-01-16", "acme", "chat", "corp:chat", "demo"): (1, 0, 0, 7, 5),
    }


@pytest.mark.parametrize(
    ("status", "code", "counted"),
    [
        (400, "context_length_exceeded", (0, 0, 1)),
        (400, "InvalidRequest", (0, 0, 1)),
        (400, "content_filter", (0, 0, 1)),
        (200, "context_length_exceeded", (0, 0, 1)),  # a later one of its prompts, in a stream
        (200, "generation_failed", (1, 1, 0)),
        (502, "upstream_lost", (1, 1, 0)),
        (503, "queue_full", (1, 1, 0)),
        (504, "deadline_exceeded", (1, 1, 0)),
        (504, "client_deadline", (1, 0, 0)),
        (503, "client_deadline", (1, 0, 0)),
        (200, "client_deadline", (1, 0, 0)),  # of a stream
    ],
)
async def test_what_is_wrong_with_a_request_is_no_error_of_the_server(
    ledger, engine, settings, status, code, counted
):
    log = FileAuditLog.open(settings)
    await write(log, 1, status=status, code=code, finish_reasons=("error",))
    ledger.fold()
    await log.close()
    [row] = sums(engine).values()
    with engine.connect() as connection:
        [(refused, timed_out)] = connection.execute(select(usage.c.refused, usage.c.timed_out))
    assert (row[0], row[1], refused) == counted
    assert timed_out == (code == "client_deadline")
    assert row[3:] == (7, 5)  # its tokens count whoever's fault it was


async def test_what_is_charged_is_summed_apart_from_what_is_told(ledger, engine, settings):
    log = FileAuditLog.open(settings)
    await write(log, 1, cached_tokens=4, charged_prompt_tokens=3, charged_output_tokens=9)
    await write(log, 2, prompt_tokens=0, output_tokens=0, charged_prompt_tokens=7)
    ledger.fold()
    await log.close()
    key = ("2027-01-15", "acme", "chat", "k1", "demo")
    assert sums(engine) == {key: (2, 0, 0, 7, 5)}
    assert sums(engine, charged=True) == {key: (4, 10, 9)}
    spent = await ledger.spent(
        Account("acme", "k1", (Holder("tenant", Limits()), Holder("key:k1", Limits()))),
        Period.at(TIME),
    )
    assert spent == [(19, 19), (19, 19)]


async def test_each_line_counts_once_whatever_happens_between(ledger, engine, settings):
    log = FileAuditLog.open(settings)
    for number in range(60):
        await write(log, number)
        if number % 7 == 0:
            ledger.fold()
            ledger.fold()
    await log.close()
    log = FileAuditLog.open(settings)
    await write(log, 60)
    await log.close()
    open_ledger(engine, settings).fold()
    assert ledger.fold() == 0
    assert list(sums(engine).values()) == [(61, 0, 0, 61 * 7, 61 * 5)]
    assert ledger.cursors() == heads(settings.directory)


async def test_several_count_at_once_and_none_twice(ledger, engine, settings):
    logs = [FileAuditLog.open(settings) for _ in range(3)]
    await asyncio.gather(*(write(log, number) for number in range(40) for log in logs))
    failures: list[Exception] = []

    def fold() -> None:
        try:
            for _ in range(20):
                open_ledger(engine, settings).fold()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=fold) for _ in range(4)]
    for thread in threads:
        thread.start()
    await asyncio.gather(*(write(log, number) for number in range(40, 80) for log in logs))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    for log in logs:
        await log.close()
    ledger.fold()
    assert failures == []
    assert [counts[0] for counts in sums(engine).values()] == [240]


async def test_a_killed_processes_requests_count_as_interrupted(ledger, engine, settings):
    log = FileAuditLog.open(settings)
    ticket = await begun(log, "r1", TIME)
    folder = writers(settings.directory)[0]
    written = {path.name: path.read_bytes() for path in folder.glob("0*.jsonl")}
    await log.append(record("r1"), ticket)
    await log.close()
    for name, content in written.items():  # as kill -9 would have left it
        (folder / name).write_bytes(content)
    await FileAuditLog.open(settings).close()
    ledger.fold()
    assert list(sums(engine).values()) == [(1, 0, 1, 0, 0)]


async def test_a_segment_that_is_gone_does_not_stop_the_count(ledger, engine, settings):
    log = FileAuditLog.open(settings)
    await write(log, 0)
    ledger.fold()
    number = 1
    [folder] = writers(settings.directory)
    while len(segments(folder)) < 3:
        await write(log, number)
        number += 1
    gone = segments(folder)[1].path
    lost = gone.read_bytes().count(b'"event":"end"')
    gone.unlink()
    await write(log, number)
    ledger.fold()
    await log.close()
    assert sum(row[0] for row in sums(engine).values()) == number + 1 - lost


@pytest.mark.parametrize(
    "said",
    [
        '"event":"end"',
        '"event":"end","time":"x"',
        '"event":"end","time":1e300,"tenant":1,"application":2,"key_id":3,"model":4',
        '"event":[]',
        '"event":"call","tenant":"a"',
    ],
)
async def test_a_line_that_is_not_ours_does_not_stop_the_count(
    ledger, engine, settings, caplog, said
):
    log = FileAuditLog.open(settings)
    await write(log, 1)
    [folder] = writers(settings.directory)
    with segments(folder)[-1].path.open("a") as file:
        file.write(f'{{"n":5,{said},"mac":"{"0" * 64}"}}\n')
    ledger.fold()
    assert [row[0] for row in sums(engine).values()] == [1]
    assert "1 lines are not counted" in caplog.text
    await log.close()


async def test_a_line_that_was_changed_is_not_counted_and_takes_no_other_away(
    ledger, engine, settings, caplog
):
    log = FileAuditLog.open(settings)
    for number in range(4):
        await write(log, number)
    await log.close()
    [folder] = writers(settings.directory)
    path = segments(folder)[-1].path
    lines = path.read_bytes().splitlines(keepends=True)
    changed = lines[3].replace(b'"output_tokens":5', b'"output_tokens":9')
    assert changed != lines[3]
    path.write_bytes(b"".join([*lines[:3], changed, *lines[4:]]))
    ledger.fold()
    assert list(sums(engine).values()) == [(3, 0, 0, 3 * 7, 3 * 5)]
    assert "after line 2 one was changed" in caplog.text


async def test_lines_that_come_again_are_counted_once(ledger, engine, settings, caplog):
    log = FileAuditLog.open(settings)
    for number in range(30):
        await write(log, number)
    await log.close()
    [folder] = writers(settings.directory)
    first, *_, last = segments(folder)
    assert first != last
    ends = heads(settings.directory)
    with last.path.open("ab") as file:
        file.write(first.path.read_bytes())
    segment_path(folder, last.number + 1).write_bytes(first.path.read_bytes())
    ledger.fold()
    assert list(sums(engine).values()) == [(30, 0, 0, 30 * 7, 30 * 5)]
    assert ledger.cursors() == ends
    assert caplog.text.count("one is of another segment") == 2


async def test_a_segment_of_another_chain_is_not_counted_twice(ledger, engine, settings):
    logs = [FileAuditLog.open(settings) for _ in range(2)]
    await write(logs[0], 0)
    for number in range(30):
        await write(logs[1], number)
    for log in logs:
        await log.close()
    one, other = writers(settings.directory)
    copied = segments(other)[1].path.read_bytes().splitlines(keepends=True)
    with segment_path(one, 1).open("wb") as file:
        file.writelines(copied[:4])
        file.flush()
        ledger.fold()
        file.writelines(copied[4:])
    ledger.fold()
    assert [row[0] for row in sums(engine).values()] == [31]


async def test_lines_of_a_key_that_was_rotated_are_counted(ledger, engine, settings):
    log = FileAuditLog.open(settings)
    await write(log, 0)
    await log.close()
    with key_path(settings).open("a") as file:
        file.write("ab" * 32 + "\n")
    log = FileAuditLog.open(settings)
    await write(log, 1)
    await log.close()
    open_ledger(engine, settings).fold()
    assert [row[0] for row in sums(engine).values()] == [2]


async def test_what_is_half_written_waits(ledger, engine, settings):
    log = FileAuditLog.open(settings)
    await write(log, 1)
    [folder] = writers(settings.directory)
    path = segments(folder)[-1].path
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    ledger.fold()
    assert sums(engine) == {}
    path.write_bytes(whole)
    ledger.fold()
    assert len(sums(engine)) == 1
    await log.close()


async def test_retention_removes_only_what_was_counted_and_counting_goes_on(
    ledger, engine, settings
):
    log = FileAuditLog.open(settings)
    keys = AuditKeys.load(key_path(settings))
    for number in range(30):
        await write(log, number)
    assert prune(settings.directory, keys, date(2999, 1, 1), ledger.cursors()) == []
    ledger.fold()
    assert prune(settings.directory, keys, date(2999, 1, 1), ledger.cursors())
    await write(log, 30)
    await log.close()
    ledger.fold()
    assert list(sums(engine).values()) == [(31, 0, 0, 31 * 7, 31 * 5)]
    [report] = verify(settings.directory, keys, ledger.cursors())
    assert report.problems == []


async def test_the_database_knows_where_a_chain_ended(ledger, settings):
    log = FileAuditLog.open(settings)
    await write(log, 1)
    await log.close()
    ledger.fold()
    [path] = settings.directory.rglob("00000000.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    keys = AuditKeys.load(key_path(settings))
    assert verify(settings.directory, keys)[0].problems == []
    assert "ends with line 2" in verify(settings.directory, keys, ledger.cursors())[0].problems[0]


async def test_what_was_spent_is_told_for_tenant_and_key(ledger, engine, settings):
    log = FileAuditLog.open(settings)
    for number, (key, tenant, time, tokens) in enumerate(
        [
            ("k1", "acme", TIME, 1),
            ("k1", "acme", TIME - DAY, 10),
            ("k2", "acme", TIME, 100),
            ("k1", "globex", TIME, 1000),
            ("k1", "acme", TIME - 20 * DAY, 10_000),
        ]
    ):
        await write(
            log, number, tenant, key_id=key, time=time, prompt_tokens=tokens, output_tokens=tokens
        )
    await log.close()
    ledger.fold()
    account = Account("acme", "k1", (Holder("tenant", Limits()), Holder("key:k1", Limits())))
    period = Period.at(TIME)
    assert await ledger.spent(account, period) == [(202, 222), (2, 22)]
    assert await ledger.spent(replace(account, tenant="new"), period) == [(0, 0), (0, 0)]
    usage.drop(engine)
    with pytest.raises(LimitsUnavailable):
        await ledger.spent(account, period)
