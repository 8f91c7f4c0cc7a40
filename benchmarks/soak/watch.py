"""Watching a server: memory of each of its processes, and the engine's own gauges, over time."""

from __future__ import annotations

import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from benchmarks.memory_use import family, memory_bytes

GAUGES = (
    "running_sequences",
    "waiting_sequences",
    "kv_cache_used_blocks",
    "kv_cache_cached_blocks",
    "kv_cache_budget_blocks",
    "preempted_sequences_total",
    "prefix_reused_blocks_total",
)
"""Of the engine's metrics, without their common prefix."""

_METRIC = re.compile(r"^trireme_(\w+)\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """The server at one time.

    Attributes:
        time_s: Since the load began.
        memory_bytes: Of each process, by its name and id.
        gauges: The engine's metrics.
        counts: What the clients have counted.
    """

    time_s: float
    memory_bytes: dict[str, int]
    gauges: dict[str, float]
    counts: dict[str, int]


class Watch:
    """Looks at one server."""

    def __init__(self, pid: int, metrics_address: str) -> None:
        self._pid = pid
        self._url = f"http://{metrics_address}/metrics"
        # No proxy from the environment: this server is on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def memory(self) -> dict[str, int]:
        """Proportional resident bytes of each process of the server."""
        return {f"{_name(pid)} {pid}": memory_bytes(pid) for pid in family(self._pid)}

    def gauges(self) -> dict[str, float]:
        """The engine's metrics.

        Raises:
            OSError: The server doesn't answer.
        """
        with self._opener.open(self._url, timeout=10) as response:
            text = response.read().decode()
        return parse_gauges(text)


def parse_gauges(text: str) -> dict[str, float]:
    """The metrics of ``GAUGES`` in Prometheus' text."""
    values = {name: float(value) for name, value in _METRIC.findall(text)}
    return {name: values[name] for name in GAUGES}


def _name(pid: int) -> str:
    """The program; for a Python model's process the model."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "ended"
    program = Path(words[0]).name
    models = [Path(word).parents[1].name for word in words if word.endswith("/model.py")]
    return models[0] if models else program
