"""The report on a store: what each precision costs in quality and gains in size and speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from build.artifacts.artifact_store import Artifact, Store
from build.build_errors import BuildError

_INK, _MUTED, _GRID = "#1f2933", "#6b7785", "#e4e8ec"
_COLOURS = ("#0b6e8f", "#7a2230", "#d1603d", "#4b7f52", "#6d4c94", "#a0762c")

_WIDEST = ("fp32", "fp16", "fp8", "int8", "int4")


def write_report(store: Store, folder: Path) -> str:
    """Write ``builds.md`` and ``builds.png`` about the newest version of each recipe and precision.

    Needs matplotlib, which is in ``requirements/dev.txt`` only.

    Returns:
        The table.

    Raises:
        BuildError: No version was measured.
    """
    artifacts = newest_artifacts(store)
    table = build_table(artifacts)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "builds.md").write_text(f"{table}\n\n![](builds.png)\n", encoding="utf-8")
    _draw(artifacts, folder / "builds.png")
    return table


def newest_artifacts(store: Store) -> list[Artifact]:
    """The newest version of each recipe and precision that was measured.

    Raises:
        BuildError: There is none.
    """
    newest: dict[tuple[str, str], Artifact] = {}
    for version in store.versions():
        artifact = store.get(version)
        if artifact.manifest.quality.engine is not None:
            newest[artifact.manifest.name, _weights(artifact)] = artifact
    artifacts = sorted(newest.values(), key=_place)
    if not artifacts:
        raise BuildError(f"{store.root} has no version that was measured")
    return artifacts


def build_table(artifacts: list[Artifact]) -> str:
    """A Markdown table: what was built, how large, how good and how fast it is."""
    rows = [
        "| recipe | weights | MB | perplexity | of the checkpoint | agreement | accuracy "
        "| of the checkpoint | tokens/s |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in artifacts:
        quality = each.manifest.quality
        if quality.engine is None or quality.reference is None:
            continue
        cells = (
            each.manifest.name,
            _weights(each),
            f"{each.size_bytes / 1e6:,.1f}",
            _perplexity(quality.engine.perplexity),
            _perplexity(quality.reference.perplexity),
            _percent(quality.agreement),
            _percent(quality.engine.accuracy),
            _percent(quality.reference.accuracy),
            f"{each.record.tokens_per_s or 0:,.0f}",
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _draw(artifacts: list[Artifact], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

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
        figure, (by_size, by_speed) = pyplot.subplots(1, 2, figsize=(11, 4.6), sharey=True)
        _scatter(by_size, artifacts, lambda each: each.size_bytes / 1e6, "engine, MB")
        _scatter(by_speed, artifacts, lambda each: each.record.tokens_per_s or 0, "output tokens/s")
        by_size.set_ylabel(_quality(artifacts)[0])
        figure.suptitle(
            "Quality against size and speed", x=0.07, ha="left", fontsize=16, weight="bold"
        )
        machine = artifacts[-1].record.machine
        figure.text(0.07, 0.885, machine, color=_MUTED)
        figure.subplots_adjust(left=0.07, right=0.97, top=0.82, bottom=0.13, wspace=0.08)
        figure.savefig(path, dpi=150, facecolor="white")
        pyplot.close(figure)


def _scatter(
    axes: Any, artifacts: list[Artifact], place: Callable[[Artifact], float], label: str
) -> None:
    names = sorted({each.manifest.name for each in artifacts})
    _, heights = _quality(artifacts)
    for name, colour in zip(names, _COLOURS * len(names), strict=False):
        own = [each for each in artifacts if each.manifest.name == name]
        points = [(place(each), heights[each.version]) for each in own]
        axes.scatter(*zip(*points, strict=True), color=colour, s=46, label=name, zorder=3)
        for each, point in zip(own, points, strict=True):
            axes.annotate(
                _weights(each), point, xytext=(7, 5), textcoords="offset points", color=colour
            )
    axes.set_xlabel(label)
    axes.set_xlim(0, 1.2 * max(map(place, artifacts)))
    axes.margins(y=0.25)
    axes.grid(color=_GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=9, loc="lower right")


def _quality(artifacts: list[Artifact]) -> tuple[str, dict[int, float]]:
    """Each version's quality in percent, by one measure: accuracy where all have it."""
    reports = {each.version: each.manifest.quality for each in artifacts}
    accuracies = {
        version: 100 * report.engine.accuracy
        for version, report in reports.items()
        if report.engine is not None and report.engine.accuracy is not None
    }
    if len(accuracies) == len(artifacts):
        return "questions answered rightly, %", accuracies
    return "greedy tokens as the checkpoint's, %", {
        version: 100 * (report.agreement or 0) for version, report in reports.items()
    }


def _weights(artifact: Artifact) -> str:
    return str(artifact.manifest.recipe["target"]["weights"])


def _place(artifact: Artifact) -> tuple[str, int]:
    """By recipe, and from the widest weights to the narrowest."""
    weights = _weights(artifact)
    return artifact.manifest.name, _WIDEST.index(weights) if weights in _WIDEST else len(_WIDEST)


def _perplexity(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
