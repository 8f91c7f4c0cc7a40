"""The settings of a whole model repository."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from python_backend.contract import Engine
from python_backend.settings import (
    AdapterSettings,
    EngineSettings,
    PostprocessingSettings,
    PreprocessingSettings,
    SafetySettings,
    SettingsError,
    parse,
)


class RepositorySettings(BaseModel):
    """What the ensemble is made of.

    Attributes:
        engine: What runs ``tensorrt_llm``. With ``tensorrtllm`` its folder is yours, as
            TensorRT-LLM's own tools make it, and only the three models around it are rendered.
        max_batch_size: Most prompts in one request.
        preprocessing_instances: Processes that tokenize side by side.
        preprocessing: Settings of ``preprocessing``.
        tensorrt_llm: Settings of the ONNX Runtime engine.
        postprocessing: Settings of ``postprocessing``.
        adapter: Settings of ``tensorrt_llm_adapter``, which stands before TensorRT-LLM's backend.
        safety: The safety policies that prompts and answers are held to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Engine = "onnxruntime"
    max_batch_size: int = Field(default=64, ge=1, le=4096)
    preprocessing_instances: int = Field(default=1, ge=1, le=64)
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    tensorrt_llm: EngineSettings = EngineSettings()
    postprocessing: PostprocessingSettings = PostprocessingSettings()
    adapter: AdapterSettings = AdapterSettings()
    safety: SafetySettings = SafetySettings()

    @classmethod
    def from_assignments(cls, assignments: list[str]) -> RepositorySettings:
        """Settings from words such as ``safety.policy_file=mine.yaml``.

        Args:
            assignments: ``name=value``; a dot goes into a model's settings, a value is JSON or,
                where it is not, a string.

        Raises:
            SettingsError: One is not of that form, unknown or out of bounds.
        """
        values: dict[str, Any] = {}
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            *parents, name = path.split(".")
            if not equals or not all([*parents, name]):
                raise SettingsError(f"{assignment!r} is not a setting; write name=value")
            inner = values
            for parent in parents:
                inner = inner.setdefault(parent, {})
                if not isinstance(inner, dict):
                    raise SettingsError(f"{path} is not a setting: {parent} is a value")
            inner[name] = _value(text)
        return parse(cls, values, "")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
