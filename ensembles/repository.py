"""Assembling the model repository that tritonserver reads."""

from __future__ import annotations

import os
from pathlib import Path

from ensembles.config import HEADER, model_configs, render
from ensembles.settings import RepositorySettings
from python_backend.contract import ENSEMBLE, TENSORRT_LLM

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
        source = SOURCE / name / "1" / "model.py"
        target = version / "model.py"
        if name != ENSEMBLE and not (target.exists() and target.samefile(source)):
            target.unlink(missing_ok=True)
            target.symlink_to(source)
    return list(configs)


def missing_engine(repository: Path, settings: RepositorySettings) -> str | None:
    """What to do where the repository has no engine, or None where it has one."""
    model = repository / TENSORRT_LLM
    if settings.engine == "tensorrtllm":
        config = model / "config.pbtxt"
        # One that was rendered here is the ONNX Runtime engine's.
        if not config.is_file() or config.read_text(encoding="utf-8").startswith(HEADER):
            return f"put TensorRT-LLM's {TENSORRT_LLM} folder into {repository}"
    elif not any(
        (version / settings.tensorrt_llm.engine_dir / "engine.json").is_file()
        for version in model.glob("[0-9]*")
    ):
        return "run `make build-engines`"
    return None


def _write(path: Path, text: str) -> None:
    """Write a file in one step, and only where it changes."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
