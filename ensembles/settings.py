"""The settings of a whole model repository."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ensembles.cpp_backend import CppBackendSettings
from ensembles.llm_api import LLMAPISettings
from python_backend.settings import (
    EngineSettings,
    PostprocessingSettings,
    PreprocessingSettings,
    SafetySettings,
    from_assignments,
)

UNSIGNED = "tensorrt_llm.trusted_key="
"""The assignment that serves an engine which nobody signed: one built on the spot, for a test."""


class RepositorySettings(BaseModel):
    """What the ensemble is made of.

    Attributes:
        engine: What runs ``tensorrt_llm``: ``onnxruntime``; ``tensorrtllm``, TensorRT-LLM's C++
            backend inside the same ensemble; ``llmapi``, TensorRT-LLM's LLM API, a model from text
            to text that stands alone.
        max_batch_size: Most prompts in one request.
        preprocessing_instances: Processes that tokenize side by side.
        preprocessing: Settings of ``preprocessing``.
        tensorrt_llm: Settings of the ONNX Runtime engine.
        tensorrtllm: Settings of TensorRT-LLM's C++ backend.
        llmapi: Settings of TensorRT-LLM's LLM API.
        postprocessing: Settings of ``postprocessing``.
        safety: The safety policies that prompts and answers are held to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Literal["onnxruntime", "tensorrtllm", "llmapi"] = "onnxruntime"
    max_batch_size: int = Field(default=64, ge=1, le=4096)
    preprocessing_instances: int = Field(default=1, ge=1, le=64)
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    tensorrt_llm: EngineSettings = EngineSettings()
    tensorrtllm: CppBackendSettings = CppBackendSettings()
    llmapi: LLMAPISettings = LLMAPISettings()
    postprocessing: PostprocessingSettings = PostprocessingSettings()
    safety: SafetySettings = SafetySettings()

    @classmethod
    def from_assignments(cls, assignments: list[str]) -> RepositorySettings:
        """Settings from words such as ``safety.policy_file=mine.yaml``.

        Raises:
            SettingsError: One is not of that form, unknown or out of bounds.
        """
        return from_assignments(cls, assignments)
