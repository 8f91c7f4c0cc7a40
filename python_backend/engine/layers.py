"""What a decoder is made of, described once.

The builder reads the description from a checkpoint and writes the graphs from it, ``engine.json``
keeps it, and the runners compute what it says: the structures that the kernels are told follow from
the classes here (``kernels/structures.py``).

A layer is an attention and a feed-forward, each of a kind. Another kind is another class beside
those of its sort, named in ``Attention`` or ``FeedForward``; what reads all parts alike (their
tensors, their shapes, their way to the kernels) finds what it needs in the fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Activation: TypeAlias = Literal["silu", "gelu_tanh"]


class Description(BaseModel):
    """A decoder, a part of it, or of a part."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of it, with its shape."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, Description):
                    shapes.update(each.tensor_shapes())
        return shapes


class RmsNorm(Description):
    """``x / rms(x) * weight``.

    Attributes:
        weight: The weight's tensor, ``[width]``.
        width: Of what is normed.
        eps: Added to the mean square.
    """

    kind: Literal["rms"] = "rms"
    weight: str
    width: int = Field(gt=0)
    eps: float = Field(gt=0)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        return {self.weight: (self.width,)}


Norm: TypeAlias = RmsNorm
"""Every kind of norm."""


class Product(Description):
    """A product with the rows of one or several matrices, one after the other.

    Attributes:
        weights: The matrices, ``[rows, columns]`` each.
        rows: Of each of them.
        columns: Inputs.
        bias: A vector ``[rows]`` for each of them, or none.
    """

    weights: tuple[str, ...] = Field(min_length=1)
    rows: tuple[int, ...]
    columns: int = Field(gt=0)
    bias: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _each_has_rows(self) -> Product:
        for each in (self.rows, self.bias or self.rows):
            if len(each) != len(self.weights):
                raise ValueError(f"{self.name} has {len(self.weights)} matrices, not {len(each)}")
        return self

    @property
    def name(self) -> str:
        """What an engine calls them together."""
        return "+".join(self.weights)

    @property
    def bias_name(self) -> str | None:
        """What an engine calls the bias; None without one."""
        return "+".join(self.bias) or None

    @property
    def outputs(self) -> int:
        """Rows of all matrices."""
        return sum(self.rows)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for name, rows in zip(self.weights, self.rows, strict=True):
            shapes[name] = (rows, self.columns)
        for name, rows in zip(self.bias, self.rows, strict=bool(self.bias)):
            shapes[name] = (rows,)
        return shapes


class Pair(Description):
    """Two products of one input, of the same shape and without a bias, that are computed together.

    Attributes:
        first: The one.
        second: The other.
    """

    first: Product
    second: Product

    @model_validator(mode="after")
    def _alike(self) -> Pair:
        if self.first.rows != self.second.rows or self.first.columns != self.second.columns:
            raise ValueError(f"{self.first.name} and {self.second.name} are of different shapes")
        if self.first.bias or self.second.bias:
            raise ValueError(f"{self.first.name} and {self.second.name} can't have a bias")
        return self


class Heads(Description):
    """How queries attend to keys and values.

    Attributes:
        num_heads: Query heads.
        num_kv_heads: Key and value heads; as many query heads share each.
        head_dim: Width of one head.
        scale: Factor on the product of query and key.
        logit_softcap: Scores, scaled, become ``cap * tanh(score / cap)``; None leaves them.
        window: How many keys a query sees, its own and those before it; 0 is all.
        rotary_dim: Only so many elements of each query and key head turn, the first ones; 0 is
            none: the layer has no rotary embedding.
    """

    num_heads: int = Field(gt=0)
    num_kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    scale: float = Field(gt=0)
    logit_softcap: float | None = Field(default=None, gt=0)
    window: int = Field(default=0, ge=0)
    rotary_dim: int = Field(ge=0, multiple_of=2)

    @model_validator(mode="after")
    def _fit(self) -> Heads:
        """Refuse what would have a kernel read past an array's end."""
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} heads don't share {self.num_kv_heads} evenly")
        if self.rotary_dim > self.head_dim:
            raise ValueError(f"rotary_dim is more than the head_dim of {self.head_dim}")
        return self

    @property
    def q_size(self) -> int:
        """Width of the queries, all heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the keys (and of the values), all heads together."""
        return self.num_kv_heads * self.head_dim

    @property
    def qkv_size(self) -> int:
        """Width of queries, keys and values together."""
        return self.q_size + 2 * self.kv_size


class Part(Description):
    """What every attention and every feed-forward has.

    Attributes:
        norm: What its input is normed by.
        output_norm: What is normed by before it is added to the residual stream, if it is.
    """

    norm: Norm
    output_norm: Norm | None = None

    def takes_and_gives(self) -> Iterator[int]:
        """The widths that have to be that of the residual stream."""
        yield self.norm.width
        if self.output_norm is not None:
            yield self.output_norm.width


