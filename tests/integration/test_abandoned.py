"""Many who leave the gateway at once are gone from the engine at once, streamed or not."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.gateway_process import GatewayServer
from tests.integration.conftest import Server, free_port
from tests.integration.test_accounting import chat
from tests.integration.test_cancellation import (
    await_cancelled_in_a_few_steps,
    await_running,
    cancelled,
)
from tests.integration.test_gateway import write_config

pytestmark = pytest.mark.integration


@pytest.fixture
def gateway(triton: Server, tmp_path: Path) -> Iterator[GatewayServer]:
    triton_upstream = {"kind": "triton", "name": "local", "address": triton.grpc_url}
    config = write_config(
        tmp_path,
        # All of them are with Triton: those that wait in the gateway are no burden.
        upstreams=[{**triton_upstream, "max_concurrent": 512}],
        models={"demo": {"versions": [{"name": "demo-1", "upstreams": ["local"]}]}},
        health={"interval_s": 3600, "timeout_s": 60},
    )
    log = tmp_path / "gateway.log"
    with GatewayServer(None, config=config, port=free_port(), log=log) as server:
        yield server


@pytest.mark.parametrize(("requests", "n"), [(50, 1), (200, 1), (4, 64)])
@pytest.mark.parametrize("stream", [True, False])
def test_many_who_leave_together_are_gone_in_a_few_steps(
    triton: Server, gateway: GatewayServer, requests: int, n: int, stream: bool
) -> None:
    before = cancelled(triton)
    host, port = gateway.address.split(":")
    body = chat("Count from 1 to 900.", max_tokens=900, ignore_eos=True, stream=stream, n=n)
    raw = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(raw)}\r\n"
    head += "content-type: application/json\r\n\r\n"
    with triton.braked(0.1):
        leaving = [socket.create_connection((host, int(port))) for _ in range(requests)]
        for each in leaving:
            each.sendall(head.encode() + raw)
        await_running(triton, 16)
        time.sleep(2)
        for each in leaving:
            each.close()
        await_cancelled_in_a_few_steps(triton, before + requests * n)
