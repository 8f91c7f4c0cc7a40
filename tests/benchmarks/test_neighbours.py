"""What is measured of one tenant beside another, and that each attack can be sent."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from benchmarks.neighbours.__main__ import Row, p95
from benchmarks.neighbours.attacks import ATTACKS, DESCRIPTIONS, Attacker, http_request
from benchmarks.neighbours.watched_gateway import Watch, watched
from gateway.api.routes import TRANSLATORS


def row(**changes: Any) -> Row:
    values: dict[str, Any] = {
        "name": "unread",
        "alone_s": [0.01, 0.02, 0.03],
        "beside_s": [0.02, 0.03, 0.04],
        "failed": 0,
        "wall_ms": 50.0,
        "processor_ms": 10.0,
        "counts": {"unread": 100},
    }
    return Row(**{**values, **changes})


def test_a_row_tells_by_how_much_the_median_grew() -> None:
    assert row().ratio == pytest.approx(1.5)
    assert str(row()).split()[:9] == "unread 20.0 / 20.0 30.0 / 30.0 1.50 0".split()


@pytest.mark.parametrize(
    "changes", [{"beside_s": [0.05]}, {"beside_s": []}, {"failed": 1}, {"processor_ms": 21.0}]
)
def test_a_row_is_out_of_bounds_by_time_by_failures_and_by_the_loop(
    changes: dict[str, Any],
) -> None:
    assert row().holds
    assert not row(**changes).holds


def test_of_a_hundred_ninety_five_are_below_the_p95() -> None:
    assert p95([float(value) for value in reversed(range(101))]) == 95.0


def test_every_attack_is_described_and_reads_as_a_request() -> None:
    """An attack whose body the gateway refuses would be none."""
    assert ATTACKS.keys() == DESCRIPTIONS.keys()
    bodies = {each.path.removeprefix("/v1"): each.body for each in TRANSLATORS}
    for attack in ATTACKS.values():
        path = getattr(attack, "path", "/v1/chat/completions").removeprefix("/v1")
        body = getattr(attack, "body", None)
        if isinstance(body, dict):
            bodies[path].model_validate(body)


def test_a_request_is_whole_http() -> None:
    sent = http_request("127.0.0.1:1", "/v1/x", "somebody", {"a": 1}, closes=True)
    head, _, content = sent.partition(b"\r\n\r\n")
    assert json.loads(content) == {"a": 1}
    assert b"authorization: Bearer somebody" in head.split(b"\r\n")
    assert b"content-length: %d" % len(content) in head.split(b"\r\n")


def test_an_attack_ends_in_time_and_counts_what_became_of_it() -> None:
    async def attack() -> Attacker:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 429 Too Many Requests\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            attacker = Attacker(f"{host}:{port}", 0.2)
            await asyncio.wait_for(attacker.run(ATTACKS["requests"]), 30)
            return attacker

    counts = asyncio.run(attack()).counts
    assert counts["429"] >= 64


def test_the_gateway_tells_tenants_apart_by_their_keys() -> None:
    app, _ = watched("127.0.0.1:1", 1)
    assert asyncio.run(app.state.gateway.authenticate("Bearer somebody")).tenant == "somebody"


def test_the_watch_sees_for_how_long_the_loop_was_held() -> None:
    async def hold() -> dict[str, float]:
        watch = Watch()
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(0)
        time.sleep(0.05)
        await asyncio.sleep(0.01)
        task.cancel()
        return watch.take()

    assert asyncio.run(hold())["wall_ms"] >= 45
