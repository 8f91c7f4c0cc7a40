"""``make bench-peers``: all systems on all workloads, turn about; report, tables and pictures.

Six workloads are of random tokens on a checkpoint of random weights. Two are of questions to a
real model, which also shows what each system makes of its weights: speed is held against speed only
where the predictions are as good.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.bench_checkpoint import make_checkpoint
from benchmarks.peers.comparison import Comparison, Questions
from benchmarks.peers.peers_picture import draw
from benchmarks.peers.peers_quality import size_bytes
from benchmarks.peers.peers_report import Report, SystemReport
from benchmarks.peers.prepare import Workshop, stamp_of, worker_arguments
from benchmarks.peers.process import Worker, WorkerError
from benchmarks.peers.quality_picture import draw_quality
from benchmarks.peers.systems import BY_NAME, SystemSpec
from benchmarks.real_checkpoint import make_real_checkpoint
from benchmarks.workloads import TALKS, WORKLOADS, Workload
from build.engine_folder import build_engine
from build.quality.closeness import Kept
from build.quality.reading import EnginePredictor, prose, questions
from python_backend.text.tokenizer import TextTokenizer

_PEERS = [name for name, system in BY_NAME.items() if system.kind == "peer"]
_OURS = [name for name in BY_NAME if name not in _PEERS]
_WORKLOADS = {each.name.replace(" ", "-"): each for each in (*WORKLOADS, *TALKS)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, measure and report.

    Returns the exit code: 0 when all that was asked for was measured, 1 when something was left out
    (the rest is reported all the same), 130 when Ctrl-C ended it.
    """
    given = _parser().parse_args(arguments)
    started = datetime.now(timezone.utc)
    workshop = Workshop(given.folder)
    asked = [_WORKLOADS[name] for name in given.workloads]
    done: list[Comparison] = []
    try:
        for is_talk in (False, True):
            workloads = [each for each in asked if each.is_talk == is_talk]
            if workloads:
                done.append(_compared(given, workshop, workloads, is_talk))
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; nothing was written.", file=sys.stderr)
        return 130
    if not given.prepare_only:
        report = _report(started, given.seed, done[0])
        for comparison in done[1:]:
            report = report.extended(_report(started, given.seed, comparison))
        _write(given.extend.extended(report) if given.extend else report, given.reports)
    return 1 if any(comparison.failures for comparison in done) else 0


def _compared(
    given: argparse.Namespace, workshop: Workshop, workloads: list[Workload], is_talk: bool
) -> Comparison:
    """Load all systems on a checkpoint, run, and on the real one read what they predict."""
    place = "real-models" if is_talk else "models"
    real = make_real_checkpoint(given.cache) if is_talk else None
    checkpoint = real or make_checkpoint(given.checkpoint)
    models: dict[str, Path] = {}

    def start(name: str) -> Worker:
        system = BY_NAME[name]
        if name not in models:
            models[name] = workshop.model(system, checkpoint.resolve(), place)
        return _start(system, workshop.python(system), models[name])

    comparison = Comparison(given.seed, start, questions=_questions(real) if real else None)
    with closing(comparison):
        for name in [*given.trireme, *given.peers]:
            if not (is_talk and BY_NAME[name].kind == "server"):
                comparison.load(name)
        if real and given.read_every:
            folder = workshop.folder / place / "reference"
            build_engine(real, folder, "fp32")
            passages = prose(folder)[:: given.read_every]
            reference = EnginePredictor(folder)
            comparison.read(
                reference,
                passages,
                lambda name: size_bytes(models[name]),
                lambda name: Kept(workshop.folder / "read" / stamp_of(models[name])),
            )
        if given.rounds and not given.prepare_only:
            comparison.run(workloads, given.rounds)
    return comparison


def _questions(checkpoint: Path) -> Questions:
    """Questions that small models answer, in the checkpoint's template."""
    prompts = [prompt.tolist() for prompt in questions(TextTokenizer.load(checkpoint))]
    ends = json.loads((checkpoint / "generation_config.json").read_text())["eos_token_id"]
    return Questions(prompts, ends if isinstance(ends, list) else [ends])


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
        quality=comparison.quality,
    )


def _write(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peers.json").write_text(report.to_json(), encoding="utf-8")
    (folder / "peers.md").write_text(report.to_markdown(), encoding="utf-8")
    written = ["peers.json", "peers.md"]
    for name, is_drawn, drawing in (
        ("peers.png", any(not each.is_talk for each in report.workloads), draw),
        ("peers_quality.png", bool(report.quality), draw_quality),
    ):
        if is_drawn:
            drawing(report, folder / name)
            written.append(name)
    print(report.to_markdown())
    print(f"Wrote {', '.join(written)} to {folder}.")


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
    parser.add_argument(
        "--rounds", type=_count, default=3, help="after one that warms up; 0: quality alone"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the prompts")
    parser.add_argument(
        "--read-every",
        type=_count,
        default=8,
        help="of the prose by which quality is measured, only each so many-th 512 tokens; 0: none",
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="of builds")
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


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
