"""The picture of a comparison: one panel for each workload, one bar for each system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.peers_report import Report
from benchmarks.peers.peers_results import Figure
from benchmarks.workloads import Workload

_INK, _MUTED, _GRID = "#1f2933", "#6b7785", "#e4e8ec"
_OURS = {"engine": "#0b6e8f", "server": "#5fa8bf"}
_PEER = "#b9c2cb"
_BEST_PEER = "#7a2230"
_COLUMNS = 3
_LEGEND = {
    "Trireme's engine": _OURS["engine"],
    "Trireme's whole server": _OURS["server"],
    "the best peer": _BEST_PEER,
    "other peers": _PEER,
}


def draw(report: Report, path: Path) -> None:
    """Write the picture as PNG. Needs matplotlib, which is in ``requirements/dev.txt`` only."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    workloads = report.workloads
    rows = -(-len(workloads) // _COLUMNS)
    height = 0.9 + rows * (0.9 + 0.26 * len(report.systems))
    style = {"font.family": "DejaVu Sans", "font.size": 9, "text.color": _INK}
    with mpl.rc_context(style):
        figure, panels = pyplot.subplots(
            rows, _COLUMNS, figsize=(14, height), squeeze=False, sharey=True
        )
        for axes, workload in zip(panels.flat, workloads, strict=False):
            _panel(axes, report, workload)
        panels[0, 0].invert_yaxis()  # of all: they share it
        for axes in panels.flat[len(workloads) :]:
            axes.set_visible(False)
        figure.suptitle(
            "Trireme beside its peers", x=0.012, y=1 - 0.12 / height, ha="left", va="top",
            fontsize=17, weight="bold",
        )  # fmt: skip
        figure.text(
            0.012,
            1 - 0.52 / height,
            f"Qwen2.5-0.5B's shape, random weights   ·   {report.machine}   ·   {report.date[:10]}"
            "   ·   bars: median of the rounds, lines: lowest to highest",
            color=_MUTED,
            va="top",
        )
        figure.legend(
            handles=[Patch(color=color, label=label) for label, color in _LEGEND.items()],
            title="× as fast as the best peer of like precision", title_fontsize=9,
            loc="upper right", bbox_to_anchor=(0.99, 1 - 0.04 / height), ncols=2, frameon=False,
        )  # fmt: skip
        figure.subplots_adjust(
            left=0.125, right=0.985, top=1 - 1.15 / height, bottom=0.25 / height,
            wspace=0.06, hspace=0.22,
        )  # fmt: skip
        figure.savefig(path, dpi=150, facecolor="white")
        pyplot.close(figure)


def _panel(axes: Any, report: Report, workload: Workload) -> None:
    found = report.figures(workload)
    best = _best_peer(report, workload, found)
    for place, name in enumerate(report.systems):
        if name not in found:
            continue
        figure = found[name]
        system = report.systems[name]
        color = _OURS.get(system.kind, _BEST_PEER if name == best else _PEER)
        axes.barh(place, figure.value, color=color, height=0.72)
        axes.plot([figure.low, figure.high], [place, place], color=_INK, linewidth=1)
        axes.annotate(
            _words(workload, figure, peer=system.kind == "peer"),
            (max(figure.value, figure.high), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=_INK if system.kind != "peer" or name == best else _MUTED,
        )
    detail = f"{workload.concurrent} × ({workload.shared + workload.own} → {workload.output})"
    if workload.shared:
        detail += f", {workload.shared} shared"
    unit = "seconds, less is better" if workload.is_latency else "output tokens/s"
    axes.set_title(workload.name, loc="left", fontsize=12, weight="bold", color=_INK, pad=18)
    axes.text(0, 1.0, f"{detail}   ·   {unit}", transform=axes.transAxes, color=_MUTED, va="bottom")
    labels = [system.label for system in report.systems.values()]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlim(0, 1.32 * max(figure.high for figure in found.values()))
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)


def _best_peer(report: Report, workload: Workload, found: dict[str, Figure]) -> str | None:
    peers = [name for name in found if report.systems[name].kind == "peer"]
    if not peers:
        return None
    choose = min if workload.is_latency else max
    return choose(peers, key=lambda name: found[name].value)


def _words(workload: Workload, figure: Figure, peer: bool) -> str:
    value = f"{figure.value:.3f}" if workload.is_latency else f"{figure.value:,.0f}"
    if peer or figure.to_rivals is None:
        return value
    return f"{value}   × {figure.to_rivals.value:.2f}"
