"""What can compute in a repository, and all that the rest of it has to know of each kind.

A kind is a name for `RepositorySettings.engine`, the models that Triton loads for it, where its
files lie, and what is missing while they do not. Nothing else asks which engine it is.
"""

from __future__ import annotations

import json
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tritonclient.grpc import model_config_pb2 as pb

from contract.model_settings import AdapterSettings, EngineReference
from contract.models import (
    POSTPROCESSING_MODEL,
    PREPROCESSING_MODEL,
    STEP_MODELS,
    TENSORRT_LLM_MODEL,
)
from contract.names import ENSEMBLE, POSTPROCESSING, PREPROCESSING, Engine
from contract.nvidia import CPP_BACKEND_MODEL, LLM_API_MODEL
from ensembles.model_configs import (
    ensemble_config,
    model_config,
    python_model,
)
from ensembles.repository_settings import RepositorySettings

_BUILD = "`make build-engines` with a recipe for TensorRT-LLM makes one, and says how to serve it"
ROOT = Path(__file__).resolve().parent.parent
_LLM_API_SOURCE = "/app/all_models/llmapi/tensorrt_llm/1 of NVIDIA's container"


class EngineKind(ABC):
    """One way to compute.

    Attributes:
        linked: The models whose ``model.py`` is in this checkout.
        shuns: The models that it can't stand beside.
    """

    linked: tuple[str, ...] = ()
    shuns: tuple[str, ...] = ()

    @abstractmethod
    def configs(self, settings: RepositorySettings) -> list[pb.ModelConfig]:
        """The configurations of all models of a repository."""

    @abstractmethod
    def lacks(self, version: Path, settings: RepositorySettings) -> str | None:
        """What to do where there is no engine yet, or None where there is one.

        Args:
            version: The version folder of ``tensorrt_llm``, from the root.
            settings: The repository's settings, ``located`` there.
        """

    def located(self, version: Path, settings: RepositorySettings) -> RepositorySettings:
        """The settings with the engine's paths from the root, where it is looked for by them."""
        return settings

    def files(self, settings: RepositorySettings) -> Mapping[str, str]:
        """What else the version folder of ``tensorrt_llm`` is given, by name."""
        return {}

    @abstractmethod
    def how_to_serve(self, repository: Path, settings: RepositorySettings) -> str:
        """Where a repository with an engine is served, and the command that does it there."""


class _InEnsemble(EngineKind):
    """A kind that is the second step of an ensemble, between tokenizing and detokenizing."""

    engine: Engine

    def __init__(self) -> None:
        self.linked = (PREPROCESSING, STEP_MODELS[self.engine].name, POSTPROCESSING)

    @abstractmethod
    def step_configs(self, settings: RepositorySettings) -> list[pb.ModelConfig]:
        """The models that the second step is made of."""

    @abstractmethod
    def excludes_input(self, settings: RepositorySettings) -> bool:
        """Whether an answer leaves out its prompt where the request doesn't say."""

    def configs(self, settings: RepositorySettings) -> list[pb.ModelConfig]:
        reference = EngineReference(
            engine_model=STEP_MODELS[self.engine].name,
            decoupled=settings.decoupled_mode,
            exclude_input_in_output=self.excludes_input(settings),
        )
        told = (settings.safety, reference)
        batch = settings.max_batch_size
        return [
            python_model(
                PREPROCESSING_MODEL,
                batch,
                settings.preprocessing,
                *told,
                instances=settings.preprocessing_instances,
            ),
            # One instance: a stream's pieces find their state there, in order.
            python_model(
                POSTPROCESSING_MODEL,
                batch,
                settings.postprocessing,
                *told,
                decoupled=settings.decoupled_mode,
            ),
            ensemble_config(self.engine, batch),
            *self.step_configs(settings),
        ]


class OnnxKind(_InEnsemble):
    """Trireme's ONNX engine, in the Python backend."""

    engine: Engine = "onnx"

    def step_configs(self, settings: RepositorySettings) -> list[pb.ModelConfig]:
        config = python_model(
            TENSORRT_LLM_MODEL,
            settings.max_batch_size,
            settings.onnx,
            decoupled=settings.decoupled_mode,
        )
        if settings.onnx.execution_provider == "cuda":
            (group,) = config.instance_group
            group.kind = pb.ModelInstanceGroup.KIND_GPU
            group.gpus.append(settings.onnx.device_id)
        return [config]

    def excludes_input(self, settings: RepositorySettings) -> bool:
        return settings.onnx.exclude_input_in_output

    def lacks(self, version: Path, settings: RepositorySettings) -> str | None:
        versions = version.parent.glob("[0-9]*")
        if any((each / settings.onnx.engine_dir / "engine.json").is_file() for each in versions):
            return None
        make = f"`make repository REPOSITORY={version.parent.parent}`"
        return f"{make}, with the same SETTINGS, builds one and puts it there"

    def how_to_serve(self, repository: Path, settings: RepositorySettings) -> str:
        command = [sys.executable, "-m", "ops.serve", "--repository", str(repository)]
        return f"serve it from {ROOT} with: {shlex.join(command)}"


