"""What kills, power cuts and failing disks leave: a chain that verifies, with all that was told."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from gateway.audit.audit_segments import writers
from gateway.audit.log import FileAuditLog
from gateway.gateway_errors import AuditUnavailable
from tests.gateway.audit.conftest import (
    begun,
    events,
    lines,
    principal,
    record,
    recovered,
    serve,
)

pytestmark = pytest.mark.anyio


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
