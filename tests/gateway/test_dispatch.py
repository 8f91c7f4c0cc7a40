"""What happens when an upstream fails, falls silent, is full, or a client goes away."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.errors import ServerBrokenError, ServerBusyError, ServerUnavailableError
from gateway.configuration import (
    AdmissionSettings,
    ClassSettings,
    FallbackSettings,
    HealthSettings,
    ListenSettings,
    ModelSettings,
    ProviderSettings,
    TritonSettings,
    VersionSettings,
)
from gateway.generation import Delta
from gateway.open_access import LOCAL
from tests.gateway.fakes import (
    CHAT,
    HANG,
    STREAM,
    FakeUpstream,
    Keys,
    Ledger,
    Running,
    Step,
    configuration,
    serving,
    words,
)
from tests.gateway.test_api import stream, text_of

GONE = ServerUnavailableError("connection reset")
LOST = ServerBrokenError("Stub process is not healthy.")
PROVIDER = ProviderSettings(kind="openai", name="cloud", url="http://unused/v1")
VERSION = VersionSettings(name="demo-1", upstreams=("a",))


def eventually(condition: Callable[[], object], timeout_s: float = 10) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.005)


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize("failure", [GONE, ServerBusyError("the queue is full")])
def test_another_replica_answers_where_one_cannot(body, failure):
    bad, good = FakeUpstream([failure]), FakeUpstream()
    with serving({"a": bad, "b": good}) as gateway:
        responses = [gateway.post("/v1/chat/completions", body) for _ in range(4)]
        retries = gateway.metric("trireme_gateway_retries_total", upstream="a")
    assert [response.status_code for response in responses] == [200] * 4
    assert {response.headers["x-trireme-served-by"] for response in responses} == {"b"}
    assert len(bad.jobs) >= 1
    assert retries == len(bad.jobs)
    assert {job.request_id.split(".")[-1] for job in good.jobs} <= {"1", "2"}


def test_an_answer_that_does_not_stream_begins_again_even_after_its_first_tokens():
    bad, good = FakeUpstream([*words("Hello", reason=""), GONE]), FakeUpstream()
    with serving({"a": bad, "b": good}) as gateway:
        answer = gateway.post("/v1/chat/completions", CHAT).json()
    assert answer["choices"][0]["message"]["content"] == "Hello there."
    assert answer["usage"]["completion_tokens"] == 3


def test_a_stream_that_has_begun_ends_with_an_error_and_is_not_begun_again():
    bad, good = FakeUpstream([*words("Hello", reason=""), GONE]), FakeUpstream()
    ledger = Ledger()
    with serving({"a": bad, "b": good}, audit=ledger) as gateway:
        events = stream(gateway, STREAM)
    assert events[-1]["error"]["code"] == "upstream_lost"
    assert "a went away after the answer had begun" in events[-1]["error"]["message"]
    assert good.jobs == []
    assert (ledger.records[0].status, ledger.records[0].finish_reasons) == (200, ("error",))


def test_a_circuit_opens_and_closes_again_with_the_replica_s_health():
    bad, good = FakeUpstream([GONE], probe_error=GONE), FakeUpstream()
    with serving({"a": bad, "b": good}, ready=False) as gateway:
        eventually(lambda: gateway.app.state.fleet["b"].available)
        for _ in range(5):
            assert gateway.post("/v1/chat/completions", CHAT).status_code == 200
        assert bad.jobs == []
        bad.probe_error, bad.script = None, words("back")
        eventually(lambda: gateway.app.state.fleet["a"].available)
        eventually(lambda: gateway.post("/v1/chat/completions", CHAT) and bad.jobs)


def silent(name: str = "a", **more: Any) -> TritonSettings:
    return TritonSettings(name=name, address="h:1", **more)


def test_a_replica_that_falls_silent_before_its_first_token_is_passed_over():
    hung, good = FakeUpstream([HANG]), FakeUpstream()
    upstreams = (silent("a", first_token_timeout_s=0.1), silent("b"))
    with serving({"a": hung, "b": good}, configuration(upstreams)) as gateway:
        assert text_of(stream(gateway, STREAM)) == "Hello there."
    assert hung.ended == ["cancelled"]


def test_a_replica_that_falls_silent_in_a_stream_ends_it_with_an_error():
    hung = FakeUpstream([*words("Hello", reason=""), HANG])
    with serving(hung, configuration((silent("a", token_timeout_s=0.1),))) as gateway:
        events = stream(gateway, STREAM)
    assert events[-1]["error"]["code"] == "upstream_lost"


def test_a_stream_that_is_put_off_goes_on_where_its_replica_answers_others():
    """Probes get their tokens meanwhile: it waits for a place, that is all."""
    busy = FakeUpstream([*words("Hello", reason=""), 2.5, *words(" there.")])
    with serving(busy, configuration((silent("a", token_timeout_s=1),))) as gateway:
        assert text_of(stream(gateway, STREAM)) == "Hello there."


def test_a_replica_that_does_not_come_to_a_request_is_not_ill(monkeypatch):
    monkeypatch.setattr("gateway.dispatch.PATIENCE", 2)
    busy, good = FakeUpstream([HANG]), FakeUpstream()
    upstreams = (silent("a", first_token_timeout_s=1), silent("b"))
    health = HealthSettings(interval_s=0.01, failures=1)
    settings = configuration(upstreams, health=health)
    with serving({"a": busy, "b": good}, settings) as gateway:
        assert text_of(stream(gateway, STREAM)) == "Hello there."
        assert busy.ended == ["cancelled"]
        assert gateway.app.state.fleet["a"].circuit.closed


def test_a_replica_that_says_nothing_to_anybody_is_ill():
    hung, good = FakeUpstream([HANG]), FakeUpstream()
    upstreams = (silent("a", first_token_timeout_s=0.1), silent("b"))
    settings = configuration(upstreams, health=HealthSettings(interval_s=60, failures=1))
    with serving({"a": hung, "b": good}, settings) as gateway:
        assert text_of(stream(gateway, STREAM)) == "Hello there."
        assert not gateway.app.state.fleet["a"].circuit.closed


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_a_probe_that_fails_frees_the_requests_that_wait_for_a_hung_replica(body):
    hung, good = FakeUpstream([HANG]), FakeUpstream()
    with serving({"a": hung, "b": good}) as gateway, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(gateway.post, "/v1/chat/completions", body) for _ in range(8)]
        eventually(lambda: hung.running)
        hung.probe_error = GONE
        assert {answer.result(20).status_code for answer in answers} == {200}


def test_a_lost_replica_is_left_at_once_and_its_streams_end():
    """One request hears that a process died there; the others would hear nothing at all."""
    dies = threading.Event()
    answers: list[list[Step]] = [[*words("Hello", reason=""), HANG], [HANG], [HANG], [dies, LOST]]
    scripts = iter(answers)
    broken, good = FakeUpstream(lambda job: next(scripts)), FakeUpstream()
    settings = configuration(("a", "b"), health=HealthSettings(interval_s=60))
    with serving({"a": broken, "b": good}, settings) as gateway, ThreadPoolExecutor(4) as pool:
        fleet = gateway.app.state.fleet
        gateway.loop.call_soon_threadsafe(fleet.drain, "b")
        begun = pool.submit(stream, gateway, STREAM)
        eventually(lambda: fleet["a"].answering)
        rest = [pool.submit(gateway.post, "/v1/chat/completions", CHAT) for _ in range(3)]
        eventually(lambda: broken.running == 4)
        gateway.loop.call_soon_threadsafe(fleet.drain, "b", False)
        eventually(lambda: fleet["b"].available)
        dies.set()
        assert {answer.result(20).headers["x-trireme-served-by"] for answer in rest} == {"b"}
        assert begun.result(20)[-1]["error"]["code"] == "upstream_lost"


# --- clients --------------------------------------------------------------------------------------


def come_and_go(gateway: Running, body: dict[str, Any], when: Callable[[], object]) -> None:
    """Ask, and go away as soon as something is true."""

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=30, trust_env=False) as client:
            asked = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            await asyncio.to_thread(eventually, when)
            asked.cancel()

    asyncio.run(ask())


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_a_client_that_goes_away_ends_its_job_at_once(body):
    upstream = FakeUpstream([*words("Hello", reason=""), HANG])
    ledger = Ledger()
    with serving(upstream, audit=ledger) as gateway:
        replica = gateway.app.state.fleet["a"]
        come_and_go(
            gateway, body, lambda: replica.answering if body is STREAM else upstream.running
        )
        eventually(lambda: ledger.records)
        assert gateway.app.state.fleet["a"].in_flight == 0
    assert upstream.ended == ["cancelled"]
    assert ledger.records[0].finish_reasons == ("cancelled",)
    assert ledger.records[0].status == 499


@contextmanager
def occupied(gateway: Running) -> Iterator[None]:
    """A stream that has begun and doesn't end."""
    with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=STREAM) as response,
    ):
        lines = response.iter_lines()  # kept: the response is closed with it
        next(lines)
        yield


