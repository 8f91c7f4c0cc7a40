"""`make serve`: one Triton on an assembled repository, and what to type to use it.

Started in a terminal or by a supervisor; Ctrl-C, SIGTERM or a closed terminal stop it and all that
it started.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from ops.reload import make_token
from ops.triton import Ports, TritonError, TritonServer

PROMPT = "What is the capital of France?"

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code: 0 when told to, 1 when Triton failed."""
    options = _parser().parse_args(arguments)
    for number in _STOPPING:
        # nohup ignores SIGHUP for us; a shell's `&` ignores SIGINT, and that is no wish to go on.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        triton = TritonServer(
            options.repository,
            log=options.log,
            host=options.host,
            ports=Ports(options.http_port, options.grpc_port, options.metrics_port),
            control_token=make_token(options.http_port),
        )
        print(f"Starting Triton on {_short(options.repository)} …", flush=True)
        started = time.monotonic()
        with triton:
            print(f"Ready in {time.monotonic() - started:.1f} s.", flush=True)
            print(message(triton, options.model), flush=True)
            status = triton.wait()
            raise TritonError(f"tritonserver ended with status {status}:\n{triton.failure()}")
    except TritonError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0


def message(triton: TritonServer, model: str) -> str:
    """What a person reads once the server is ready; each command can be pasted as it is."""
    programs = Path(sys.prefix, "bin")
    body = f'{{"text_input": "{PROMPT}", "max_tokens": 64}}'
    curl = f"curl -s {triton.http_address}/v2/models/{model}/generate -d {shlex.quote(body)}"
    client = (
        f"{_command(programs / 'python')} -m clients {shlex.quote(PROMPT)} "
        f"--stream --url {triton.grpc_address}"
    )
    load = (
        f"{_command(programs / 'perf_analyzer')} -m {model} -u {triton.grpc_address} -i grpc "
        "--streaming --async \\\n"
        "      --input-data clients/perf_analyzer.json --concurrency-range 4"
    )
    return f"""
  HTTP     http://{triton.http_address}
  gRPC     {triton.grpc_address}
  metrics  http://{triton.metrics_address}/metrics
  log      {_short(triton.log)}

From another terminal, in this folder:

  {curl}

  {client}

  {load}

Ctrl-C stops it."""


def _stop(number: int, frame: FrameType | None) -> None:
    """End by way of the context manager, once: a second Ctrl-C must not leave a process behind."""
    for each in _STOPPING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _short(path: Path) -> str:
    """The path as a person in this folder would write it."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - .venv/bin/python is a link to stay with
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _command(program: Path) -> str:
    return shlex.quote(_short(program))


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port: a port is a number from 1 to 65535")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ops.serve", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True, help="the model repository")
    parser.add_argument("--model", default="ensemble", help="the model to show commands for")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    for number, name in enumerate(("http", "grpc", "metrics"), start=8000):
        parser.add_argument(
            f"--{name}-port", type=_port, default=number, help=f"by default {number}"
        )
    parser.add_argument("--log", type=Path, default=Path(".cache/triton.log"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
