"""A real tritonserver with the demo engine, started once for all integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from build.engine_folder import build_engine
from ensembles.repository import assemble
from ensembles.repository_settings import UNSIGNED, RepositorySettings
from ops.triton_process import Ports, TritonServer
from tests.integration.speaker import Speaker

CHECKPOINT = Path(__file__).parents[2] / "build" / "demo" / "checkpoint"


@dataclass(frozen=True)
class Server:
    """Where the server under test listens."""

    ports: Ports

    @property
    def http_port(self) -> int:
        return self.ports.http

    @property
    def grpc_port(self) -> int:
        return self.ports.grpc

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.http}"

    @property
    def grpc_url(self) -> str:
        return f"127.0.0.1:{self.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.metrics}/metrics"


def free_port() -> int:
    """A port that was free a moment ago."""
    return Ports.free().http


def make_repository(folder: Path, *assignments: str) -> Path:
    """A model repository with the demo engine, beside this checkout rather than in it."""
    assemble(folder, RepositorySettings.from_assignments([UNSIGNED, *assignments]))
    build_engine(CHECKPOINT, folder / "tensorrt_llm" / "1", precision="fp32")
    return folder


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("triton")
    repository = make_repository(folder / "repository")
    with TritonServer(repository, log=folder / "triton.log") as server:
        yield Server(server.ports)


@pytest.fixture
def speaker(triton: Server) -> Speaker:
    """Talks to the server as a client of TensorRT-LLM's ensemble does."""
    return Speaker(triton.grpc_url)
