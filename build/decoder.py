"""What a decoder is made of, whatever its checkpoint calls it.

A checkpoint's ``config.json`` becomes a :class:`DecoderSpec`: the decoder as an engine describes it
(``python_backend/engine/layers.py``), each part with the tensors that hold its weights, and what
only a build has to know. The graphs are written from that alone, so supporting another architecture
means describing it here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from build.build_errors import CheckpointError
from build.checkpoint import Checkpoint
from build.families import family_of
from build.family import Family, Settings
from build.layer_kinds import layer_windows, unrotated_layers
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

# Three of transformers' activations are one formula, and so are the other two.
_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


# The engine's attention goes through a head in whole vector registers.
_HEAD_DIM_MULTIPLE = 16

_EMBEDDING = "model.embed_tokens.weight"
_FINAL_NORM = "model.norm.weight"
_LM_HEAD = "lm_head.weight"
_RECOMPUTED = ".rotary_emb.inv_freq"  # which early checkpoints store

_COMPARED_ROWS = 4096


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
        settings: What ``config.json`` says.
        notes: What a person should know: what is ignored, and what follows from the context.
    """

    architecture: str
    decoder: Decoder
    norm_offset: float
    rotary: RotaryEmbedding
    context_length: int
    packed: dict[str, tuple[tuple[str, int], ...]]
    settings: Settings
    notes: tuple[str, ...]

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
        """Cosines and sines, ``[2, context_length + short_context, rotary_dim / 2]``."""
        return self.rotary.table(self.context_length)

    def for_every_length(self) -> DecoderSpec:
        """The same with one rotary embedding for all sequences, the short ones too."""
        return replace(self, rotary=replace(self.rotary, short=None, short_context=0))


def describe_decoder(checkpoint: Checkpoint, context_length: int | None = None) -> DecoderSpec:
    """Read a checkpoint's configuration and check that its tensors fit it.

    Args:
        checkpoint: The checkpoint, open.
        context_length: Limits the context; by default it is all that the checkpoint was made for.

    Raises:
        CheckpointError: The architecture or one of its features is not supported, a setting is
            missing, or a tensor is missing or has another shape than the configuration says.
    """
    family = family_of(checkpoint.config)
    settings = family.read(checkpoint.config)
    notes = []
    if foreign := family.foreign(checkpoint.config):
        notes.append(f"ignored: {', '.join(foreign)} of config.json, not of {family.architecture}")

    num_heads, num_kv_heads = settings.num_attention_heads, settings.num_kv_heads
    head_dim = settings.head_width
    if num_heads % num_kv_heads:
        raise CheckpointError(f"{num_heads} heads do not divide among {num_kv_heads} KV heads")
    if head_dim % _HEAD_DIM_MULTIPLE:
        raise CheckpointError(
            f"heads of {head_dim} are not supported, only multiples of {_HEAD_DIM_MULTIPLE} are"
        )
    longest = settings.max_position_embeddings
    if context_length is not None and not 0 < context_length <= longest:
        raise CheckpointError(f"the context length must be between 1 and {longest}")
    context_length = context_length or longest
    rotary, rotary_notes = describe_rotary(family, settings, context_length)
    windows = layer_windows(family, settings)
    unrotated = unrotated_layers(settings)
    heads = Heads(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scale=(settings.query_pre_attn_scalar or head_dim) ** -0.5,
        logit_softcap=settings.attn_logit_softcapping,
        rotary_dim=rotary.dim,
    )
    parts = _Parts(settings, family)
    layers = []
    for index, window in enumerate(windows):
        # A window that no sequence outgrows is none.
        changes = {"window": window if window < context_length else 0}
        if index in unrotated:
            changes["rotary_dim"] = 0
        attention = parts.attention(index, heads.model_copy(update=changes))
        layers.append(Layer(attention=attention, feed_forward=parts.feed_forward(index)))
    embedding, lm_head, tables_notes = _tables(checkpoint, settings)
    spec = DecoderSpec(
        architecture=family.architecture,
        decoder=Decoder(
            embedding=embedding,
            embedding_scale=math.sqrt(settings.hidden_size) if family.scales_embedding else 1.0,
            layers=tuple(layers),
            final_norm=parts.norm(_FINAL_NORM),
            lm_head=parts.product(lm_head, settings.vocab_size),
            logit_softcap=settings.final_logit_softcapping,
        ),
        norm_offset=family.norm_offset,
        rotary=rotary,
        context_length=context_length,
        packed=parts.packed,
        settings=settings,
        notes=(*notes, *tables_notes, *rotary_notes),
    )
    tensors = spec.tensors(checkpoint)
    shapes = spec.decoder.tensor_shapes()
    for name, shape in shapes.items():
        if tensors.shape(name) != shape:
            raise CheckpointError(
                f"{name} has shape {list(tensors.shape(name))}, "
                f"but config.json asks for {list(shape)}"
            )
        tensors.dtype(name)
    read = {*shapes, *parts.packed, _LM_HEAD}
    unread = [
        name for name in checkpoint.names() if name not in read and not name.endswith(_RECOMPUTED)
    ]
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        note = f"ignored: the tensor {unread[0]}{more}, not of {family.architecture}"
        spec = replace(spec, notes=(*spec.notes, note))
    return spec


def _tables(checkpoint: Checkpoint, settings: Settings) -> tuple[str, str, list[str]]:
    """The tensors of embedding and output projection, and what is to be said of them.

    Where they are to be tied and the checkpoint has both, transformers 5 ties them only if they are
    equal; where it has one of them, that one serves for both.
    """
    if not settings.tie_word_embeddings:
        return _EMBEDDING, _LM_HEAD, []
    if _LM_HEAD not in checkpoint:
        return _EMBEDDING, _EMBEDDING, []
    if _EMBEDDING not in checkpoint:
        return _LM_HEAD, _LM_HEAD, []
    if _equal(checkpoint, _EMBEDDING, _LM_HEAD):
        return _EMBEDDING, _EMBEDDING, []
    note = (
        f"{_LM_HEAD} is not {_EMBEDDING}, though tie_word_embeddings is true: both are built, as "
        "transformers 5 does (4 would leave the first out)"
    )
    return _EMBEDDING, _LM_HEAD, [note]


def _equal(checkpoint: Checkpoint, one: str, other: str) -> bool:
    if checkpoint.shape(one) != checkpoint.shape(other):
        return False
    rows = checkpoint.shape(one)[0]
    for start in range(0, rows, _COMPARED_ROWS):
        part = range(start, min(start + _COMPARED_ROWS, rows))
        first, second = (
            np.concatenate([*checkpoint.blocks(name, part)]).astype(np.float32)
            for name in (one, other)
        )
        if not np.array_equal(first, second):
            return False
    return True


def _activation(settings: Settings) -> Activation:
    name = settings.hidden_activation or settings.hidden_act
    if name not in _ACTIVATIONS:
        raise CheckpointError(f"the activation {name!r} is not supported")
    return _ACTIVATIONS[name]


class _Parts:
    """The parts of layers as an architecture has them, and the names of their tensors.

    Attributes:
        packed: Matrices that the checkpoint stores in one, with their parts' names and rows.
    """

    def __init__(self, settings: Settings, family: Family) -> None:
        self._family = family
        self._hidden_size = settings.hidden_size
        self._intermediate_size = settings.intermediate_size
        self._activation = _activation(settings)
        self._eps = settings.rms_norm_eps
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