def test_a_client_that_goes_away_while_it_waits_leaves_the_queue():
    upstream = FakeUpstream([*words("a", reason=""), HANG])
    with serving(upstream, configuration((silent("a", max_concurrent=1),))) as gateway:
        queue = gateway.app.state.gateway.dispatcher.admission
        with occupied(gateway):
            come_and_go(gateway, STREAM, lambda: queue.waiting("interactive") == 1)
            eventually(lambda: queue.waiting("interactive") == 0)
        assert len(upstream.jobs) == 1


def test_a_client_that_reads_nothing_holds_up_nobody_and_is_cut_off():
    """The replica is done with its answer long before the client is."""
    size = 4_000_000
    script = [Delta(0, "x" * 500, "", 1, 5) for _ in range(size // 500)]
    script.append(Delta(0, "", "stop", 0, 5))
    slow = FakeUpstream(lambda job: script if job.generation.stream else words("quick"))
    listen = ListenSettings(port=0, slow_client_timeout_s=0.5, shutdown_grace_s=0)
    with (
        serving(slow, configuration(listen=listen)) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = httpx.Request("POST", gateway.url, json=STREAM).read()
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        eventually(lambda: "done" in slow.ended, 30)
        assert gateway.app.state.fleet["a"].in_flight == 0
        assert gateway.post("/v1/chat/completions", CHAT).status_code == 200
        port = client.getsockname()[1]
        eventually(lambda: not _is_connected(gateway.port, port), 30)
        assert _read_to_the_end(client) < size


def _is_connected(port: int, peer: int) -> bool:
    """Whether the kernel still has a server's end of a connection."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = {tuple(int(end.rpartition(":")[2], 16) for end in row[1:3]) for row in rows}
    return (port, peer) in ends


def _read_to_the_end(client: socket.socket) -> int:
    received = 0
    try:
        while chunk := client.recv(1 << 20):
            received += len(chunk)
    except ConnectionResetError:
        pass
    return received


# --- classes --------------------------------------------------------------------------------------


def test_a_full_queue_is_a_503_that_says_when_to_come_again():
    settings = configuration(
        (silent("a", max_concurrent=1),),
        admission=AdmissionSettings(batch=ClassSettings(max_waiting=0)),
    )
    upstream = FakeUpstream([*words("a", reason=""), HANG])
    with serving(upstream, settings) as gateway, occupied(gateway):
        response = gateway.post("/v1/chat/completions", {**CHAT, "service_tier": "flex"})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "queue_full"
    assert int(response.headers["retry-after"]) >= 1


# --- fallback -------------------------------------------------------------------------------------


def with_fallback(when: frozenset[Any] = frozenset({"unavailable", "saturated"}), **more: Any):
    fallback = FallbackSettings(upstream="cloud", model="big", when=when)
    model = ModelSettings(versions=(VERSION,), fallback=fallback)
    return configuration((silent("a", **more), PROVIDER), {"demo": model})


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_the_fallback_answers_where_no_replica_is_well_and_says_so(body):
    ill, cloud = FakeUpstream(probe_error=GONE), FakeUpstream(words("From afar."))
    ledger = Ledger()
    upstreams = {"a": ill, "cloud": cloud}
    with serving(upstreams, with_fallback(), ready=False, audit=ledger) as gateway:
        response = gateway.post("/v1/chat/completions", body)
    assert response.headers["x-trireme-served-by"] == "cloud"
    assert response.headers["x-trireme-model-version"] == "cloud/big"
    assert cloud.jobs[0].model == "big"
    assert ledger.records[0].upstream == "cloud"


def test_the_fallback_answers_where_replicas_are_full_if_that_is_wanted():
    full = ServerBusyError("the queue is full")
    for when, status in ((frozenset({"saturated"}), 200), (frozenset({"unavailable"}), 503)):
        upstreams = {"a": FakeUpstream([full]), "cloud": FakeUpstream()}
        with serving(upstreams, with_fallback(when)) as gateway:
            assert gateway.post("/v1/chat/completions", CHAT).status_code == status


@pytest.mark.parametrize(
    "forbids", [{"fallback_allowed": False}, {"data_residency": "eu"}], ids=["policy", "region"]
)
def test_a_tenant_s_rules_forbid_the_fallback(forbids):
    cloud = FakeUpstream()
    keys = Keys({"": replace(LOCAL, **forbids)})
    settings = with_fallback(region="eu")
    upstreams = {"a": FakeUpstream([GONE]), "cloud": cloud}
    with serving(upstreams, settings, authenticator=keys) as gateway:
        response = gateway.post("/v1/chat/completions", CHAT)
    assert response.status_code == 503
    assert cloud.jobs == []


# --- draining -------------------------------------------------------------------------------------


def test_a_drained_replica_finishes_what_it_has_and_gets_nothing_new():
    may_end = threading.Event()
    a = FakeUpstream([*words("slow", reason=""), may_end, *words(" end")])
    b = FakeUpstream()
    with serving({"a": a, "b": b}) as gateway, ThreadPoolExecutor(1) as pool:
        gateway.loop.call_soon_threadsafe(gateway.app.state.fleet.drain, "b")
        eventually(lambda: gateway.app.state.fleet["b"].drained)
        running = pool.submit(stream, gateway, STREAM)
        eventually(lambda: a.running)
        gateway.loop.call_soon_threadsafe(gateway.app.state.fleet.drain, "a")
        gateway.loop.call_soon_threadsafe(gateway.app.state.fleet.drain, "b", False)
        eventually(lambda: gateway.app.state.fleet["b"].available)
        for _ in range(4):
            response = gateway.post("/v1/chat/completions", CHAT)
            assert response.headers["x-trireme-served-by"] == "b"
        may_end.set()
        assert text_of(running.result(20)) == "slow end"


def test_one_prefix_goes_to_one_replica():
    upstreams = {name: FakeUpstream() for name in "abcd"}
    long = {"role": "user", "content": "What was said before. " * 20}  # a system prompt, say
    with serving(upstreams) as gateway:
        served = {
            gateway.post(
                "/v1/chat/completions",
                {**CHAT, "messages": [long, *({"role": "user", "content": "and"},) * turn]},
            ).headers["x-trireme-served-by"]
            for turn in range(6)
        }
        keyed = {
            gateway.post("/v1/chat/completions", {**CHAT, "prompt_cache_key": "k"}).headers[
                "x-trireme-served-by"
            ]
            for _ in range(6)
        }
    assert len(served) == len(keyed) == 1
