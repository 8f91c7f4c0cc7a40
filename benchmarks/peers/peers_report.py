"""The report of a comparison: every round's figure, what ran where and how, and a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.bench_checkpoint import CONFIG
from benchmarks.hardware import WEIGHT_BYTES, Decoder, Hardware, bound_s
from benchmarks.peers.peers_quality import Quality, table
from benchmarks.peers.peers_results import Figure, Ratio, Seconds, figures, server_share
from benchmarks.peers.systems import BY_NAME, SystemSpec
from benchmarks.workloads import TALKS, WORKLOADS, Workload
from clients.perf.load_report import Machine, revision

KV_BYTES_SETTING = "KV cache bytes a token"
"""The setting in which Trireme's engine says what its keys and values take."""


@dataclass(frozen=True)
class SystemReport:
    """One system as it ran.

    Attributes:
        label: For people.
        kind: ``engine``, ``server`` or ``peer``.
        precision: Of the weights.
        versions: Of its packages.
        settings: As the worker says.
        load_s: Seconds from the worker's start of loading until it could answer.
    """

    label: str
    kind: str
    precision: str
    versions: dict[str, str]
    settings: dict[str, Any]
    load_s: float

    @classmethod
    def of(cls, system: SystemSpec, ready: Mapping[str, Any]) -> SystemReport:
        """Put together what is known and what the worker said once it was ready."""
        return cls(system.label, system.kind, system.precision, **ready)


