"""Assembling the model repository that tritonserver reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Container
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from contract.names import TENSORRT_LLM, TENSORRT_LLM_ADAPTER
from contract.settings_base import SettingsError
from ensembles.engine_kinds import kind_of
from ensembles.model_configs import HEADER, render
from ensembles.repository_settings import RepositorySettings

SOURCE = Path(__file__).resolve().parent.parent / "model_repository"
"""Where each model's ``model.py`` lives."""


def model_configs(settings: RepositorySettings) -> dict[str, pb.ModelConfig]:
    """The configuration of each model of a repository, by name."""
    return {config.name: config for config in kind_of(settings).configs(settings)}


def assemble(repository: Path, settings: RepositorySettings) -> list[str]:
    """Write the configuration of every model into a repository.

    In a repository outside this checkout each ``model.py`` is a link to the one here, which finds
    ``python_backend/`` beside itself. The engine is not touched: ``build/`` puts it there.

    Returns:
        The names of the models.

    Raises:
        SettingsError: The repository holds models that the engine can't stand beside.
    """
    kind = kind_of(settings)
    for name in kind.shuns:
        if (repository / name).exists():
            raise SettingsError(
                f"engine is {settings.engine!r}, which stands alone, and {repository} has {name}: "
                "take another folder with --repository"
            )
    engine = _engine_version(repository)
    settings = kind.located(engine, settings)
    configs = model_configs(settings)
    for name, config in configs.items():
        (repository / name / "1").mkdir(parents=True, exist_ok=True)
        _write(repository / name / "config.pbtxt", render(config))
    for name, text in kind.files(settings).items():
        _write(engine / name, text)
    for name in kind.linked:
        source, target = _source(name), repository / name / "1" / "model.py"
        if not (target.exists() and target.samefile(source)):
            target.unlink(missing_ok=True)
            target.symlink_to(source)
    _drop_adapter(repository, configs)
    return list(configs)


def missing_engine(repository: Path, settings: RepositorySettings) -> str | None:
    """What to do where the repository has no engine, or None where it has one."""
    kind, engine = kind_of(settings), _engine_version(repository)
    return kind.lacks(engine, kind.located(engine, settings))


def _engine_version(repository: Path) -> Path:
    """The version folder of ``tensorrt_llm``, from the root."""
    return (repository / TENSORRT_LLM).resolve() / "1"


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


def _write(path: Path, text: str) -> None:
    """Write a file in one step, and only where it changes."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
