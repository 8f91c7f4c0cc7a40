"""What a load test keeps: the figures, and all that a person needs to know to get them again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from clients.perf.profile import Level, Percentiles

# Of this environment, which is mostly the server's too; perf_analyzer comes with tritonclient.
_PACKAGES = ("tritonclient", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Machine:
    """Where it was measured; client and server are taken to share the machine.

    Attributes:
        cpu: The processor's own name.
        cores: Cores that this process may use.
        memory_gib: Physical memory.
    """

    cpu: str
    cores: int
    memory_gib: float

    @classmethod
    def this(cls) -> Machine:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(_cpu(), len(os.sched_getaffinity(0)), round(memory_bytes / 2**30, 1))

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores, {self.memory_gib:g} GiB"


@dataclass(frozen=True)
class Report:
    """One load test.

    Attributes:
        date: When it began, ISO 8601.
        revision: The checkout's commit, with ``-dirty`` where files were changed; None outside git.
        machine: Where.
        versions: Of what took part.
        settings: How perf_analyzer was used.
        levels: What was measured, a level for each concurrency.
    """

    date: str
    revision: str | None
    machine: Machine
    versions: dict[str, str]
    settings: dict[str, Any]
    levels: tuple[Level, ...]

    @classmethod
    def of(
        cls,
        levels: tuple[Level, ...],
        settings: dict[str, Any],
        server_version: str,
        started: datetime,
    ) -> Report:
        """Put figures together with what this process knows of its surroundings."""
        versions = {"tritonserver": server_version, "python": platform.python_version()}
        for name in _PACKAGES:
            with suppress(metadata.PackageNotFoundError):
                versions[name] = metadata.version(name)
        return cls(
            date=started.astimezone(timezone.utc).isoformat(timespec="seconds"),
            revision=revision(),
            machine=Machine.this(),
            versions=versions,
            settings=settings,
            levels=levels,
        )

    def to_json(self) -> str:
        """The whole report, for programs."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """A table, for people."""
        rows = [
            "| concurrency | output tokens/s | requests/s | first token, ms | between tokens, ms "
            "| request, ms | requests |",
            "|---:|---:|---:|---:|---:|---:|---:|",
            *map(_row, self.levels),
        ]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        return "\n".join(
            [
                f"# Load test of {self.settings['model']}",
                "",
                "Latencies are p50 / p90 / p99, as a client sees them over gRPC.",
                "",
                *rows,
                "",
                f"- machine: {self.machine}",
                f"- date: {self.date}",
                f"- revision: {self.revision or 'unknown'}",
                f"- versions: {versions}",
                f"- settings: {settings}",
                "",
            ]
        )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _row(level: Level) -> str:
    latencies = (
        level.time_to_first_token_ms,
        level.inter_token_latency_ms,
        level.request_latency_ms,
    )
    return (
        f"| {level.concurrency} | {level.output_tokens_per_s:.0f} | {level.requests_per_s:.2f} | "
        + " | ".join(map(_percentiles, latencies))
        + f" | {level.requests} |"
    )


def _percentiles(value: Percentiles | None) -> str:
    if value is None:
        return "–"
    return " / ".join(f"{each:.1f}" if each < 100 else f"{each:.0f}" for each in _all(value))


def _all(value: Percentiles) -> tuple[float, float, float]:
    return value.p50, value.p90, value.p99


def revision() -> str | None:
    """The checkout's commit, with ``-dirty`` where files were changed; None outside git."""
    command = ("git", "describe", "--always", "--dirty", "--exclude", "*")
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