class GroupedAttention(Part):
    """Attention in which several query heads share a key and value head.

    Attributes:
        heads: How queries attend.
        qkv: Queries, keys and values.
        q_norm: What each query head is normed by, if it is; then each key head is, too.
        k_norm: What each key head is normed by.
        output: The product after attention.
    """

    kind: Literal["grouped"] = "grouped"
    heads: Heads
    qkv: Product
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    output: Product

    @model_validator(mode="after")
    def _fits(self) -> GroupedAttention:
        heads = self.heads
        if (self.qkv.outputs, self.output.columns) != (heads.qkv_size, heads.q_size):
            raise ValueError(f"{self.qkv.name} or {self.output.name} don't fit the heads")
        if (self.q_norm is None) != (self.k_norm is None):
            raise ValueError("q_norm and k_norm go together")
        if any(norm and norm.width != heads.head_dim for norm in (self.q_norm, self.k_norm)):
            raise ValueError(f"q_norm and k_norm have to be as wide as a head, {heads.head_dim}")
        return self

    def takes_and_gives(self) -> Iterator[int]:
        yield from super().takes_and_gives()
        yield from (self.qkv.columns, self.output.outputs)


class GatedFeedForward(Part):
    """``down(activation(gate) * up)``.

    Attributes:
        activation: What the gate goes through.
        gate_up: The gate, and what it multiplies.
        down: The last product.
    """

    kind: Literal["gated"] = "gated"
    activation: Activation
    gate_up: Pair
    down: Product

    @model_validator(mode="after")
    def _fits(self) -> GatedFeedForward:
        if self.gate_up.first.outputs != self.down.columns:
            raise ValueError(f"{self.gate_up.first.name} doesn't fit {self.down.name}")
        return self

    def takes_and_gives(self) -> Iterator[int]:
        yield from super().takes_and_gives()
        yield from (self.gate_up.first.columns, self.down.outputs)


Attention: TypeAlias = GroupedAttention
"""Every kind of attention. All of them have ``heads`` and keep keys and values in one cache."""

FeedForward: TypeAlias = GatedFeedForward
"""Every kind of feed-forward."""


class Layer(Description):
    """One layer; each part adds to the residual stream."""

    attention: Attention
    feed_forward: FeedForward


class Decoder(Description):
    """A decoder-only transformer.

    Attributes:
        embedding: The token embedding's tensor, ``[vocab_size, hidden_size]``.
        embedding_scale: Factor on its rows.
        layers: Its layers.
        final_norm: What the last layer's output is normed by.
        lm_head: The output projection; of the embedding's tensor where the two are tied.
        logit_softcap: Logits become ``cap * tanh(logit / cap)``; None leaves them.
    """

    embedding: str
    embedding_scale: float = Field(default=1.0, gt=0)
    layers: tuple[Layer, ...] = Field(min_length=1)
    final_norm: Norm
    lm_head: Product
    logit_softcap: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Decoder:
        """Refuse what would have a kernel read or write past an array's end."""
        if self.vocab_size > 1 << 20:
            raise ValueError(f"a vocabulary of {self.vocab_size} is more than sampling can add up")
        widths = [self.final_norm.width, self.lm_head.columns]
        for layer in self.layers:
            for part in (layer.attention, layer.feed_forward):
                widths += part.takes_and_gives()
        if set(widths) != {self.hidden_size}:
            raise ValueError(f"parts are {sorted(set(widths))} wide, which has to be one width")
        heads = [layer.attention.heads for layer in self.layers]
        if len({(each.num_heads, each.num_kv_heads, each.head_dim) for each in heads}) > 1:
            raise ValueError("layers have different heads, but one cache holds them")
        if len({each.rotary_dim for each in heads if each.rotary_dim}) > 1:
            raise ValueError("layers have different rotary_dim, but one table turns them")
        return self

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.final_norm.width

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, width of the logits."""
        return self.lm_head.outputs

    @property
    def heads(self) -> tuple[Heads, ...]:
        """How each layer attends."""
        return tuple(layer.attention.heads for layer in self.layers)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of it, with its shape."""
        return {self.embedding: (self.vocab_size, self.hidden_size), **super().tensor_shapes()}


def products(description: Any) -> Iterator[Product]:
    """All products in a description."""
    if isinstance(description, Product):
        yield description
    elif isinstance(description, tuple):
        for each in description:
            yield from products(each)
    elif isinstance(description, Description):
        for name in type(description).model_fields:
            yield from products(getattr(description, name))


def kinds(sort: Any) -> tuple[type[Description], ...]:
    """The classes of a sort of parts: of ``Norm``, ``Attention`` or ``FeedForward``."""
    return get_args(sort) or (sort,)
