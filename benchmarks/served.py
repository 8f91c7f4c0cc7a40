"""Triton and the gateway for a benchmark: those that run, or a pair of its own."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.checkpoint import make_checkpoint
from benchmarks.peers.workers import trireme_server
from benchmarks.tokenizer import text_of
from ops.gateway import GatewayServer
from ops.triton import Ports, TritonServer


@dataclass(frozen=True)
class Served:
    """What runs.

    Attributes:
        grpc: Where Triton listens, ``host:port``.
        gateway: Where the gateway does.
        prompts: Texts to ask its model, which are taken as they are.
    """

    grpc: str
    gateway: str
    prompts: Sequence[str]


_FOLDER = Path(".cache/benchmarks")
_DEMO = ("Count from 17 to 90.", "Count from 5 to 60.", "Spell the word ship.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the command line say which."""
    parser.add_argument("--grpc", default="127.0.0.1:8001", help="Triton's gRPC address")
    parser.add_argument("--gateway", default="127.0.0.1:8080", help="the gateway's address")
    parser.add_argument(
        "--repository", type=Path, help="start both on this model repository, on free ports"
    )


@contextmanager
def serve(options: argparse.Namespace, half_billion: bool = False) -> Iterator[Served]:
    """What the command line means; what is started for it ends with the block.

    Args:
        options: The command line's.
        half_billion: Start both on int8 random weights of Qwen2.5-0.5B's shape, as bench-peers
            does, whatever the command line says.
    """
    prompts: Sequence[str] = _DEMO
    repository = options.repository
    if half_billion:
        rng = np.random.default_rng(1)
        prompts = [text_of(rng.integers(5, 10_000, 16).tolist()) for _ in range(3)]
        repository = _FOLDER / "half-billion"
        checkpoint = make_checkpoint(_FOLDER / "qwen2.5-0.5b")
        trireme_server.build(checkpoint, repository, {"precision": "int8"})
    if repository is None:
        yield Served(options.grpc, options.gateway, prompts)
        return
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "triton.log")
        with (
            TritonServer(repository, log=log) as triton,
            GatewayServer(
                triton.grpc_address,
                port=Ports.free().http,
                log=Path(folder, "gateway.log"),
                arguments=["--log-level", "WARNING"],
            ) as gateway,
        ):
            yield Served(triton.grpc_address, gateway.address, prompts)
