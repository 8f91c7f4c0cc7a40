"""The parts of a decoder as operators: what every graph of it is put together from.

Values are named after the layer and the part that computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from build.decoder import DecoderSpec
from build.onnx_writer import CONTRIB, OnnxGraph
from build.storage import WeightStorage
from build.weight_tensors import Tensors
from python_backend.engine.layers import (
    Activation,
    FeedForward,
    GatedFeedForward,
    Layer,
    Norm,
    Product,
)


class DecoderGraph:
    """Writes parts of a decoder: operators into a graph, weights through a storage."""

    def __init__(
        self,
        spec: DecoderSpec,
        tensors: Tensors,
        graph: OnnxGraph,
        storage: WeightStorage,
        dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        """Begin a graph.

        Args:
            spec: The decoder.
            tensors: Its weights.
            graph: Gets the operators.
            storage: Stores large weights.
            dtype: Of all that is computed; ``storage`` computes in it too.
        """
        self._spec = spec
        self._tensors = tensors
        self._graph = graph
        self._storage = storage
        self._dtype = np.dtype(dtype)

    def _embedding(self, ids: str, output: str) -> str:
        decoder, storage = self._spec.decoder, self._storage
        if decoder.embedding_scale == 1:
            return storage.embedding(decoder.embedding, ids, output)
        rows = storage.embedding(decoder.embedding, ids, "embedding")
        return self._scaled(rows, decoder.embedding_scale, output)

    def _logits(self, hidden: str, output: str) -> str:
        """The output projection, its values drawn softly into ``±logit_softcap``."""
        cap, head = self._spec.decoder.logit_softcap, self._spec.decoder.lm_head
        if cap is None:
            return self._product(hidden, head, output)
        uncapped = self._product(hidden, head, "logits/uncapped")
        parts = self._scaled(uncapped, 1 / cap, "logits/parts")
        return self._scaled(self._graph.node("Tanh", [parts], "logits/capped"), cap, output)

    def _product(self, x: str, product: Product, output: str) -> str:
        bias = self._vector(product.bias) if product.bias else ""
        return self._storage.linear(x, product.weights, output, bias)

    def _scaled(self, x: str, factor: float, output: str) -> str:
        constant = self._graph.constant(f"{output}/factor", np.array(factor, self._dtype))
        return self._graph.node("Mul", [x, constant], output)

    def _after_attention(
        self, name: str, layer: Layer, attention: str, residual: str
    ) -> tuple[str, str]:
        """The rest of a layer; the residual stream is the sum of the two values returned."""
        attended, feed_forward = layer.attention, layer.feed_forward
        delta = self._product(attention, attended.output, f"{name}/attention_output")
        delta = self._output_norm(delta, attended.output_norm)
        hidden, residual = self._add_and_norm(
            f"{name}/mlp_norm", feed_forward.norm, residual, delta, f"{name}/residual"
        )
        delta = self._feed_forward(f"{name}/mlp", feed_forward, hidden)
        return residual, self._output_norm(delta, feed_forward.output_norm)

    def _feed_forward(self, name: str, part: FeedForward, hidden: str) -> str:
        """What a layer's feed-forward makes of its normed input."""
        match part:
            case GatedFeedForward():
                return self._gated(name, part, hidden)

    def _gated(self, name: str, part: GatedFeedForward, hidden: str) -> str:
        """``down(activation(gate) * up)``.

        Gate and up are two products: one would have to be split, and splitting copies it.
        """
        gate = self._product(hidden, part.gate_up.first, f"{name}/gate")
        up = self._product(hidden, part.gate_up.second, f"{name}/up")
        gate = self._activated(name, part.activation, gate)
        gated = self._graph.node("Mul", [gate, up], f"{name}/gated")
        return self._product(gated, part.down, f"{name}/down")

    def _activated(self, name: str, activation: Activation, x: str) -> str:
        """QuickGelu with ``alpha`` 1 is SiLU in one operator."""
        if activation == "silu":
            return self._graph.node("QuickGelu", [x], f"{name}/silu", domain=CONTRIB, alpha=1.0)
        return self._graph.node("Gelu", [x], f"{name}/gelu", approximate="tanh")

    def _output_norm(self, delta: str, norm: Norm | None) -> str:
        """The norm of what a part is about to add to the residual stream, where it has one."""
        return delta if norm is None else self._norm(delta, norm, f"{delta}/norm")

    def _add_and_norm(
        self, name: str, norm: Norm, residual: str, delta: str, total: str
    ) -> tuple[str, str]:
        """The norm of ``residual + delta``; returns the normed value and the sum."""
        if not delta:
            return self._norm(residual, norm, name), residual
        normed, *_, total = self._graph.multi_node(
            "SkipSimplifiedLayerNormalization",
            [delta, residual, self._norm_weight(norm)],
            [name, "", "", total],
            domain=CONTRIB,
            epsilon=norm.eps,
        )
        return normed, total

    def _norm(self, x: str, norm: Norm, output: str) -> str:
        inputs = [x, self._norm_weight(norm)]
        return self._graph.node(
            "SimplifiedLayerNormalization", inputs, output, axis=-1, epsilon=norm.eps
        )

    def _norm_weight(self, norm: Norm) -> str:
        weight = self._tensors.tensor(norm.weight).astype(np.float32)
        weight += np.float32(self._spec.norm_offset)
        return self._graph.weight(norm.weight, self._dtype, weight.shape, [weight])

    def _vector(self, names: Sequence[str]) -> str:
        """Add one-dimensional tensors, end to end."""
        vector = np.concatenate([self._tensors.tensor(name) for name in names])
        return self._graph.weight("+".join(names), self._dtype, vector.shape, [vector])
