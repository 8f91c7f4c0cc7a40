"""A real tritonserver with the demo engine, started once for all integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from build.engine_folder import build_engine
from ensembles.repository import assemble
from ensembles.repository_settings import UNSIGNED, RepositorySettings
from ops.triton_process import Ports, TritonServer
from tests.integration.speaker import Speaker

CHECKPOINT = Path(__file__).parents[2] / "build" / "demo" / "checkpoint"
BRAKED_STEP_S = 0.25
"""So 600 tokens, at 150 s, outlast every wait of a test."""


@dataclass(frozen=True)
class Server:
    """Where the server under test listens, and the brake of its engine."""

    ports: Ports
    repository: Path

    @classmethod
    def of(cls, triton: TritonServer) -> Server:
        return cls(triton.ports, triton.repository)

    @contextmanager
    def braked(self, step_s: float = BRAKED_STEP_S) -> Iterator[None]:
        """Until it is left, each step of the engine takes so long: what runs, runs on."""
        brake = self.repository / "brake"
        new = brake.with_name("brake.new")
        new.write_text(str(step_s))
        new.replace(brake)
        try:
            yield
        finally:
            brake.unlink()

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
    add_brake(folder)
    return folder


def add_brake(repository: Path) -> None:
    """Put the engine with a brake in the engine's place."""
    model = repository / "tensorrt_llm" / "1" / "model.py"
    model.unlink()
    model.symlink_to(Path(__file__).with_name("braked_engine.py"))


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("triton")
    repository = make_repository(folder / "repository")
    with TritonServer(repository, log=folder / "triton.log") as server:
        yield Server.of(server)


@pytest.fixture
def speaker(triton: Server) -> Speaker:
    """Talks to the server as a client of TensorRT-LLM's ensemble does."""
    return Speaker(triton.grpc_url)
