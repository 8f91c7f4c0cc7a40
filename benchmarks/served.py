"""Triton and the gateway for a benchmark: those that run, or a pair of its own."""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench_checkpoint import make_checkpoint
from benchmarks.bench_tokenizer import text_of
from benchmarks.peers.workers import trireme_server
from ops.gateway_process import GatewayServer
from ops.triton_process import Ports, TritonServer


@dataclass(frozen=True)
class Served:
    """What runs.

    Attributes:
        grpc: Where Triton listens, ``host:port``.
        gateway: Where the gateway does.
        vocabulary: Words that its model's tokenizer knows.
    """

    grpc: str
    gateway: str
    vocabulary: Sequence[str]

    def prompt(self, words: int) -> str:
        """A prompt that no prefix cache knows, to be taken as it is."""
        return "".join(random.choices(self.vocabulary, k=words))


_FOLDER = Path(".cache/benchmarks")
_DEMO_WORDS = "tell me of the ships that count from sea to river and spell a word".split()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the command line say which."""
    parser.add_argument("--grpc", default="127.0.0.1:8001", help="Triton's gRPC address")
    parser.add_argument("--gateway", default="127.0.0.1:8080", help="the gateway's address")
    parser.add_argument(
        "--repository", type=Path, help="start both on this model repository, on free ports"
    )
    parser.add_argument(
        "--half-billion",
        action="store_true",
        help="start both on int8 random weights of Qwen2.5-0.5B's shape, as bench-peers does",
    )


@contextmanager
def serve(options: argparse.Namespace) -> Iterator[Served]:
    """What the command line means; what is started for it ends with the block."""
    vocabulary: Sequence[str] = [f" {word}" for word in _DEMO_WORDS]
    repository = options.repository
    if options.half_billion:
        vocabulary = [text_of([token_id]) for token_id in range(256, 10_000)]
        repository = _FOLDER / "half-billion"
        checkpoint = make_checkpoint(_FOLDER / "qwen2.5-0.5b")
        trireme_server.build(checkpoint, repository, {"precision": "int8"})
    if repository is None:
        yield Served(options.grpc, options.gateway, vocabulary)
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
            yield Served(triton.grpc_address, gateway.address, vocabulary)
