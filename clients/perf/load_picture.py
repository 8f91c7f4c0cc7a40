"""The picture of a load test: throughput and latencies against concurrency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clients.perf.load_report import Report
from clients.perf.profile import Level, Percentiles

_INK, _MUTED, _GRID = "#1f2933", "#6b7785", "#e4e8ec"
_THROUGHPUT = "#0b6e8f"
_PERCENTILES = {"p50": "#7a2230", "p90": "#d1603d", "p99": "#f0a35e"}


def draw(report: Report, path: Path) -> None:
    """Write the picture as PNG.

    Needs matplotlib, which is in ``requirements/dev.txt`` only.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    levels = report.levels
    style = {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "axes.edgecolor": _GRID,
        "axes.labelcolor": _MUTED,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
        "text.color": _INK,
    }
    with mpl.rc_context(style):
        figure, ((throughput, first), (between, whole)) = pyplot.subplots(2, 2, figsize=(11, 8))
        _throughput(throughput, levels)
        for axes, title, values in (
            (first, "Time to first token", [level.time_to_first_token_ms for level in levels]),
            (between, "Between two tokens", [level.inter_token_latency_ms for level in levels]),
            (whole, "Whole request", [level.request_latency_ms for level in levels]),
        ):
            _latency(axes, title, levels, values)
        figure.suptitle(
            f"{report.settings['model']} under load", x=0.06, ha="left", fontsize=17, weight="bold"
        )
        figure.text(
            0.06, 0.925, f"{report.machine}   ·   {report.date[:10]}", color=_MUTED, fontsize=10
        )
        figure.subplots_adjust(
            left=0.08, right=0.955, top=0.85, bottom=0.08, hspace=0.38, wspace=0.24
        )
        figure.savefig(path, dpi=150, facecolor="white")
        pyplot.close(figure)


def _throughput(axes: Any, levels: Sequence[Level]) -> None:
    rates = [level.output_tokens_per_s for level in levels]
    positions = _prepare(axes, "Throughput", "output tokens/s", levels)
    axes.plot(positions, rates, color=_THROUGHPUT, linewidth=2.2, marker="o", markersize=5)
    axes.fill_between(positions, rates, color=_THROUGHPUT, alpha=0.08, linewidth=0)
    for position, rate in zip(positions, rates, strict=True):
        axes.annotate(
            f"{rate:,.0f}",
            (position, rate),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            color=_THROUGHPUT,
            fontsize=9,
        )
    axes.set_ylim(0, max(rates) * 1.18)


def _latency(
    axes: Any, title: str, levels: Sequence[Level], values: Sequence[Percentiles | None]
) -> None:
    positions = _prepare(axes, title, "ms", levels)
    measured = [(x, value) for x, value in zip(positions, values, strict=True) if value]
    if not measured:
        return
    for name, color in _PERCENTILES.items():
        heights = [getattr(value, name) for _, value in measured]
        axes.plot(
            [x for x, _ in measured],
            heights,
            color=color,
            linewidth=2.2 if name == "p50" else 1.6,
            marker="o",
            markersize=4,
            label=name,
        )
    axes.set_ylim(0, max(value.p99 for _, value in measured) * 1.12)
    axes.legend(
        **{"loc": "lower right", "bbox_to_anchor": (1.02, 1.0), "ncols": 3, "borderaxespad": 0.2},
        **{"frameon": False, "fontsize": 9, "handlelength": 1.2, "columnspacing": 1.2},
    )


def _prepare(axes: Any, title: str, unit: str, levels: Sequence[Level]) -> range:
    """Titles, grid and ticks; returns the levels' places, one step apart whatever they are."""
    positions = range(len(levels))
    axes.set_title(title, loc="left", fontsize=12, weight="bold", pad=10, color=_INK)
    axes.set_ylabel(unit)
    axes.set_xlabel("concurrent requests")
    axes.set_xticks(positions, [str(level.concurrency) for level in levels])
    axes.margins(x=0.06)
    axes.grid(axis="y", color=_GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    return positions
