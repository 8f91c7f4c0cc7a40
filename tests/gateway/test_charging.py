"""Who left, or ran out of time, is charged what the upstream says that it computed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from http.client import HTTPConnection
from typing import Any

import pytest

from contract.errors import InvalidRequestError
from gateway.generation import Computed, Delta
from gateway.upstreams.base import PartRefusedError
from tests.gateway.fakes import CHAT, STREAM, FakeUpstream, Ledger, Running, serving
from tests.gateway.test_dispatch import eventually

COMPUTED = Computed(prompt=4, output=40, cached=1)


class Stoppable(FakeUpstream):
    """Hangs until it is told to stop, and then says what it has done by then."""

    def __init__(self, *, deaf: int = 0) -> None:
        """Not hear the first so many words."""
        self.told = threading.Event()
        self.deaf = deaf
        last = Delta(0, "", "cancelled", 30, prompt_tokens=5, computed=COMPUTED)
        super().__init__([self.told, last], stops=True)

    async def stop(self, job: Any) -> bool:
        if len(self.stopped) >= self.deaf:
            self.told.set()
        return await super().stop(job)


def leave(gateway: Running, body: dict[str, Any], upstream: FakeUpstream) -> None:
    """Ask, and go away when the upstream works."""
    connection = HTTPConnection("127.0.0.1", gateway.port)
    headers = {"content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    eventually(lambda: upstream.running)
    connection.close()


@pytest.mark.parametrize("deaf", [0, 3])
@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_who_leaves_pays_what_was_computed(body, deaf):
    upstream, ledger = Stoppable(deaf=deaf), Ledger()
    with serving(upstream, limiter=ledger, audit=ledger) as gateway:
        leave(gateway, body, upstream)
        eventually(lambda: ledger.records)
        assert gateway.metric("trireme_gateway_retries_total", upstream="a") == 0
    (record,) = ledger.records
    assert ("settle", 4, 40) in ledger.events
    assert (record.status, record.finish_reasons) == (499, ("cancelled",))
    assert (record.charged_prompt_tokens, record.charged_output_tokens) == (4, 40)
    assert (record.prompt_tokens, record.output_tokens, record.cached_tokens) == (5, 30, 1)
    assert len(upstream.stopped) > deaf
    assert len(upstream.jobs) == 1


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_a_deadline_charges_what_was_computed(body):
    upstream, ledger = Stoppable(), Ledger()
    with serving(upstream, limiter=ledger, audit=ledger) as gateway:
        # On a busy machine a deadline may pass before the upstream is asked: that costs nothing.
        for deadline_s in ("0.2", "2", "20"):
            headers = {"x-trireme-timeout-s": deadline_s}
            answer = gateway.post("/v1/chat/completions", body, headers=headers)
            assert answer.status_code == 504
            if upstream.jobs:
                break
    assert ("settle", 4, 40) in ledger.events
    assert ledger.records[-1].charged_output_tokens == 40


def test_an_upstream_that_says_no_more_is_left():
    upstream, ledger = Stoppable(deaf=10**6), Ledger()
    with serving(upstream, limiter=ledger, audit=ledger) as gateway:
        leave(gateway, CHAT, upstream)
        eventually(lambda: ledger.records)
        eventually(lambda: upstream.ended)
    assert upstream.ended == ["cancelled"]
    assert ("settle", 0, 0) in ledger.events


def test_who_share_a_request_id_don_t_share_the_engine_s():
    upstream = FakeUpstream()
    with serving(upstream) as gateway:
        for _ in range(2):
            gateway.post("/v1/chat/completions", CHAT, headers={"x-request-id": "same"})
    assert len({job.request_id for job in upstream.jobs}) == 2


class Slow(Ledger):
    """Takes its time to settle and to write."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closing = threading.Event()

    async def reserve(self, *arguments: Any, **keywords: Any) -> Any:
        await super().reserve(*arguments, **keywords)
        return self

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    async def settle(self, *tokens: int) -> None:
        self.is_closing.set()
        await asyncio.sleep(0.2)
        self.events.append(("settle", *tokens))

    async def append(self, *arguments: Any) -> None:
        await asyncio.sleep(0.01)
        await super().append(*arguments)


def test_who_leaves_while_the_end_is_written_is_charged_and_audited():
    ledger = Slow()
    with serving(limiter=ledger, audit=ledger) as gateway:
        connection = HTTPConnection("127.0.0.1", gateway.port)
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), headers)
        assert ledger.is_closing.wait(20)
        connection.close()
        eventually(lambda: ledger.records)
    assert ("settle", 5, 3) in ledger.events
    assert ledger.records[0].status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_list_of_which_one_prompt_is_wrong_pays_what_was_computed(stream):
    """What had been there before, and what the others came to until they were stopped."""
    ledger = Ledger()
    wrong = InvalidRequestError("too long", code="context_length_exceeded")
    first = Delta(0, "a", "", 1, prompt_tokens=5, computed=Computed(5, 1, 0))
    last = [Delta(index, "", "cancelled", 0, computed=Computed(4, 40, 1)) for index in (0, 2)]
    upstream = FakeUpstream([first, PartRefusedError(wrong, last)])
    body = {"model": "demo", "prompt": ["a", "b", "c"], "stream": stream}
    with serving(upstream, limiter=ledger, audit=ledger) as gateway:
        answer = gateway.post("/v1/completions", body)
        eventually(lambda: ledger.records)
    assert answer.status_code == (200 if stream else 400)
    assert "context_length_exceeded" in answer.text
    assert ("settle", 8, 80) in ledger.events
    [record] = ledger.records
    assert (record.charged_prompt_tokens, record.charged_output_tokens) == (8, 80)
