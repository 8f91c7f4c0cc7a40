"""What a decoder is made of, whatever its checkpoint calls it.

A checkpoint's ``config.json`` becomes a :class:`DecoderSpec`: sizes, rotary embedding, and for
each layer the tensors that hold its weights. The graphs are written from that alone, so supporting
another architecture means describing it here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build.checkpoint import Checkpoint
from build.errors import CheckpointError

ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)

# The engine's attention goes through a head in whole vector registers.
_HEAD_DIM_MULTIPLE = 16

_EMBEDDING = "model.embed_tokens.weight"
_FINAL_NORM = "model.norm.weight"
_LM_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of the rotary embedding beyond its original context.

    Frequencies whose wavelength exceeds ``original_context / low_freq_factor`` are divided by
    ``factor``, those below ``original_context / high_freq_factor`` are kept, and those between
    are interpolated.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def scale(self, inv_freq: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scale inverse frequencies, ``[head_dim / 2]``."""
        turns = self.original_context * inv_freq / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = np.clip(kept, 0.0, 1.0)
        return inv_freq * (kept + (1.0 - kept) / self.factor)


@dataclass(frozen=True)
class LayerTensors:
    """The names of one layer's tensors. A tuple is a product whose rows are put together."""

    attention_norm: str
    qkv: tuple[str, ...]
    qkv_bias: tuple[str, ...]
    qk_norm: tuple[str, str] | None
    attention_output: str
    mlp_norm: str
    gate: str
    up: str
    down: str


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder-only transformer with RMS norms, rotary embedding and a gated SiLU MLP.

    Attributes:
        architecture: The checkpoint's own name for it.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLP.
        num_heads: Query heads a layer.
        num_kv_heads: Key and value heads a layer.
        head_dim: Width of one head.
        vocab_size: Rows of the embedding, width of the logits.
        norm_eps: Epsilon of every RMS norm.
        rope_theta: Base of the rotary embedding.
        rope_scaling: How the rotary embedding is stretched, if it is.
        context_length: Most tokens a sequence can have.
        sliding_window: The attention window that ``context_length`` was limited to, if any.
        embedding: The token embedding's tensor.
        layers: The tensors of each layer.
        final_norm: The last norm's tensor.
        lm_head: The output projection's tensor; ``embedding`` where the two are tied.
    """

    architecture: str
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    context_length: int
    sliding_window: int | None
    embedding: str
    layers: tuple[LayerTensors, ...]
    final_norm: str
    lm_head: str

    @property
    def q_size(self) -> int:
        """Width of the queries, all heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the keys (and of the values), all heads together."""
        return self.num_kv_heads * self.head_dim

    @property
    def tied_embeddings(self) -> bool:
        """Whether the output projection is the embedding itself."""
        return self.lm_head == self.embedding

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that the decoder reads, with the shape it must have."""
        hidden, head_dim = (self.hidden_size,), (self.head_dim,)
        table = (self.vocab_size, self.hidden_size)
        shapes = {self.embedding: table, self.final_norm: hidden, self.lm_head: table}
        qkv_rows = (self.q_size, self.kv_size, self.kv_size)
        for layer in self.layers:
            shapes[layer.attention_norm] = shapes[layer.mlp_norm] = hidden
            shapes.update(
                (name, (rows, self.hidden_size))
                for name, rows in zip(layer.qkv, qkv_rows, strict=True)
            )
            shapes.update(
                (name, (rows,)) for name, rows in zip(layer.qkv_bias, qkv_rows, strict=False)
            )
            shapes.update((name, head_dim) for name in layer.qk_norm or ())
            shapes[layer.attention_output] = (self.hidden_size, self.q_size)
            shapes[layer.gate] = shapes[layer.up] = (self.intermediate_size, self.hidden_size)
            shapes[layer.down] = (self.hidden_size, self.intermediate_size)
        return shapes

    def rotary_table(self) -> NDArray[np.float32]:
        """The rotary embedding's cosines and sines, ``[2, context_length, head_dim / 2]``.

        At position ``p``, with ``half = head_dim / 2``, the elements ``i`` and ``i + half`` of a
        head turn by the angle ``table[:, p, i]``.
        """
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim
        inv_freq = self.rope_theta**-exponents
        if self.rope_scaling is not None:
            inv_freq = self.rope_scaling.scale(inv_freq)
        angles = np.outer(np.arange(self.context_length, dtype=np.float64), inv_freq)
        return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def describe_decoder(checkpoint: Checkpoint, context_length: int | None = None) -> DecoderSpec:
    """Read a checkpoint's configuration and check that its tensors fit it.

    Args:
        checkpoint: The checkpoint, open.
        context_length: Limits the context; by default it is all that the checkpoint was made for.

    Raises:
        CheckpointError: The architecture or one of its features is not supported, a setting is
            missing, or a tensor is missing or has another shape than the configuration says.
    """
    config = _Config(checkpoint.config)
    architecture = _architecture(checkpoint.config)
    _refuse_unsupported(config, architecture)

    hidden_size = config.integer("hidden_size")
    num_heads = config.integer("num_attention_heads")
    qkv_bias = architecture == "Qwen2ForCausalLM"
    qk_norm = architecture == "Qwen3ForCausalLM"
    head_dim = config.integer("head_dim", default=128 if qk_norm else hidden_size // num_heads)
    num_kv_heads = config.integer("num_key_value_heads", default=num_heads)
    if num_heads % num_kv_heads:
        raise CheckpointError(f"{num_heads} heads do not divide among {num_kv_heads} KV heads")
    if head_dim % _HEAD_DIM_MULTIPLE:
        raise CheckpointError(
            f"heads of {head_dim} are not supported, only multiples of {_HEAD_DIM_MULTIPLE} are"
        )
    longest = config.integer("max_position_embeddings")
    if context_length is not None and not 0 < context_length <= longest:
        raise CheckpointError(f"the context length must be between 1 and {longest}")
    context_length = context_length or longest
    window = _sliding_window(config, architecture)
    if window is not None and window >= context_length:
        window = None
    theta, scaling = _rotary_embedding(config)

    spec = DecoderSpec(
        architecture=architecture,
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        vocab_size=config.integer("vocab_size"),
        norm_eps=config.number("rms_norm_eps"),
        rope_theta=theta,
        rope_scaling=scaling,
        context_length=window or context_length,
        sliding_window=window,
        embedding=_EMBEDDING,
        layers=tuple(
            _layer_tensors(index, qkv_bias, qk_norm)
            for index in range(config.integer("num_hidden_layers"))
        ),
        final_norm=_FINAL_NORM,
        lm_head=_EMBEDDING if config.flag("tie_word_embeddings") else _LM_HEAD,
    )
    for name, shape in spec.tensor_shapes().items():
        if checkpoint.shape(name) != shape:
            raise CheckpointError(
                f"{name} has shape {list(checkpoint.shape(name))}, "
                f"but config.json asks for {list(shape)}"
            )
        checkpoint.dtype(name)
    return spec


class _Config:
    """``config.json`` with typed look-ups that name the setting when it is missing or wrong."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    def get(self, name: str) -> Any:
        return self._settings.get(name)

    def flag(self, name: str) -> bool:
        return bool(self._settings.get(name))

    def number(self, name: str, default: float | None = None) -> float:
        value = self._settings.get(name)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"config.json has no {name}")
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise CheckpointError(f"config.json says {name} = {value!r}, not a positive number")
        return float(value)

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.number(name, default)
        if value != int(value):
            raise CheckpointError(f"config.json says {name} = {value!r}, not a whole number")
        return int(value)


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures") or ["no architecture"]
    for name in names:
        if name in ARCHITECTURES:
            return str(name)
    raise CheckpointError(
        f"{names[0]} is not supported; the architectures that are: {', '.join(ARCHITECTURES)}"
    )


def _refuse_unsupported(config: _Config, architecture: str) -> None:
    if config.get("quantization_config"):
        method = config.get("quantization_config").get("quant_method", "quantized")
        raise CheckpointError(
            f"the checkpoint is already quantized ({method}); start from the original weights"
        )
    if config.get("hidden_act") not in (None, "silu"):
        raise CheckpointError(f"the activation {config.get('hidden_act')!r} is not supported")
    for setting in ("attention_bias", "mlp_bias"):
        if config.flag(setting):
            raise CheckpointError(f"{setting} is not supported for {architecture}")


def _sliding_window(config: _Config, architecture: str) -> int | None:
    if architecture.startswith("Qwen") and not config.flag("use_sliding_window"):
        return None
    return config.integer("sliding_window") if config.get("sliding_window") else None


def _rotary_embedding(config: _Config) -> tuple[float, Llama3Scaling | None]:
    """Read theta and scaling, which transformers 5 keeps together in ``rope_parameters``."""
    rope = _Config(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = rope.number("rope_theta", default=config.number("rope_theta", default=10_000.0))
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if rope.number("partial_rotary_factor", default=1.0) != 1.0:
        raise CheckpointError("a partial rotary embedding is not supported")
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise CheckpointError(f"the rotary scaling {kind!r} is not supported, only llama3 is")
    return theta, Llama3Scaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_context=rope.integer("original_max_position_embeddings"),
    )


def _layer_tensors(index: int, qkv_bias: bool, qk_norm: bool) -> LayerTensors:
    layer = f"model.layers.{index}"
    attention = f"{layer}.self_attn"
    return LayerTensors(
        attention_norm=f"{layer}.input_layernorm.weight",
        qkv=tuple(f"{attention}.{part}_proj.weight" for part in "qkv"),
        qkv_bias=tuple(f"{attention}.{part}_proj.bias" for part in "qkv") if qkv_bias else (),
        qk_norm=(f"{attention}.q_norm.weight", f"{attention}.k_norm.weight") if qk_norm else None,
        attention_output=f"{attention}.o_proj.weight",
        mlp_norm=f"{layer}.post_attention_layernorm.weight",
        gate=f"{layer}.mlp.gate_proj.weight",
        up=f"{layer}.mlp.up_proj.weight",
        down=f"{layer}.mlp.down_proj.weight",
    )
