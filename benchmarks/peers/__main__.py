"""``make bench-peers``: all systems on all workloads, turn about; report, table and picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.bench_checkpoint import make_checkpoint
from benchmarks.peers.comparison import Comparison
from benchmarks.peers.peers_picture import draw
from benchmarks.peers.peers_report import Report, SystemReport
from benchmarks.peers.prepare import Workshop, worker_arguments
from benchmarks.peers.process import Worker, WorkerError
from benchmarks.peers.systems import BY_NAME, SystemSpec
from benchmarks.workloads import WORKLOADS

_PEERS = [name for name, system in BY_NAME.items() if system.kind == "peer"]
_OURS = [name for name in BY_NAME if name not in _PEERS]
_WORKLOADS = {workload.name.replace(" ", "-"): workload for workload in WORKLOADS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, measure and report.

    Returns the exit code: 0 when all that was asked for was measured, 1 when something was left out
    (the rest is reported all the same), 130 when Ctrl-C ended it.
    """
    given = _parser().parse_args(arguments)
    started = datetime.now(timezone.utc)
    workshop = Workshop(given.folder)
    checkpoint = make_checkpoint(given.checkpoint).resolve()
    models: dict[str, Path] = {}

    def start(name: str) -> Worker:
        system = BY_NAME[name]
        if name not in models:
            models[name] = workshop.model(system, checkpoint)
        return _start(system, workshop.python(system), models[name])

    comparison = Comparison(given.seed, start)
    try:
        with closing(comparison):
            for name in [*given.trireme, *given.peers]:
                comparison.load(name)
            if not given.prepare_only:
                comparison.run([_WORKLOADS[name] for name in given.workloads], given.rounds)
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; nothing was written.", file=sys.stderr)
        return 130
    if not given.prepare_only:
        report = _report(started, given.seed, comparison)
        _write(given.extend.extended(report) if given.extend else report, given.reports)
    return 1 if comparison.failures else 0


def _start(system: SystemSpec, python: Path, model: Path) -> Worker:
    command = [str(python), *worker_arguments(system, "serve", model)]
    worker = Worker(system.name, command, model.with_suffix(".log"))
    load_s, memory_gib = worker.ready["load_s"], worker.memory_bytes / 2**30
    print(f"{system.name}: loaded in {load_s:.1f} s, {memory_gib:.1f} GiB", flush=True)
    return worker


def _report(started: datetime, seed: int, comparison: Comparison) -> Report:
    return Report.of(
        started,
        hardware=comparison.hardware,
        seed=seed,
        systems={
            name: SystemReport.of(BY_NAME[name], ready) for name, ready in comparison.ready.items()
        },
        seconds=comparison.seconds,
        failures=comparison.failures,
    )


def _write(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peers.json").write_text(report.to_json(), encoding="utf-8")
    (folder / "peers.md").write_text(report.to_markdown(), encoding="utf-8")
    draw(report, folder / "peers.png")
    print(report.to_markdown())
    print(f"Wrote peers.json, peers.md and peers.png to {folder}.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--peers", nargs="*", choices=_PEERS, default=_PEERS, help="what to compare with"
    )
    parser.add_argument(
        "--trireme", nargs="*", choices=_OURS, default=_OURS, help="what of Trireme to measure"
    )
    parser.add_argument(
        "--workloads", nargs="+", choices=_WORKLOADS, default=list(_WORKLOADS), help="what to run"
    )
    parser.add_argument("--rounds", type=_positive, default=3, help="after one that warms up")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts")
    parser.add_argument("--folder", type=Path, default=Path(".cache/peers"))
    parser.add_argument("--checkpoint", type=Path, default=Path(".cache/benchmarks/qwen2.5-0.5b"))
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    parser.add_argument(
        "--extend",
        type=_earlier,
        metavar="FILE",
        help="a peers.json whose other workloads are to stay in the report",
    )
    parser.add_argument(
        "--prepare-only", action="store_true", help="install, build and load, measure nothing"
    )
    return parser


def _earlier(text: str) -> Report:
    try:
        return Report.load(Path(text))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
