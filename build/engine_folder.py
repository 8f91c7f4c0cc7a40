"""From a checkpoint folder to an engine folder: graphs, weights, ``engine.json``, tokenizer."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from build.activations import ProductInputs
from build.block_storage import Int4Storage, Int8BlockStorage
from build.build_errors import BuildError, CheckpointError
from build.calibration import (
    MOST_TOKENS,
    PROMPT_TOKENS,
    calibrate_kv_cache,
    calibration_tokens,
)
from build.checkpoint import GENERATION_CONFIG_FILE, TOKENIZER_FILE, Checkpoint
from build.cuda_graph import check_spec, write_graph
from build.decoder import DecoderSpec, describe_decoder
from build.gptq import Gptq
from build.model_config import tokens
from build.onnx_writer import OnnxGraph, WeightsFile
from build.progress import Progress, silent
from build.publish import staged
from build.quantize import Int4Method, Int4Rows, quantize_int4, search_int4
from build.recipe import CALIBRATION_TEXT
from build.segments import write_segments
from build.smoothing import smoothed
from build.storage import (
    Float8Storage,
    FloatStorage,
    Int8Storage,
    StorageFactory,
    WeightStorage,
)
from build.weight_tensors import Tensors
from python_backend.engine.cuda_device import CudaLayout
from python_backend.engine.engine_config import (
    ENGINE_FILE,
    GRAPH_FILE,
    KV_DTYPES,
    PRECISIONS,
    ROTARY_FILE,
    SMOOTHING_FILE,
    WEIGHTS_FILE,
    EngineConfig,
    ExecutionProvider,
    KVDtype,
    Precision,
    ServingLimits,
    default_provider,
)
from python_backend.engine.tensor_places import TENSORS_FILE, save_places
from python_backend.text.special_tokens import SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE

_COPIED_FILES = (
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    "chat_template.jinja",
    GENERATION_CONFIG_FILE,
)
_FORMER_FILES = ("model.onnx", "model.onnx.data", "decoder.json")
"""Of formats before this one."""
_OWN_FILES = (
    "segment_*.onnx",
    GRAPH_FILE,
    WEIGHTS_FILE,
    ROTARY_FILE,
    TENSORS_FILE,
    SMOOTHING_FILE,
    ENGINE_FILE,
    *_COPIED_FILES,
    *_FORMER_FILES,
)


@dataclass(frozen=True)
class BuildReport:
    """What was built, for a person to read."""

    spec: DecoderSpec
    precision: Precision
    parameters: int
    size_bytes: int
    duration_s: float


def build_engine(
    checkpoint_folder: Path,
    output: Path,
    precision: Precision,
    context_length: int | None = None,
    kv_cache_dtype: KVDtype | None = None,
    calibration_text: Path | None = None,
    int4_method: Int4Method = "rtn",
    execution_provider: ExecutionProvider | None = None,
    limits: ServingLimits | None = None,
    smoothing: bool = False,
    head: Precision | None = None,
    progress: Progress = silent,
) -> BuildReport:
    """Build an engine folder; the former one is replaced at the very end, in one step.

    The same checkpoint and settings give the same bytes.

    Args:
        checkpoint_folder: A local Hugging Face checkpoint.
        output: The engine folder, such as ``model_repository/tensorrt_llm/1``. Files in it that
            are not an engine's are kept.
        precision: How the weights of the matrix products are stored.
        context_length: Limits the context that the checkpoint was made for.
        kv_cache_dtype: How keys and values are to be stored; by default float16 for CUDA, else
            int8 beside quantized weights and float32 beside float32 ones.
        calibration_text: UTF-8 text that resembles what will be read, for an int8 cache; by default
            one of ours. ``gptq`` has to be given one.
        int4_method: How int4 weights are rounded.
        execution_provider: What the engine is for; by default a CPU where it computes with such
            weights, else CUDA.
        limits: What it is to serve, where that is not the usual.
        smoothing: Whether what stands out in the inputs of products moves into their weights, for a
            CPU that rounds inputs to int8; the text says what stands out.
        head: How the output projection of an int4 engine for a CPU is stored: ``int8_block``, or
            by default as the other products.
        progress: Told of the layers written.

    Raises:
        CheckpointError: The checkpoint is damaged or of a kind that is not supported.
        BuildError: The output folder cannot be replaced.
        OSError: The disk is full, or a folder cannot be written.
    """
    start = time.perf_counter()
    if output.resolve() == checkpoint_folder.resolve():
        raise BuildError("the engine cannot be built into the checkpoint's own folder")
    execution_provider = execution_provider or default_provider(precision)
    kv_cache_dtype = kv_cache_dtype or _default_kv_dtype(execution_provider, precision)
    _check_storage(execution_provider, precision, kv_cache_dtype)
    with Checkpoint(checkpoint_folder) as checkpoint:
        spec = describe_decoder(checkpoint, context_length)
        if execution_provider == "cuda":
            check_spec(spec)
            spec = spec.for_every_length()  # the graph's attention takes one table
        config = _engine_config(
            checkpoint,
            spec,
            execution_provider,
            precision,
            kv_cache_dtype,
            limits or ServingLimits(),
        )
        tensors: Tensors = spec.tensors(checkpoint)
        if smoothing:
            if execution_provider == "cuda" or precision == "fp32":
                raise BuildError(f"smoothing is for int8 inputs, which {precision} doesn't have")
            text = calibration_text or CALIBRATION_TEXT
            samples = _samples(checkpoint, spec, text, MOST_TOKENS)
            tensors = smoothed(spec, tensors, samples, config.rotary_start(len(samples[0])))
        storage = _storage(checkpoint, spec, tensors, config, int4_method, calibration_text, head)
        with staged(output, _OWN_FILES, last=ENGINE_FILE) as folder:
            with WeightsFile(folder / WEIGHTS_FILE) as weights:
                parts = (folder, spec, tensors, weights, storage)

                def written(layers: int) -> None:
                    progress("layer", layers, len(spec.layers))

                if execution_provider == "cuda":
                    write_graph(*parts, CudaLayout.of(config).block_tokens, written)
                else:
                    write_segments(*parts, written)
            if execution_provider == "cpu":
                save_places(folder, weights.tensors())
                np.save(folder / ROTARY_FILE, spec.rotary_table())
            for name in _COPIED_FILES:
                if (checkpoint_folder / name).exists():
                    shutil.copyfile(checkpoint_folder / name, folder / name)
            config.save(folder)
            if kv_cache_dtype == "int8":
                calibrate_kv_cache(folder, calibration_text or CALIBRATION_TEXT)
            size_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return BuildReport(
        spec=spec,
        precision=precision,
        parameters=sum(math.prod(shape) for shape in spec.decoder.tensor_shapes().values()),
        size_bytes=size_bytes,
        duration_s=time.perf_counter() - start,
    )


def _default_kv_dtype(provider: ExecutionProvider, precision: Precision) -> KVDtype:
    if provider == "cuda":
        return "float16"
    return "float32" if precision == "fp32" else "int8"


def _check_storage(
    provider: ExecutionProvider, precision: Precision, kv_cache_dtype: KVDtype
) -> None:
    if precision not in PRECISIONS[provider]:
        raise BuildError(
            f"{precision} weights are not for {provider}: take {' or '.join(PRECISIONS[provider])}"
        )
    if kv_cache_dtype not in KV_DTYPES[provider]:
        raise BuildError(
            f"a kv_cache_dtype of {kv_cache_dtype} is not for {provider}: take "
            f"{' or '.join(KV_DTYPES[provider])}"
        )


def _storage(
    checkpoint: Checkpoint,
    spec: DecoderSpec,
    tensors: Tensors,
    config: EngineConfig,
    method: Int4Method,
    text: Path | None,
    head: Precision | None,
) -> StorageFactory:
    provider, precision = config.execution_provider, config.precision
    cuda = provider == "cuda"
    dtype = np.dtype(np.float16 if cuda else np.float32)
    if head not in (None, precision) and (head, precision, cuda) != ("int8_block", "int4", False):
        raise BuildError(f"head is {head}: it may be int8_block beside int4 weights, for a CPU")
    if precision != "int4":
        if method != "rtn":
            raise BuildError(f"int4_method is {method}, but the weights are in {precision}")
        known: dict[Precision, StorageFactory] = {
            "fp8": Float8Storage,
            "int8": Int8Storage,
            "int8_block": partial(Int8BlockStorage, projects=spec.decoder.lm_head.weights),
        }
        return known.get(precision, partial(FloatStorage, dtype=dtype))
    in_eight_bits = spec.decoder.lm_head.weights if head == "int8_block" else ()
    if method != "gptq":
        nearest = partial(search_int4 if method == "k_quant" else quantize_int4, whole=cuda)
        return partial(
            Int4Storage,
            dtype=dtype,
            rounding=lambda names: nearest,
            in_eight_bits=in_eight_bits,
        )
    if cuda:
        raise BuildError("int4_method is gptq, which is for cpu: take rtn or k_quant")
    if text is None:
        raise BuildError("int4_method is gptq, which needs a calibration_text")
    samples = _samples(checkpoint, spec, text)
    inputs = ProductInputs(spec, tensors, samples, config.rotary_start(len(samples[0])))

    def gptq(graph: OnnxGraph, tensors: Tensors) -> WeightStorage:
        moments, known = inputs.next_segment(), dict[int, Gptq]()

        def rounding(names: Sequence[str]) -> Callable[[NDArray[np.float32]], Int4Rows]:
            shared = moments[names[0]]
            if id(shared) not in known:
                known[id(shared)] = Gptq(shared)
            return known[id(shared)].quantize

        return Int4Storage(graph, tensors, rounding, in_eight_bits=in_eight_bits)

    return gptq


def _samples(
    checkpoint: Checkpoint, spec: DecoderSpec, text: Path, most_tokens: int | None = None
) -> list[NDArray[np.int64]]:
    """A text's tokens in parts as long as a prompt."""
    tokens = calibration_tokens(checkpoint.folder, text, spec.decoder.vocab_size)[:most_tokens]
    size = min(PROMPT_TOKENS, spec.context_length)
    samples = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    if not samples:
        raise BuildError(f"{text} holds no token to calibrate on")
    return samples


