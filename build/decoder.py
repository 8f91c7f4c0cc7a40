"""What a decoder is made of, whatever its checkpoint calls it.

A checkpoint's ``config.json`` becomes a :class:`DecoderSpec`: sizes, rotary embedding, and for
each layer the tensors that hold its weights. The graphs are written from that alone, so supporting
another architecture means describing it here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from build.build_errors import CheckpointError
from build.checkpoint import Checkpoint
from build.model_config import ModelConfig
from build.rotary import RotaryEmbedding, describe_rotary
from build.weight_tensors import UnpackedTensors
from python_backend.engine.engine_config import AttentionConfig

Activation: TypeAlias = Literal["silu", "gelu_tanh"]

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
class LayerTensors:
    """The names of one layer's tensors. A tuple is a product whose rows are put together."""

    attention_norm: str
    qkv: tuple[str, ...]
    qkv_bias: tuple[str, ...]
    qk_norm: tuple[str, str] | None
    attention_output: str
    post_attention_norm: str | None
    mlp_norm: str
    gate: str
    up: str
    down: str
    post_mlp_norm: str | None


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder-only transformer with RMS norms, rotary embedding and a gated MLP.

    Attributes:
        architecture: The checkpoint's own name for it.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLP.
        num_heads: Query heads a layer.
        num_kv_heads: Key and value heads a layer.
        head_dim: Width of one head.
        vocab_size: Rows of the embedding, width of the logits.
        activation: What the MLP's gate goes through.
        norm_eps: Epsilon of every RMS norm.
        norm_offset: Added to every norm's weight.
        embedding_scale: Factor on the embedding's rows.
        logit_softcap: Logits become ``cap * tanh(logit / cap)``; None leaves them.
        attention: What attention does beyond the plain causal kind.
        rotary: The rotary embedding.
        context_length: Most tokens a sequence can have.
        embedding: The token embedding's tensor.
        layers: The tensors of each layer.
        packed: Matrices that the checkpoint stores in one, with their parts' names and rows.
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
    activation: Activation
    norm_eps: float
    norm_offset: float
    embedding_scale: float
    logit_softcap: float | None
    attention: AttentionConfig
    rotary: RotaryEmbedding
    context_length: int
    embedding: str
    layers: tuple[LayerTensors, ...]
    packed: dict[str, tuple[tuple[str, int], ...]]
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
                (name, hidden)
                for name in (layer.post_attention_norm, layer.post_mlp_norm)
                if name is not None
            )
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
    intermediate_size = config.integer("intermediate_size")
    q_size, kv_size = num_heads * head_dim, num_kv_heads * head_dim
    layers = tuple(_layer_tensors(index, family) for index in range(num_layers))

    spec = DecoderSpec(
        architecture=architecture,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        vocab_size=config.integer("vocab_size"),
        activation=_activation(config),
        norm_eps=config.number("rms_norm_eps"),
        norm_offset=family.norm_offset,
        embedding_scale=math.sqrt(hidden_size) if family.scales_embedding else 1.0,
        logit_softcap=config.optional_number("final_logit_softcapping"),
        attention=AttentionConfig(
            scale=_attention_scale(config, head_dim),
            logit_softcap=config.optional_number("attn_logit_softcapping"),
            windows=_windows(config, architecture, num_layers, context_length),
            rotary_dim=None if rotary.dim == head_dim else rotary.dim,
            unrotated_layers=_unrotated_layers(config, num_layers),
        ),
        rotary=rotary,
        context_length=context_length,
        embedding=_EMBEDDING,
        layers=layers,
        packed=_packed(layers, q_size, kv_size, intermediate_size) if family.packed else {},
        final_norm=_FINAL_NORM,
        lm_head=_EMBEDDING if config.flag("tie_word_embeddings") else _LM_HEAD,
    )
    tensors = spec.tensors(checkpoint)
    for name, shape in spec.tensor_shapes().items():
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


def _attention_scale(config: ModelConfig, head_dim: int) -> float | None:
    scalar = config.optional_number("query_pre_attn_scalar")
    return None if scalar is None or scalar == head_dim else scalar**-0.5


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


def _layer_tensors(index: int, family: _Family) -> LayerTensors:
    layer = f"model.layers.{index}"
    attention = f"{layer}.self_attn"
    # Norms before and after: Gemma names the one before the MLP for what it is, and the name that
    # it has elsewhere is the one after attention.
    post_attention = f"{layer}.post_attention_layernorm.weight"
    return LayerTensors(
        attention_norm=f"{layer}.input_layernorm.weight",
        qkv=tuple(f"{attention}.{part}_proj.weight" for part in "qkv"),
        qkv_bias=tuple(f"{attention}.{part}_proj.bias" for part in "qkv" if family.qkv_bias),
        qk_norm=(f"{attention}.q_norm.weight", f"{attention}.k_norm.weight")
        if family.qk_norm
        else None,
        attention_output=f"{attention}.o_proj.weight",
        post_attention_norm=post_attention if family.post_norms else None,
        mlp_norm=f"{layer}.pre_feedforward_layernorm.weight"
        if family.post_norms
        else post_attention,
        gate=f"{layer}.mlp.gate_proj.weight",
        up=f"{layer}.mlp.up_proj.weight",
        down=f"{layer}.mlp.down_proj.weight",
        post_mlp_norm=f"{layer}.post_feedforward_layernorm.weight" if family.post_norms else None,
    )


def _packed(
    layers: tuple[LayerTensors, ...], q_size: int, kv_size: int, intermediate_size: int
) -> dict[str, tuple[tuple[str, int], ...]]:
    """Phi-3's packed matrices: queries, keys and values in one, gate and up in another."""
    packed: dict[str, tuple[tuple[str, int], ...]] = {}
    for layer in layers:
        qkv = zip(layer.qkv, (q_size, kv_size, kv_size), strict=True)
        packed[layer.qkv[0].replace("q_proj", "qkv_proj")] = tuple(qkv)
        packed[layer.gate.replace("gate_proj", "gate_up_proj")] = (
            (layer.gate, intermediate_size),
            (layer.up, intermediate_size),
        )
    return packed
