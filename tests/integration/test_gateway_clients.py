"""Other people's clients through the gateway to a real Triton, each as its users write it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.gateway_process import GatewayServer
from ops.triton_process import ROOT
from tests.integration.conftest import Server, free_port

pytestmark = pytest.mark.integration

PYTHON = ROOT / os.environ.get("CLIENTS_VENV", ".venv-clients") / "bin" / "python"
PROGRAMS = Path(__file__).parent / "openai_clients"


@pytest.fixture(scope="module")
def gateway(triton: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with GatewayServer(triton.grpc_url, port=free_port(), log=log) as server:
        yield server


@pytest.mark.skipif(not PYTHON.exists(), reason="needs `make .venv-clients/.installed`")
@pytest.mark.parametrize(
    "library",
    [
        *("openai", "openai_tools", "responses", "agents", "anthropic"),
        *("langchain", "langchain_tools", "litellm", "pydantic_ai", "instructor", "llama_index"),
    ],
)
def test_a_client_library_works_as_it_is(gateway: GatewayServer, library: str) -> None:
    program = PROGRAMS / f"use_{library}.py"
    done = subprocess.run(
        [PYTHON, program, f"http://{gateway.address}/v1"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    print(done.stdout)  # the transcript, with `pytest -s`
    assert done.returncode == 0, done.stdout + done.stderr
