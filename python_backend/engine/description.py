"""What a decoder is made of: the ``decoder.json`` that lies beside an engine's weights.

The graphs say it too, to ONNX Runtime. This says it to the native decoder, which reads the same
weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.errors import EngineError
from python_backend.engine.engine_config import faults

DECODER_FILE = "decoder.json"

TensorType: TypeAlias = Literal["float32", "float16", "bfloat16", "int8", "uint8"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tensor(_Model):
    """Where a tensor lies in the weights file.

    Attributes:
        dtype: Of its elements, as numpy and ml_dtypes call it.
        shape: Its dimensions.
        offset: Its first byte.
    """

    dtype: TensorType
    shape: tuple[int, ...]
    offset: int = Field(ge=0)


class Layer(_Model):
    """The names of one layer's weights; a quantized one is several tensors (``build/storage.py``).

    Attributes:
        attention_norm: What the attention's input is normed by.
        qkv: Queries, keys and values in one product.
        qkv_bias: Its bias, if any.
        q_norm: What each query head is normed by, if it is.
        k_norm: What each key head is normed by, if it is.
        attention_output: The product after attention.
        post_attention_norm: What that is normed by before it is added, if it is.
        mlp_norm: What the MLP's input is normed by.
        gate: The MLP's gate.
        up: What the gate multiplies.
        down: The MLP's last product.
        post_mlp_norm: What that is normed by before it is added, if it is.
    """

    attention_norm: str
    qkv: str
    qkv_bias: str | None
    q_norm: str | None
    k_norm: str | None
    attention_output: str
    post_attention_norm: str | None
    mlp_norm: str
    gate: str
    up: str
    down: str
    post_mlp_norm: str | None


class DecoderDescription(_Model):
    """The whole decoder.

    Attributes:
        intermediate_size: Width of the MLP.
        activation: What the MLP's gate goes through.
        norm_eps: Epsilon of every RMS norm.
        embedding_scale: Factor on the embedding's rows.
        logit_softcap: Logits become ``cap * tanh(logit / cap)``; None leaves them.
        embedding: The token embedding.
        layers: Its layers.
        final_norm: What the last layer's output is normed by.
        lm_head: The output projection.
        tensors: Where the weights lie, by name.
    """

    intermediate_size: int = Field(gt=0)
    activation: Literal["silu", "gelu_tanh"]
    norm_eps: float = Field(gt=0)
    embedding_scale: float = Field(gt=0)
    logit_softcap: float | None = Field(gt=0)
    embedding: str
    layers: tuple[Layer, ...]
    final_norm: str
    lm_head: str
    tensors: dict[str, Tensor]

    @classmethod
    def load(cls, folder: Path) -> DecoderDescription | None:
        """Read ``decoder.json`` from an engine folder; None where there is none.

        Raises:
            EngineError: The file does not describe a decoder.
        """
        path = folder / DECODER_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise EngineError(f"{path} does not describe a decoder: {faults(error)}") from None

    def save(self, folder: Path) -> None:
        """Write ``decoder.json`` into an engine folder."""
        (folder / DECODER_FILE).write_text(self.model_dump_json() + "\n", encoding="utf-8")
