"""`python -m gateway`: the gateway before one local Triton, or as a file says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from contract.settings_base import SettingsError, explain, load, parse
from contract.version import VERSION
from gateway.app import create_app
from gateway.configuration import Configuration, ListenSettings
from gateway.server import serve
from gateway.services import Services

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        configuration = _configuration(options)
        if configuration.database is None and configuration.listen.host not in _LOOPBACK:
            raise SettingsError(
                f"listen.host is {configuration.listen.host!r}: without a database of tenants "
                "the gateway listens on loopback only"
            )
        if options.served is not None and options.config is not None:
            raise SettingsError("--served is for one local Triton; a --config names its models")
        app = create_app(
            configuration, services=Services.open(configuration), served=options.served
        )
        serve(app, configuration.listen, options.log_level)
    except (SettingsError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _configuration(options: argparse.Namespace) -> Configuration:
    """The file's, or one local Triton; the command line says where to listen in either."""
    if options.config is None:
        try:
            configuration = Configuration.for_triton(
                options.triton,
                model=options.model,
                created_s=options.created,
                context_length=options.context_length,
            )
        except ValidationError as error:
            raise SettingsError(explain(Configuration, error)) from None
    else:
        configuration = load(Configuration, options.config)
    listen = {
        name: value
        for name in ("host", "port", "metrics_port")
        if (value := getattr(options, name)) is not None
    }
    told = parse(ListenSettings, {**configuration.listen.model_dump(), **listen}, group="listen")
    return configuration.model_copy(update={"listen": told})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gateway", description=__doc__)
    parser.add_argument("--version", action="version", version=f"Trireme {VERSION}")
    parser.add_argument("--config", type=Path, help="a YAML file: see docs/gateway.md")
    parser.add_argument(
        "--triton", default="127.0.0.1:8001", help="gRPC address, where there is no file"
    )
    parser.add_argument("--model", default="demo", help="what its model is called, then")
    parser.add_argument(
        "--created", type=int, default=0, help="when it was made, in seconds since 1970"
    )
    parser.add_argument("--context-length", type=int, help="most tokens of its sequences")
    parser.add_argument(
        "--served", type=Path, help="a file that says all three, and is followed: JSON"
    )
    parser.add_argument("--host", help="the address to listen on, in place of the file's")
    parser.add_argument("--port", type=int, help="the port, likewise")
    parser.add_argument("--metrics-port", type=int, help="the port of Prometheus' endpoint")
    parser.add_argument(
        "--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR")
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
