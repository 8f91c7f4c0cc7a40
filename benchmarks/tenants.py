"""What keys, limits and the audit add to a request, each alone and in process.

    python -m benchmarks.tenants --directory /var/lib/trireme --redis redis://127.0.0.1:6379

The directory says which disk is measured; what is written there is removed again.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from gateway.audit.audit_settings import AuditSettings
from gateway.audit.log import FileAuditLog
from gateway.database import open_database
from gateway.interfaces import AuditRecord, Principal
from gateway.limits.account import Store
from gateway.limits.in_memory import MemoryStore
from gateway.limits.limit import Limits
from gateway.limits.limiter import TenantLimiter
from gateway.limits.redis import RedisStore, connect
from gateway.tenants.authenticator import TenantAuthenticator
from gateway.tenants.directory import Directory
from gateway.tenants.registry import Registry
from gateway.tenants.tenant import KeyPolicy, TenantPolicy
from gateway.tenants.tenant_settings import TenantSettings

_ROUNDS = 500
_CONCURRENT = 32
_LIMITS = Limits(
    requests_per_minute=10**6,
    tokens_per_minute=10**9,
    concurrent_requests=10**4,
    tokens_per_day=10**12,
    tokens_per_month=10**13,
)
_WHO = Principal("acme", "chat", "k1", "standard", None, None, False, None)
_PROMPT, _ANSWER = b"What is the capital of France? " * 30, b"The capital of France is Paris. " * 30


class Stopwatch:
    """The time of many rounds of one thing."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._walls: list[float] = []

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._walls.append(time.perf_counter() - self._began)

    def __str__(self) -> str:
        walls = sorted(self._walls)
        p95 = walls[int(0.95 * len(walls))]
        return f"{self._name:32} {statistics.median(walls) * 1e3:8.3f} {p95 * 1e3:8.3f} ms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each part; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tenants", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("reports"))
    parser.add_argument("--redis", help="URL of a Redis, to measure limits there too")
    given = parser.parse_args(arguments)
    given.directory.mkdir(parents=True, exist_ok=True)
    print(f"{'each of ' + str(_ROUNDS):32} {'median':>8} {'p95':>8}")
    with tempfile.TemporaryDirectory(dir=given.directory) as folder:
        asyncio.run(_measure(Path(folder), given.redis))
    return 0


async def _measure(folder: Path, redis: str | None) -> None:
    await _keys(folder)
    await _limits("limits in memory", MemoryStore())
    if redis is not None:
        await _limits("limits in Redis", RedisStore(connect(redis, 5), prefix="benchmark"))
    await _audit(folder)


async def _keys(folder: Path) -> None:
    directory = Directory(open_database(f"sqlite:///{folder}/gateway.db"))
    directory.create_tenant("acme", TenantPolicy())
    _, credential = directory.create_key("acme", KeyPolicy())
    authenticator = TenantAuthenticator(Registry(directory, TenantSettings()), {})
    watch = Stopwatch("an API key")
    for _ in range(_ROUNDS):
        with watch:
            await authenticator.authenticate(f"Bearer {credential.text}")
    print(watch)


async def _limits(name: str, store: Store) -> None:
    async def source(_: Principal) -> tuple[Limits, Limits]:
        return _LIMITS, _LIMITS

    limiter = TenantLimiter(store, source)
    reserve, settle = Stopwatch(f"{name}: reserve"), Stopwatch(f"{name}: settle")
    for _ in range(_ROUNDS):
        with reserve:
            reservation = await limiter.reserve(_WHO, "demo", 100, 100)
        with settle:
            await reservation.settle(100, 50)
    print(reserve, settle, sep="\n")
    await limiter.close()


async def _audit(folder: Path) -> None:
    log = FileAuditLog.open(AuditSettings(directory=folder / "audit"))
    begin = Stopwatch("audit: begin, before Triton")
    durable = Stopwatch("audit: on disk, beside the prompt")
    append = Stopwatch("audit: the end, on disk")
    for number in range(_ROUNDS):
        with begin:
            ticket = log.begin(f"r{number}", time.time(), _WHO, "demo")
        with durable:
            await ticket.written
        with append:
            await log.append(_record(f"r{number}"), ticket)
    print(begin, durable, append, sep="\n")

    async def client(name: int) -> None:
        for number in range(_ROUNDS // _CONCURRENT):
            ticket = log.begin(f"{name}-{number}", time.time(), _WHO, "demo")
            await ticket.written
            await log.append(_record(f"{name}-{number}"), ticket)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(name) for name in range(_CONCURRENT)))
    requests = _CONCURRENT * (_ROUNDS // _CONCURRENT)
    rate = requests / (time.perf_counter() - began)
    each_us = (time.process_time() - cpu) / requests * 1e6
    print(
        f"audit, {_CONCURRENT} at once: {rate:,.0f} requests/s, {each_us:.0f} µs of processor each"
    )
    await log.close()


def _record(request_id: str) -> AuditRecord:
    return AuditRecord(
        request_id=request_id,
        time=time.time(),
        principal=_WHO,
        model="demo",
        model_version="demo",
        upstream="local",
        policy=None,
        prompt_tokens=200,
        output_tokens=200,
        cached_tokens=0,
        charged_prompt_tokens=200,
        charged_output_tokens=200,
        ttft_s=0.01,
        latency_s=0.5,
        finish_reasons=("stop",),
        status=200,
        verdicts=(),
        prompt=_PROMPT,
        answer=_ANSWER,
    )


if __name__ == "__main__":
    sys.exit(main())
