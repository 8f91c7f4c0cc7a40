"""The audit after kill -9 under load, reconciled with what clients saw and what Triton counted."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
import pytest
import yaml

from gateway.admin.__main__ import main
from gateway.audit.audit_segments import segments, writers
from tests.integration.conftest import Server, free_port

pytestmark = pytest.mark.integration

_STREAMS = 12
_ANSWERS_A_LIFE = 40
_LIVES = 2


@dataclass
class Seen:
    """What clients saw: tokens of each whole answer, and ids of which anything arrived."""

    tokens: dict[str, int] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)


@pytest.fixture
def settings(tmp_path: Path, triton: Server) -> Path:
    path = tmp_path / "gateway.yaml"
    values = {
        "database": f"sqlite:///{tmp_path}/gateway.db",
        "audit": {"directory": f"{tmp_path}/audit"},
        "upstreams": [{"kind": "triton", "name": "local", "address": triton.grpc_url}],
        "models": {"demo": {"versions": [{"name": "demo", "upstreams": ["local"]}]}},
        # Each life of the gateway probes Triton once, when it starts.
        "health": {"interval_s": 3600},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def start(settings: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gateway", "--config", str(settings), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while True:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False)
            if answer.status_code == 200:
                return process
        except httpx.TransportError:
            pass
        assert process.poll() is None, "the gateway ended"
        assert time.monotonic() < end, "the gateway isn't ready"
        time.sleep(0.05)


async def ask(client: httpx.AsyncClient, request_id: str, seen: Seen, *, stream: bool) -> None:
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Count from 17 to 40."}],
        "max_tokens": 40,
        "stream": stream,
    }
    if not stream:
        answer = await client.post(
            "/v1/chat/completions", json=body, headers={"x-request-id": request_id}
        )
        assert answer.status_code == 200
        seen.begun.add(request_id)
        seen.tokens[request_id] = answer.json()["usage"]["completion_tokens"]
        return
    body["stream_options"] = {"include_usage": True}
    tokens = 0
    async with client.stream(
        "POST", "/v1/chat/completions", json=body, headers={"x-request-id": request_id}
    ) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                seen.begun.add(request_id)
                data = line.removeprefix("data: ")
                if data == "[DONE]":
                    seen.tokens[request_id] = tokens
                elif usage := orjson.loads(data).get("usage"):
                    tokens = usage["completion_tokens"]


async def load(port: int, key: str, life: int, seen: Seen, kill: Callable[[], None]) -> None:
    """Ask from many connections at once until the gateway is killed under them."""

    async def one(stream: int, client: httpx.AsyncClient) -> None:
        number = 0
        while True:
            try:
                name = f"{life}-{stream}-{number}"
                await ask(client, name, seen, stream=(stream + number) % 2 == 0)
            except httpx.TransportError:
                return
            number += 1
            if len(seen.tokens) >= _ANSWERS_A_LIFE * (life + 1):
                kill()

    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers={"authorization": f"Bearer {key}"},
        timeout=60,
        trust_env=False,
    ) as client:
        await asyncio.gather(*(one(stream, client) for stream in range(_STREAMS)))


def prompts_seen(triton: Server) -> int:
    """Requests that Triton has tokenized: each passes there once, however it ends."""
    text = httpx.get(triton.metrics_url, trust_env=False).text
    pattern = r'nv_inference_request_success\{model="preprocessing",version="1"\} (\d+)'
    found = re.search(pattern, text)
    assert found is not None
    return int(found[1])


def test_the_audit_after_kill_9_agrees_with_clients_and_with_triton(
    settings, triton, tmp_path, capsys
):
    def command(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["--config", str(settings), *arguments]) == 0
        return str(capsys.readouterr().out)

    command("tenants", "create", "acme")
    key = command("keys", "create", "acme").strip()
    before = prompts_seen(triton)
    seen, port = Seen(), free_port()
    for life in range(_LIVES):
        process = start(settings, port)
        asyncio.run(load(port, key, life, seen, process.kill))
        assert process.wait(30) == -signal.SIGKILL
    process = start(settings, port)
    process.terminate()
    process.wait(60)

    lines = [
        orjson.loads(line)
        for folder in writers(tmp_path / "audit")
        for segment in segments(folder)
        for line in segment.path.read_bytes().splitlines()
    ]
    begun = [line["request_id"] for line in lines if line["event"] == "begin"]
    ends = {line["request_id"]: line for line in lines if line["event"] == "end"}
    lost = [line["request_id"] for line in lines if line["event"] == "interrupted"]
    assert ": whole; " in command("audit", "verify")
    # Whatever a client saw is there, and every whole answer with its tokens.
    assert len(seen.tokens) >= _LIVES * _ANSWERS_A_LIFE
    assert seen.begun <= set(begun)
    assert {name: ends[name]["output_tokens"] for name in seen.tokens} == seen.tokens
    # Each that began ended, in one way or the other.
    assert sorted(begun) == sorted([*ends, *lost])
    # Triton saw no request that isn't there; the few that it didn't see were on their way.
    asked = prompts_seen(triton) - before - (_LIVES + 1)
    assert asked <= len(begun) <= asked + _LIVES * _STREAMS
    [row] = command("usage", "--by", "tenant").splitlines()[1:]
    tokens = sum(end["output_tokens"] for end in ends.values())
    assert row.split(",")[:4] == ["acme", str(len(begun)), "0", str(len(lost))]
    assert int(row.split(",")[5]) == tokens
    print(
        f"begun {len(begun)}, answered {len(seen.tokens)}, interrupted {len(lost)}, "
        f"seen by Triton {asked}"
    )
