"""Assembling the model repository that tritonserver reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Container
from pathlib import Path

from ensembles.config import HEADER, model_configs, render
from ensembles.settings import RepositorySettings
from python_backend.contract import ENSEMBLE, TENSORRT_LLM, TENSORRT_LLM_ADAPTER

SOURCE = Path(__file__).resolve().parent.parent / "model_repository"
"""Where each model's ``model.py`` lives."""


def assemble(repository: Path, settings: RepositorySettings) -> list[str]:
    """Write the configuration of every model into a repository.

    In a repository outside this checkout each ``model.py`` is a link to the one here, which finds
    ``python_backend/`` beside itself. The engine is not touched: ``build/`` puts it there.

    Returns:
        The names of the models.
    """
    configs = model_configs(settings)
    for name, config in configs.items():
        version = repository / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        _write(repository / name / "config.pbtxt", render(config))
        source = _source(name)
        target = version / "model.py"
        if name != ENSEMBLE and not (target.exists() and target.samefile(source)):
            target.unlink(missing_ok=True)
            target.symlink_to(source)
    _drop_adapter(repository, configs)
    return list(configs)


def _source(name: str) -> Path:
    """A model's ``model.py`` here.

    The adapter's is no folder: Triton would take it for a model beside the ONNX Runtime engine.
    """
    if name == TENSORRT_LLM_ADAPTER:
        return SOURCE / f"{name}.py"
    return SOURCE / name / "1" / "model.py"


def _drop_adapter(repository: Path, configs: Container[str]) -> None:
    """Take away what an earlier assembly for TensorRT-LLM left, which Triton would load."""
    config = repository / TENSORRT_LLM_ADAPTER / "config.pbtxt"
    if TENSORRT_LLM_ADAPTER in configs or not config.is_file():
        return
    if config.read_text(encoding="utf-8").startswith(HEADER):
        shutil.rmtree(config.parent)


def missing_engine(repository: Path, settings: RepositorySettings) -> str | None:
    """What to do where the repository has no engine, or None where it has one."""
    model = repository / TENSORRT_LLM
    if settings.engine == "tensorrtllm":
        config = model / "config.pbtxt"
        # One that was rendered here is the ONNX Runtime engine's.
        if not config.is_file() or config.read_text(encoding="utf-8").startswith(HEADER):
            return f"put TensorRT-LLM's {TENSORRT_LLM} folder into {repository}"
    elif not (model / "1" / settings.tensorrt_llm.engine_dir / "engine.json").is_file():
        return "run `make build-engines`"
    return None


def _write(path: Path, text: str) -> None:
    """Write a file in one step, and only where it changes."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
