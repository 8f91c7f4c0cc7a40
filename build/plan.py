"""What a recipe will do, before it does it: the plan and its memory estimate.

Reading the plan opens the checkpoint, so everything that can be refused without building is
refused here: damaged files, remote code, an unknown architecture, a licence, a memory limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from build.artifacts.manifest import DigestCache, Inputs, digest_of, tools
from build.build_errors import BuildError, CheckpointError
from build.checkpoint import Checkpoint
from build.decoder import DecoderSpec, describe_decoder
from build.licence import LicenceFinding, audit
from build.progress import Progress, silent
from build.quality.suite import load_suite
from build.recipe import MOST_CONTEXT, OnnxRecipe, Recipe, TensorRTLLMRecipe
from build.sizing import (
    GPUS,
    KVFormat,
    Memory,
    ModelShape,
    WeightFormat,
    cpu_activations_bytes,
    gpu_bytes,
    usable_bytes,
)
from build.tensorrt_llm.trtllm_config import check_architecture, check_mapping
from build.tensorrt_llm.trtllm_settings import MODELOPT, RELEASE
from python_backend.artifact import file_digest, root_digest
from python_backend.text.tokenizer import TextTokenizer


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
        notes: What of the checkpoint is ignored, and what else a person should know of it.
    """

    recipe: Recipe
    inputs: Inputs
    spec: DecoderSpec
    shape: ModelShape
    licence: LicenceFinding
    memory: Memory
    checkpoint_bytes: int
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """The plan, for a person to read before it is carried out."""
        recipe, limits, target = self.recipe, self.recipe.limits, self.recipe.target
        decided = "" if self.licence.decision == "policy" else " (overridden)"
        lines = {
            "recipe": f"{recipe.name}, for {_runtime(recipe)}",
            "checkpoint": f"{recipe.checkpoint}: {self.spec.architecture}, "
            f"{self.shape.parameters / 1e6:,.1f} M parameters, {_size(self.checkpoint_bytes)}",
            "licence": f"{self.licence.licence}{decided}",
            "precision": f"weights {_weights(recipe)}, activations {target.activations}, "
            f"KV cache {target.kv_cache}",
            "serves": f"{limits.max_num_sequences} sequences of up to "
            f"{self.spec.context_length:,} tokens, {limits.max_num_tokens} tokens a step",
            "memory": self._memory_line(),
        }
        if isinstance(recipe, TensorRTLLMRecipe):
            lines["GPUs"] = _gpus_line(recipe, self.shape, self.memory)
            lines["quality"] = "not measured: the gate runs on the CPU engine"
        else:
            bounds = recipe.quality.bounds
            lines["quality"] = (
                f"suite {recipe.quality.suite}: perplexity at most "
                f"{bounds.max_perplexity_increase:+.1%}, agreement at least "
                f"{bounds.min_agreement:.1%}, accuracy at most {-bounds.max_accuracy_drop:.1%}"
            )
        rows = [*lines.items(), *(("note", note) for note in self.notes)]
        return "\n".join(f"{name:10}  {text}" for name, text in rows)

    def _memory_line(self) -> str:
        memory, limits, context = self.memory, self.recipe.limits, self.spec.context_length
        kv = _kv_format(self.recipe)
        every = self.shape.kv_cache_bytes(kv, limits.max_num_sequences, context)
        room = "full"
        if memory.kv_cache_bytes < every:
            tokens = memory.kv_cache_bytes // self.shape.kv_bytes_per_token(kv)
            room = f"{tokens:,} of {limits.max_num_sequences * context:,} tokens"
        return (
            f"{_size(memory.weights_bytes)} weights + {_size(memory.kv_cache_bytes)} KV cache, "
            f"{room} + {_size(memory.activations_bytes)} activations = {_size(memory.total_bytes)}"
        )


def make_plan(recipe: Recipe, digests: DigestCache, progress: Progress = silent) -> Plan:
    """Open a recipe's checkpoint and work out what building and serving it takes.

    Raises:
        CheckpointError: The checkpoint is damaged or not supported, or wants remote code.
        LicenceError: Its licence is not allowed.
        BuildError: Serving would take more memory than the recipe allows, or the model doesn't
            divide among so many GPUs.
    """
    folder = recipe.checkpoint
    with Checkpoint(folder) as checkpoint:
        _refuse_remote_code(checkpoint.config, recipe)
        spec = describe_decoder(checkpoint, recipe.limits.context_length)
        stored_bytes = checkpoint.dtype(spec.decoder.embedding).itemsize
        tied = spec.decoder.lm_head.weights == (spec.decoder.embedding,)
        shape = replace(
            ModelShape.from_config(checkpoint.config), dtype_bytes=stored_bytes, tied=tied
        )
        notes = (*spec.notes, *_sampling_note(checkpoint.generation_config))
        if isinstance(recipe, TensorRTLLMRecipe) and spec.settings.tie_word_embeddings > tied:
            raise CheckpointError(
                f"{folder} has an output projection that is not its embedding, but its config.json "
                "says tie_word_embeddings: set that to false, so that TensorRT-LLM reads both"
            )
        if isinstance(recipe, TensorRTLLMRecipe) and "trtllm" in recipe.target.forms:
            check_architecture(checkpoint.config)
            check_mapping(checkpoint.config, recipe.target)
    if spec.context_length > MOST_CONTEXT:
        raise BuildError(
            f"{folder} was made for {spec.context_length:,} tokens: set limits.context_length, to "
            f"at most {MOST_CONTEXT:,}"
        )
    TextTokenizer.load(folder)  # what can't be read had better not wait for the gate, either
    licence = audit(folder, recipe.licence)
    if isinstance(recipe.quality.suite, Path):
        load_suite(recipe.quality.suite)  # a mistake in it had better not wait for the gate
    memory = _memory(recipe, shape, spec.context_length)
    _refuse_more_memory(recipe, shape, memory)
    files = _files(folder)
    return Plan(
        recipe=recipe,
        inputs=_inputs(recipe, digests.digests(files, progress)),
        spec=spec,
        shape=shape,
        licence=licence,
        memory=memory,
        checkpoint_bytes=sum(path.stat().st_size for path in files),
        notes=notes,
    )


