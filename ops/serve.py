"""`make serve`: one Triton on an assembled repository, the gateway before it, and what to type.

Started in a terminal or by a supervisor; Ctrl-C, SIGTERM or a closed terminal stop it and all that
it started.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from contract.models import EnsembleInputs
from contract.names import TENSORRT_LLM
from ops.gateway_address import GatewayAddress
from ops.gateway_process import GatewayError, GatewayServer
from ops.log_file import rotate
from ops.model_processes import ended
from ops.reload import published
from ops.served_model import ServedModel
from ops.triton_process import BROKEN_GRACE_S, Ports, TritonError, TritonServer

_KEY = "TRIREME_API_KEY"
_WATCH_S = 0.5
_NAME_S = 2.0
_ANSWERS_ONCE = """
No gateway: it streams, and this model repository was assembled with decoupled_mode=false.
"""
_REACHABLE = """
WARNING: other machines can reach Triton's own ports. They have no lock, and whoever reaches them
can end Triton (docs/gateway.md, "Triton's own ports"). Leave HOST at 127.0.0.1, or let only the
gateway through to them.
"""
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code: 0 when told to, 1 when Triton failed."""
    options = _parser().parse_args(arguments)
    for number in _STOPPING:
        # nohup ignores SIGHUP for us; a shell's `&` ignores SIGINT, and that is no wish to go on.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    token = secrets.token_hex(16)
    try:
        triton = TritonServer(
            options.repository,
            log=options.log,
            host=options.host,
            ports=Ports(options.http_port, options.grpc_port, options.metrics_port),
            control_token=token,
        )
        print(f"Starting Triton on {_short(options.repository)} …", flush=True)
        started = time.monotonic()
        with ExitStack() as servers:
            servers.enter_context(triton)
            servers.enter_context(published(token, options.http_port))
            streams = triton.is_decoupled(options.model)
            gateway = _gateway(options, triton, streams)
            if gateway is not None:
                servers.enter_context(gateway)
            print(f"Ready in {time.monotonic() - started:.1f} s.", flush=True)
            question = ServedModel.of(options.repository).question
            told = _commands(options, gateway, question)
            print(message(triton, options.model, question, told, streams=streams), flush=True)
            naming = _Naming(options, triton)
            dead: frozenset[int] = frozenset()
            while triton.running:
                if gateway is not None and gateway.pid is None:
                    # Whom it served is gone. Triton may wait for what it was in the middle of.
                    triton.stop(BROKEN_GRACE_S)
                    raise GatewayError(f"the gateway ended:\n{gateway.failure()}")
                if gone := dead & triton.dead_models:  # for longer than an unloaded model's is
                    told = ", and ".join(map(triton.told, sorted(gone)))
                    raise TritonError(f"{told}:\n{triton.failure()}")
                dead = triton.dead_models
                naming.look()
                for log in (triton.log, gateway and gateway.log):
                    if log:
                        rotate(log)
                time.sleep(_WATCH_S)
            status = triton.wait()
            raise TritonError(f"tritonserver {ended(status)}:\n{triton.failure()}")
    except (TritonError, GatewayError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0


def message(
    triton: TritonServer, model: str, question: str, gateway: str = "", *, streams: bool = True
) -> str:
    """What a person reads once the server is ready; each command can be pasted as it is.

    Args:
        triton: The server.
        model: The model to ask it for.
        question: What to ask it.
        gateway: What to read of the gateway before it; empty where there is none.
        streams: Whether the model does.
    """
    programs = Path(sys.prefix, "bin")
    inputs = {
        EnsembleInputs.TEXT_INPUT.name: question,
        EnsembleInputs.MAX_TOKENS.name: 64,
        EnsembleInputs.EXCLUDE_INPUT_IN_OUTPUT.name: True,
    }
    body = _json(inputs)
    curl = f"curl -s {triton.http_address}/v2/models/{model}/generate -d {shlex.quote(body)}"
    client = (
        f"{_command(programs / 'python')} -m clients {shlex.quote(question)} "
        f"{'--stream ' if streams else ''}--url {triton.grpc_address}"
    )
    load = (
        f"\n  {_command(programs / 'perf_analyzer')} -m {model} -u {triton.grpc_address} -i grpc "
        "--streaming --async \\\n"
        "      --input-data clients/perf_analyzer.json --concurrency-range 4\n"
    )
    if not streams:  # what perf_analyzer is given to ask does
        gateway, load = _ANSWERS_ONCE, ""
    return f"""{gateway}{_REACHABLE if triton.is_reachable else ""}
Triton itself, for what the gateway does not pass on:

  HTTP     http://{triton.http_address}
  gRPC     {triton.grpc_address}
  metrics  http://{triton.metrics_address}/metrics
  log      {_short(triton.log)}

  {curl}

  {client}
{load}
Ctrl-C stops it."""


def openai_commands(
    gateway: GatewayAddress, model: str, question: str, config: Path | None = None
) -> str:
    """How OpenAI's API is asked; each command can be pasted as it is.

    Args:
        gateway: Where the gateway is.
        model: A model that it serves.
        question: What to ask it.
        config: Its configuration, where it wants a key.
    """
    messages = _json([{"role": "user", "content": question}])
    body = f'{{"model": {_json(model)}, "messages": {messages}}}'
    key, python_key, header = "", '"none"', ""
    imports = ["openai"]
    if config is not None:
        admin = f"{_command(Path(sys.prefix, 'bin', 'python'))} -m gateway.admin"
        admin += f" --config {shlex.quote(_short(config))}"
        imports.append("os")
        python_key, header = f'os.environ["{_KEY}"]', f' -H "authorization: Bearer ${_KEY}"'
        key = f"""
It wants a key. If there is none yet (acme and chat are names of your choice):

  {admin} tenants create acme
  export {_KEY}=$({admin} keys create acme --application chat)
"""
    curl = (
        f"curl -s{_curl_trust(gateway)} {gateway.url}/v1/chat/completions "
        f"-H 'content-type: application/json'{header} -d {shlex.quote(body)}"
    )
    trust = http_client = ""
    if gateway.certificate is not None:
        imports.append("ssl")
        trust = f"""
  trusted = ssl.create_default_context(cafile={_short(gateway.certificate)!r})
  http_client = openai.DefaultHttpxClient(verify=trusted)"""
        http_client = ", http_client=http_client"
    return f"""
OpenAI's API at {gateway.url}/v1. From another terminal, in this folder:
{key}
  {curl}

or with the openai package (python -m pip install openai):

  import {", ".join(sorted(imports))}{trust}
  client = openai.OpenAI(base_url="{gateway.url}/v1", api_key={python_key}{http_client})
  messages = {messages}
  for chunk in client.chat.completions.create(model="{model}", messages=messages, stream=True):
      print(chunk.choices[0].delta.content or "", end="")
"""


def _json(value: Any) -> str:
    """As JSON, which is Python here, too."""
    return json.dumps(value, ensure_ascii=False)


def _curl_trust(gateway: GatewayAddress) -> str:
    """How curl is told of a certificate that nobody else knows, and where its name leads."""
    if gateway.certificate is None:
        return ""
    told = f" --cacert {shlex.quote(_short(gateway.certificate))}"
    if not gateway.leads_here:
        told += f" --resolve {gateway.name}:{gateway.port}:{gateway.host}"
    return told


def _commands(options: argparse.Namespace, gateway: GatewayServer | None, question: str) -> str:
    if gateway is None:
        return ""
    offer = gateway.offer()
    model = offer.model or _first_model(options.gateway_config)
    config = options.gateway_config if offer.needs_key else None
    return openai_commands(gateway.at, model, question, config)


def _first_model(config: Path) -> str:
    """A model of a gateway's configuration, which the gateway has read already."""
    return str(next(iter(yaml.safe_load(config.read_text(encoding="utf-8"))["models"])))


def _gateway(
    options: argparse.Namespace, triton: TritonServer, streams: bool
) -> GatewayServer | None:
    """The gateway that was asked for; before a Triton that can't stream there is none.

    Raises:
        GatewayError: It can't stream, and a configuration says what the gateway has to be.
    """
    if options.gateway_port is None:
        return None
    if not streams:
        if options.gateway_config is None:
            return None
        raise GatewayError(
            "the gateway streams, and this model repository was assembled with "
            "decoupled_mode=false: serve without GATEWAY_CONFIG, or with decoupled_mode=true"
        )
    arguments: list[str] = []
    if options.gateway_config is None:
        served = ServedModel.of(options.repository)
        served.write(_served_file(options))
        arguments = [*served.gateway_arguments(), "--served", str(_served_file(options).resolve())]
    return GatewayServer(
        None if options.gateway_config else triton.grpc_address,
        host=options.gateway_host,
        port=options.gateway_port,
        config=options.gateway_config,
        log=options.log.with_name("gateway.log"),
        arguments=arguments,
    )


class _Naming:
    """Tells the gateway what the model is called that was promoted or rolled back to."""

    def __init__(self, options: argparse.Namespace, triton: TritonServer) -> None:
        self._options = options
        self._triton = triton
        self._versions = triton.versions(TENSORRT_LLM)
        self._next_s = time.monotonic()
        # A gateway with a configuration has the names that it says.
        self._told = options.gateway_port is not None and options.gateway_config is None

    def look(self) -> None:
        """Look, now and then, which version Triton has ready."""
        if not self._told or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _NAME_S
        versions = self._triton.versions(TENSORRT_LLM)
        if versions and versions != self._versions:  # while two are ready, requests go to the last
            self._versions = versions
            newest = max(versions, key=int)
            ServedModel.of(self._options.repository, newest).write(_served_file(self._options))


def _served_file(options: argparse.Namespace) -> Path:
    """Where the gateway reads what is served."""
    log: Path = options.log
    return log.with_name(f"served-{options.gateway_port}.json")


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
    parser.add_argument("--host", default="127.0.0.1", help="the address Triton listens on")
    parser.add_argument("--gateway-host", default="127.0.0.1", help="the gateway's address")
    parser.add_argument("--gateway-port", type=_port, help="its port; without it, no gateway")
    parser.add_argument("--gateway-config", type=Path, help="its configuration, a YAML file")
    for number, name in enumerate(("http", "grpc", "metrics"), start=8000):
        parser.add_argument(
            f"--{name}-port", type=_port, default=number, help=f"by default {number}"
        )
    parser.add_argument("--log", type=Path, default=Path(".cache/triton.log"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
