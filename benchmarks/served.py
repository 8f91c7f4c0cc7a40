"""Triton and the gateway for a benchmark: those that run, or a pair of its own."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.gateway import GatewayServer
from ops.triton import Ports, TritonServer


@dataclass(frozen=True)
class Addresses:
    """Where they listen, each ``host:port``."""

    grpc: str
    gateway: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the command line say which."""
    parser.add_argument("--grpc", default="127.0.0.1:8001", help="Triton's gRPC address")
    parser.add_argument("--gateway", default="127.0.0.1:8080", help="the gateway's address")
    parser.add_argument(
        "--repository", type=Path, help="start both on this model repository, on free ports"
    )


@contextmanager
def addresses(options: argparse.Namespace) -> Iterator[Addresses]:
    """The addresses that the command line means; what is started for it ends with the block."""
    if options.repository is None:
        yield Addresses(options.grpc, options.gateway)
        return
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "triton.log")
        with (
            TritonServer(options.repository, log=log) as triton,
            GatewayServer(
                triton.grpc_address,
                port=Ports.free().http,
                log=Path(folder, "gateway.log"),
                arguments=["--log-level", "WARNING"],
            ) as gateway,
        ):
            yield Addresses(triton.grpc_address, gateway.address)
