"""The settings of a whole model repository."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contract.model_settings import (
    OnnxEngineSettings,
    PostprocessingSettings,
    PreprocessingSettings,
    SafetySettings,
)
from contract.settings_base import from_assignments
from ensembles.cpp_backend import CppBackendSettings
from ensembles.llm_api import LLMAPISettings

UNSIGNED = "onnx.trusted_key="
"""The assignment that serves an engine which nobody signed: one built on the spot, for a test."""


class RepositorySettings(BaseModel):
    """What the ensemble is made of.

    Attributes:
        engine: What runs ``tensorrt_llm``: ``onnx``, Trireme's own engine; ``tensorrt_llm``,
            TensorRT-LLM's engine in its C++ backend inside the same ensemble; ``llm_api``,
            TensorRT-LLM's LLM API, a model from text to text that stands alone. Each has a group
            of settings by its name.
        decoupled_mode: Whether a request may have more than one response, and so stream; the
            gateway needs it. ``false`` is for programs that ask by ``infer``, which Triton refuses
            for a decoupled model: a request has one prompt and one response.
        max_batch_size: Most prompts in one request.
        preprocessing_instances: Processes that tokenize side by side.
        preprocessing: Settings of ``preprocessing``.
        onnx: Settings of the ONNX engine.
        tensorrt_llm: Settings of TensorRT-LLM's C++ backend.
        llm_api: Settings of TensorRT-LLM's LLM API.
        postprocessing: Settings of ``postprocessing``.
        safety: The safety policies that prompts and answers are held to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Literal["onnx", "tensorrt_llm", "llm_api"] = "onnx"
    decoupled_mode: bool = True
    max_batch_size: int = Field(default=64, ge=1, le=4096)
    preprocessing_instances: int = Field(default=1, ge=1, le=64)
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    onnx: OnnxEngineSettings = OnnxEngineSettings()
    tensorrt_llm: CppBackendSettings = CppBackendSettings()
    llm_api: LLMAPISettings = LLMAPISettings()
    postprocessing: PostprocessingSettings = PostprocessingSettings()
    safety: SafetySettings = SafetySettings()

    @model_validator(mode="after")
    def _go_together(self) -> RepositorySettings:
        if self.engine == "llm_api" and not self.decoupled_mode:
            raise ValueError(
                "decoupled_mode is for an ensemble; the LLM API's own model has "
                "llm_api.triton_config.decoupled"
            )
        return self

    @classmethod
    def from_assignments(cls, assignments: list[str]) -> RepositorySettings:
        """Settings from words such as ``safety.policy_file=mine.yaml``.

        Raises:
            SettingsError: One is not of that form, unknown or out of bounds.
        """
        return from_assignments(cls, assignments)
