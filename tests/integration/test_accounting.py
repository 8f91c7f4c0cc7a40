"""What tenants are charged is what the engine computed, by the engine's own counters, exactly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops.gateway_process import GatewayServer
from tests.integration.conftest import Server, free_port
from tests.integration.test_cancellation import await_idle, await_running, metric
from tests.integration.test_gateway import write_config

pytestmark = pytest.mark.integration

COUNTERS = ("trireme_computed_prompt_tokens_total", "trireme_output_tokens_total")
ASK: dict[str, Any] = {"model": "demo", "temperature": 0, "max_tokens": 60}
HEADER = {"x-trireme-timeout-s": "1"}


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def gateway(triton: Server, tmp_path: Path, audit: Path) -> Iterator[GatewayServer]:
    config = write_config(
        tmp_path,
        upstreams=[{"kind": "triton", "name": "local", "address": triton.grpc_url}],
        models={"demo": {"versions": [{"name": "demo-1", "upstreams": ["local"]}]}},
        # A probe computes, too, and nobody pays for it.
        health={"interval_s": 3600, "timeout_s": 60},
        audit={"directory": str(audit)},
    )
    log = tmp_path / "gateway.log"
    with GatewayServer(None, config=config, port=free_port(), log=log) as server:
        yield server


def ends(audit: Path) -> list[dict[str, Any]]:
    texts = (path.read_text(encoding="utf-8") for path in audit.glob("*/*.jsonl"))
    # One may just be being written.
    lines = (json.loads(line) for text in texts for line in text.splitlines() if line[-1:] == "}")
    return [line for line in lines if line.get("event") == "end"]


def await_ends(audit: Path, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 60
    while len(ends(audit)) < count:
        assert time.monotonic() < deadline, f"{len(ends(audit))} of {count} requests have ended"
        time.sleep(0.05)
    return ends(audit)


def counters(triton: Server) -> list[int]:
    await_idle(triton)
    time.sleep(1)  # published a few times a second
    return [metric(triton, name) for name in COUNTERS]


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {**ASK, "messages": [{"role": "user", "content": text}], **more}


def leave(url: str, body: dict[str, Any], gone: threading.Event) -> None:
    """Ask, and go away while the engine works."""
    body = {**body, "stream": True}
    with httpx.stream("POST", url, json=body, trust_env=False, timeout=60) as response:
        next(response.iter_lines())
        gone.wait()


def abandon(url: str, body: dict[str, Any]) -> None:
    with suppress(httpx.ReadTimeout):
        httpx.post(url, json=body, timeout=2, trust_env=False)


def test_tokens_charged_are_tokens_computed(
    triton: Server, gateway: GatewayServer, audit: Path
) -> None:
    url = f"http://{gateway.address}/v1/chat/completions"
    before = counters(triton)
    whole: list[dict[str, Any]] = [
        chat("Count from 17 to 40."),
        chat("Count from 17 to 40.", stop=["21"]),
        chat("Count from 17 to 40.", stop=["21"], stream=True),
        chat("Count from 3 to 30.", n=3),
        chat("What is the capital of France?", stream=True),
    ]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda body: httpx.post(url, json=body, timeout=60, trust_env=False), whole)
        )
        assert [answer.status_code for answer in answers] == [200] * len(whole)
    long = {"max_tokens": 900, "ignore_eos": True}
    with triton.braked(0.1), ThreadPoolExecutor(8) as pool:
        gone = threading.Event()
        streams = [
            pool.submit(leave, url, chat(f"Count from {n} to 90.", **long), gone) for n in (1, 2)
        ]
        unstreamed = [
            pool.submit(abandon, url, chat(f"Count from {n} to 80.", **long, n=n)) for n in (1, 4)
        ]
        late = pool.submit(
            httpx.post,
            url,
            json=chat("Say 9.", **long),
            headers=HEADER,
            trust_env=False,
            timeout=60,
        )
        refused = httpx.post(url, json=chat("Hi", max_tokens=10**6), trust_env=False, timeout=60)
        await_running(triton, 5)
        assert late.result().status_code == 504
        gone.set()
        for each in (*streams, *unstreamed):
            each.result()
        records = await_ends(audit, len(whole) + 5)
    after = counters(triton)
    assert refused.status_code == 400
    computed = [now - then for now, then in zip(after, before, strict=True)]
    charged = [
        sum(record[f"charged_{name}"] for record in records)
        for name in ("prompt_tokens", "output_tokens")
    ]
    print(f"charged {charged}, computed {computed}")
    assert charged == computed
    told = sum(record["output_tokens"] for record in records)
    assert told < charged[1]  # some were computed behind a stop text
    usage = answers[0].json()["usage"]
    assert set(usage["prompt_tokens_details"]) == {"cached_tokens"}