_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "suppress_tokens",
    "bad_words_ids",
)


def _sampling_note(generation: Mapping[str, Any]) -> list[str]:
    """Transformers samples by the file where a call says nothing; here requests say all of it."""
    said = [f"{name} {generation[name]}" for name in _SAMPLING if generation.get(name)]
    return [f"requests say how to sample, not generation_config.json: {', '.join(said)}"] * bool(
        said
    )


_KV_CACHE_BYTES = 1 << 30
"""The KV cache of an engine on a CPU whose recipe says nothing of memory, if it needs so much."""

_MODELOPT_WEIGHTS: dict[str, WeightFormat] = {
    "none": "bf16",
    "fp8": "fp8",
    "int8_smoothquant": "int8_sq",
    "int4_awq": "int4_awq",
    "nvfp4": "nvfp4",
}


def _memory(recipe: Recipe, shape: ModelShape, context_length: int) -> Memory:
    limits, kv = recipe.limits, _kv_format(recipe)
    sequences, tokens = limits.max_num_sequences, limits.max_num_tokens
    kv_cache_bytes = shape.kv_cache_bytes(kv, sequences, context_length)
    if isinstance(recipe, TensorRTLLMRecipe):
        return Memory(
            weights_bytes=shape.weights_bytes(_MODELOPT_WEIGHTS[recipe.target.weights]),
            kv_cache_bytes=kv_cache_bytes,
            activations_bytes=shape.activations_bytes(tokens, sequences, 2),
        )
    assert isinstance(recipe, OnnxRecipe)
    weights, cuda = recipe.target.weights, recipe.target.execution_provider == "cuda"
    if limits.memory_gib is None:
        kv_cache_bytes = min(kv_cache_bytes, _KV_CACHE_BYTES)
    return Memory(
        weights_bytes=shape.weights_bytes(
            "fp8_block" if weights == "fp8" else weights,
            "int8_block" if recipe.target.head == "int8_block" else None,
        ),
        kv_cache_bytes=kv_cache_bytes,
        activations_bytes=shape.activations_bytes(tokens + sequences, sequences, 2)
        if cuda
        else cpu_activations_bytes(shape, weights, tokens + sequences, sequences),
    )


def _kv_format(recipe: Recipe) -> KVFormat:
    kv = recipe.target.kv_cache
    return "fp16" if kv == "auto" else kv


def _refuse_more_memory(recipe: Recipe, shape: ModelShape, memory: Memory) -> None:
    most_gib = recipe.limits.memory_gib
    wanted, where = memory.total_bytes, ""
    if isinstance(recipe, TensorRTLLMRecipe):
        target = recipe.target
        wanted = gpu_bytes(shape, memory, target.tensor_parallel, target.pipeline_parallel)
        where = " of each GPU"
    if most_gib is not None and wanted > most_gib * 2**30:
        raise BuildError(
            f"serving would take {wanted / 2**30:.2f} GiB{where}, and limits.memory_gib is "
            f"{most_gib:g}: lower limits.context_length or limits.max_num_sequences, or "
            "choose a smaller precision"
        )


def _gpus_line(recipe: TensorRTLLMRecipe, shape: ModelShape, memory: Memory) -> str:
    target = recipe.target
    wanted = gpu_bytes(shape, memory, target.tensor_parallel, target.pipeline_parallel)
    holding = [gpu for gpu in GPUS if usable_bytes(gpu) >= wanted]
    return (
        f"{target.world_size} (tensor parallel {target.tensor_parallel}, pipeline parallel "
        f"{target.pipeline_parallel}), {_size(wanted)} of each: "
        f"{', '.join(holding) or 'more than any of the list has'}"
    )


def recipe_document(recipe: Recipe) -> dict[str, Any]:
    """The recipe for the manifest. Where files lie on this machine is no part of it."""
    document = recipe.model_dump(mode="json", exclude={"checkpoint", "package"})
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
        tools=tools() | _gpu_tools(recipe),
    )


def _gpu_tools(recipe: Recipe) -> dict[str, str]:
    if isinstance(recipe, TensorRTLLMRecipe):
        return {"modelopt": MODELOPT, "tensorrt_llm": RELEASE}
    return {}


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


def _runtime(recipe: Recipe) -> str:
    if isinstance(recipe, OnnxRecipe):
        return f"onnxruntime on {recipe.target.execution_provider}"
    return recipe.target.engine


def _weights(recipe: Recipe) -> str:
    target = recipe.target
    if isinstance(recipe, OnnxRecipe) and target.weights == "int4":
        head = f", head {target.head}" if target.head not in (None, "int4") else ""
        return f"int4 ({target.int4_method}{head})"
    return target.weights
