"""``make bench-soak``: load the whole server with mixed traffic and see that its memory stays flat.

The server is one of its own, with a KV cache so small that the load fills it: prefixes are evicted
and sequences put off all the time, and what is resident is all that ever will be.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.soak.soak_picture import draw
from benchmarks.soak.soak_report import Report
from benchmarks.soak.traffic import Traffic
from benchmarks.soak.watch import Sample, Watch
from build.engine_folder import build_engine
from clients.perf.load_report import Machine, revision
from contract.names import TENSORRT_LLM
from ensembles.repository import assemble
from ensembles.repository_settings import UNSIGNED, RepositorySettings
from ops.triton_process import TritonError, TritonServer

_SETTINGS = ("onnx.kv_cache_bytes=16777216", "onnx.max_num_sequences=16")
_SAMPLES = 240


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns 0 where memory stayed flat and nothing failed, else 1."""
    given = _parser().parse_args(arguments)
    started = datetime.now(timezone.utc)
    settings = [*_SETTINGS, UNSIGNED, *given.set]
    repository = given.folder / "repository"
    assemble(repository, RepositorySettings.from_assignments(settings))
    build_engine(given.checkpoint, repository / TENSORRT_LLM / "1", given.precision)
    try:
        with TritonServer(repository, log=given.folder / "triton.log") as triton:
            assert triton.pid is not None, "it has just started"
            watch = Watch(triton.pid, triton.metrics_address)
            traffic = Traffic(triton.grpc_address, given.concurrency, given.seed)
            samples = asyncio.run(_watch(watch, traffic, given.minutes))
            used_blocks = _blocks_at_rest(watch)
    except (TritonError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; nothing was written.", file=sys.stderr)
        return 130
    report = Report(
        date=started.isoformat(timespec="seconds"),
        revision=revision(),
        machine=Machine.this(),
        minutes=given.minutes,
        concurrency=given.concurrency,
        settings=settings,
        samples=samples,
        errors=traffic.errors,
        used_blocks_at_rest=used_blocks,
    )
    given.reports.mkdir(parents=True, exist_ok=True)
    (given.reports / "soak.json").write_text(report.to_json(), encoding="utf-8")
    draw(report, given.reports / "soak.png")
    print(report.summary())
    print(f"Wrote soak.json and soak.png to {given.reports}.")
    return 1 if report.problems else 0


async def _watch(watch: Watch, traffic: Traffic, minutes: float) -> list[Sample]:
    """Load the server for so long, and look at it some 240 times meanwhile."""
    start = time.monotonic()
    end = start + 60 * minutes
    load = asyncio.create_task(traffic.run(end))
    samples: list[Sample] = []
    while not load.done() and len(samples) < _SAMPLES:
        due = start + 60 * minutes * (len(samples) + 1) / _SAMPLES
        await asyncio.wait([load], timeout=max(0.0, due - time.monotonic()))
        gauges = await asyncio.to_thread(watch.gauges)
        memory = await asyncio.to_thread(watch.memory)
        elapsed_s = time.monotonic() - start
        samples.append(Sample(elapsed_s, memory, gauges, dict(traffic.counts)))
        if len(samples) % 12 == 0:
            print(_line(samples[-1]), flush=True)
    await load
    return samples


def _blocks_at_rest(watch: Watch) -> int:
    """Blocks in use once nothing runs; what is left after ten seconds is lost."""
    for _ in range(50):
        if not (used := watch.gauges()["kv_cache_used_blocks"]):
            break
        time.sleep(0.2)
    return int(used)


def _line(sample: Sample) -> str:
    memory_mib = sum(sample.memory_bytes.values()) / 2**20
    counts = "  ".join(f"{count:,} {name}" for name, count in sample.counts.items())
    return f"{sample.time_s / 60:6.1f} min  {memory_mib:8,.1f} MiB  {counts}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--concurrency", type=int, default=24, help="requests under way")
    parser.add_argument("--checkpoint", type=Path, default=Path("build/demo/checkpoint"))
    parser.add_argument("--precision", default="int8", choices=("fp32", "int8", "int4"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--seed", type=int, default=1, help="of the traffic")
    parser.add_argument("--folder", type=Path, default=Path(".cache/soak"))
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
