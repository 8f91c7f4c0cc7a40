"""The picture of a long run: memory, blocks and throughput over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.soak.soak_report import Report

_INK, _MUTED, _GRID = "#1f2933", "#6b7785", "#e4e8ec"
_COLORS = ("#0b6e8f", "#7a2230", "#d1603d", "#5fa8bf", "#f0a35e", "#6b7785", "#3b7d4f")


def draw(report: Report, path: Path) -> None:
    """Write the picture as PNG. Needs matplotlib, which is in ``requirements/dev.txt`` only."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    samples = report.samples
    minutes = [sample.time_s / 60 for sample in samples]
    style = {"font.family": "DejaVu Sans", "font.size": 10, "text.color": _INK}
    with mpl.rc_context(style):
        figure, (memory, blocks, rate) = pyplot.subplots(3, 1, figsize=(11, 10), sharex=True)
        for name, color in zip(samples[0].memory_bytes, _COLORS, strict=False):
            values = [sample.memory_bytes.get(name, 0) / 2**20 for sample in samples]
            _line(memory, minutes, values, name.partition(" ")[0], color)
        _finish(memory, "Memory of each process", "MiB")
        for name, label, color in (
            ("kv_cache_used_blocks", "used", _COLORS[0]),
            ("kv_cache_cached_blocks", "cached prefixes", _COLORS[3]),
            ("kv_cache_budget_blocks", "in all", _COLORS[5]),
        ):
            _line(blocks, minutes, [sample.gauges[name] for sample in samples], label, color)
        _finish(blocks, "Blocks of the KV cache", "blocks")
        for name, color in (
            ("completed", _COLORS[0]),
            ("left", _COLORS[3]),
            ("failed", _COLORS[1]),
        ):
            _line(rate, minutes[1:], _rates(report, name), name, color)
        _finish(rate, "Requests", "requests/s")
        rate.set_xlabel("minutes", color=_MUTED)
        verdict = "memory flat, no errors" if not report.problems else "; ".join(report.problems)
        figure.suptitle("A long run", x=0.07, y=0.975, ha="left", fontsize=17, weight="bold")
        figure.text(
            0.07,
            0.93,
            f"{report.concurrency} concurrent, mixed   ·   {report.machine}   ·   "
            f"{report.date[:10]}   ·   {verdict[:90]}",
            color=_MUTED,
        )
        figure.subplots_adjust(left=0.07, right=0.97, top=0.88, bottom=0.06, hspace=0.3)
        figure.savefig(path, dpi=150, facecolor="white")
        pyplot.close(figure)


def _rates(report: Report, name: str) -> list[float]:
    pairs = zip(report.samples[:-1], report.samples[1:], strict=True)
    return [
        (after.counts[name] - before.counts[name]) / (after.time_s - before.time_s)
        for before, after in pairs
    ]


def _line(
    axes: Any, minutes: Sequence[float], values: Sequence[float], label: str, color: str
) -> None:
    axes.plot(minutes, values, color=color, linewidth=1.8, label=label)


def _finish(axes: Any, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, weight="bold", color=_INK)
    axes.set_ylabel(unit, color=_MUTED)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01, y=0.15)
    axes.grid(axis="y", color=_GRID)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_MUTED)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.legend(
        **{"loc": "lower right", "bbox_to_anchor": (1.0, 0.98), "ncols": 7, "frameon": False},
        **{"fontsize": 9, "handlelength": 1.2, "columnspacing": 1.2},
    )
