"""What an engine folder says about itself: the ``engine.json`` that lies beside the weights.

``build/`` writes it, the runner and the text models read it. It holds what the graphs alone do
not tell (context length, special tokens) and what a reader wants to know before loading them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contract.errors import EngineError
from python_backend.engine.layers import Decoder

ENGINE_FILE = "engine.json"
WEIGHTS_FILE = "weights.bin"
ROTARY_FILE = "rotary.npy"
SMOOTHING_FILE = "kv_smoothing.npy"
GRAPH_FILE = "decoder.onnx"
"""The whole graph of an engine for CUDA (``build/cuda_graph.py``)."""

_FORMAT: Final = 5

ExecutionProvider: TypeAlias = Literal["cpu", "cuda"]
Precision: TypeAlias = Literal["fp32", "fp16", "fp8", "int8", "int8_block", "int4"]
KVDtype: TypeAlias = Literal["float32", "float16", "int8"]

PRECISIONS: dict[ExecutionProvider, tuple[Precision, ...]] = {
    "cpu": ("fp32", "int8", "int8_block", "int4"),
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
        kv_cache_dtype: How keys and values are stored, where the machine has the kernels for it.
        context_length: Most tokens a sequence can have, prompt and output together.
        short_context: Sequences that stay within so many tokens are turned by a rotary embedding of
            their own, as LongRoPE has it; 0 is none.
        limits: What it was built to serve.
        end_token_ids: Tokens that end a sequence.
        decoder: What it is made of.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[5] = _FORMAT
    architecture: str
    execution_provider: ExecutionProvider = "cpu"
    precision: Precision
    kv_cache_dtype: KVDtype = "float32"
    context_length: int = Field(gt=0)
    short_context: int = Field(default=0, ge=0)
    limits: ServingLimits = ServingLimits()
    end_token_ids: tuple[int, ...] = Field(min_length=1)
    decoder: Decoder

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return self.decoder.vocab_size

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.decoder.hidden_size

    @property
    def num_layers(self) -> int:
        """Decoder layers, each with one key and one value cache."""
        return len(self.decoder.layers)

    @property
    def num_heads(self) -> int:
        """Query heads a layer."""
        return self.decoder.heads[0].num_heads

    @property
    def num_kv_heads(self) -> int:
        """Key and value heads a layer."""
        return self.decoder.heads[0].num_kv_heads

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.decoder.heads[0].head_dim

    def rotary_start(self, num_tokens: int) -> int:
        """The row of the rotary embedding's table that a sequence's first position has.

        Args:
            num_tokens: What the sequence may grow to, prompt and output together. It is known when
                the sequence begins, which then keeps to one embedding: keys in the cache can't be
                turned anew when it grows.
        """
        return self.context_length if num_tokens <= self.short_context else 0

    @model_validator(mode="before")
    @classmethod
    def _is_of_this_format(cls, values: Any) -> Any:
        """Say so alone of another format: everything else in it would be wrong, too."""
        found = values.get("format_version", _FORMAT) if isinstance(values, dict) else _FORMAT
        if found != _FORMAT:
            raise ValueError(f"it is of format {found}, and this version reads format {_FORMAT}")
        return values

    @model_validator(mode="after")
    def _provider_computes_it(self) -> EngineConfig:
        provider = self.execution_provider
        if self.precision not in PRECISIONS[provider]:
            raise ValueError(f"{self.precision} weights are not for {provider}")
        if self.kv_cache_dtype not in KV_DTYPES[provider]:
            raise ValueError(f"a kv_cache_dtype of {self.kv_cache_dtype} is not for {provider}")
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
