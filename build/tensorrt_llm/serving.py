"""How Triton is told to serve a version for TensorRT-LLM: from the very folder of the version."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from build.recipe import TensorRTLLMRecipe
from build.tensorrt_llm.builder import ENGINE


def assemble_command(recipe: TensorRTLLMRecipe, folder: Path) -> str:
    """The command, for a shell, that writes the model repository of a version."""
    command = [".venv/bin/python", "-m", "ensembles", "--repository", "gpu_repository"]
    for name, value in repository_settings(recipe, folder).items():
        command += ["--set", f"{name}={value}"]
    return shlex.join(command)


def repository_settings(recipe: TensorRTLLMRecipe, folder: Path) -> dict[str, Any]:
    """Settings of the repository (``ensembles/repository_settings.py``) that follow from a recipe.

    Args:
        recipe: What was built. With the ``trtllm`` form, its engine runs on the C++ backend inside
            the ensemble; without, the LLM API serves the ``hf`` form.
        folder: The version.
    """
    target, limits, folder = recipe.target, recipe.limits, folder.resolve()
    if "trtllm" in target.forms:
        return {
            "engine": "tensorrt_llm",
            "max_batch_size": limits.max_num_sequences,
            "preprocessing.tokenizer_dir": folder / ENGINE,
            "postprocessing.tokenizer_dir": folder / ENGINE,
            "tensorrt_llm.gpt_model_path": folder / ENGINE,
            "tensorrt_llm.max_beam_width": target.build.max_beam_width,
            "tensorrt_llm.world_size": target.world_size,
        }
    settings = {
        "engine": "llm_api",
        "llm_api.model": folder / "hf",
        "llm_api.tensor_parallel_size": target.tensor_parallel,
        "llm_api.pipeline_parallel_size": target.pipeline_parallel,
        "llm_api.max_batch_size": limits.max_num_sequences,
        "llm_api.max_num_tokens": limits.max_num_tokens,
    }
    if limits.context_length is not None:
        settings["llm_api.max_seq_len"] = limits.context_length
    return settings
