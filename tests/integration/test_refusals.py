"""A refusal never ends the server, however it is asked for and however often.

`make test-refusals` sends a thousand of each; REFUSALS says how many here.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import httpx
import pytest

from ops.gateway_process import GatewayServer
from ops.triton_process import TritonServer
from tests.integration.conftest import free_port, make_repository
from tests.integration.refusals import WAYS, Ways, in_parallel, storm

pytestmark = [pytest.mark.integration]

EACH = int(os.environ.get("REFUSALS", "2"))


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server whose queue holds all good requests of a storm, and not 64 sequences of one."""
    folder = tmp_path_factory.mktemp("refusals")
    repository = make_repository(folder / "repository", "onnx.max_queue_size=48")
    with TritonServer(repository, log=folder / "triton.log") as server:
        yield server


@pytest.fixture
def unhurt(triton: TritonServer) -> Iterator[None]:
    """Afterwards it is the same process, all its models are alive, and it met no trouble."""
    before = triton.pid
    yield
    assert triton.pid == before is not None
    assert not triton.dead_models
    log = triton.log.read_text(errors="replace")
    for sign in ("HandleCancellation called", "Signal (", "Should not print this"):
        assert sign not in log
    answer = httpx.post(
        f"http://{triton.http_address}/v2/models/ensemble/generate",
        json={"text_input": "Count from 17 to 40.", "max_tokens": 4},
        trust_env=False,
        timeout=60,
    )
    assert answer.status_code == 200


def run(triton: TritonServer, work: Callable[[Ways], Coroutine[Any, Any, Counter[str]]]) -> None:
    async def with_client() -> Counter[str]:
        ways = Ways(triton.grpc_address, triton.http_address)
        try:
            return await work(ways)
        finally:
            await ways.close()

    assert asyncio.run(with_client()) == {}


@pytest.mark.usefixtures("unhurt")
@pytest.mark.parametrize("at_once", [8, 32])
@pytest.mark.parametrize("way", WAYS)
def test_refusals(triton: TritonServer, way: str, at_once: int) -> None:
    run(triton, lambda ways: storm(ways, way, EACH, at_once))


@pytest.mark.usefixtures("unhurt")
def test_refusals_by_every_way_at_once(triton: TritonServer) -> None:
    async def all_ways(ways: Ways) -> Counter[str]:
        wrong = await asyncio.gather(*(storm(ways, way, EACH, 4, seed=1) for way in WAYS))
        return sum(wrong, Counter[str]())

    run(triton, all_ways)


CHAT: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Count from 17 to 40."}],
    "temperature": 0,
    "max_tokens": 24,
}
LONG = [{"role": "user", "content": "a b " * 3000}]
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bias past the vocabulary": ("/chat/completions", {**CHAT, "logit_bias": {"99999": 1}}),
    "prompt past the context": ("/chat/completions", {**CHAT, "messages": LONG}),
    "tokens past the context": ("/chat/completions", {**CHAT, "max_tokens": 5000}),
    "schema that can't be kept to": (
        "/chat/completions",
        {
            **CHAT,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
            "tool_choice": "required",
        },
    ),
    "empty prompt": ("/completions", {"model": "demo", "prompt": "", "max_tokens": 4}),
    "one of two prompts": (
        "/completions",
        {"model": "demo", "prompt": ["a", ""], "max_tokens": 4},
    ),
}


@pytest.fixture(scope="module")
def gateway(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with GatewayServer(triton.grpc_address, port=free_port(), log=log) as server:
        yield f"http://{server.address}/v1"


@pytest.mark.usefixtures("unhurt")
@pytest.mark.parametrize("at_once", [8, 32])
def test_refusals_through_the_gateway(gateway: str, at_once: int) -> None:
    async def ask_all() -> Counter[str]:
        wrong: Counter[str] = Counter()
        async with httpx.AsyncClient(base_url=gateway, timeout=120, trust_env=False) as client:
            good = (await client.post("/chat/completions", json=CHAT)).json()["choices"][0]

            async def ask(name: str | None, stream: bool) -> None:
                path, body = BODIES[name] if name else ("/chat/completions", CHAT)
                stream = stream and name is not None
                response = await client.post(path, json={**body, "stream": stream})
                if name is None:
                    right = response.is_success and response.json()["choices"][0] == good
                else:
                    kind = response.json().get("error", {}).get("type")
                    right = (response.status_code, kind) == (400, "invalid_request_error")
                if not right:
                    wrong[f"{name}: {response.status_code} {response.text}"[:300]] += 1

            each = max(EACH, 10)
            jobs = [(name, i % 2 == 0) for name in [*BODIES, None] for i in range(each)]
            random.Random(0).shuffle(jobs)
            await in_parallel((ask(*job) for job in jobs), at_once)
        return wrong

    assert asyncio.run(ask_all()) == {}


def test_shared_memory_is_not_a_client_s(triton: TritonServer) -> None:
    """Else it could write into that of the Python models, of which Triton dies."""
    url = f"http://{triton.http_address}/v2/systemsharedmemory/region/a/register"
    body = {"key": "/anything", "offset": 0, "byte_size": 64}
    response = httpx.post(url, json=body, trust_env=False)
    assert response.status_code == 403
