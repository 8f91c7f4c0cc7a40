"""The parts of a decoder as operators: what every graph of it is put together from.

Values are named after the layer and the part that computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from build.decoder import DecoderSpec, LayerTensors
from build.onnx_writer import CONTRIB, OnnxGraph
from build.storage import WeightStorage
from build.weight_tensors import Tensors


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
        scale, storage = self._spec.embedding_scale, self._storage
        if scale == 1:
            return storage.embedding(self._spec.embedding, ids, output)
        rows = storage.embedding(self._spec.embedding, ids, "embedding")
        return self._scaled(rows, scale, output)

    def _logits(self, hidden: str, output: str) -> str:
        """The output projection, its values drawn softly into ``±logit_softcap``."""
        cap, linear, head = self._spec.logit_softcap, self._storage.linear, [self._spec.lm_head]
        if cap is None:
            return linear(hidden, head, output)
        parts = self._scaled(linear(hidden, head, "logits/uncapped"), 1 / cap, "logits/parts")
        return self._scaled(self._graph.node("Tanh", [parts], "logits/capped"), cap, output)

    def _scaled(self, x: str, factor: float, output: str) -> str:
        constant = self._graph.constant(f"{output}/factor", np.array(factor, self._dtype))
        return self._graph.node("Mul", [x, constant], output)

    def _after_attention(
        self, name: str, layer: LayerTensors, attention: str, residual: str
    ) -> tuple[str, str]:
        """The rest of a layer; the residual stream is the sum of the two values returned."""
        delta = self._storage.linear(
            attention, [layer.attention_output], f"{name}/attention_output"
        )
        delta = self._post_norm(delta, layer.post_attention_norm)
        hidden, residual = self._add_and_norm(
            f"{name}/mlp_norm", layer.mlp_norm, residual, delta, f"{name}/residual"
        )
        delta = self._mlp(f"{name}/mlp", layer, hidden)
        return residual, self._post_norm(delta, layer.post_mlp_norm)

    def _mlp(self, name: str, layer: LayerTensors, hidden: str) -> str:
        """``down(activation(gate) * up)``.

        Gate and up are two products: one would have to be split, and splitting copies it.
        """
        gate = self._storage.linear(hidden, [layer.gate], f"{name}/gate")
        up = self._storage.linear(hidden, [layer.up], f"{name}/up")
        gated = self._graph.node("Mul", [self._activation(name, gate), up], f"{name}/gated")
        return self._storage.linear(gated, [layer.down], f"{name}/down")

    def _activation(self, name: str, gate: str) -> str:
        """QuickGelu with ``alpha`` 1 is SiLU in one operator."""
        graph, activation = self._graph, self._spec.activation
        if activation == "silu":
            return graph.node("QuickGelu", [gate], f"{name}/silu", domain=CONTRIB, alpha=1.0)
        return graph.node("Gelu", [gate], f"{name}/gelu", approximate="tanh")

    def _post_norm(self, delta: str, weight: str | None) -> str:
        """RMS norm of what a layer is about to add to the residual stream, where it has one."""
        return delta if weight is None else self._norm(delta, weight, f"{delta}/norm")

    def _add_and_norm(
        self, name: str, weight: str, residual: str, delta: str, total: str
    ) -> tuple[str, str]:
        """RMS norm of ``residual + delta``; returns the normed value and the sum."""
        if not delta:
            return self._norm(residual, weight, name), residual
        normed, *_, total = self._graph.multi_node(
            "SkipSimplifiedLayerNormalization",
            [delta, residual, self._norm_weight(weight)],
            [name, "", "", total],
            domain=CONTRIB,
            epsilon=self._spec.norm_eps,
        )
        return normed, total

    def _norm(self, x: str, weight: str, output: str) -> str:
        inputs = [x, self._norm_weight(weight)]
        return self._graph.node(
            "SimplifiedLayerNormalization", inputs, output, axis=-1, epsilon=self._spec.norm_eps
        )

    def _norm_weight(self, name: str) -> str:
        weight = self._tensors.tensor(name).astype(np.float32)
        weight += np.float32(self._spec.norm_offset)
        return self._graph.weight(name, self._dtype, weight.shape, [weight])

    def _vector(self, names: Sequence[str]) -> str:
        """Add one-dimensional tensors, end to end."""
        vector = np.concatenate([self._tensors.tensor(name) for name in names])
        return self._graph.weight("+".join(names), self._dtype, vector.shape, [vector])
