"""The typed settings of the served models, and how they travel in ``config.pbtxt``.

Triton hands a model its parameters as strings. Here they are checked on both sides, where they are
rendered and where they are read: a misspelt name or a value out of bounds is an error that names
it, never dropped in silence.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field

from contract.names import TENSORRT_LLM
from contract.settings_base import Settings, json_or_text, parse

_TRITON_PARAMETERS = frozenset({"FORCE_CPU_ONLY_INPUT_TENSORS", "EXECUTION_ENV_PATH"})
"""Parameters that Triton's Python backend reads itself."""


ToolFormat = Literal["hermes", "qwen_xml", "llama", "mistral", "phi", "gemma"]
"""The formats in which families of models write calls of functions."""


class ModelSettings(Settings):
    """Base of the settings of one model."""

    def parameters(self) -> dict[str, str]:
        """The settings as Triton model parameters; those that are None are left out."""
        return {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in self.model_dump(mode="json", exclude_none=True).items()
        }


S = TypeVar("S", bound=BaseModel)


def from_model_config(kind: type[S], model_config: dict[str, Any]) -> S:
    """Read settings back from Triton's model configuration.

    Args:
        kind: The settings of that model.
        model_config: Triton's ``model_config``, parsed from JSON.

    Raises:
        SettingsError: A parameter is unknown or out of bounds.
    """
    values: dict[str, Any] = {}
    for name, parameter in model_config.get("parameters", {}).items():
        if name in _TRITON_PARAMETERS:
            continue
        text = parameter["string_value"]
        field = kind.model_fields.get(name)
        values[name] = text if field is None or field.annotation is str else json_or_text(text)
    return parse(kind, values, group=model_config["name"])


class PreprocessingSettings(ModelSettings):
    """Settings of ``preprocessing``.

    Attributes:
        tokenizer_dir: Folder of the tokenizer; relative to the model's version folder, a final
            ``*`` being the served version.
        add_special_tokens: Whether the tokenizer adds its own special tokens to a raw prompt.
        chat_template: ``auto`` wraps a ``text_input`` as one user message in the checkpoint's chat
            template, where it has one; ``on`` refuses the text where it has none. Control tokens in
            it are plain text. ``off`` takes it as it is, a prompt that its sender has rendered:
            control tokens in it count.
        tool_format: In which format the model calls functions. ``auto`` is the one that its chat
            template speaks; ``none`` refuses tools.
        hold_tool_calls: Whether a call that the model begins by itself keeps to the schema of its
            function's arguments; else one of a function with ``strict`` does. A forced call always
            does.
    """

    tokenizer_dir: str = "../../tensorrt_llm/*"
    add_special_tokens: bool = True
    chat_template: Literal["auto", "on", "off"] = "auto"
    tool_format: Literal["auto", "none"] | ToolFormat = "auto"
    hold_tool_calls: bool = False


class EngineModelSettings(ModelSettings):
    """How requests to an engine are served, whichever engine of Trireme's it is.

    Attributes:
        max_queue_size: Most sequences that wait; a request beyond is refused at once.
        exclude_input_in_output: Whether an answer that doesn't stream leaves out its prompt, where
            the request doesn't say; by default, as TensorRT-LLM's, it doesn't.
        stream_responses_per_s: Most responses a second to all streams together, between their first
            and their last; where they have more tokens, several share a response. 0 is 32 for
            each core: a response costs two to three milliseconds of one, all in all.
        cancellation_check_period_ms: How soon a request whose client went away is noticed.
    """

    max_queue_size: int = Field(default=1024, ge=1, le=1_048_576)
    exclude_input_in_output: bool = False
    stream_responses_per_s: int = Field(default=0, ge=0, le=1_000_000)
    cancellation_check_period_ms: int = Field(default=100, ge=1, le=60_000)


