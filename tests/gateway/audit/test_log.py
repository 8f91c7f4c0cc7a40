"""The audit log: what is written down, when, and in which chain."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from typing import Any

import pytest

from gateway.audit.audit_errors import AuditError
from gateway.audit.audit_segments import segments, writers
from gateway.audit.keys import AuditKey, AuditKeys
from gateway.audit.log import FileAuditLog, key_path
from tests.gateway.audit.conftest import (
    ANSWER,
    PROMPT,
    begun,
    events,
    lines,
    principal,
    record,
    serve,
)

pytestmark = pytest.mark.anyio


async def test_a_request_is_written_down_without_its_text(settings, verified):
    opened = time.time()
    log = FileAuditLog.open(settings)
    await log.check()
    await serve(log, "r1", "acme")
    await serve(log, "r2", "globex")
    await log.close()
    text = b"".join(path.read_bytes() for path in settings.directory.rglob("*.jsonl")).decode()
    assert not any(word in text for word in (PROMPT, ANSWER, "quick", "lazy"))
    header, start, begin, end, _, other = lines(settings.directory)
    key = AuditKeys.load(key_path(settings)).current
    for line in (header, start, begin, end):
        del line["mac"]
    assert header == {
        "n": 0,
        "event": "segment",
        "time": pytest.approx(opened, abs=60),
        "writer": writers(settings.directory)[0].name,
        "segment": 0,
        "key": key.fingerprint,
        "previous": "0" * 64,
        "open": [],
    }
    assert start == {
        "n": 1,
        "event": "start",
        "time": pytest.approx(opened, abs=60),
        "process": os.getpid(),
        "dropped_bytes": 0,
    }
    assert begin == {
        "n": 2,
        "event": "begin",
        "time": 1_800_000_000.0,
        "request_id": "r1",
        "tenant": "acme",
        "application": "chat",
        "key_id": "k1",
        "model": "demo",
    }
    assert end == {
        "n": 3,
        "event": "end",
        "time": 1_800_000_000.0,
        "request_id": "r1",
        "tenant": "acme",
        "application": "chat",
        "key_id": "k1",
        "model": "demo",
        "begun": 2,
        "model_version": "demo-2",
        "upstream": "replica-1",
        "policy": "strict",
        "prompt_tokens": 7,
        "output_tokens": 5,
        "cached_tokens": 0,
        "charged_prompt_tokens": 7,
        "charged_output_tokens": 5,
        "ttft_s": 0.01,
        "latency_s": 0.5,
        "finish_reason": "stop",
        "status": 200,
        "code": "",
        "verdicts": ["email"],
        "prompt_digest": key.digest("acme", PROMPT.encode()),
        "answer_digest": key.digest("acme", ANSWER.encode()),
    }
    assert other["prompt_digest"] not in (end["prompt_digest"], None)
    [report] = verified()
    assert (report.problems, report.lines) == ([], 6)


async def test_a_text_that_is_empty_has_no_digest(settings):
    log = FileAuditLog.open(settings)
    for texts in ((b"", ANSWER.encode()), (PROMPT.encode(), b"")):
        ticket = await begun(log, "r")
        await log.append(record("r", prompt=texts[0], answer=texts[1]), ticket)
    await log.close()
    ends = [line for line in lines(settings.directory) if line["event"] == "end"]
    there = [(bool(each["prompt_digest"]), bool(each["answer_digest"])) for each in ends]
    assert there == [(False, True), (True, False)]
    assert ends[0]["prompt_digest"] is ends[1]["answer_digest"] is None


@pytest.mark.parametrize("words", [1, 100_000])
async def test_a_long_text_s_digest_is_made_beside_the_event_loop(
    settings, verified, monkeypatch, words
):
    threads = []
    real = AuditKey.digest

    def digest(*arguments: Any) -> str:
        threads.append(threading.current_thread() is threading.main_thread())
        return real(*arguments)

    monkeypatch.setattr(AuditKey, "digest", digest)
    log = FileAuditLog.open(settings)
    await log.append(record("r", prompt=b"word " * words), await begun(log, "r"))
    await log.close()
    assert threads == [words == 1] * 2
    [report] = verified()
    assert not report.problems


async def test_what_is_private_is_for_its_owner(settings):
    await FileAuditLog.open(settings).close()
    assert stat.S_IMODE(key_path(settings).stat().st_mode) == 0o600
    for path in settings.directory.rglob("*.jsonl"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o007


async def test_many_at_once_share_a_sync(settings, verified, monkeypatch):
    syncs = []
    slow = threading.Event()
    fdatasync = os.fdatasync

    def count(descriptor):
        syncs.append(descriptor)
        slow.wait(0.02)
        fdatasync(descriptor)

    log = FileAuditLog.open(settings)
    monkeypatch.setattr(os, "fdatasync", count)
    await asyncio.gather(*(serve(log, f"r{number}") for number in range(200)))
    assert len(syncs) < 100  # of 400 lines
    await log.close()
    [report] = verified()
    assert report.problems == []
    assert (report.events["begin"], report.events["end"]) == (200, 200)


async def test_one_who_goes_away_disturbs_nobody(settings, verified):
    log = FileAuditLog.open(settings)
    ticket = await begun(log, "left")
    leaving = asyncio.create_task(log.append(record("left"), ticket))
    staying = asyncio.create_task(serve(log, "stays"))
    await asyncio.sleep(0)
    leaving.cancel()
    await staying
    await log.close()
    assert verified()[0].events == {"segment": 1, "start": 1, "begin": 2, "end": 2}


async def test_segments_follow_each_other(settings, verified):
    log = FileAuditLog.open(settings.model_copy(update={"segment_bytes": 4096}))
    ticket = await begun(log, "long")
    for number in range(40):
        await serve(log, f"r{number}")
    await log.append(record("long"), ticket)
    await log.close()
    [folder] = writers(settings.directory)
    assert len(segments(folder)) > 5
    [report] = verified()
    assert report.problems == []
    assert report.events["begin"] == report.events["end"] == 41
    headers = [line for line in lines(settings.directory) if line["event"] == "segment"]
    assert all(line["open"][0]["request_id"] == "long" for line in headers[1:])


async def test_segments_follow_each_other_across_processes(settings, verified):
    small = settings.model_copy(update={"segment_bytes": 4096})
    for life in range(3):
        log = FileAuditLog.open(small)
        for number in range(12):
            await serve(log, f"r{life}-{number}")
        await log.close()
    [folder] = writers(settings.directory)
    numbers = [segment.number for segment in segments(folder)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 4
    [report] = verified()
    assert report.problems == []
    assert (report.events["start"], report.events["end"]) == (3, 36)


async def test_a_day_has_segments_of_its_own(settings, verified, monkeypatch):
    log = FileAuditLog.open(settings)
    await serve(log, "r1")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    await serve(log, "r2")
    await log.close()
    assert len(segments(writers(settings.directory)[0])) == 2
    assert verified()[0].problems == []


async def test_processes_have_chains_of_their_own_and_go_on_with_those_left(settings, verified):
    logs = [FileAuditLog.open(settings) for _ in range(3)]
    for number, log in enumerate(logs):
        await serve(log, f"r{number}")
    await logs[1].close()
    logs[1] = FileAuditLog.open(settings)
    await serve(logs[1], "again")
    for log in logs:
        await log.close()
    reports = verified()
    assert [report.problems for report in reports] == [[], [], []]
    assert [report.events["end"] for report in reports] == [1, 2, 1]


async def test_ids_that_come_twice_are_kept_apart(settings):
    log = FileAuditLog.open(settings)
    first = await begun(log, "same", who=principal("acme"))
    second = await begun(log, "same", who=principal("globex"))
    await log.append(record("same", "globex"), second)
    await log.append(record("same", "acme"), first)
    await log.close()
    ends = [line for line in lines(settings.directory) if line["event"] == "end"]
    assert [(end["begun"], end["tenant"]) for end in ends] == [(3, "globex"), (2, "acme")]


async def test_a_change_by_an_administrator_is_written_down(settings):
    log = FileAuditLog.open(settings)
    await log.change("ada", "keys.revoke", "k1", {"tenant": "acme"})
    await log.change("ada", "keys.revoke", "k2")
    await log.close()
    change, other = list(lines(settings.directory))[-2:]
    assert {**change, "mac": None} == {
        "n": 2,
        "event": "change",
        "time": pytest.approx(time.time(), abs=60),
        "actor": "ada",
        "action": "keys.revoke",
        "subject": "k1",
        "details": {"tenant": "acme"},
        "mac": None,
    }
    assert other["details"] == {}


async def test_a_change_is_on_disk_when_it_is_told(settings, monkeypatch):
    log = FileAuditLog.open(settings)
    synced = []
    fdatasync = os.fdatasync

    def sync(descriptor):
        fdatasync(descriptor)
        synced.append(events(settings.directory)[-1])

    monkeypatch.setattr(os, "fdatasync", sync)
    await log.change("ada", "keys.revoke", "k1")
    assert synced == ["change"]
    await log.close()


async def test_a_new_key_begins_a_segment_and_the_old_one_still_verifies(settings, verified):
    log = FileAuditLog.open(settings)
    await serve(log)
    await log.close()
    with key_path(settings).open("a") as file:
        file.write("ab" * 32 + "\n")
    log = FileAuditLog.open(settings)
    await serve(log)
    await log.close()
    [report] = verified()
    assert report.problems == []
    keys = {line["key"] for line in lines(settings.directory) if line["event"] == "segment"}
    assert len(keys) == 2


@pytest.mark.parametrize("text", ["", "ab", "xy" * 32, "ab" * 33])
async def test_a_key_file_that_is_none_is_told(settings, text):
    key_path(settings).write_text(text)
    with pytest.raises(AuditError, match="holds no audit keys"):
        FileAuditLog.open(settings)


async def test_a_folder_that_cannot_be_made_is_told(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="can't be written"):
        FileAuditLog.open(
            settings.model_copy(update={"directory": tmp_path / "file" / "audit"}).model_copy(
                update={"key_file": tmp_path / "key"}
            )
        )
