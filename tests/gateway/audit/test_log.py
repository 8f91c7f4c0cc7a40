from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from gateway.audit.audit_errors import AuditError
from gateway.audit.audit_segments import segments, writers
from gateway.audit.keys import AuditKeys
from gateway.audit.log import FileAuditLog, key_path
from gateway.gateway_errors import AuditUnavailable
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
        "verdicts": ["email"],
        "prompt_digest": key.digest("acme", PROMPT),
        "answer_digest": key.digest("acme", ANSWER),
    }
    assert other["prompt_digest"] not in (end["prompt_digest"], None)
    [report] = verified()
    assert (report.problems, report.lines) == ([], 6)


async def test_a_text_that_is_empty_has_no_digest(settings):
    log = FileAuditLog.open(settings)
    for texts in (("", ANSWER), (PROMPT, "")):
        ticket = await begun(log, "r")
        await log.append(record("r", prompt_text=texts[0], answer_text=texts[1]), ticket)
    await log.close()
    ends = [line for line in lines(settings.directory) if line["event"] == "end"]
    there = [(bool(each["prompt_digest"]), bool(each["answer_digest"])) for each in ends]
    assert there == [(False, True), (True, False)]
    assert ends[0]["prompt_digest"] is ends[1]["answer_digest"] is None


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


WRITE = """
import asyncio, sys
from gateway.audit.log import FileAuditLog
from gateway.audit.audit_settings import AuditSettings
from tests.gateway.audit.conftest import begun, record

async def main():
    log = FileAuditLog.open(AuditSettings(directory=sys.argv[1], segment_bytes=65536))
    async def client(name):
        number = 0
        while True:
            request_id = f"{name}-{number}"
            ticket = await begun(log, request_id)
            print("begun", request_id, flush=True)
            await asyncio.sleep(0)
            await log.append(record(request_id), ticket)
            print("answered", request_id, flush=True)
            number += 1
    await begun(log, f"{sys.argv[2]}-runs")  # and never ends
    await asyncio.gather(*(client(f"{sys.argv[2]}-{name}") for name in range(16)))

asyncio.run(main())
"""


async def test_nothing_that_was_answered_is_lost_by_kill_9(settings, verified):
    begun: set[str] = set()
    answered: set[str] = set()
    for life in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITE, str(settings.directory), str(life)],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for number, line in enumerate(process.stdout):
                what, _, request_id = line.strip().partition(" ")
                if line.endswith("\n"):
                    {"begun": begun, "answered": answered}[what].add(request_id)
                if number == 600:
                    process.send_signal(signal.SIGKILL)
    await FileAuditLog.open(settings).close()
    [report] = verified()
    assert report.problems == []
    written = {
        event: [line["request_id"] for line in lines(settings.directory) if line["event"] == event]
        for event in ("begin", "end", "interrupted")
    }
    assert begun <= set(written["begin"])
    assert answered <= set(written["end"])
    # Each that began has one end or another, and exactly one.
    assert sorted(written["begin"]) == sorted(written["end"] + written["interrupted"])
    said = {fields["n"]: fields for fields in lines(settings.directory)}
    for fields in said.values():
        if fields["event"] == "interrupted":  # it says all that its beginning said
            begin = said[fields["begun"]]
            changed = {name: fields[name] for name in ("n", "event", "begun", "mac")}
            assert fields == {**begin, **changed}
            assert begin["event"] == "begin"
    assert 3 <= len(written["interrupted"]) <= 3 * (1 + 16)
    assert len(answered) > 300


@pytest.mark.parametrize("cut", [1, 50, 400, 700])
async def test_a_line_cut_short_by_a_power_cut_is_taken_off(settings, verified, cut):
    log = FileAuditLog.open(settings)
    await serve(log, "r1")
    await serve(log, "r2")
    await log.close()
    [path] = settings.directory.rglob("00000000.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    await FileAuditLog.open(settings).close()
    [report] = verified()
    assert report.problems == []
    start = [line for line in lines(settings.directory) if line["event"] == "start"][-1]
    kept = whole[:-cut].rpartition(b"\n")[0] + b"\n"
    assert start["dropped_bytes"] == len(whole) - cut - len(kept)
    found = events(settings.directory)
    assert found.count("begin") == found.count("end") + found.count("interrupted")


async def test_a_segment_without_a_first_line_is_made_anew(settings, verified):
    log = FileAuditLog.open(settings)
    await serve(log)
    await log.close()
    [folder] = writers(settings.directory)
    (folder / "00000001.jsonl").write_bytes(b'{"n":4,"eve')
    await FileAuditLog.open(settings).close()
    assert [report.problems for report in verified()] == [[]]


async def test_a_chain_that_was_changed_is_left_as_evidence(settings, verified, caplog):
    log = FileAuditLog.open(settings)
    await serve(log)
    await log.close()
    [path] = settings.directory.rglob("00000000.jsonl")
    changed = path.read_bytes().replace(b'"prompt_tokens":7', b'"prompt_tokens":1')
    path.write_bytes(changed)
    log = FileAuditLog.open(settings)
    await serve(log)
    await log.close()
    assert path.read_bytes() == changed
    assert "after number 2 a line was changed" in caplog.text
    assert [bool(report.problems) for report in verified()] == [True, False]


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


async def recovered(log: FileAuditLog) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            await log.check()
            return
        except AuditUnavailable:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)


async def test_a_disk_that_fails_to_sync_is_tried_again_with_the_same_lines(
    settings, verified, monkeypatch
):
    log = FileAuditLog.open(settings)
    await serve(log, "before")
    fdatasync = os.fdatasync

    def fail(descriptor):
        os.pwrite(descriptor, b"garbage", on_disk)  # what a failed write-back may leave
        raise OSError(errno.EIO, "Input/output error")

    ticket = await begun(log, "running")
    [path] = settings.directory.rglob("00000000.jsonl")
    on_disk = path.stat().st_size
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(AuditUnavailable):
        await log.append(record("running"), ticket)
    with pytest.raises(AuditUnavailable):
        await log.check()
    with pytest.raises(AuditUnavailable):
        log.begin("refused", 1.0, principal(), "demo")
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    await recovered(log)
    await serve(log, "after")
    await log.close()
    assert verified()[0].problems == []
    ends = [line for line in lines(settings.directory) if line["event"] == "end"]
    assert [line["request_id"] for line in ends][-2:] == ["running", "after"]
