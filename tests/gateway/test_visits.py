"""Every request leaves one line and one metric and, of who is known, one record.

Over real HTTP, with keys in a database, limits and an audit log on disk.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from gateway.audit.audit_settings import AuditSettings
from gateway.configuration import Configuration, ListenSettings
from gateway.limits.limit import Limits
from gateway.services import Services
from gateway.tenants.directory import Directory
from gateway.tenants.tenant import KeyPolicy, TenantPolicy
from gateway.usage.usage_report import Query, report
from tests.gateway.audit.conftest import lines
from tests.gateway.fakes import CHAT, HANG, STREAM, FakeUpstream, Running, configuration, serving
from tests.gateway.test_dispatch import eventually

CHATS = "/v1/chat/completions"
LOGGER = "gateway.requests"


class House:
    """A gateway with tenants `acme` and `globex`, and what it leaves behind."""

    def __init__(
        self, settings: Configuration, caplog: pytest.LogCaptureFixture, upstream: FakeUpstream
    ) -> None:
        self.settings = settings
        self.caplog = caplog
        self.upstream = upstream
        self.keys: dict[str, str] = {}
        self.ids: dict[str, str] = {}
        self.gateway: Running
        self.directory: Directory

    def key(self, name: str, tenant: str = "acme", **policy: Any) -> str:
        key, credential = self.directory.create_key(tenant, KeyPolicy(**policy))
        self.keys[name], self.ids[name] = credential.text, key.id
        return credential.text

    def ask(self, body: Any = CHAT, key: str | None = "good", **headers: str) -> httpx.Response:
        """Ask with one of the keys, or another text in place of one."""
        given = {} if key is None else {"authorization": f"Bearer {self.keys.get(key, key)}"}
        return self.gateway.post(CHATS, body, headers={**given, **headers})

    def told(self, count: int) -> list[Any]:
        """The lines of so many requests."""

        def found() -> list[Any]:
            return [
                each
                for each in self.caplog.records
                if each.name == LOGGER and each.levelno >= logging.INFO
            ]

        eventually(lambda: len(found()) >= count)
        time.sleep(0.1)
        assert len(found()) == count, [vars(each) for each in found()]
        return found()

    def records(self, *events: str) -> list[dict[str, Any]]:
        assert self.settings.audit is not None
        with suppress(FileNotFoundError):
            every = list(lines(self.settings.audit.directory))
            return [line for line in every if line["event"] in events]
        return []

    def metrics(self) -> float:
        """How many requests were counted."""
        families = self.gateway.app.state.gateway.metrics.registry.collect()
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name in ("trireme_gateway_requests_total", "trireme_gateway_calls_total")
            and not sample.labels.get("route", "").startswith("GET /health/")
        )


@pytest.fixture
def house(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> Iterator[House]:
    settings = configuration(
        database=f"sqlite:///{tmp_path}/gateway.db",
        tenants={"cache_s": 0},
        audit=AuditSettings(directory=tmp_path / "audit", reserve_bytes=1 << 16),
        usage={"interval_s": 0.05},
        listen=ListenSettings(
            port=0, shutdown_grace_s=0, max_body_bytes=4096, body_timeout_s=1, max_header_bytes=4096
        ),
    )
    caplog.set_level(logging.INFO, LOGGER)
    upstream = FakeUpstream()
    services = Services.open(settings)
    found = House(settings, caplog, upstream)
    assert services.administration is not None
    found.directory = services.administration.directory
    for tenant in ("acme", "globex"):
        found.directory.create_tenant(tenant, TenantPolicy())
        found.key("good" if tenant == "acme" else tenant, tenant)
    with serving(upstream, settings, services=services) as gateway:
        found.gateway = gateway
        yield found


def bad_field(house: House) -> httpx.Response:
    return house.ask({**CHAT, "temperature": "hot"})


def no_key(house: House) -> httpx.Response:
    return house.ask(key=None)


def guessed_key(house: House) -> httpx.Response:
    return house.ask(key=f"trireme_{'0' * 16}_{secrets.token_urlsafe(32)}")


def revoked_key(house: House) -> httpx.Response:
    house.key("old")
    house.directory.revoke_key(house.ids["old"])
    return house.ask(key="old")


def locked_tenant(house: House) -> httpx.Response:
    house.directory.create_tenant("shut", TenantPolicy(locked=True))
    house.key("shut", "shut")
    return house.ask(key="shut")


def unknown_model(house: House) -> httpx.Response:
    return house.ask({**CHAT, "model": "nothing"})


def another_method(house: House) -> httpx.Response:
    with house.gateway.client() as client:
        return client.get(CHATS, headers={"authorization": f"Bearer {house.keys['good']}"})


def nowhere(house: House) -> httpx.Response:
    with house.gateway.client() as client:
        return client.request("POST", "/v1/nowhere", content=b"x" * 2000)


def too_long(house: House) -> httpx.Response:
    return house.ask({**CHAT, "user": "x" * 5000})


def heads_too_long(house: House) -> httpx.Response:
    return house.ask(x="y" * 5000)


def limited(house: House) -> httpx.Response:
    house.key("slow", limits=Limits(requests_per_minute=1))
    assert house.ask(key="slow").status_code == 200
    return house.ask(key="slow")


def nobody_there(house: House) -> httpx.Response:
    house.gateway.app.state.fleet.drain("a", True)
    return house.ask()


def models(house: House) -> httpx.Response:
    with house.gateway.client() as client:
        return client.get("/v1/models", headers={"authorization": f"Bearer {house.keys['good']}"})


def preflight(house: House) -> httpx.Response:
    with house.gateway.client() as client:
        return client.options(CHATS)


@pytest.mark.parametrize(
    ("call", "status", "code", "tenant", "event"),
    [
        (bad_field, 400, "invalid_value", "acme", "call"),
        (no_key, 401, "invalid_api_key", None, None),
        (guessed_key, 401, "invalid_api_key", None, "call"),
        (revoked_key, 401, "revoked_api_key", "acme", "call"),
        (locked_tenant, 403, "tenant_locked", "shut", "call"),
        (unknown_model, 404, "model_not_found", "acme", "call"),
        (another_method, 405, "http_405", None, "call"),
        (nowhere, 404, "http_404", None, None),
        (too_long, 413, "request_too_large", "acme", "call"),
        (heads_too_long, 431, "headers_too_large", None, "call"),
        (limited, 429, "rate_limit_exceeded", "acme", "call"),
        (nobody_there, 503, "unavailable", "acme", "end"),
        (models, 200, None, "acme", "call"),
        (preflight, 405, "http_405", None, None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_request_is_told_once(
    house: House,
    call: Callable[[House], httpx.Response],
    status: int,
    code: str | None,
    tenant: str | None,
    event: str | None,
) -> None:
    answer = call(house)
    assert answer.status_code == status
    more = call is limited  # one that was served before
    line = house.told(1 + more)[-1]
    assert (line.status, line.code, line.tenant) == (status, code, tenant)
    assert line.request_id == answer.headers["x-request-id"]
    assert line.route.split()[0] == answer.request.method
    if tenant is not None:
        assert line.key_id in house.ids.values()
    assert not any(key in str(vars(line)) for key in house.keys.values())
    assert house.metrics() == 1 + more
    if event is not None:
        eventually(lambda: house.records("end", "call"))
    records = [each for each in house.records("end", "call") if each["status"] == status]
    assert [(each["event"], each["tenant"] or None) for each in records] == (
        [(event, tenant)] if event else []
    )


def test_a_guessed_key_is_shown_by_its_public_part_only(house: House) -> None:
    secret = secrets.token_urlsafe(32)
    house.ask(key=f"trireme_{'ab' * 8}_{secret}")
    [line] = house.told(1)
    eventually(lambda: house.records("call"))
    [record] = house.records("call")
    assert line.key_id == record["key_id"] == "ab" * 8
    assert line.address == record["address"] == "127.0.0.1"
    assert secret not in json.dumps(record)
    assert secret not in str(vars(line))


def test_guesses_without_end_are_told_in_a_few_records(house: House) -> None:
    with house.gateway.client() as client:
        for _ in range(300):
            key = f"trireme_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"
            assert client.post(CHATS, json=CHAT, headers={"authorization": f"Bearer {key}"})
    eventually(lambda: sum(each["count"] for each in house.records("call")) == 300)
    assert len(house.records("call")) < 30
    assert len(house.told(300)) == 300


def test_who_leaves_before_all_is_sent(house: House) -> None:
    head = f"POST {CHATS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {house.keys['good']}\r\n"
    body = json.dumps(CHAT).encode()
    for framing in (
        b"content-length: 1000\r\n\r\n" + body,
        b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body),
    ):
        with socket.create_connection(("127.0.0.1", house.gateway.port)) as connection:
            connection.sendall(head.encode() + framing)
            time.sleep(0.1)
    told = house.told(2)
    assert [(each.status, each.code, each.tenant) for each in told] == [
        (499, "disconnected", "acme")
    ] * 2
    assert house.upstream.jobs == []  # what came was a whole request by chance


def test_who_sends_too_slowly(house: House) -> None:
    head = f"POST {CHATS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {house.keys['good']}\r\n"
    with socket.create_connection(("127.0.0.1", house.gateway.port), timeout=10) as connection:
        connection.sendall(f"{head}content-length: 1000\r\n\r\n{{".encode())
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
    [line] = house.told(1)
    assert (line.status, line.code, line.tenant) == (408, "request_timeout", "acme")


def test_requests_that_are_sent_one_behind_the_other(house: House) -> None:
    def request(body: Any, name: str) -> bytes:
        raw = json.dumps(body).encode()
        head = (
            f"POST {CHATS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {house.keys['good']}\r\nx-request-id: {name}\r\n"
        )
        return f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw

    bodies = [CHAT, {**CHAT, "n": -1}, STREAM]
    with socket.create_connection(("127.0.0.1", house.gateway.port), timeout=10) as connection:
        connection.sendall(b"".join(request(body, f"p{n}") for n, body in enumerate(bodies)))
        told = house.told(2)  # those behind the first are not read: one line says so
    assert [each.status for each in told] == [400, 200]
    assert told[1].request_id == "p0"
    assert house.metrics() == 2


def test_what_is_no_http_is_told(house: House) -> None:
    with socket.create_connection(("127.0.0.1", house.gateway.port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        assert b" 400 " in connection.recv(1 << 16)
    [line] = house.told(1)
    assert (line.status, line.code, line.route) == (400, "http_400", "unknown")
    assert house.metrics() == 1


def test_one_id_in_parallel_from_two_tenants(house: House) -> None:
    """Ends were paired with beginnings by the client's id: the first to end took the other's."""
    go = threading.Event()
    first = threading.Event()
    house.upstream.script = lambda job: [
        go if job.generation.tenant == "acme" else first,
        *FakeUpstream().script,  # type: ignore[misc]
    ]
    threads = []
    for key, tenant in (("good", "acme"), ("globex", "globex")):
        thread = threading.Thread(target=house.ask, args=(CHAT, key), kwargs={"x-request-id": "x"})
        thread.start()
        threads.append(thread)
        eventually(lambda tenant=tenant: tenant in [b["tenant"] for b in house.records("begin")])  # type: ignore[misc]
    first.set()
    eventually(lambda: house.records("end"))
    go.set()
    for thread in threads:
        thread.join()
    begins = {each["n"]: each["tenant"] for each in house.records("begin")}
    ends = {each["begun"]: each["tenant"] for each in house.records("end")}
    assert begins == ends
    assert set(ends.values()) == {"acme", "globex"}


def test_refused_requests_are_counted_apart_in_usage(house: House) -> None:
    assert house.ask().status_code == 200
    for _ in range(3):
        bad_field(house)
    guessed_key(house)
    models(house)
    engine = house.gateway.app.state.administration._engine
    today = datetime.now(timezone.utc).date()
    query = Query(first=today, last=today, by=("tenant", "key_id"))
    eventually(lambda: sum(row.refused for row in report(engine, query)) == 3)
    [row] = report(engine, query)
    assert (row.requests, row.refused, row.group["key_id"]) == (1, 3, house.ids["good"])


class TestWebSockets:
    def url(self, house: House) -> str:
        return f"ws://127.0.0.1:{house.gateway.port}{CHATS}"

    def test_who_is_not_let_in(self, house: House) -> None:
        with pytest.raises(InvalidStatus), connect(self.url(house)):
            pass
        key = f"trireme_{'0' * 16}_{secrets.token_urlsafe(32)}"
        headers = {"authorization": f"Bearer {key}"}
        with (
            pytest.raises(InvalidStatus),
            connect(self.url(house), additional_headers=headers),
        ):
            pass
        told = house.told(2)
        assert [(each.status, each.code, each.route) for each in told] == [
            (401, "invalid_api_key", f"WS {CHATS}")
        ] * 2
        assert told[1].key_id == "0" * 16
        eventually(lambda: house.records("call"))

    def test_each_message_is_a_request(self, house: House) -> None:
        headers = {"authorization": f"Bearer {house.keys['good']}"}
        with connect(self.url(house), additional_headers=headers) as socket:
            for body in (CHAT, {**CHAT, "n": -1}, {**CHAT, "model": "nothing"}):
                socket.send(json.dumps(body))
                while "error" not in (message := socket.recv()) and message != "[DONE]":
                    pass
        told = house.told(3)
        assert [each.status for each in told] == [200, 400, 404]
        assert len({each.request_id for each in told}) == 3
        assert house.metrics() == 3

    def test_one_who_says_nothing_is_told_at_its_end(self, house: House) -> None:
        headers = {"authorization": f"Bearer {house.keys['good']}"}
        with connect(self.url(house), additional_headers=headers):
            pass
        [line] = house.told(1)
        assert line.status == 101

    def test_one_who_leaves_in_the_middle(self, house: House) -> None:
        house.upstream.script = [HANG]
        headers = {"authorization": f"Bearer {house.keys['good']}"}
        with connect(self.url(house), additional_headers=headers) as socket:
            socket.send(json.dumps(CHAT))
            eventually(lambda: house.upstream.running)
        [line] = house.told(1)
        assert line.status == 499
