"""From seconds to figures: medians, ratios to the best peer, spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from benchmarks.peers.peers_quality import Quality
from benchmarks.peers.systems import BY_NAME, SystemSpec
from benchmarks.workloads import Workload

Seconds = Mapping[str, Mapping[str, Sequence[float]]]
"""Seconds of each round, by workload and system; every system has as many rounds."""

Qualities = Mapping[str, Quality]
"""What each system makes of the real checkpoint, by its name; a server's is its engine's."""


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
        to_rivals: Compared with the peers that are no better (:func:`is_rival`), where one was
            measured.
        to_better: Compared with the peers that are, which is no claim.
        to_peers: Compared with all peers, where one was measured.
    """

    value: float
    low: float
    high: float
    to_rivals: Ratio | None
    to_better: Ratio | None
    to_peers: Ratio | None

    @property
    def spread(self) -> float:
        """Difference between the highest and the lowest round, as a share of the median."""
        return (self.high - self.low) / self.value


def figures(
    workload: Workload,
    seconds: Mapping[str, Sequence[float]],
    quality: Qualities = MappingProxyType({}),
) -> dict[str, Figure]:
    """The figures of one workload.

    Args:
        workload: What ran.
        seconds: Seconds of each round, by system; as many for each.
        quality: Which peers a system may be compared with.

    Returns:
        A figure for each system.
    """
    peers = [name for name in seconds if BY_NAME[name].kind == "peer"]
    found = {}
    for name, durations in seconds.items():
        values = [_value(workload, each) for each in durations]
        rivals = [peer for peer in peers if is_rival(BY_NAME[name], BY_NAME[peer], quality)]
        better = [each for each in peers if each not in rivals and each in quality]
        found[name] = Figure(
            value=statistics.median(values),
            low=min(values),
            high=max(values),
            to_rivals=_ratio(durations, {peer: seconds[peer] for peer in rivals}),
            to_better=_ratio(durations, {peer: seconds[peer] for peer in better}),
            to_peers=_ratio(durations, {peer: seconds[peer] for peer in peers}),
        )
    return found


def is_rival(
    system: SystemSpec, peer: SystemSpec, quality: Qualities = MappingProxyType({})
) -> bool:
    """Whether a system's speed may be held against a peer's: its quality is no worse.

    Where the quality of either wasn't measured, it is taken from the weights: 4 bits are compared
    with 4 bits, 8 bits with 8 and 16.
    """
    own, other = quality.get(system.name.removesuffix("-server")), quality.get(peer.name)
    if own is not None and other is not None:
        return own.is_no_worse(other)
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