@dataclass(frozen=True)
class Report:
    """One comparison.

    Attributes:
        date: When it began, ISO 8601.
        revision: The checkout's commit.
        machine: Where.
        hardware: What the machine can do, measured beside.
        seed: Of the prompts.
        systems: What ran.
        seconds: Of every round, by workload and system.
        failures: What was left out, by system, with the reason.
        quality: What each system makes of the real checkpoint.
    """

    date: str
    revision: str | None
    machine: Machine
    hardware: Hardware
    seed: int
    systems: dict[str, SystemReport]
    seconds: Seconds
    failures: dict[str, str] = field(default_factory=dict)
    quality: dict[str, Quality] = field(default_factory=dict)

    @classmethod
    def of(cls, started: datetime, **found: Any) -> Report:
        """Put figures together with what this process knows of its surroundings."""
        date = started.astimezone(timezone.utc).isoformat(timespec="seconds")
        return cls(date=date, revision=revision(), machine=Machine.this(), **found)

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read a report that ``to_json`` wrote.

        Raises:
            OSError: The file can't be read.
            ValueError: It is not such a report.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                machine=Machine(**found["machine"]),
                hardware=Hardware(**found["hardware"]),
                systems={name: SystemReport(**each) for name, each in found["systems"].items()},
                quality={
                    name: Quality.load(each) for name, each in found.get("quality", {}).items()
                },
                **{key: found[key] for key in ("date", "revision", "seed", "seconds", "failures")},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a report of a comparison: {error}") from None

    def extended(self, other: Report) -> Report:
        """This report and what another measured besides; where both have a workload, the other's.

        A workload's ratios are within its own rounds, so workloads need not have the same systems.
        """
        return replace(
            other,
            hardware=self.hardware.best(other.hardware),
            systems={**self.systems, **other.systems},
            seconds={**self.seconds, **other.seconds},
            failures={**self.failures, **other.failures},
            quality={**self.quality, **other.quality},
        )

    @property
    def workloads(self) -> list[Workload]:
        """The workloads that ran, in the table's order."""
        return [each for each in (*WORKLOADS, *TALKS) if each.name in self.seconds]

    def figures(self, workload: Workload) -> dict[str, Figure]:
        """The figures of one workload, by system."""
        return figures(workload, self.seconds[workload.name], self.quality)

    def bound_share(self, workload: Workload, name: str) -> float | None:
        """The share of the hardware's bound that one of our engines reaches in the median round."""
        kv_bytes = self.systems[name].settings.get(KV_BYTES_SETTING)
        if kv_bytes is None or workload.is_talk:  # another model than the bound is of
            return None
        decoder = Decoder.of(CONFIG)
        seconds = bound_s(
            workload,
            decoder,
            self.hardware,
            WEIGHT_BYTES[self.systems[name].precision],
            kv_bytes / decoder.kv_values,
        )
        if name not in self.seconds[workload.name]:
            return None
        value = self.figures(workload)[name].value
        reached_s = value if workload.is_latency else workload.output_tokens / value
        return seconds / reached_s

    def server_shares(self) -> dict[str, dict[str, float]]:
        """Each server's share of its own engine's throughput, by server and workload."""
        shares = {
            name: server_share(self.seconds, name.removesuffix("-server"), name)
            for name, system in self.systems.items()
            if system.kind == "server"
        }
        return {name: share for name, share in shares.items() if share}

    def to_json(self) -> str:
        """The whole report, for programs."""
        summary = {
            workload.name: {
                name: {
                    **asdict(figure),
                    "unit": _unit(workload),
                    "spread": figure.spread,
                    "bound_share": self.bound_share(workload, name),
                }
                for name, figure in self.figures(workload).items()
            }
            for workload in self.workloads
        }
        content = {
            **asdict(self),
            "workloads": [asdict(workload) for workload in self.workloads],
            "figures": summary,
            "server_share": self.server_shares(),
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """Tables, for people."""
        lines = ["# Trireme beside its peers"]
        if self.workloads:
            lines += ["", *self._figure_table()]
        if self.quality:
            lines += ["", *self._quality_table()]
        ours = [name for name, system in self.systems.items() if system.kind != "peer"]
        if ours and self.workloads:
            lines += ["", *self._ratio_table(ours)]
        if self.server_shares():
            lines += ["", *self._server_table()]
        counts = {len(each) for by in self.seconds.values() for each in by.values()}
        rounds = ", ".join(map(str, sorted(counts)))
        hardware = self.hardware
        lines += [
            "",
            f"- machine: {self.machine}; measured beside: memory "
            f"{hardware.read_bytes_per_s / 1e9:.1f} GB/s, int8 "
            f"{hardware.int8_operations_per_s / 1e9:,.0f} GOP/s, fp32 "
            f"{hardware.fp32_operations_per_s / 1e9:,.0f} GFLOP/s on {hardware.cores} cores",
            f"- date: {self.date}; revision: {self.revision or 'unknown'}; rounds: {rounds}; "
            f"seed of the prompts: {self.seed}",
            "- versions: " + "; ".join(_versions(name, each) for name, each in self._by_versions()),
        ]
        lines += [
            f"- left out: {name}: {reason.splitlines()[0]}"
            for name, reason in self.failures.items()
        ]
        return "\n".join([*lines, ""])

    def _figure_table(self) -> list[str]:
        head = ["system", *map(_title, self.workloads)]
        rows = []
        for name, system in self.systems.items():
            found = [self.figures(workload).get(name) for workload in self.workloads]
            cells = [
                f"{_shown(workload, figure.value)} (±{figure.spread / 2:.0%})" if figure else "–"
                for workload, figure in zip(self.workloads, found, strict=True)
            ]
            rows.append([system.label, *cells])
        return [
            "Median of the rounds, and half the range between the lowest and the highest.",
            "",
            *_table(head, rows),
        ]

    def _quality_table(self) -> list[str]:
        talks = [workload for workload in self.workloads if workload.is_talk]
        columns = {
            _title(talk): {
                name: _shown(talk, figure.value) for name, figure in self.figures(talk).items()
            }
            for talk in talks
        }
        labels = {name: system.label for name, system in self.systems.items()}
        tokens = {each.closeness.tokens for each in self.quality.values()}
        rows = table(self.quality, labels, columns)
        return [
            f"Quality on the real checkpoint, {', '.join(f'{each:,}' for each in tokens)} tokens "
            "of prose beside the same weights in float32, with standard errors; and speed on it, "
            "real questions with answers that end by themselves.",
            "",
            *_table(rows[0], rows[1:]),
        ]

    def _ratio_table(self, names: Sequence[str]) -> list[str]:
        rows = []
        for name in names:
            label = self.systems[name].label
            found = [self.figures(workload).get(name) for workload in self.workloads]
            to_rivals = [_ratio(each.to_rivals if each else None) for each in found]
            if not self.quality:
                rows.append([label, "comparable peers", *to_rivals])
                to_peers = [_ratio(each.to_peers if each else None) for each in found]
                rows.append([label, "all peers", *to_peers])
            else:
                rows.append([label, "peers no better", *to_rivals])
                to_better = [_ratio(each.to_better if each else None) for each in found]
                rows.append([label, "better peers (no claim)", *to_better])
            shares = [self.bound_share(workload, name) for workload in self.workloads]
            if any(shares):
                rows.append([label, "hardware's bound", *map(_share, shares)])
        beside = (
            "the fastest peer whose predictions are no nearer to the checkpoint's, which is what "
            "may be claimed, and as the fastest of the nearer ones, which is no claim"
            if self.quality
            else "the best peer of comparable precision (int4 beside int4, int8 beside int8 and "
            "bf16) and as the best of all"
        )
        return [
            f"How many times as fast as {beside}: the median of the rounds' own ratios; and the "
            "share of the hardware's bound that is reached.",
            "",
            *_table(["system", "beside", *(each.name for each in self.workloads)], rows),
        ]

    def _server_table(self) -> list[str]:
        rows = [
            [self.systems[name].label, *(_share(share.get(w.name)) for w in self.workloads)]
            for name, share in self.server_shares().items()
        ]
        return [
            "The whole server's throughput as a share of the engine's in process.",
            "",
            *_table(["server", *(workload.name for workload in self.workloads)], rows),
        ]

    def _by_versions(self) -> list[tuple[str, SystemReport]]:
        """One system for each set of versions: those of one environment share theirs."""
        seen: dict[str, tuple[str, SystemReport]] = {}
        for name, system in self.systems.items():
            seen.setdefault(json.dumps(system.versions), (name, system))
        return list(seen.values())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _title(workload: Workload) -> str:
    return f"{workload.name}, {_unit(workload)}"


def _unit(workload: Workload) -> str:
    return "s" if workload.is_latency else "tok/s"


def _shown(workload: Workload, value: float) -> str:
    return f"{value:.3f}" if workload.is_latency else f"{value:,.0f}"


def _ratio(ratio: Ratio | None) -> str:
    return "–" if ratio is None else f"{ratio.value:.2f} × {BY_NAME[ratio.best].label}"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _versions(name: str, system: SystemReport) -> str:
    packages = ", ".join(f"{package} {version}" for package, version in system.versions.items())
    return f"{BY_NAME[name].worker}: {packages}"
