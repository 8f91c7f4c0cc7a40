"""Busy is not ill, and stuck is: what the gateway makes of a Triton that is one or the other."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops.gateway_process import GatewayServer
from ops.triton_process import TritonServer
from tests.integration.conftest import Server, free_port, make_repository
from tests.integration.test_gateway import COUNT, Caller, processes_of, write_config

pytestmark = pytest.mark.integration

HEALTH = {"interval_s": 0.5, "timeout_s": 4.0, "failures": 2, "open_s": 0.2, "max_open_s": 1.0}
FOUND_WITHIN_S = 25.0
"""Two probes that are late, each due after half a second and a look once a second, and as much
again for a machine that is busy."""
HANGS_S = 3600.0
WATCHED_S = 12.0
"""As long as two probes that are late, and more."""

MANY = {**COUNT, "n": 64, "max_tokens": 600, "ignore_eos": True, "service_tier": "priority"}
LONG = {
    "model": "demo",
    "prompt": [f"{index} " + "a b c d " * 470 for index in range(64)],
    "max_tokens": 100,
}
LARGE = {"model": "demo", "messages": [{"role": "user", "content": "word " * 780_000}]}


class Watched:
    """A Triton and a gateway that looks after it."""

    def __init__(self, triton: TritonServer, gateway: GatewayServer) -> None:
        self.triton = triton
        self.server = Server.of(triton)
        self.caller = Caller(gateway)
        self._url = f"http://{gateway.address}/health/ready"

    @property
    def is_well(self) -> bool:
        """Whether the gateway sends it requests."""
        return httpx.get(self._url, timeout=10, trust_env=False).status_code == 200

    @property
    def says_it_is_ready(self) -> bool:
        """What Triton itself says."""
        url = f"{self.server.http_url}/v2/health/ready"
        return httpx.get(url, timeout=10, trust_env=False).status_code == 200

    def await_well(self, well: bool, within_s: float = FOUND_WITHIN_S) -> float:
        """Seconds until it is taken for well, or for ill."""
        began_s = time.monotonic()
        while self.is_well != well:
            assert time.monotonic() - began_s < within_s
            time.sleep(0.1)
        return time.monotonic() - began_s


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    repository = make_repository(folder / "repository")
    with TritonServer(repository, log=folder / "triton.log") as triton:
        config = write_config(
            folder,
            upstreams=[{"kind": "triton", "name": "only", "address": triton.grpc_address}],
            models={"demo": {"versions": [{"name": "demo", "upstreams": ["only"]}]}},
            health=HEALTH,
        )
        log = folder / "gateway.log"
        with GatewayServer(None, port=free_port(), log=log, config=config) as gateway:
            yield Watched(triton, gateway)
        if triton.pid is not None:  # one that was harmed doesn't end by itself
            os.killpg(triton.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """For tests after which it is well again."""
    with watched(tmp_path_factory.mktemp("watched")) as made:
        yield made


def ask_until(end: Callable[[], bool], url: str, path: str, body: dict[str, Any]) -> list[int]:
    """Ask again and again; the answers' statuses."""
    statuses: list[int] = []
    with httpx.Client(trust_env=False) as client:
        while not end():
            try:
                statuses.append(client.post(url + path, json=body, timeout=4).status_code)
            except httpx.TimeoutException:  # it left, as clients do that wait too long
                statuses.append(0)
    return statuses


@pytest.mark.parametrize(
    ("path", "body", "step_s"),
    [
        ("/chat/completions", MANY, 0.5),
        ("/completions", LONG, 0.5),
        ("/chat/completions", LARGE, 0.0),
    ],
    ids=["many", "long", "large"],
)
def test_a_busy_replica_stays_well(
    found: Watched, path: str, body: dict[str, Any], step_s: float
) -> None:
    """Six clients ask for far more than it can do, and leave when they have waited long."""
    ends_s = time.monotonic() + WATCHED_S
    with ThreadPoolExecutor(6) as pool, found.server.braked(step_s):
        args = (lambda: time.monotonic() > ends_s, found.caller.url, path, body)
        asking = [pool.submit(ask_until, *args) for _ in range(6)]
        while time.monotonic() < ends_s:
            assert found.is_well
            time.sleep(0.1)
        statuses = [status for future in asking for status in future.result(60)]
    assert 503 not in statuses
    assert found.is_well
    answer = found.caller.ask({**COUNT, "max_tokens": 4})
    assert answer.status_code == 200


def test_an_engine_that_hangs_is_found_and_taken_back_when_it_goes_on(found: Watched) -> None:
    """Triton says that it is ready all the while, and takes requests."""
    assert found.is_well
    with found.server.braked(HANGS_S):  # one step, that is
        took_s = found.await_well(False)
        assert found.says_it_is_ready
        assert found.caller.ask(COUNT).status_code == 503  # at once
    back_s = found.await_well(True)
    print(f"a step that hangs was found after {took_s:.1f} s, its end {back_s:.1f} s later")
    assert found.caller.ask({**COUNT, "max_tokens": 4}).status_code == 200


@pytest.mark.parametrize("stuck", ["preprocessing", "tensorrt_llm", "postprocessing"])
def test_a_process_that_is_stopped_is_found(tmp_path: Path, stuck: str) -> None:
    """What stands still without an end keeps its connections, and Triton says that it is ready."""
    with watched(tmp_path) as found, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(found.caller.ask, {**COUNT, "max_tokens": 4}) for _ in range(4)]
        assert {answer.result(60).status_code for answer in asked} == {200}
        os.kill(processes_of(found.triton)[stuck], signal.SIGSTOP)
        asked = [pool.submit(found.caller.ask, COUNT) for _ in range(4)]
        took_s = found.await_well(False)
        assert found.says_it_is_ready
        print(f"{stuck} stopped: found after {took_s:.1f} s")
        assert {answer.result(FOUND_WITHIN_S).status_code for answer in asked} == {503}