class OnnxEngineSettings(EngineModelSettings):
    """Settings of ``tensorrt_llm`` on Trireme's ONNX engine.

    Attributes:
        engine_dir: Folder of the engine; relative to the model's version folder.
        trusted_key: The public key (PEM) that the engine has to be signed with, relative to the
            model's version folder; empty loads an engine that nobody vouches for.
        execution_provider: What the engine was built for: ``cpu``, or ``cuda`` for a GPU.
        device_id: Which GPU, as CUDA counts them.
        max_num_sequences: Most sequences that run at once; others wait. By default what the
            engine was built for, as are the next two: the ``limits`` of its recipe.
        max_num_tokens: Budget of tokens a step, prompts and running sequences together. Smaller
            bounds the gap between two tokens of a running stream, larger computes prompts faster.
        kv_cache_bytes: Most memory that keys and values take. It is reserved and becomes resident
            as it is written, on a GPU all at once; where it is full, requests wait.
        kv_cache_dtype: How keys and values are stored. ``auto`` is what the engine was built for,
            but float32 where the machine lacks AVX-512 VNNI, which int8 needs.
        num_threads: Threads to compute with; 0 is one for each core.
    """

    engine_dir: str = "."
    trusted_key: str = "../../trusted.pem"
    execution_provider: Literal["cpu", "cuda"] = "cpu"
    device_id: int = Field(default=0, ge=0, le=1023)
    max_num_sequences: int | None = Field(default=None, ge=1, le=1024)
    max_num_tokens: int | None = Field(default=None, ge=1, le=1_048_576)
    kv_cache_bytes: int | None = Field(default=None, ge=1 << 20, le=1 << 44)
    kv_cache_dtype: Literal["auto", "float32", "int8"] = "auto"
    num_threads: int = Field(default=0, ge=0, le=1024)


class PostprocessingSettings(ModelSettings):
    """Settings of ``postprocessing``.

    Attributes:
        tokenizer_dir: Folder of the tokenizer; relative to the model's version folder, a final
            ``*`` being the served version.
        skip_special_tokens: Whether special tokens are left out of the text.
        forget_after_s: How long an answer of which nothing is heard is kept in memory. The engine
            is heard of each answer now and then while it runs or waits; one that timed out, or
            whose engine died, ends without a word.
    """

    tokenizer_dir: str = "../../tensorrt_llm/*"
    skip_special_tokens: bool = True
    forget_after_s: int = Field(default=600, ge=1, le=86_400)


class AdapterSettings(ModelSettings):
    """Settings of ``tensorrt_llm_adapter``.

    Attributes:
        exclude_input_in_output: Whether an answer that doesn't stream leaves out its prompt, where
            the request doesn't say; by default, as TensorRT-LLM's, it doesn't.
        liveness_period_ms: How often a request that has no news asks whether its client is there.
        hung_after_s: How long its process may stand still; then it ends itself.
    """

    exclude_input_in_output: bool = False
    liveness_period_ms: int = Field(default=100, ge=1, le=60_000)
    hung_after_s: int = Field(default=30, ge=1, le=3600)


class SafetySettings(ModelSettings):
    """What ``preprocessing`` and ``postprocessing`` are told alike.

    Attributes:
        policy_file: The safety policies; relative to the folder that holds ``python_backend``. A
            change of it is taken up while serving.
        policy_check_period_ms: How often the file is looked at.
    """

    policy_file: str = "policies/safety.yaml"
    policy_check_period_ms: int = Field(default=1000, ge=10, le=3_600_000)


class EngineReference(ModelSettings):
    """What is told of the ensemble's second step; rendered from its settings.

    Attributes:
        engine_model: Its name.
        decoupled: Whether a request may have more than one response; else nothing streams.
        exclude_input_in_output: Its own setting of that name.
    """

    engine_model: str = TENSORRT_LLM
    decoupled: bool = True
    exclude_input_in_output: bool = False


class PreprocessingParameters(PreprocessingSettings, SafetySettings, EngineReference):
    """All that ``preprocessing`` is told."""


class PostprocessingParameters(PostprocessingSettings, SafetySettings, EngineReference):
    """All that ``postprocessing`` is told."""
