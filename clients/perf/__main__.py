"""`make perf`: load a running server with perf_analyzer; write figures, a table and a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import tritonclient.grpc

from clients.client import DEFAULT_ADDRESSES, Client
from clients.client_errors import ClientError
from clients.perf.load import Load, LoadError, read_prompts
from clients.perf.load_picture import draw
from clients.perf.load_report import Report
from clients.perf.profile import Level
from clients.perf_analyzer import PerfAnalyzerNotFoundError
from contract.models import EnsembleInputs
from contract.names import ENSEMBLE

_PROMPTS = Path(__file__).parents[1] / "perf_analyzer.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each concurrency and write the report.

    Returns the exit code: 0 when all was measured, 1 when something was not (what was before it is
    written all the same), 130 when Ctrl-C ended it.
    """
    given = _parser().parse_args(arguments)
    started = datetime.now(timezone.utc)
    levels: list[Level] = []
    try:
        load = Load(
            url=given.url,
            model=given.model,
            prompts=read_prompts(given.input_data, given.max_tokens),
            measurement_s=given.measurement_s,
            request_count=given.request_count,
        )
        version = _check_server(load, given.wait_s)
        for concurrency in given.concurrency:
            if sys.stdout.isatty():
                print(f"concurrency {concurrency:>3} …", end="\r", flush=True)
            levels.append(load.run(concurrency))
            print(_line(levels[-1]), flush=True)
        problem = None
    except (ClientError, LoadError, PerfAnalyzerNotFoundError) as error:
        problem = str(error)
    except KeyboardInterrupt:
        print()
        return 130
    if levels:
        settings = {
            "model": load.model,
            "prompts": f"{len(load.prompts)} from {given.input_data.name}",
            "max_tokens": given.max_tokens or "as the prompts say",
            "measurement_s": given.measurement_s,
            "request_count": given.request_count,
        }
        settings = {name: value for name, value in settings.items() if value is not None}
        _write(Report.of(tuple(levels), settings, version, started), given.reports)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


def _check_server(load: Load, wait_s: float) -> str:
    """See that the server answers, and let it do first what it does once; return its version."""
    with Client(load.url, model=load.model, timeout_s=60) as client:
        if wait_s:
            client.wait_until_ready(wait_s)
        client.generate(load.prompts[0][EnsembleInputs.TEXT_INPUT.name][0], max_tokens=8)
    with tritonclient.grpc.InferenceServerClient(load.url) as triton:
        return str(triton.get_server_metadata().version)


def _line(level: Level) -> str:
    return (
        f"concurrency {level.concurrency:>3}   {level.output_tokens_per_s:>7,.0f} tokens/s   "
        f"first token {level.time_to_first_token_ms.p50:>6,.0f} ms   "
        f"request {level.request_latency_ms.p50:>7,.0f} ms   (p50 of {level.requests})"
    )


def _write(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "perf.json").write_text(report.to_json(), encoding="utf-8")
    (folder / "perf.md").write_text(report.to_markdown(), encoding="utf-8")
    try:
        draw(report, folder / "perf.png")
    except ImportError:
        print(f"Wrote perf.json and perf.md to {folder}; a picture needs matplotlib.")
    else:
        print(f"Wrote perf.json, perf.md and perf.png to {folder}.")


def _concurrencies(text: str) -> tuple[int, ...]:
    levels = tuple(int(part) for part in text.split(","))
    if min(levels) < 1:
        raise ValueError
    return levels


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clients.perf",
        description="Load a running server with perf_analyzer over gRPC streams.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--url", default=DEFAULT_ADDRESSES["grpc"], help="host:port of gRPC")
    parser.add_argument("--model", default=ENSEMBLE, help="the model to load")
    parser.add_argument(
        "--wait-s", type=float, default=0.0, help="how long to wait for a server that starts"
    )
    parser.add_argument(
        "--concurrency",
        type=_concurrencies,
        default="1,2,4,8,16,32",
        metavar="N,N,…",
        help="how many requests to keep under way, one measurement for each",
    )
    parser.add_argument(
        "--measurement-s", type=float, default=30.0, help="how long to measure each concurrency"
    )
    parser.add_argument(
        "--request-count", type=int, help="measure so many requests instead, at least one a slot"
    )
    parser.add_argument(
        "--max-tokens", type=int, help="ask for exactly so many tokens, whatever the prompts say"
    )
    parser.add_argument(
        "--input-data", type=Path, default=_PROMPTS, help="prompts, as perf_analyzer reads them"
    )
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
