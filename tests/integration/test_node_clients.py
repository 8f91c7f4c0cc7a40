"""Other people's clients in Node through the gateway to a real Triton, as their users write."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.gateway_process import GatewayServer
from tests.integration.conftest import Server, free_port

NODE = shutil.which("node")
PROGRAMS = Path(__file__).parent / "node_clients"

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def gateway(triton: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with GatewayServer(triton.grpc_url, port=free_port(), log=log) as server:
        yield server


@pytest.mark.skipif(NODE is None, reason="there is no node")
@pytest.mark.skipif(not (PROGRAMS / "node_modules").exists(), reason="needs `make node-clients`")
@pytest.mark.parametrize("library", ["openai", "anthropic", "langchain", "ai_sdk"])
def test_a_client_library_works_as_it_is(gateway: GatewayServer, library: str) -> None:
    assert NODE is not None
    done = subprocess.run(
        [NODE, PROGRAMS / f"use_{library}.mjs", f"http://{gateway.address}/v1"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    print(done.stdout)  # the transcript, with `pytest -s`
    assert done.returncode == 0, done.stdout + done.stderr
