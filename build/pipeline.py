"""From a recipe to a signed version: plan, build, measure, sign, publish."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from build.artifacts.manifest import (
    MANIFEST_FILE,
    RECORD_FILE,
    BuildRecord,
    Manifest,
    digest_of,
)
from build.artifacts.signing import sign
from build.artifacts.store import Artifact, Staging, Store
from build.plan import Plan, recipe_document
from build.quality.figures import QualityReport
from python_backend.artifact import file_digest


@dataclass(frozen=True)
class Workshop:
    """Where builds take place.

    Attributes:
        store: Takes the versions.
        key: Signs them.
        cache: A folder for what would otherwise be computed again.
        progress: Called with the layers written, and of all layers.
        say: Told what is being done.
    """

    store: Store
    key: ec.EllipticCurvePrivateKey
    cache: Path
    progress: Callable[[int, int], None]
    say: Callable[[str], None]


def build(plan: Plan, workshop: Workshop, quality_off: str | None = None) -> Artifact:
    """Build a plan, or find the version that the same inputs gave.

    Args:
        plan: What to build.
        workshop: Where.
        quality_off: A person's reason to publish without measuring; None measures.

    Returns:
        The version, complete and signed. Until it is complete the store has no trace of it.

    Raises:
        BuildError: The quality gate refuses the engine, or another build is at work.
        OSError: The disk is full, or a folder cannot be written.
    """
    known = workshop.store.find(plan.inputs)
    if known is not None and (quality_off or known.manifest.quality.status == "passed"):
        return known
    with workshop.store.staging() as staging:
        return _build(plan, workshop, staging, quality_off)


def _build(plan: Plan, workshop: Workshop, staging: Staging, quality_off: str | None) -> Artifact:
    from build.engine import build_engine  # takes half a second that a known version need not wait

    start = time.perf_counter()
    recipe, folder = plan.recipe, staging.folder
    workshop.say(plan.describe())
    build_engine(
        recipe.checkpoint,
        folder,
        recipe.target.weights,
        context_length=recipe.limits.context_length,
        kv_cache_dtype="int8" if recipe.target.kv_cache == "int8" else "float32",
        calibration_text=recipe.calibration.text,
        int4_method=recipe.target.int4_method,
        progress=workshop.progress,
    )
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    quality, tokens_per_s = _measure(plan, workshop, folder, quality_off)
    Manifest(
        name=recipe.name,
        inputs=plan.inputs,
        recipe=recipe_document(recipe),
        architecture=plan.spec.architecture,
        parameters=plan.shape.parameters,
        licence=plan.licence,
        memory=plan.memory,
        quality=quality,
        files=files,
    ).write(folder / MANIFEST_FILE)
    BuildRecord(
        version=staging.version,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        duration_s=round(time.perf_counter() - start, 2),
        machine=f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        tokens_per_s=tokens_per_s,
    ).write(folder / RECORD_FILE)
    sign(folder, f"{recipe.name}-{staging.version}", workshop.key)
    return staging.publish()


def _measure(
    plan: Plan, workshop: Workshop, engine: Path, quality_off: str | None
) -> tuple[QualityReport, float | None]:
    if quality_off is not None:
        workshop.say(f"quality: NOT measured ({quality_off})")
        return QualityReport(status="off", reason=quality_off), None
    from build.quality.gate import examine
    from build.quality.suite import load_suite

    quality = plan.recipe.quality
    suite = load_suite(quality.suite)
    asked = [suite.digest, plan.inputs.checkpoint, plan.inputs.tools, plan.spec.context_length]
    remembered = workshop.cache / "quality" / f"{digest_of(asked)}.json"
    report, tokens_per_s = examine(
        engine, plan.recipe.checkpoint, suite, quality.bounds, remembered, workshop.say
    )
    return report, round(tokens_per_s, 1)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
