"""What somebody does to the log of a running gateway shows within seconds."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.audit import log as log_module
from gateway.audit.audit_segments import segments, writers
from gateway.audit.chain import BrokenLine, read
from gateway.audit.log import FileAuditLog
from gateway.configuration import Configuration
from gateway.gateway_errors import AuditUnavailable
from gateway.services import Services
from tests.gateway.audit.conftest import begun, record, serve
from tests.gateway.fakes import CHAT, FakeUpstream, Running, configuration, serving, words
from tests.gateway.test_dispatch import eventually

pytestmark = pytest.mark.anyio


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"n":9}\n')


def move_folder(path: Path) -> None:
    """And put one with the same name in its place, as a mount over it would."""
    path.parent.rename(path.parent.with_name("elsewhere-0"))
    path.parent.mkdir()


DAMAGES = [delete, truncate, empty, replace, append, move_folder]
PATH = "/v1/chat/completions"


def said(directory: Path) -> list[dict[str, Any]]:
    """The lines that are whole, in the folder that is written."""
    found = []
    [folder] = [each for each in writers(directory) if each.name != "elsewhere-0"]
    for segment in segments(folder):
        for line in segment.path.read_bytes().splitlines():
            with contextlib.suppress(BrokenLine):
                found.append(read(line + b"\n")[0])
    return found


def last_segment(directory: Path) -> Path:
    [folder] = writers(directory)
    return segments(folder)[-1].path


@contextlib.asynccontextmanager
async def watched(settings) -> AsyncIterator[FileAuditLog]:
    log = FileAuditLog.open(settings)
    watching = asyncio.create_task(log.watch())
    yield log
    watching.cancel()
    await log.close()


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_it_is_noticed_and_the_log_goes_on(settings, verified, monkeypatch, caplog, damage):
    monkeypatch.setattr(log_module, "_LOOK_S", 0.05)
    async with watched(settings) as log:
        await serve(log, "before")
        running = await begun(log, "running")
        assert log.state == "written"
        damage(last_segment(settings.directory))
        await until(lambda: log.state == "damaged")
        await log.append(record("running"), running)
        await serve(log, "after")
    there = said(settings.directory)
    [noted] = [line for line in there if line["event"] == "damage"]
    assert noted["segment"] == 0
    headers = [line for line in there if line["event"] == "segment"]
    assert [each["request_id"] for each in headers[-1]["open"]] == ["running"]
    ends = [line["request_id"] for line in there if line["event"] == "end"]
    assert ends[-2:] == ["running", "after"]
    if damage is not replace:  # where all is there, nothing is missed
        problems = [problem for report in verified() for problem in report.problems]
        assert problems
    assert "can't be written" in caplog.text
    # The next process goes on behind it.
    again = FileAuditLog.open(settings)
    await serve(again, "again")
    await again.close()


@pytest.mark.parametrize("restored", ["no line of ours\n", ""])
async def test_a_file_in_the_way_of_the_next_segment_stops_nothing(settings, monkeypatch, restored):
    """A copy that was put back, say: with it there no request was taken in any more."""
    monkeypatch.setattr(log_module, "_LOOK_S", 0.05)
    async with watched(settings) as log:
        await serve(log, "before")
        path = last_segment(settings.directory)
        path.with_name("00000001.jsonl").write_text(restored)
        path.with_name("00000004.jsonl").write_text(restored)
        delete(path)
        await until(lambda: log.state == "damaged")
        await serve(log, "after")
        assert last_segment(settings.directory).name == "00000005.jsonl"
    ends = [line["request_id"] for line in said(settings.directory) if line["event"] == "end"]
    assert ends == ["after"]


async def test_what_ends_meanwhile_is_written_later(settings, monkeypatch):
    monkeypatch.setattr(log_module, "_LOOK_S", 0.05)
    async with watched(settings) as log:
        running = await begun(log, "running")
        [folder] = writers(settings.directory)
        shutil.rmtree(folder)
        await until(lambda: log.state == "unavailable")
        with pytest.raises(AuditUnavailable):
            await log.check()
        with pytest.raises(AuditUnavailable):
            log.begin("more", 1.0, record().principal, "demo")
        with pytest.raises(AuditUnavailable):
            await log.append(record("running"), running)
        await asyncio.sleep(0.2)
        assert log.state == "unavailable"
        folder.mkdir()
        await until(lambda: log.state == "damaged")
        await serve(log, "after")
    ends = [line["request_id"] for line in said(settings.directory) if line["event"] == "end"]
    assert ends == ["running", "after"]


async def test_nobody_is_wronged(settings, verified, monkeypatch):
    """Writing, rotating and a full disk are no damage."""
    monkeypatch.setattr(log_module, "_LOOK_S", 0.001)
    async with watched(settings.model_copy(update={"segment_bytes": 4096})) as log:
        for number in range(100):
            await asyncio.gather(*(serve(log, f"r{number}-{each}") for each in range(5)))
        assert log.state == "written"
    assert verified()[0].problems == []


def house(tmp_path: Path) -> Configuration:
    return configuration(
        audit={"directory": str(tmp_path / "audit"), "reserve_bytes": 1 << 16},
    )


def ready(gateway: Running) -> httpx.Response:
    with gateway.client() as client:
        return client.get("/health/ready")


@pytest.mark.parametrize("damage", DAMAGES)
def test_over_http_it_shows_within_seconds(tmp_path, damage):
    settings = house(tmp_path)
    upstream = FakeUpstream(lambda job: [0.2, *words("Hello", ".")])
    with serving(upstream, settings, services=Services.open(settings)) as gateway:
        assert gateway.post(PATH, CHAT).status_code == 200
        assert ready(gateway).json() == {"status": "ready", "audit": "written"}
        assert gateway.metric("trireme_gateway_audit", state="written") == 1
        damaged_s = time.monotonic()
        damage(last_segment(tmp_path / "audit"))
        eventually(lambda: ready(gateway).json()["audit"] == "damaged")
        assert time.monotonic() - damaged_s < 5
        assert gateway.metric("trireme_gateway_audit", state="damaged") == 1
        answer = gateway.post(PATH, CHAT, headers={"x-request-id": "later"})
        assert answer.status_code == 200
    ends = [line for line in said(tmp_path / "audit") if line["event"] == "end"]
    assert ends[-1]["request_id"] == "later"


def test_over_http_a_log_that_is_gone_and_stays_gone_stops_intake(tmp_path):
    settings = house(tmp_path)
    with serving(FakeUpstream(), settings, services=Services.open(settings)) as gateway:
        shutil.rmtree(tmp_path / "audit")
        eventually(lambda: ready(gateway).status_code == 503)
        assert ready(gateway).json() == {"status": "unavailable", "audit": "unavailable"}
        answer = gateway.post(PATH, CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "audit_unavailable")


async def test_a_segment_that_is_taken_away_before_the_next_one_is_missed(
    settings, verified, monkeypatch
):
    monkeypatch.setattr(log_module, "_LOOK_S", 3600)
    async with watched(settings.model_copy(update={"segment_bytes": 4096})) as log:
        await serve(log, "before")
        delete(last_segment(settings.directory))
        for number in range(10):  # more than a segment
            with contextlib.suppress(AuditUnavailable):
                await serve(log, f"r{number}")
        await until(lambda: log.state == "damaged")
        await serve(log, "after")
    assert [line["segment"] for line in said(settings.directory) if line["event"] == "damage"] == [
        0
    ]
    [report] = verified()
    assert report.problems == [f"{settings.directory / report.writer}: segment 0 is gone"]


async def test_nothing_is_written_to_a_folder_that_is_gone(settings, monkeypatch):
    monkeypatch.setattr(log_module, "_LOOK_S", 3600)
    monkeypatch.setattr(log_module, "_RETRY_S", 0.01)
    async with watched(settings.model_copy(update={"segment_bytes": 4096})) as log:
        [folder] = writers(settings.directory)
        elsewhere = settings.directory.with_name("elsewhere")
        folder.rename(elsewhere)
        with pytest.raises(AuditUnavailable):
            await asyncio.gather(*[serve(log, f"r{number}") for number in range(100)])
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert log.state == "unavailable"
        elsewhere.rename(folder)
        await until(lambda: log.state == "damaged")
        await serve(log, "after")
    assert said(settings.directory)[-1]["request_id"] == "after"
