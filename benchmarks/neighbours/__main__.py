"""How long one tenant waits for the first token while another sends the worst that is accepted.

    python -m benchmarks.neighbours --repository model_repository
    python -m benchmarks.neighbours --repository model_repository --attacks unread cancels

For each attack a tenant asks one short chat after the other: alone, beside the attack, and alone
again, all in one run, so that whatever else the machine does falls on each. The gateway's event
loop is watched meanwhile. About a quarter of a minute for an attack.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.neighbours.attacks import ATTACKS, DESCRIPTIONS, http_request
from ops.triton_process import ROOT, Ports, TritonServer, end_with_parent

MAX_RATIO = 2.0
MAX_HELD_MS = 20.0
_BEGIN_S = 1.5
"""After which an attack is in full swing."""
_PAUSE_S = 0.05
_CHAT = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Count from 17 to 40."}],
    "max_tokens": 8,
    "stream": True,
    "service_tier": "priority",
}


@dataclass(frozen=True)
class Row:
    """One attack and what was felt of it.

    Attributes:
        name: The attack's.
        alone_s: Times to the first token without it, ascending.
        beside_s: And while it lasted.
        failed: Requests that were not answered meanwhile.
        wall_ms: For how long the gateway's loop did nothing else, at most.
        processor_ms: Processor time of that.
        counts: What became of the attacker's requests.
    """

    name: str
    alone_s: list[float]
    beside_s: list[float]
    failed: int
    wall_ms: float
    processor_ms: float
    counts: dict[str, int]

    @property
    def ratio(self) -> float:
        """How many times as long the median is; without an answer, for ever."""
        if not self.beside_s:
            return float("inf")
        return statistics.median(self.beside_s) / statistics.median(self.alone_s)

    @property
    def holds(self) -> bool:
        """Whether it is within the bounds."""
        return not self.failed and self.ratio <= MAX_RATIO and self.processor_ms <= MAX_HELD_MS

    def __str__(self) -> str:
        figures = (
            f"{self.name:9} {_ms(self.alone_s):>14} {_ms(self.beside_s):>14} {self.ratio:6.2f} "
            f"{self.failed:6} {self.wall_ms:9.1f} {self.processor_ms:9.1f}"
        )
        return f"{figures}  {DESCRIPTIONS[self.name]}: {self.counts or 'none was answered'}"


HEAD = (
    f"{'attack':9} {'alone, ms':>14} {'beside it, ms':>14} {'ratio':>6} {'failed':>6} "
    f"{'held, ms':>9} {'processor':>9}\n"
    f"{'':9} {'p50 / p95':>14} {'p50 / p95':>14}"
)


def _ms(times: Sequence[float]) -> str:
    if not times:
        return "-"
    return f"{statistics.median(times) * 1e3:.1f} / {p95(times) * 1e3:.1f}"


def p95(times: Sequence[float]) -> float:
    """What 95 of 100 are below."""
    return sorted(times)[int(0.95 * (len(times) - 1))]


class Tenant:
    """Who asks one short chat after the other, and waits for each."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def ask(self, seconds: float) -> tuple[list[float], int]:
        """Times to the first token, seconds, and how many had none."""
        times: list[float] = []
        failed = 0
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            first_s = await self._first_text()
            if first_s is None:
                failed += 1
            else:
                times.append(first_s)
            await asyncio.sleep(_PAUSE_S)
        return times, failed

    async def _first_text(self) -> float | None:
        started_s = time.perf_counter()
        host, port = self._address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(http_request(self._address, "/v1/chat/completions", "tenant", _CHAT))
        first_s = None
        try:
            while line := await reader.readline():
                if first_s is None and b'"content":"' in line and b'"content":""' not in line:
                    first_s = time.perf_counter() - started_s
                if line.startswith((b"data: [DONE]", b"HTTP/1.1 4", b"HTTP/1.1 5")):
                    break
        finally:
            writer.close()
        return first_s


async def measure(address: str, name: str, options: argparse.Namespace) -> Row:
    """One attack."""
    tenant = Tenant(address)
    await tenant.ask(1)
    alone, _ = await tenant.ask(options.seconds / 2)
    attacker = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.neighbours.attacks", address, name),
        str(_BEGIN_S + options.seconds),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    await asyncio.sleep(_BEGIN_S)
    await asyncio.to_thread(_held, address)
    beside, failed = await tenant.ask(options.seconds)
    held = await asyncio.to_thread(_held, address)
    said, _ = await attacker.communicate()
    await asyncio.sleep(1)
    again, _ = await tenant.ask(options.seconds / 2)
    return Row(name, alone + again, beside, failed, **held, counts=json.loads(said or b"{}"))


def _held(address: str) -> dict[str, float]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/held", timeout=30) as answer:
        held: dict[str, float] = json.load(answer)
    return held


@contextmanager
def serve(repository: Path) -> Iterator[str]:
    """Triton and a gateway that is watched; yields the gateway's address."""
    port = Ports.free().http
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "gateway.log")
        with (
            TritonServer(repository, log=Path(folder, "triton.log")) as triton,
            log.open("wb") as f,
        ):
            gateway = subprocess.Popen(
                [
                    sys.executable,
                    *("-m", "benchmarks.neighbours.watched_gateway"),
                    *(triton.grpc_address, str(port)),
                ],
                cwd=ROOT,
                stdout=f,
                stderr=f,
                preexec_fn=end_with_parent,
            )
            try:
                yield _ready(f"127.0.0.1:{port}", gateway, log)
            finally:
                gateway.terminate()
                gateway.wait()


def _ready(address: str, gateway: subprocess.Popen[bytes], log: Path) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(200):
        if gateway.poll() is not None:
            break
        try:
            with opener.open(f"http://{address}/health/ready", timeout=5):
                return address
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the gateway did not start:\n{log.read_text()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code, 1 where a bound is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbours", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True, help="start on this repository")
    parser.add_argument(
        "--attacks",
        nargs="+",
        choices=ATTACKS,
        default=list(ATTACKS),
        metavar="ATTACK",
        help=f"of {', '.join(ATTACKS)}",
    )
    parser.add_argument("--seconds", type=float, default=8, help="beside each, and as long alone")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(arguments)
    rows = []
    with serve(options.repository) as address:
        print(HEAD, flush=True)
        for name in options.attacks * options.rounds:
            rows.append(asyncio.run(measure(address, name, options)))
            print(rows[-1], flush=True)
    broken = sum(not row.holds for row in rows)
    print(
        f"{len(rows) - broken} of {len(rows)} within a ratio of {MAX_RATIO:g} and "
        f"{MAX_HELD_MS:g} ms of the loop's processor time"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
