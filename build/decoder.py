"""What a decoder is made of, whatever its checkpoint calls it.

A checkpoint's ``config.json`` becomes a :class:`DecoderSpec`: the decoder as an engine describes it
(``python_backend/engine/layers.py``), each part with the tensors that hold its weights, and what
only a build has to know. The graphs are written from that alone, so supporting another architecture
means describing it here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build.build_errors import CheckpointError
from build.checkpoint import Checkpoint
from build.model_config import ModelConfig
from build.rotary import RotaryEmbedding, describe_rotary
from build.weight_tensors import UnpackedTensors
from python_backend.engine.layers import (
    Activation,
    Attention,
    Decoder,
    FeedForward,
    GatedFeedForward,
    GroupedAttention,
    Heads,
    Layer,
    Norm,
    Pair,
    Product,
    RmsNorm,
    products,
)

_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


@dataclass(frozen=True)
class _Family:
    """What an architecture has that the plain Llama has not, and what its configs leave out."""

    qkv_bias: bool = False
    qk_norm: bool = False
    packed: bool = False
    post_norms: bool = False
    norm_offset: float = 0.0
    scales_embedding: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)


_FAMILIES = {
    "LlamaForCausalLM": _Family(),
    "MistralForCausalLM": _Family(),
    "Qwen2ForCausalLM": _Family(qkv_bias=True),
    "Qwen3ForCausalLM": _Family(qk_norm=True, defaults={"head_dim": 128}),
    "Phi3ForCausalLM": _Family(packed=True),
    "Gemma2ForCausalLM": _Family(
        post_norms=True,
        norm_offset=1.0,
        scales_embedding=True,
        defaults={
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "tie_word_embeddings": True,
        },
    ),
    "SmolLM3ForCausalLM": _Family(
        defaults={"no_rope_layer_interval": 4, "tie_word_embeddings": True}
    ),
}
ARCHITECTURES = tuple(_FAMILIES)

# The engine's attention goes through a head in whole vector registers.
_HEAD_DIM_MULTIPLE = 16

_EMBEDDING = "model.embed_tokens.weight"
_FINAL_NORM = "model.norm.weight"
_LM_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder, and what a build has to know of its checkpoint beside it.

    Attributes:
        architecture: The checkpoint's own name for it.
        decoder: What it is made of; its tensors are the checkpoint's.
        norm_offset: Added to every norm's weight.
        rotary: The rotary embedding.
        context_length: Most tokens a sequence can have.
        packed: Matrices that the checkpoint stores in one, with their parts' names and rows.
    """

    architecture: str
    decoder: Decoder
    norm_offset: float
    rotary: RotaryEmbedding
    context_length: int
    packed: dict[str, tuple[tuple[str, int], ...]]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The decoder's layers."""
        return self.decoder.layers

    def tensors(self, checkpoint: Checkpoint) -> UnpackedTensors:
        """The checkpoint's tensors under the names that this description uses.

        Raises:
            CheckpointError: A packed matrix is missing, or its rows are not its parts'.
        """
        return UnpackedTensors(checkpoint, self.packed)

    def rotary_table(self) -> NDArray[np.float32]:
        """Cosines and sines, ``[2, context_length, rotary_dim / 2]``."""
        return self.rotary.table(self.context_length)


