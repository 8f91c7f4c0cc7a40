"""From a recipe to a signed version: plan, build, measure, sign, publish."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from build.artifacts.artifact_store import Artifact, Staging, Store, link_or_copy
from build.artifacts.manifest import (
    MANIFEST_FILE,
    RECORD_FILE,
    BuildRecord,
    Manifest,
    digest_of,
)
from build.artifacts.signing import sign
from build.build_errors import BuildError
from build.plan import Plan, recipe_document
from build.progress import Progress
from build.quality.figures import QualityReport
from build.recipe import OnnxRecipe, TensorRTLLMRecipe
from contract.errors import EngineError
from contract.version import VERSION
from python_backend.artifact import artifact_files, file_digest
from python_backend.engine.cuda_device import CudaDevice
from python_backend.engine.engine_config import ServingLimits
from python_backend.engine.processor import processor_name


@dataclass(frozen=True)
class Workshop:
    """Where builds take place.

    Attributes:
        store: Takes the versions.
        key: Signs them.
        cache: A folder for what would otherwise be computed again.
        modelopt: The Python of the environment that quantizes for TensorRT-LLM.
        progress: Told how far long steps are.
        say: Told what is being done.
    """

    store: Store
    key: ec.EllipticCurvePrivateKey
    cache: Path
    modelopt: Path
    progress: Progress
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
        UnfinishedError: The engine has to be built on another machine.
        OSError: The disk is full, or a folder cannot be written.
    """
    known = workshop.store.find(plan.inputs)
    measurable = isinstance(plan.recipe, OnnxRecipe)
    if known is not None and (
        quality_off or not measurable or known.manifest.quality.status == "passed"
    ):
        return known
    with workshop.store.staging() as staging:
        start = time.perf_counter()
        workshop.say(plan.describe())
        if isinstance(plan.recipe, TensorRTLLMRecipe):
            quality, tokens_per_s = _build_tensorrt_llm(
                plan, plan.recipe, workshop, staging, quality_off
            )
        else:
            assert isinstance(plan.recipe, OnnxRecipe)
            if quality_off is None and plan.recipe.target.execution_provider == "cuda":
                _check_gpu()
            build_onnx(plan, plan.recipe, staging.folder, workshop.progress)
            quality, tokens_per_s = _measure(plan, workshop, staging.folder, quality_off)
        _describe(plan, staging, start, quality, tokens_per_s)
        sign(staging.folder, f"{plan.recipe.name}-{staging.version}", workshop.key)
        artifact = staging.publish()
        shutil.rmtree(_unfinished(plan, staging), ignore_errors=True)
        return artifact


def _unfinished(plan: Plan, staging: Staging) -> Path:
    """Where a plan's parts wait for one that this machine can't make."""
    return staging.unfinished(digest_of(plan.inputs.model_dump())[:16])


def _check_gpu() -> None:
    """The gate measures through the engine that serves, so it is asked for before the build."""
    try:
        CudaDevice(0)
    except EngineError as error:
        raise BuildError(
            f"{error}. The quality gate measures an engine for CUDA on a GPU. QUALITY=off "
            "REASON='…' builds and publishes it without"
        ) from None


def build_onnx(plan: Plan, recipe: OnnxRecipe, folder: Path, progress: Progress) -> None:
    """Build the engine of a plan into a folder, without measuring it."""
    # It takes half a second, which a known version need not wait.
    from build.engine_folder import build_engine

    build_engine(
        recipe.checkpoint,
        folder,
        recipe.target.weights,
        context_length=recipe.limits.context_length,
        kv_cache_dtype=recipe.target.kv_cache_dtype,
        calibration_text=recipe.calibration.text,
        int4_method=recipe.target.int4_method,
        smoothing=recipe.target.smoothing,
        head=recipe.target.head,
        execution_provider=recipe.target.execution_provider,
        limits=ServingLimits(
            max_num_sequences=recipe.limits.max_num_sequences,
            max_num_tokens=recipe.limits.max_num_tokens,
            kv_cache_bytes=plan.memory.kv_cache_bytes,
        ),
        progress=progress,
    )


def _build_tensorrt_llm(
    plan: Plan,
    recipe: TensorRTLLMRecipe,
    workshop: Workshop,
    staging: Staging,
    quality_off: str | None,
) -> tuple[QualityReport, None]:
    """Fill the version from a folder that outlasts a build which can't be ended here."""
    from build.tensorrt_llm.builder import build_tensorrt_llm

    work = _unfinished(plan, staging)
    build_tensorrt_llm(recipe, work, workshop.modelopt, workshop.say)
    if quality_off is None:
        raise BuildError(
            "the quality gate runs on the CPU engine and can't measure one for TensorRT-LLM. What "
            f"was built waits in {work}; QUALITY=off REASON='…' publishes it and keeps the reason "
            "in the manifest"
        )
    for folder in sorted(work.iterdir()):
        if not folder.name.startswith("."):  # a part that was not finished
            shutil.copytree(folder, staging.folder / folder.name, copy_function=link_or_copy)
    return QualityReport(status="off", reason=quality_off), None


def _describe(
    plan: Plan, staging: Staging, start_s: float, quality: QualityReport, tokens_per_s: float | None
) -> None:
    """Write what the version says about itself."""
    recipe, folder = plan.recipe, staging.folder
    Manifest(
        name=recipe.name,
        inputs=plan.inputs,
        recipe=recipe_document(recipe),
        architecture=plan.spec.architecture,
        parameters=plan.shape.parameters,
        licence=plan.licence,
        memory=plan.memory,
        quality=quality,
        files={name: file_digest(folder / name) for name in artifact_files(folder)},
    ).write(folder / MANIFEST_FILE)
    BuildRecord(
        version=staging.version,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        duration_s=round(time.perf_counter() - start_s, 2),
        machine=f"{processor_name()}, {len(os.sched_getaffinity(0))} cores",
        tokens_per_s=tokens_per_s,
        trireme=VERSION,
    ).write(folder / RECORD_FILE)


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
        engine,
        plan.recipe.checkpoint,
        suite,
        quality.bounds,
        remembered,
        workshop.say,
        workshop.progress,
    )
    return report, round(tokens_per_s, 1)
