"""What a recipe will do, before it does it: the plan and its memory estimate.

Reading the plan opens the checkpoint, so everything that can be refused without building is
refused here: damaged files, remote code, an unknown architecture, a licence, a memory limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from build.artifacts.manifest import DigestCache, Inputs, digest_of, tools
from build.checkpoint import Checkpoint
from build.decoder import DecoderSpec, describe_decoder
from build.errors import BuildError, CheckpointError
from build.licence import LicenceFinding, audit
from build.quality.suite import load_suite
from build.recipe import Recipe, Target
from build.sizing import Memory, ModelShape, cpu_activations_bytes
from python_backend.artifact import file_digest, root_digest


@dataclass(frozen=True)
class Plan:
    """A recipe that can be built.

    Attributes:
        recipe: The recipe.
        inputs: What identifies the build.
        spec: The checkpoint's decoder.
        licence: What the audit found.
        memory: What serving will take.
        checkpoint_bytes: Of the checkpoint's files.
    """

    recipe: Recipe
    inputs: Inputs
    spec: DecoderSpec
    shape: ModelShape
    licence: LicenceFinding
    memory: Memory
    checkpoint_bytes: int

    def describe(self) -> str:
        """The plan, for a person to read before it is carried out."""
        recipe, memory, limits = self.recipe, self.memory, self.recipe.limits
        target, bounds = recipe.target, recipe.quality.bounds
        decided = "" if self.licence.decision == "policy" else " (overridden)"
        lines = {
            "recipe": f"{recipe.name}, for {target.engine}",
            "checkpoint": f"{recipe.checkpoint}: {self.spec.architecture}, "
            f"{self.shape.parameters / 1e6:,.1f} M parameters, {_size(self.checkpoint_bytes)}",
            "licence": f"{self.licence.licence}{decided}",
            "precision": f"weights {_weights(target)}, activations {target.activations}, "
            f"KV cache {target.kv_cache}",
            "serves": f"{limits.max_num_sequences} sequences of up to "
            f"{self.spec.context_length:,} tokens, {limits.max_num_tokens} tokens a step",
            "memory": f"{_size(memory.weights_bytes)} weights + {_size(memory.kv_cache_bytes)} KV "
            f"cache, full + {_size(memory.activations_bytes)} activations = "
            f"{_size(memory.total_bytes)}",
            "quality": f"suite {recipe.quality.suite}: perplexity at most "
            f"{bounds.max_perplexity_increase:+.1%}, agreement at least "
            f"{bounds.min_agreement:.1%}, accuracy at most {-bounds.max_accuracy_drop:.1%}",
        }
        return "\n".join(f"{name:10}  {text}" for name, text in lines.items())


def make_plan(recipe: Recipe, digests: DigestCache) -> Plan:
    """Open a recipe's checkpoint and work out what building and serving it takes.

    Raises:
        CheckpointError: The checkpoint is damaged or not supported, or wants remote code.
        LicenceError: Its licence is not allowed.
        BuildError: Serving would take more memory than the recipe allows.
    """
    folder, limits, target = recipe.checkpoint, recipe.limits, recipe.target
    with Checkpoint(folder) as checkpoint:
        _refuse_remote_code(checkpoint.config, recipe)
        spec = describe_decoder(checkpoint, limits.context_length)
        stored_bytes = checkpoint.dtype(spec.embedding).itemsize
        shape = replace(ModelShape.from_config(checkpoint.config), dtype_bytes=stored_bytes)
    licence = audit(folder, recipe.licence)
    if isinstance(recipe.quality.suite, Path):
        load_suite(recipe.quality.suite)  # a mistake in it had better not wait for the gate
    memory = Memory(
        weights_bytes=shape.weights_bytes(target.weights),
        kv_cache_bytes=shape.kv_cache_bytes(
            target.kv_cache, limits.max_num_sequences, spec.context_length
        ),
        activations_bytes=cpu_activations_bytes(
            shape,
            target.weights,
            limits.max_num_tokens + limits.max_num_sequences,
            limits.max_num_sequences,
        ),
    )
    if limits.memory_gib is not None and memory.total_bytes > limits.memory_gib * 2**30:
        raise BuildError(
            f"serving would take {memory.total_bytes / 2**30:.2f} GiB, and limits.memory_gib is "
            f"{limits.memory_gib:g}: lower limits.context_length or limits.max_num_sequences, or "
            "choose a smaller precision"
        )
    files = _files(folder)
    return Plan(
        recipe=recipe,
        inputs=_inputs(recipe, digests.digests(files)),
        spec=spec,
        shape=shape,
        licence=licence,
        memory=memory,
        checkpoint_bytes=sum(path.stat().st_size for path in files),
    )


def recipe_document(recipe: Recipe) -> dict[str, Any]:
    """The recipe for the manifest. Where files lie on this machine is no part of it."""
    document = recipe.model_dump(mode="json", exclude={"checkpoint"})
    document["quality"]["suite"] = Path(document["quality"]["suite"]).name
    if recipe.calibration.text is not None:
        document["calibration"]["text"] = recipe.calibration.text.name
    return document


def _inputs(recipe: Recipe, files: dict[str, str]) -> Inputs:
    suite, calibration = recipe.quality.suite, recipe.calibration.text
    return Inputs(
        checkpoint=root_digest(files),
        recipe=digest_of(recipe_document(recipe)),
        suite=None if isinstance(suite, str) else file_digest(suite),
        calibration=None if calibration is None else file_digest(calibration),
        tools=tools(),
    )


def _files(folder: Path) -> list[Path]:
    """The files of a checkpoint; caches that download tools leave lie in hidden folders."""
    return [path for path in folder.iterdir() if path.is_file()]


def _refuse_remote_code(config: dict[str, Any], recipe: Recipe) -> None:
    wanted = config.get("auto_map") or {}
    names = wanted.values() if isinstance(wanted, dict) else [wanted]
    modules = sorted({str(name).rpartition("--")[2].partition(".")[0] for name in names})
    refused = [module for module in modules if module not in recipe.allow_remote_code]
    if refused:
        raise CheckpointError(
            f"{recipe.checkpoint} brings its own code ({', '.join(refused)}.py), which is never "
            "run here; allow_remote_code in the recipe takes the names of modules that say the "
            "same as the architecture that is built"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 10**9 else f"{count / 1e6:,.1f} MB"


def _weights(target: Target) -> str:
    return f"int4 ({target.int4_method})" if target.weights == "int4" else target.weights
