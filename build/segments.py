"""The ONNX graphs of a decoder, written from its :class:`~build.decoder.DecoderSpec`.

The engine computes attention itself, so a decoder is cut there: a segment computes what lies
between two attentions, or before the first, or after the last. Its rows are tokens, of whichever
sequences, packed without padding; nothing in a segment looks from one row at another.

- Segment 0: ``input_ids`` int64 ``[tokens]`` to ``next_residual`` and ``qkv``: the embedding and
  the first layer's queries, keys and values.
- Segments between: ``attention`` float32 ``[tokens, num_heads * head_dim]`` and ``residual``
  float32 ``[tokens, hidden]`` to ``next_residual`` and ``qkv``: the rest of a layer after its
  attention, and the next layer's queries, keys and values. ``next_residual`` may be bound to the
  memory of ``residual``: it is computed when that has been read.
- The last segment: ``attention``, ``residual`` and ``rows`` int64 ``[sequences]``, the rows that
  are of use, to ``logits`` float32 ``[sequences, vocab]``.

``next_residual`` is float32 ``[tokens, hidden]``; ``qkv`` is float32 ``[tokens, (num_heads + 2 *
num_kv_heads) * head_dim]``, bias and norm of queries and keys applied, rotary embedding not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from build.decoder import DecoderSpec, LayerTensors
from build.onnx_writer import OnnxGraph, WeightsFile
from build.storage import WeightStorage
from build.tensors import Tensors
from python_backend.engine.config import segment_file

StorageFactory: TypeAlias = Callable[[OnnxGraph, Tensors], WeightStorage]

_CONTRIB = "com.microsoft"


def write_segments(
    folder: Path,
    spec: DecoderSpec,
    tensors: Tensors,
    weights: WeightsFile,
    storage: StorageFactory,
    progress: Callable[[int], None],
) -> None:
    """Write all segments of a decoder.

    Args:
        folder: Where the graphs go, beside ``weights``.
        spec: The decoder.
        tensors: Its weights.
        weights: The file that the weights go to.
        storage: How they are stored.
        progress: Called with the number of layers done.
    """
    for index in range(len(spec.layers) + 1):
        path = folder / segment_file(index)
        graph = OnnxGraph(path.stem, weights)
        Segment(spec, tensors, graph, storage(graph, tensors)).write(index)
        graph.save(path)
        if index:
            progress(index)


class Segment:
    """Writes one segment: its operators into a graph, its weights through a storage.

    Values are named after the layer and the part that computes them.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        tensors: Tensors,
        graph: OnnxGraph,
        storage: WeightStorage,
    ) -> None:
        self._spec = spec
        self._tensors = tensors
        self._graph = graph
        self._storage = storage

    def write(self, index: int) -> None:
        """Write the segment that ends where layer ``index`` attends."""
        spec = self._spec
        if index == 0:
            ids = self._graph.input("input_ids", np.int64, ["tokens"])
            residual, delta = self._embedding(ids), ""
        else:
            residual, delta = self._after_attention(
                f"layers.{index - 1}",
                spec.layers[index - 1],
                only_rows_of_use=index == len(spec.layers),
            )
        if index < len(spec.layers):
            self._before_attention(f"layers.{index}", spec.layers[index], residual, delta)
        else:
            hidden, _ = self._add_and_norm(
                "final_norm", spec.final_norm, residual, delta, "final_residual"
            )
            self._logits(hidden)
            self._graph.output("logits", np.float32, ["sequences", spec.vocab_size])

    def _after_attention(
        self, name: str, layer: LayerTensors, only_rows_of_use: bool
    ) -> tuple[str, str]:
        """The rest of a layer; the residual stream is the sum of the two values returned."""
        graph, spec = self._graph, self._spec
        attention = graph.input("attention", np.float32, ["tokens", spec.q_size])
        residual = graph.input("residual", np.float32, ["tokens", spec.hidden_size])
        if only_rows_of_use:
            rows = graph.input("rows", np.int64, ["sequences"])
            attention = graph.node("Gather", [attention, rows], "attention/rows")
            residual = graph.node("Gather", [residual, rows], "residual/rows")
        delta = self._storage.linear(
            attention, [layer.attention_output], f"{name}/attention_output"
        )
        delta = self._post_norm(delta, layer.post_attention_norm)
        hidden, residual = self._add_and_norm(
            f"{name}/mlp_norm", layer.mlp_norm, residual, delta, f"{name}/residual"
        )
        delta = self._mlp(f"{name}/mlp", layer, hidden)
        return residual, self._post_norm(delta, layer.post_mlp_norm)

    def _before_attention(self, name: str, layer: LayerTensors, residual: str, delta: str) -> None:
        """A layer's norm, queries, keys and values, which are the segment's outputs."""
        graph, spec = self._graph, self._spec
        hidden, _ = self._add_and_norm(
            f"{name}/attention_norm", layer.attention_norm, residual, delta, "next_residual"
        )
        bias = self._vector(layer.qkv_bias) if layer.qkv_bias else ""
        if layer.qk_norm is None:
            self._storage.linear(hidden, layer.qkv, "qkv", bias)
        else:
            packed = self._storage.linear(hidden, layer.qkv, f"{name}/qkv", bias)
            parts = [f"{name}/{part}" for part in ("query", "key", "value")]
            sizes = np.array([spec.q_size, spec.kv_size, spec.kv_size], np.int64)
            query, key, value = graph.multi_node(
                "Split", [packed, graph.constant("sizes/qkv", sizes)], parts, axis=1
            )
            query = self._head_norm(query, layer.qk_norm[0], spec.q_size)
            key = self._head_norm(key, layer.qk_norm[1], spec.kv_size)
            graph.node("Concat", [query, key, value], "qkv", axis=1)
        graph.output("next_residual", np.float32, ["tokens", spec.hidden_size])
        graph.output("qkv", np.float32, ["tokens", spec.q_size + 2 * spec.kv_size])

    def _embedding(self, ids: str) -> str:
        scale, storage = self._spec.embedding_scale, self._storage
        if scale == 1:
            return storage.embedding(self._spec.embedding, ids, "next_residual")
        rows = storage.embedding(self._spec.embedding, ids, "embedding")
        return self._scaled(rows, scale, "next_residual")

    def _logits(self, hidden: str) -> None:
        """The output projection, its values drawn softly into ``±logit_softcap``."""
        cap, linear, head = self._spec.logit_softcap, self._storage.linear, [self._spec.lm_head]
        if cap is None:
            linear(hidden, head, "logits")
            return
        parts = self._scaled(linear(hidden, head, "logits/uncapped"), 1 / cap, "logits/parts")
        self._scaled(self._graph.node("Tanh", [parts], "logits/capped"), cap, "logits")

    def _scaled(self, x: str, factor: float, output: str) -> str:
        constant = self._graph.constant(f"{output}/factor", np.array(factor, np.float32))
        return self._graph.node("Mul", [x, constant], output)

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
            return graph.node("QuickGelu", [gate], f"{name}/silu", domain=_CONTRIB, alpha=1.0)
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
            domain=_CONTRIB,
            epsilon=self._spec.norm_eps,
        )
        return normed, total

    def _head_norm(self, x: str, weight: str, width: int) -> str:
        """RMS norm of each head of ``[tokens, width]``."""
        graph = self._graph
        by_head = graph.constant("shape/heads", np.array([-1, self._spec.head_dim], np.int64))
        by_token = graph.constant(f"shape/{width}", np.array([-1, width], np.int64))
        heads = graph.node("Reshape", [x, by_head], f"{x}/heads")
        return graph.node(
            "Reshape", [self._norm(heads, weight, f"{x}/norm"), by_token], f"{x}/rows"
        )

    def _norm(self, x: str, weight: str, output: str) -> str:
        inputs = [x, self._norm_weight(weight)]
        return self._graph.node(
            "SimplifiedLayerNormalization", inputs, output, axis=-1, epsilon=self._spec.norm_eps
        )

    def _norm_weight(self, name: str) -> str:
        weight = self._tensors.tensor(name).astype(np.float32)
        weight += np.float32(self._spec.norm_offset)
        return self._graph.weight(name, weight.dtype, weight.shape, [weight])

    def _vector(self, names: Sequence[str]) -> str:
        """Add one-dimensional tensors, end to end, in float32."""
        vector = np.concatenate([self._tensors.tensor(name) for name in names])
        return self._graph.weight("+".join(names), np.dtype(np.float32), vector.shape, [vector])