class CppBackendKind(_InEnsemble):
    """TensorRT-LLM's engine in its C++ backend, and the adapter before it."""

    engine: Engine = "tensorrt_llm"

    def step_configs(self, settings: RepositorySettings) -> list[pb.ModelConfig]:
        adapter = AdapterSettings(
            exclude_input_in_output=self.excludes_input(settings),
            liveness_period_ms=settings.tensorrt_llm.cancellation_check_period_ms,
        )
        model = STEP_MODELS[self.engine]
        config = python_model(
            model, settings.max_batch_size, adapter, decoupled=settings.decoupled_mode
        )
        return [config, self._backend(settings)]

    def _backend(self, settings: RepositorySettings) -> pb.ModelConfig:
        """The C++ backend's own model, whose own scheduler batches in flight."""
        own = settings.tensorrt_llm
        config = model_config(CPP_BACKEND_MODEL, settings.max_batch_size)
        config.backend = "tensorrtllm"
        config.model_transaction_policy.decoupled = settings.decoupled_mode
        queue = config.dynamic_batching
        queue.preferred_batch_size.append(settings.max_batch_size)
        queue.max_queue_delay_microseconds = own.max_queue_delay_microseconds
        queue.default_queue_policy.max_queue_size = own.max_queue_size
        group = config.instance_group.add()
        group.count = own.instances
        group.kind = pb.ModelInstanceGroup.KIND_CPU
        for name, value in own.parameters().items():
            config.parameters[name].string_value = value
        return config

    def excludes_input(self, settings: RepositorySettings) -> bool:
        return settings.tensorrt_llm.exclude_input_in_output

    def located(self, version: Path, settings: RepositorySettings) -> RepositorySettings:
        """TensorRT-LLM looks for other paths where the server was started."""
        path = str(version / (settings.tensorrt_llm.gpt_model_path or ""))
        own = settings.tensorrt_llm.model_copy(update={"gpt_model_path": path})
        return settings.model_copy(update={"tensorrt_llm": own})

    def lacks(self, version: Path, settings: RepositorySettings) -> str | None:
        folder = Path(settings.tensorrt_llm.gpt_model_path or "")
        if (folder / "rank0.engine").is_file():
            return None
        return f"{folder} has no engine: {_BUILD}"

    def how_to_serve(self, repository: Path, settings: RepositorySettings) -> str:
        return f"serve it in NVIDIA's container with: {settings.tensorrt_llm.launch(repository)}"


class LLMAPIKind(EngineKind):
    """TensorRT-LLM's LLM API: a model from text to text, so that none fits around it."""

    shuns = (PREPROCESSING, POSTPROCESSING, ENSEMBLE)

    def configs(self, settings: RepositorySettings) -> list[pb.ModelConfig]:
        """Its model; ``model.yaml`` says what its batch size and streaming are."""
        config = model_config(LLM_API_MODEL, 0)
        config.backend = "python"
        group = config.instance_group.add()
        group.count = 1
        group.kind = pb.ModelInstanceGroup.KIND_CPU
        return [config]

    def located(self, version: Path, settings: RepositorySettings) -> RepositorySettings:
        own = settings.llm_api.model_copy(update={"model": str(version / settings.llm_api.model)})
        return settings.model_copy(update={"llm_api": own})

    def files(self, settings: RepositorySettings) -> Mapping[str, str]:
        # JSON is YAML.
        return {"model.yaml": json.dumps(settings.llm_api.arguments(), indent=2) + "\n"}

    def lacks(self, version: Path, settings: RepositorySettings) -> str | None:
        if not (version / "model.py").is_file():
            return f"copy model.py and helpers.py from {_LLM_API_SOURCE} into {version}"
        folder = Path(settings.llm_api.model)
        if not (folder / "config.json").is_file():
            return f"{folder} has no checkpoint: {_BUILD}"
        return None

    def how_to_serve(self, repository: Path, settings: RepositorySettings) -> str:
        return f"serve it in NVIDIA's container with: tritonserver --model-repository={repository}"


ENGINE_KINDS: dict[Literal["onnx", "tensorrt_llm", "llm_api"], EngineKind] = {
    "onnx": OnnxKind(),
    "tensorrt_llm": CppBackendKind(),
    "llm_api": LLMAPIKind(),
}


def kind_of(settings: RepositorySettings) -> EngineKind:
    """The kind that the settings choose."""
    return ENGINE_KINDS[settings.engine]
