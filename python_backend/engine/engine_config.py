"""What an engine folder says about itself: the ``engine.json`` that lies beside the weights.

``build/`` writes it, the runner and the text models read it. It holds what the graphs alone do
not tell (context length, special tokens) and what a reader wants to know before loading them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contract.errors import EngineError

ENGINE_FILE = "engine.json"
WEIGHTS_FILE = "weights.bin"
ROTARY_FILE = "rotary.npy"
SMOOTHING_FILE = "kv_smoothing.npy"
GRAPH_FILE = "decoder.onnx"
"""The whole graph of an engine for CUDA (``build/cuda_graph.py``)."""

ExecutionProvider: TypeAlias = Literal["cpu", "cuda"]
Precision: TypeAlias = Literal["fp32", "fp16", "fp8", "int8", "int4"]
KVDtype: TypeAlias = Literal["float32", "float16", "int8"]

PRECISIONS: dict[ExecutionProvider, tuple[Precision, ...]] = {
    "cpu": ("fp32", "int8", "int4"),
    "cuda": ("fp16", "fp8", "int4"),
}
"""The precisions of the weights that each provider computes with."""
KV_DTYPES: dict[ExecutionProvider, tuple[KVDtype, ...]] = {
    "cpu": ("float32", "int8"),
    "cuda": ("float16",),
}
"""How each provider can store keys and values."""


def default_provider(precision: Precision) -> ExecutionProvider:
    """A CPU where it computes with such weights, else CUDA."""
    return "cpu" if precision in PRECISIONS["cpu"] else "cuda"


def segment_file(index: int) -> str:
    """The name of a segment's graph; there is one more than layers (``build/segments.py``)."""
    return f"segment_{index:02}.onnx"


def faults(error: ValidationError, most: int = 3) -> str:
    """The first faults of a file that was written for another version, or not by ``build/``."""
    found = [": ".join([*map(str, e["loc"]), e["msg"]]) for e in error.errors()]
    more = [f"and {len(found) - most} more"] if len(found) > most else []
    return f"{'; '.join(found[:most] + more)}: build the engine anew"


class AttentionConfig(BaseModel):
    """What attention does beyond the plain causal kind; the defaults are the plain kind.

    Attributes:
        scale: Factor on the product of query and key; None is ``head_dim ** -0.5``.
        logit_softcap: Scores, scaled, become ``cap * tanh(score / cap)``; None leaves them.
        windows: For each layer how many keys a query sees, its own and those before it; 0 is all.
            Empty where every layer sees all.
        rotary_dim: Only so many elements of each query and key head turn, the first ones; None
            is all of them.
        unrotated_layers: Layers whose queries and keys don't turn at all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: float | None = Field(default=None, gt=0)
    logit_softcap: float | None = Field(default=None, gt=0)
    windows: tuple[Annotated[int, Field(ge=0)], ...] = ()
    rotary_dim: int | None = Field(default=None, gt=0, multiple_of=2)
    unrotated_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()


def served_version(model: Path, holding: str = ENGINE_FILE) -> Path | None:
    """The version folder that Triton serves of a model: the highest number that holds a file."""
    versions = [path for path in model.glob("[0-9]*") if (path / holding).is_file()]
    return max(versions, key=lambda path: int(path.name), default=None)


class ServingLimits(BaseModel):
    """What an engine was built to serve; the repository's settings may say otherwise.

    Attributes:
        max_num_sequences: Most sequences that run at once.
        max_num_tokens: Budget of tokens a step.
        kv_cache_bytes: Most memory that keys and values take.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_num_sequences: int = Field(default=32, gt=0)
    max_num_tokens: int = Field(default=512, gt=0)
    kv_cache_bytes: int = Field(default=1 << 30, gt=0)


class EngineConfig(BaseModel):
    """The description of one built engine.

    Attributes:
        format_version: Version of the folder's layout: its files, the graphs' inputs and outputs.
        architecture: The checkpoint's architecture, such as ``LlamaForCausalLM``.
        execution_provider: What the engine was built for.
        precision: Precision of the weights.
        vocab_size: Width of the logits; sampling can add up no more.
        num_layers: Decoder layers, each with one key and one value cache.
        hidden_size: Width of the residual stream.
        num_heads: Query heads a layer.
        num_kv_heads: Key and value heads a layer.
        head_dim: Width of one head.
        attention: What its attention does beyond the plain causal kind.
        kv_cache_dtype: How keys and values are stored, where the machine has the kernels for it.
        context_length: Most tokens a sequence can have, prompt and output together.
        limits: What it was built to serve.
        end_token_ids: Tokens that end a sequence.
        pad_token_id: The padding token.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[2] = 2
    architecture: str
    execution_provider: ExecutionProvider = "cpu"
    precision: Precision
    vocab_size: int = Field(gt=0, le=1 << 20)
    num_layers: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    num_kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    attention: AttentionConfig = AttentionConfig()
    kv_cache_dtype: KVDtype = "float32"
    context_length: int = Field(gt=0)
    limits: ServingLimits = ServingLimits()
    end_token_ids: tuple[int, ...] = Field(min_length=1)
    pad_token_id: int = Field(ge=0)

    @model_validator(mode="after")
    def _provider_computes_it(self) -> EngineConfig:
        provider = self.execution_provider
        if self.precision not in PRECISIONS[provider]:
            raise ValueError(f"{self.precision} weights are not for {provider}")
        if self.kv_cache_dtype not in KV_DTYPES[provider]:
            raise ValueError(f"a kv_cache_dtype of {self.kv_cache_dtype} is not for {provider}")
        return self

    @model_validator(mode="after")
    def _layers_exist(self) -> EngineConfig:
        """Refuse what would have the attention kernel read past an array's end."""
        attention, layers = self.attention, self.num_layers
        if attention.windows and len(attention.windows) != layers:
            raise ValueError(
                f"attention.windows has to have one number for each of {layers} layers"
            )
        if any(layer >= layers for layer in attention.unrotated_layers):
            raise ValueError(f"attention.unrotated_layers names a layer beyond the {layers}")
        if (attention.rotary_dim or 0) > self.head_dim:
            raise ValueError(f"attention.rotary_dim is more than the head_dim of {self.head_dim}")
        return self

    @classmethod
    def load(cls, folder: Path) -> EngineConfig:
        """Read ``engine.json`` from an engine folder.

        Raises:
            EngineError: The file is missing or does not describe an engine.
        """
        path = folder / ENGINE_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise EngineError(
                f"{path} is missing: build an engine first (make build-engines)"
            ) from None
        except ValidationError as error:
            raise EngineError(f"{path} does not describe an engine: {faults(error)}") from None

    def save(self, folder: Path) -> None:
        """Write ``engine.json`` into an engine folder."""
        (folder / ENGINE_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
