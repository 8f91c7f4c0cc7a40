"""NVIDIA ModelOpt on a checkpoint, and both forms of it that TensorRT-LLM reads.

Needs the environment of ``requirements/modelopt.txt``. It runs on a CPU, with the whole model in
memory: ModelOpt calibrates a model, not a file.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint, export_tensorrt_llm_checkpoint
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from build.build_errors import BuildError
from build.checkpoint import TOKENIZER_FILE, Checkpoint
from build.recipe import TensorRTLLMCalibration
from build.tensorrt_llm.trtllm_config import (
    TEXT_FILES,
    check_architecture,
    check_mapping,
    completed,
    rope_settings,
)
from build.tensorrt_llm.trtllm_settings import Form, TensorRTLLMTarget

_WEIGHTS: dict[str, dict[str, Any]] = {
    "none": {"quant_cfg": [{"quantizer_name": "*", "enable": False}], "algorithm": "max"},
    "fp8": mtq.FP8_DEFAULT_CFG,
    "int8_smoothquant": mtq.INT8_SMOOTHQUANT_CFG,
    "int4_awq": mtq.INT4_AWQ_CFG,
    "nvfp4": mtq.NVFP4_DEFAULT_CFG,
}
_TEXTS_A_REPORT = 16
_KV_BITS: dict[str, int | tuple[int, int]] = {"fp8": (4, 3), "int8": 8}


def quantize_checkpoint(
    checkpoint: Path,
    output: Path,
    target: TensorRTLLMTarget,
    texts: Sequence[str],
    calibration: TensorRTLLMCalibration,
    say: Callable[[str], None] = lambda step: None,
) -> dict[Form, Path]:
    """Quantize a checkpoint and write the forms that a target asks for.

    A form that is there already is replaced when the new one is complete.

    Args:
        checkpoint: A local Hugging Face folder.
        output: Gets a folder for each form: ``trtllm`` and ``hf``.
        target: What is asked for.
        texts: What activations are measured on.
        calibration: How much of the texts is read.
        say: Told what is being done.

    Returns:
        The folder of each form.

    Raises:
        CheckpointError: The checkpoint is damaged, or an architecture without that form.
        BuildError: The model doesn't divide among so many GPUs, or ModelOpt refuses it.
    """
    with Checkpoint(checkpoint) as opened:
        config = opened.config
    if "trtllm" in target.forms:
        check_architecture(config)
        check_mapping(config, target)
    samples = _samples(checkpoint, target, texts, calibration)
    folders: dict[Form, Path] = {}
    for form in target.forms:
        # An export changes the model that it writes, so each form has one of its own.
        say(f"{form}: loading the checkpoint")
        model = _load(checkpoint, config)
        model = _quantized(model, target, samples, say)
        say(f"{form}: writing")
        partial = output / f".{form}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _export(form, model, partial, target, config)
        for name in TEXT_FILES:
            if (checkpoint / name).exists():
                shutil.copyfile(checkpoint / name, partial / name)
        shutil.rmtree(output / form, ignore_errors=True)
        folders[form] = partial.replace(output / form)
    return folders


def _samples(
    checkpoint: Path,
    target: TensorRTLLMTarget,
    texts: Sequence[str],
    calibration: TensorRTLLMCalibration,
) -> list[torch.Tensor]:
    """Token ids ``[1, tokens]`` of each text."""
    if target.weights == "none" and target.kv_cache == "auto":
        return []
    tokenizer = Tokenizer.from_file(str(checkpoint / TOKENIZER_FILE))
    samples = []
    for text in texts[: calibration.samples]:
        ids = tokenizer.encode(text).ids[: calibration.tokens]
        if ids:
            samples.append(torch.tensor([ids]))
    if not samples:
        raise BuildError("there is no text to calibrate on")
    return samples


def _load(checkpoint: Path, settings: dict[str, Any]) -> Any:
    """The model in its own 16-bit type; float32 becomes bfloat16, which has its range."""
    config = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
    config.rope_theta, config.rope_scaling = rope_settings(settings)
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, config=config, dtype="auto", local_files_only=True
    )
    if model.dtype == torch.float32:
        model = model.to(torch.bfloat16)
        model.config.dtype = torch.bfloat16
    return model.eval()


def _quantized(
    model: Any, target: TensorRTLLMTarget, samples: list[torch.Tensor], say: Callable[[str], None]
) -> Any:
    if not samples:
        return model
    config = copy.deepcopy(_WEIGHTS[target.weights])
    if target.kv_cache != "auto":
        bits = _KV_BITS[target.kv_cache]
        config["quant_cfg"].append(
            {"quantizer_name": "*[kv]_bmm_quantizer", "cfg": {"num_bits": bits, "axis": None}}
        )

    def calibrate(model: Any) -> None:
        for number, sample in enumerate(samples, start=1):
            model(sample)
            if number % _TEXTS_A_REPORT == 0 or number == len(samples):
                say(f"calibrating, text {number} of {len(samples)}")

    with torch.inference_mode():
        return mtq.quantize(model, config, calibrate)


def _export(
    form: Form, model: Any, folder: Path, target: TensorRTLLMTarget, config: dict[str, Any]
) -> None:
    try:
        with torch.inference_mode():
            if form == "hf":
                export_hf_checkpoint(model, export_dir=folder)
                return
            export_tensorrt_llm_checkpoint(
                model,
                "qwen" if check_architecture(config).startswith("Qwen") else "llama",
                model.dtype,
                export_dir=folder,
                inference_tensor_parallel=target.tensor_parallel,
                inference_pipeline_parallel=target.pipeline_parallel,
            )
    except (NotImplementedError, AssertionError, ValueError) as error:
        raise BuildError(f"ModelOpt can't write the {form} form: {error}") from error
    path = folder / "config.json"
    exported = completed(json.loads(path.read_bytes()), config)
    path.write_text(json.dumps(exported, indent=2) + "\n", encoding="utf-8")
