"""From seconds to figures: medians, ratios to the best peer, spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers.systems import BY_NAME, SystemSpec
from benchmarks.workloads import Workload

Seconds = Mapping[str, Mapping[str, Sequence[float]]]
"""Seconds of each round, by workload and system; every system has as many rounds."""


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the best of several systems.

    Attributes:
        value: Median over the rounds, each compared in itself: a machine that is slower for a while
            is so for all.
        best: The system that was the fastest in most rounds.
    """

    value: float
    best: str


@dataclass(frozen=True)
class Figure:
    """One system on one workload.

    Attributes:
        value: Median over the rounds: output tokens/s, or seconds to the first token.
        low: The smallest of the rounds.
        high: The largest of the rounds.
        to_rivals: Compared with the peers of a comparable precision, where one was measured.
        to_peers: Compared with all peers, where one was measured.
    """

    value: float
    low: float
    high: float
    to_rivals: Ratio | None
    to_peers: Ratio | None

    @property
    def spread(self) -> float:
        """Difference between the highest and the lowest round, as a share of the median."""
        return (self.high - self.low) / self.value


def figures(workload: Workload, seconds: Mapping[str, Sequence[float]]) -> dict[str, Figure]:
    """The figures of one workload.

    Args:
        workload: What ran.
        seconds: Seconds of each round, by system; as many for each.

    Returns:
        A figure for each system.
    """
    peers = [name for name in seconds if BY_NAME[name].kind == "peer"]
    found = {}
    for name, durations in seconds.items():
        values = [_value(workload, each) for each in durations]
        rivals = [peer for peer in peers if is_rival(BY_NAME[name], BY_NAME[peer])]
        found[name] = Figure(
            value=statistics.median(values),
            low=min(values),
            high=max(values),
            to_rivals=_ratio(durations, {peer: seconds[peer] for peer in rivals}),
            to_peers=_ratio(durations, {peer: seconds[peer] for peer in peers}),
        )
    return found


def is_rival(system: SystemSpec, peer: SystemSpec) -> bool:
    """Whether a peer computes with comparable weights: 4 bits with 4 bits, 8 bits with 8 and 16."""
    return (system.precision == "int4") == (peer.precision == "int4")


def _ratio(own: Sequence[float], others: Mapping[str, Sequence[float]]) -> Ratio | None:
    if not others:
        return None
    rounds = list(zip(*others.values(), strict=True))
    fastest = [min(zip(each, others, strict=True)) for each in rounds]
    return Ratio(
        value=statistics.median(best / mine for (best, _), mine in zip(fastest, own, strict=True)),
        best=statistics.mode(name for _, name in fastest),
    )


def server_share(seconds: Seconds, engine: str, server: str) -> dict[str, float]:
    """The whole server's throughput as a share of its engine's, by workload.

    Median over the rounds of the ratio within each.
    """
    return {
        workload: statistics.median(
            inside / outside for inside, outside in zip(by[engine], by[server], strict=True)
        )
        for workload, by in seconds.items()
        if engine in by and server in by
    }


def _value(workload: Workload, seconds: float) -> float:
    return seconds if workload.is_latency else workload.output_tokens / seconds
