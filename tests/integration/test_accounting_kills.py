"""What a kill of the gateway or of the engine leaves open in the accounts, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops.gateway_process import GatewayServer
from ops.triton_process import TritonServer
from tests.integration.conftest import Server, free_port, make_repository
from tests.integration.test_accounting import abandon, chat, counters
from tests.integration.test_cancellation import await_running
from tests.integration.test_gateway import processes_of, write_config

pytestmark = pytest.mark.integration

LONG: dict[str, Any] = {"max_tokens": 900, "ignore_eos": True}
TOKENS = ("prompt_tokens", "output_tokens")


class Books:
    """A Triton that may be harmed, gateways before it, and the accounts of both."""

    def __init__(self, victim: TritonServer, folder: Path) -> None:
        self.victim = victim
        self.triton = Server.of(victim)
        self.folder = folder
        self.asked: list[str] = []
        self.gateways: list[GatewayServer] = []
        self._pool = ThreadPoolExecutor(16)
        self._config = write_config(
            folder,
            upstreams=[
                {
                    "kind": "triton",
                    "name": "local",
                    "address": victim.grpc_address,
                    "token_timeout_s": 10,  # a killed engine says nothing any more
                }
            ],
            models={"demo": {"versions": [{"name": "demo-1", "upstreams": ["local"]}]}},
            # A probe computes, too, and nobody pays for it.
            health={"interval_s": 3600, "timeout_s": 60, "open_s": 0.2},
            audit={"directory": str(folder / "audit")},
        )

    def gateway(self) -> GatewayServer:
        log = self.folder / "gateway.log"
        server = GatewayServer(None, config=self._config, port=free_port(), log=log)
        self.gateways.append(server)
        server.start()
        return server

    def ask(self, gateway: GatewayServer, body: dict[str, Any]) -> Future[httpx.Response]:
        name = f"ask-{len(self.asked)}"
        self.asked.append(name)
        return self._pool.submit(
            httpx.post,
            f"http://{gateway.address}/v1/chat/completions",
            json=body,
            headers={"x-request-id": name},
            trust_env=False,
            timeout=90,
        )

    def records(self) -> list[dict[str, Any]]:
        texts = [path.read_bytes() for path in sorted(self.folder.glob("audit/*/*.jsonl"))]
        return [json.loads(line) for text in texts for line in text.splitlines()]

    def charged(self) -> list[int]:
        ends = [each for each in self.records() if each["event"] == "end"]
        return [sum(end[f"charged_{name}"] for end in ends) for name in TOKENS]

    def lines(self) -> Counter[str]:
        """How many lines of the log each request has."""
        found = []
        for line in (self.folder / "gateway.log").read_text(encoding="utf-8").splitlines():
            said = json.loads(line)
            if said["message"] == "request" and said["request_id"] in self.asked:
                found.append(said["request_id"])
        return Counter(found)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    repository = make_repository(tmp_path / "repository")
    with TritonServer(repository, log=tmp_path / "triton.log") as victim:
        made = Books(victim, tmp_path)
        yield made
        for gateway in made.gateways:
            gateway.stop()
        if victim.pid is not None:  # one that was harmed doesn't end by itself
            os.killpg(victim.pid, signal.SIGKILL)


def mixed(books: Books, gateway: GatewayServer) -> None:
    """Answers, stops, several at a time, refusals, a deadline and one who leaves: all is exact."""
    before, charged = counters(books.triton), books.charged()
    answers = [
        books.ask(gateway, chat("Count from 17 to 40.")),
        books.ask(gateway, chat("Count from 17 to 40.", stop=["21"], stream=True)),
        books.ask(gateway, chat("Count from 3 to 30.", n=3)),
    ]
    assert [each.result().status_code for each in answers] == [200] * 3
    refused = [books.ask(gateway, chat("Hi", **wrong)) for wrong in ({"n": -1}, {"model": "x"})]
    assert [each.result().status_code for each in refused] == [400, 404]
    with books.triton.braked(0.1):
        url = f"http://{gateway.address}/v1/chat/completions"
        leaving = threading.Thread(target=abandon, args=(url, chat("Count to 80.", n=2, **LONG)))
        leaving.start()
        await_running(books.triton, 2)
        leaving.join()
        now_charged = books.charged()
    after = counters(books.triton)
    end_s = time.monotonic() + 30
    while (now_charged := books.charged()) and time.monotonic() < end_s:
        paid = [now - then for now, then in zip(now_charged, charged, strict=True)]
        computed = [now - then for now, then in zip(after, before, strict=True)]
        if paid == computed:
            return
        time.sleep(0.1)
    assert paid == computed


def test_what_a_kill_leaves_open_and_nothing_else(books: Books) -> None:
    first = books.gateway()
    mixed(books, first)

    # The gateway is killed in the middle of answers.
    before = counters(books.triton)
    with books.triton.braked(0.1):
        running = [
            books.ask(first, chat(f"Count from {n} to 90.", stream=n % 2 == 0, n=1 + n % 3, **LONG))
            for n in range(4)
        ]
        await_running(books.triton, 7)
        lost = books.asked[-4:]
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        for each in running:
            with pytest.raises(httpx.HTTPError):
                each.result(60)
        after = counters(books.triton)
    left_open = [now - then for now, then in zip(after, before, strict=True)]
    print(f"the gateway was killed: {len(lost)} requests, {left_open} tokens are open")
    assert left_open[1] > 0
    second = books.gateway()
    interrupted = [each for each in books.records() if each["event"] == "interrupted"]
    assert sorted(each["request_id"] for each in interrupted) == sorted(lost)
    mixed(books, second)

    # The engine is.
    charged = books.charged()
    with books.triton.braked(0.1):
        running = [
            books.ask(
                second, chat(f"Count from {n} to 90.", stream=n % 2 == 0, n=1 + n % 3, **LONG)
            )
            for n in range(4)
        ]
        ids = books.asked[-4:]
        await_running(books.triton, 7)
        time.sleep(1)
        os.kill(processes_of(books.victim)["tensorrt_llm"], signal.SIGKILL)
    answers = [each.result(90) for each in running]
    ends = {each["request_id"]: each for each in books.records() if each["event"] == "end"}
    for name, answer in zip(ids, answers, strict=True):
        end = ends[name]
        print(
            f"{name}: {answer.status_code}, {end['finish_reason']}, "
            f"told {end['output_tokens']}, charged {end['charged_output_tokens']}"
        )
        # Its last word was lost: what was told is charged.
        assert end["charged_output_tokens"] == end["output_tokens"]
        assert end["finish_reason"] == "error" or answer.status_code == 200
    paid = [now - then for now, then in zip(books.charged(), charged, strict=True)]
    print(f"the engine was killed: {paid} charged")

    # Each request has one line and one record; one that was running in a killed gateway no line.
    second.stop()
    told = books.lines()
    assert told == Counter(name for name in books.asked if name not in lost)
    closed = Counter(
        each["request_id"]
        for each in books.records()
        if each["event"] in ("end", "interrupted") and each["request_id"] in books.asked
    )
    refused = {name for name in books.asked if name not in closed}
    assert set(closed.values()) == {1}
    assert len(refused) == 4  # nobody is known without tenants, so those have no record
