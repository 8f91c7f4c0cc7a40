"""The picture of quality: how far each system's predictions are off, by its speed and its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.peers_report import Report

_INK, _MUTED, _GRID = "#1f2933", "#6b7785", "#e4e8ec"
_OURS, _PEER = "#0b6e8f", "#7a2230"


def draw_quality(report: Report, path: Path) -> None:
    """Write the picture as PNG. Needs matplotlib, which is in ``requirements/dev.txt`` only."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    talks = [workload for workload in report.workloads if workload.is_talk]
    axis_of: list[tuple[str, dict[str, float]]] = [
        (
            f"{talk.name}: output tokens/s, more is better",
            {name: each.value for name, each in report.figures(talk).items()},
        )
        for talk in talks
    ]
    sizes = {name: each.size_bytes / 1e6 for name, each in report.quality.items()}
    axis_of.append(("weights on the disk, MB, less is better", sizes))
    style = {"font.family": "DejaVu Sans", "font.size": 9, "text.color": _INK}
    with mpl.rc_context(style):
        figure, panels = pyplot.subplots(
            1, len(axis_of), figsize=(5.4 * len(axis_of), 6), sharey=True, squeeze=False
        )
        for axes, (title, values) in zip(panels[0], axis_of, strict=True):
            _panel(axes, report, title, values)
        panels[0, 0].set_ylabel("divergence from the checkpoint, nats a token (less is better)")
        figure.suptitle(
            "Quality against speed and bytes", x=0.012, y=0.985, ha="left", fontsize=17,
            weight="bold",
        )  # fmt: skip
        tokens = max(each.closeness.tokens for each in report.quality.values())
        figure.text(
            0.012,
            0.905,
            f"SmolLM2-135M-Instruct in 16 bits, off every grid   ·   {tokens:,} tokens of prose   ·"
            f"   {report.machine}   ·   {report.date[:10]}",
            color=_MUTED,
            va="top",
        )
        figure.text(0.985, 0.955, "Trireme", color=_OURS, ha="right", weight="bold")
        figure.text(0.985, 0.925, "peers", color=_PEER, ha="right", weight="bold")
        figure.subplots_adjust(left=0.055, right=0.985, top=0.86, bottom=0.09, wspace=0.08)
        figure.savefig(path, dpi=150, facecolor="white")
        pyplot.close(figure)


def _panel(axes: Any, report: Report, title: str, values: dict[str, float]) -> None:
    names = [name for name in report.quality if name in values]
    for name in names:
        found = report.quality[name].closeness
        color = _PEER if report.systems[name].kind == "peer" else _OURS
        axes.errorbar(
            values[name], found.divergence, yerr=found.divergence_error, fmt="o", color=color
        )
    axes.set_yscale("log")
    axes.margins(y=0.1)
    axes.set_xlim(0, 1.45 * max(values[name] for name in names))
    heights = _apart([report.quality[name].closeness.divergence for name in names])
    for name, height in zip(names, heights, strict=True):
        color = _PEER if report.systems[name].kind == "peer" else _OURS
        axes.annotate(
            report.systems[name].label,
            (values[name], height),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=8,
        )
    axes.set_xlabel(title)
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _apart(values: Sequence[float], factor: float = 1.18) -> list[float]:
    """Heights for labels on a logarithmic axis, each at least a factor above the one below."""
    heights = [0.0] * len(values)
    last = 0.0
    for place in sorted(range(len(values)), key=lambda place: values[place]):
        last = heights[place] = max(values[place], last * factor)
    return heights