def _engine_config(
    checkpoint: Checkpoint,
    spec: DecoderSpec,
    provider: ExecutionProvider,
    precision: Precision,
    kv_cache_dtype: KVDtype,
    limits: ServingLimits,
) -> EngineConfig:
    end_token_ids = end_tokens(checkpoint, spec)
    return EngineConfig(
        architecture=spec.architecture,
        execution_provider=provider,
        precision=precision,
        kv_cache_dtype=kv_cache_dtype,
        context_length=spec.context_length,
        short_context=spec.rotary.short_context,
        limits=limits,
        end_token_ids=end_token_ids,
        decoder=spec.decoder,
    )


def end_tokens(checkpoint: Checkpoint, spec: DecoderSpec) -> tuple[int, ...]:
    """Tokens that end a text.

    They are those of ``generation_config.json``, or else of ``config.json``, which transformers
    ends at, and the tokenizer's own.

    Raises:
        CheckpointError: There is none, or one is not in the vocabulary.
    """
    vocab_size = spec.decoder.vocab_size
    found = _token_ids(checkpoint, "eos_token_id") or spec.settings.eos_token_id
    if "eos_token_id" not in {*checkpoint.generation_config, *checkpoint.config}:
        # A default of the family, which a smaller vocabulary may not have.
        found = tuple(token for token in found if token < vocab_size)
    own = checkpoint.tokenizer_end()
    if own is not None and own < vocab_size and own not in found:
        found = (*found, own)
    if not found:
        raise CheckpointError("neither generation_config.json nor config.json has eos_token_id")
    for token in found:
        if not 0 <= token < vocab_size:
            raise CheckpointError(f"eos_token_id {token} is not in the vocabulary")
    return found


def _token_ids(checkpoint: Checkpoint, name: str) -> tuple[int, ...]:
    """What ``generation_config.json`` says, if it does: one token or several."""
    return tokens(f"{name} of {GENERATION_CONFIG_FILE}", checkpoint.generation_config.get(name))
