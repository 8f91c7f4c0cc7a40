"""Assembling the model repository that tritonserver reads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Container
from pathlib import Path

from contract.names import (
    ENSEMBLE,
    POSTPROCESSING,
    PREPROCESSING,
    TENSORRT_LLM,
    TENSORRT_LLM_ADAPTER,
)
from contract.settings_base import SettingsError
from ensembles.model_configs import HEADER, model_configs, render
from ensembles.repository_settings import RepositorySettings

SOURCE = Path(__file__).resolve().parent.parent / "model_repository"
"""Where each model's ``model.py`` lives."""


def assemble(repository: Path, settings: RepositorySettings) -> list[str]:
    """Write the configuration of every model into a repository.

    In a repository outside this checkout each ``model.py`` is a link to the one here, which finds
    ``python_backend/`` beside itself. The engine is not touched: ``build/`` puts it there.

    Returns:
        The names of the models.

    Raises:
        SettingsError: The LLM API's model is to stand where an ensemble does.
    """
    if settings.engine == "llm_api":
        _refuse_company(repository)
    settings = _with_paths(repository, settings)
    configs = model_configs(settings)
    for name, config in configs.items():
        version = repository / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        _write(repository / name / "config.pbtxt", render(config))
        if name == TENSORRT_LLM and settings.engine == "llm_api":
            _write(
                version / "model.yaml", json.dumps(settings.llm_api.arguments(), indent=2) + "\n"
            )
        if name == ENSEMBLE or (name == TENSORRT_LLM and settings.engine != "onnx"):
            continue
        source = _source(name)
        target = version / "model.py"
        if not (target.exists() and target.samefile(source)):
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
    version = repository / TENSORRT_LLM / "1"
    if settings.engine == "tensorrt_llm":
        folder = Path(_with_paths(repository, settings).tensorrt_llm.gpt_model_path or "")
        if not (folder / "rank0.engine").is_file():
            return f"{folder} has no engine: {_BUILD}"
    elif settings.engine == "llm_api":
        if not (version / "model.py").is_file():
            return f"copy model.py and helpers.py from {_LLM_API_SOURCE} into {version}"
        folder = Path(_with_paths(repository, settings).llm_api.model)
        if not (folder / "config.json").is_file():
            return f"{folder} has no checkpoint: {_BUILD}"
    elif not any(
        (each / settings.onnx.engine_dir / "engine.json").is_file()
        for each in version.parent.glob("[0-9]*")
    ):
        return "run `make build-engines`"
    return None


_BUILD = "`make build-engines` with a recipe for TensorRT-LLM makes one, and says how to serve it"
_LLM_API_SOURCE = "/app/all_models/llmapi/tensorrt_llm/1 of NVIDIA's container"


def _refuse_company(repository: Path) -> None:
    """The LLM API's model goes from text to text, so the models around an engine don't fit it."""
    for name in (PREPROCESSING, POSTPROCESSING, ENSEMBLE):
        if (repository / name).exists():
            raise SettingsError(
                f"engine is 'llm_api', which stands alone, and {repository} has {name}: "
                "take another folder with --repository"
            )


def _with_paths(repository: Path, settings: RepositorySettings) -> RepositorySettings:
    """Paths from the root: TensorRT-LLM looks for others where the server was started."""
    version = (repository / TENSORRT_LLM / "1").resolve()
    engine, model = settings.tensorrt_llm.gpt_model_path or "", settings.llm_api.model
    cpp = settings.tensorrt_llm.model_copy(update={"gpt_model_path": str(version / engine)})
    api = settings.llm_api.model_copy(update={"model": str(version / model)})
    return settings.model_copy(update={"tensorrt_llm": cpp, "llm_api": api})


def _write(path: Path, text: str) -> None:
    """Write a file in one step, and only where it changes."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
