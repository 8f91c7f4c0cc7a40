from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.audit.audit_segments import segments, writers
from gateway.audit.audit_settings import AuditSettings
from gateway.audit.keys import AuditKeys
from gateway.audit.log import FileAuditLog, key_path
from gateway.audit.verification import ChainReport, verify
from gateway.gateway_errors import AuditUnavailable
from gateway.interfaces import AuditRecord, Principal, Ticket

PROMPT = "the quick brown fox is my password"
ANSWER = "and the lazy dog is mine"


def principal(tenant: str = "acme") -> Principal:
    return Principal(tenant, "chat", "k1", "standard", None, "strict", False, None)


def record(request_id: str = "r1", tenant: str = "acme", **fields: Any) -> AuditRecord:
    values: dict[str, Any] = {
        "time": 1_800_000_000.0,
        "principal": principal(tenant),
        "model": "demo",
        "model_version": "demo-2",
        "upstream": "replica-1",
        "policy": "strict",
        "prompt_tokens": 7,
        "output_tokens": 5,
        "cached_tokens": 0,
        "ttft_s": 0.01,
        "latency_s": 0.5,
        "finish_reasons": ("stop",),
        "status": 200,
        "verdicts": ("email",),
        "prompt": PROMPT.encode(),
        "answer": ANSWER.encode(),
    }
    values |= fields
    charged = {f"charged_{name}": values[name] for name in ("prompt_tokens", "output_tokens")}
    return AuditRecord(request_id=request_id, **{**charged, **values})


async def begun(
    log: FileAuditLog, request_id: str, time: float = 1.0, who: Principal | None = None
) -> Ticket:
    """A beginning that is on disk."""
    ticket = log.begin(request_id, time, who or principal(), "demo")
    await ticket.written
    return ticket


async def serve(log: FileAuditLog, request_id: str = "r1", tenant: str = "acme") -> None:
    """One request, from its beginning to its end."""
    ticket = await begun(log, request_id, 1_800_000_000.0, principal(tenant))
    await log.append(record(request_id, tenant), ticket)


@pytest.fixture
def settings(tmp_path) -> AuditSettings:
    return AuditSettings(directory=tmp_path / "audit", reserve_bytes=1 << 16)


@pytest.fixture
def verified(settings) -> Callable[[], list[ChainReport]]:
    def check() -> list[ChainReport]:
        return verify(settings.directory, AuditKeys.load(key_path(settings)))

    return check


def lines(directory: Path) -> Iterator[dict[str, Any]]:
    """Every line of a log, read without its help."""
    for folder in writers(directory):
        for segment in segments(folder):
            for line in segment.path.read_bytes().splitlines():
                yield orjson.loads(line)


def events(directory: Path) -> list[str]:
    return [line["event"] for line in lines(directory)]


async def recovered(log: FileAuditLog) -> None:
    """Wait until a log takes requests in again."""
    end = time.monotonic() + 30
    while True:
        try:
            await log.check()
            return
        except AuditUnavailable:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