def describe_decoder(checkpoint: Checkpoint, context_length: int | None = None) -> DecoderSpec:
    """Read a checkpoint's configuration and check that its tensors fit it.

    Args:
        checkpoint: The checkpoint, open.
        context_length: Limits the context; by default it is all that the checkpoint was made for.

    Raises:
        CheckpointError: The architecture or one of its features is not supported, a setting is
            missing, or a tensor is missing or has another shape than the configuration says.
    """
    architecture = _architecture(checkpoint.config)
    family = _FAMILIES[architecture]
    config = ModelConfig({**family.defaults, **checkpoint.config})
    _refuse_unsupported(config, architecture)

    hidden_size = config.integer("hidden_size")
    num_heads = config.integer("num_attention_heads")
    head_dim = config.integer("head_dim", default=hidden_size // num_heads)
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
    num_layers = config.integer("num_hidden_layers")
    rotary = describe_rotary(config, head_dim, context_length)
    windows = _windows(config, architecture, num_layers, context_length)
    unrotated = _unrotated_layers(config, num_layers)
    heads = Heads(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scale=config.number("query_pre_attn_scalar", default=head_dim) ** -0.5,
        logit_softcap=config.optional_number("attn_logit_softcapping"),
        rotary_dim=rotary.dim,
    )
    parts = _Parts(config, family)
    layers = []
    for index in range(num_layers):
        changes = {"window": windows[index] if windows else 0}
        if index in unrotated:
            changes["rotary_dim"] = 0
        attention = parts.attention(index, heads.model_copy(update=changes))
        layers.append(Layer(attention=attention, feed_forward=parts.feed_forward(index)))
    lm_head = _EMBEDDING if config.flag("tie_word_embeddings") else _LM_HEAD
    spec = DecoderSpec(
        architecture=architecture,
        decoder=Decoder(
            embedding=_EMBEDDING,
            embedding_scale=math.sqrt(hidden_size) if family.scales_embedding else 1.0,
            layers=tuple(layers),
            final_norm=parts.norm(_FINAL_NORM),
            lm_head=parts.product(lm_head, config.integer("vocab_size")),
            logit_softcap=config.optional_number("final_logit_softcapping"),
        ),
        norm_offset=family.norm_offset,
        rotary=rotary,
        context_length=context_length,
        packed=parts.packed,
    )
    tensors = spec.tensors(checkpoint)
    for name, shape in spec.decoder.tensor_shapes().items():
        if tensors.shape(name) != shape:
            raise CheckpointError(
                f"{name} has shape {list(tensors.shape(name))}, "
                f"but config.json asks for {list(shape)}"
            )
        tensors.dtype(name)
    return spec


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures") or ["no architecture"]
    for name in names:
        if name in ARCHITECTURES:
            return str(name)
    raise CheckpointError(
        f"{names[0]} is not supported; the architectures that are: {', '.join(ARCHITECTURES)}"
    )


def _refuse_unsupported(config: ModelConfig, architecture: str) -> None:
    if config.get("quantization_config"):
        method = config.get("quantization_config").get("quant_method", "quantized")
        raise CheckpointError(
            f"the checkpoint is already quantized ({method}); start from the original weights"
        )
    for setting in ("attention_bias", "mlp_bias", "use_bidirectional_attention"):
        if config.flag(setting):
            raise CheckpointError(f"{setting} is not supported for {architecture}")


def _activation(config: ModelConfig) -> Activation:
    name = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    if name not in _ACTIVATIONS:
        raise CheckpointError(f"the activation {name!r} is not supported")
    return _ACTIVATIONS[name]


def _windows(
    config: ModelConfig, architecture: str, num_layers: int, context_length: int
) -> tuple[int, ...]:
    """How many keys each layer's queries see, 0 for all; empty where every layer sees all.

    Where ``layer_types`` doesn't tell, each architecture has its own rule.
    """
    switchable = architecture.startswith(("Qwen", "SmolLM3"))
    if not config.get("sliding_window") or (switchable and not config.flag("use_sliding_window")):
        return ()
    window = config.integer("sliding_window")
    if window >= context_length:
        return ()
    types = config.get("layer_types")
    if types is not None:
        if not isinstance(types, list) or len(types) != num_layers:
            raise CheckpointError(f"config.json says layer_types = {types!r}, not one a layer")
        for kind in types:
            if kind not in ("sliding_attention", "full_attention"):
                raise CheckpointError(f"the attention {kind!r} is not supported")
        slides = [kind == "sliding_attention" for kind in types]
    elif architecture == "Gemma2ForCausalLM":
        slides = [index % 2 == 0 for index in range(num_layers)]
    elif architecture.startswith("Qwen"):
        first = config.integer("max_window_layers") if config.get("max_window_layers") else 0
        slides = [index >= first for index in range(num_layers)]
    elif architecture == "SmolLM3ForCausalLM":
        unrotated = _unrotated_layers(config, num_layers)
        slides = [index in unrotated for index in range(num_layers)]
    else:
        slides = [True] * num_layers
    return tuple(window if each else 0 for each in slides) if any(slides) else ()


def _unrotated_layers(config: ModelConfig, num_layers: int) -> tuple[int, ...]:
    rotates = config.get("no_rope_layers")  # 1 where a layer has a rotary embedding
    if rotates is not None:
        if not isinstance(rotates, list) or len(rotates) != num_layers:
            raise CheckpointError(f"config.json says no_rope_layers = {rotates!r}, not one a layer")
        return tuple(index for index, each in enumerate(rotates) if not each)
    if config.get("no_rope_layer_interval") is None:
        return ()
    interval = config.integer("no_rope_layer_interval")
    return tuple(range(interval - 1, num_layers, interval))


class _Parts:
    """The parts of layers as an architecture has them, and the names of their tensors.

    Attributes:
        packed: Matrices that the checkpoint stores in one, with their parts' names and rows.
    """

    def __init__(self, config: ModelConfig, family: _Family) -> None:
        self._family = family
        self._hidden_size = config.integer("hidden_size")
        self._intermediate_size = config.integer("intermediate_size")
        self._activation = _activation(config)
        self._eps = config.number("rms_norm_eps")
        self.packed: dict[str, tuple[tuple[str, int], ...]] = {}

    def norm(self, weight: str, width: int | None = None) -> Norm:
        """A norm, by default as wide as the residual stream."""
        return RmsNorm(weight=weight, width=width or self._hidden_size, eps=self._eps)

    def product(self, weight: str, rows: int, columns: int | None = None) -> Product:
        """A product with one matrix, by default of what is as wide as the residual stream."""
        return Product(weights=(weight,), rows=(rows,), columns=columns or self._hidden_size)

    def attention(self, index: int, heads: Heads) -> Attention:
        """A layer's attention."""
        name, family = f"model.layers.{index}.self_attn", self._family
        q_norm, k_norm = (
            self.norm(f"{name}.{part}_norm.weight", heads.head_dim) if family.qk_norm else None
            for part in "qk"
        )
        qkv = Product(
            weights=tuple(f"{name}.{part}_proj.weight" for part in "qkv"),
            rows=(heads.q_size, heads.kv_size, heads.kv_size),
            columns=self._hidden_size,
            bias=tuple(f"{name}.{part}_proj.bias" for part in "qkv" if family.qkv_bias),
        )
        self._pack(f"{name}.qkv_proj.weight", qkv)
        return GroupedAttention(
            norm=self.norm(f"model.layers.{index}.input_layernorm.weight"),
            output_norm=self.norm(_after_attention(index)) if family.post_norms else None,
            heads=heads,
            qkv=qkv,
            q_norm=q_norm,
            k_norm=k_norm,
            output=self.product(f"{name}.o_proj.weight", self._hidden_size, heads.q_size),
        )

    def feed_forward(self, index: int) -> FeedForward:
        """A layer's feed-forward."""
        layer, inner = f"model.layers.{index}", self._intermediate_size
        norm, output_norm = _after_attention(index), None
        if self._family.post_norms:
            norm = f"{layer}.pre_feedforward_layernorm.weight"
            output_norm = self.norm(f"{layer}.post_feedforward_layernorm.weight")
        gate_up = Pair(
            first=self.product(f"{layer}.mlp.gate_proj.weight", inner),
            second=self.product(f"{layer}.mlp.up_proj.weight", inner),
        )
        self._pack(f"{layer}.mlp.gate_up_proj.weight", gate_up)
        return GatedFeedForward(
            norm=self.norm(norm),
            output_norm=output_norm,
            activation=self._activation,
            gate_up=gate_up,
            down=self.product(f"{layer}.mlp.down_proj.weight", self._hidden_size, inner),
        )

    def _pack(self, name: str, part: Product | Pair) -> None:
        """Where the architecture does so, as Phi-3 does: the checkpoint has these in one matrix."""
        if self._family.packed:
            self.packed[name] = tuple(
                pair
                for each in products(part)
                for pair in zip(each.weights, each.rows, strict=True)
            )


def _after_attention(index: int) -> str:
    """A norm's name, which is two: before the MLP, and where Gemma has others, after attention."""
    return f"model.layers.{index}.post_attention_layernorm.weight"
