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

from build.checkpoint import Checkpoint
from build.decoder import DecoderSpec, LayerTensors
from build.onnx_writer import OnnxGraph, WeightsFile
from build.storage import WeightStorage
from python_backend.engine.config import segment_file

StorageFactory: TypeAlias = Callable[[OnnxGraph, Checkpoint], WeightStorage]

_CONTRIB = "com.microsoft"


def write_segments(
    folder: Path,
    spec: DecoderSpec,
    checkpoint: Checkpoint,
    weights: WeightsFile,
    storage: StorageFactory,
    progress: Callable[[int], None],
) -> None:
    """Write all segments of a decoder.

    Args:
        folder: Where the graphs go, beside ``weights``.
        spec: The decoder.
        checkpoint: Its weights.
        weights: The file that the weights go to.
        storage: How they are stored.
        progress: Called with the number of layers done.
    """
    for index in range(len(spec.layers) + 1):
        path = folder / segment_file(index)
        graph = OnnxGraph(path.stem, weights)
        Segment(spec, checkpoint, graph, storage(graph, checkpoint)).write(index)
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
        checkpoint: Checkpoint,
        graph: OnnxGraph,
        storage: WeightStorage,
    ) -> None:
        self._spec = spec
        self._checkpoint = checkpoint
        self._graph = graph
        self._storage = storage

    def write(self, index: int) -> None:
        """Write the segment that ends where layer ``index`` attends."""
        spec = self._spec
        if index == 0:
            ids = self._graph.input("input_ids", np.int64, ["tokens"])
            residual, delta = self._storage.embedding(spec.embedding, ids, "next_residual"), ""
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
            self._storage.linear(hidden, [spec.lm_head], "logits")
            self._graph.output("logits", np.float32, ["sequences", spec.vocab_size])

    def _after_attention(
        self, name: str, tensors: LayerTensors, only_rows_of_use: bool
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
            attention, [tensors.attention_output], f"{name}/attention_output"
        )
        hidden, residual = self._add_and_norm(
            f"{name}/mlp_norm", tensors.mlp_norm, residual, delta, f"{name}/residual"
        )
        return residual, self._mlp(f"{name}/mlp", tensors, hidden)

    def _before_attention(
        self, name: str, tensors: LayerTensors, residual: str, delta: str
    ) -> None:
        """A layer's norm, queries, keys and values, which are the segment's outputs."""
        graph, spec = self._graph, self._spec
        hidden, _ = self._add_and_norm(
            f"{name}/attention_norm", tensors.attention_norm, residual, delta, "next_residual"
        )
        bias = self._vector(tensors.qkv_bias) if tensors.qkv_bias else ""
        if tensors.qk_norm is None:
            self._storage.linear(hidden, tensors.qkv, "qkv", bias)
        else:
            packed = self._storage.linear(hidden, tensors.qkv, f"{name}/qkv", bias)
            parts = [f"{name}/{part}" for part in ("query", "key", "value")]
            sizes = np.array([spec.q_size, spec.kv_size, spec.kv_size], np.int64)
            query, key, value = graph.multi_node(
                "Split", [packed, graph.constant("sizes/qkv", sizes)], parts, axis=1
            )
            query = self._head_norm(query, tensors.qk_norm[0], spec.q_size)
            key = self._head_norm(key, tensors.qk_norm[1], spec.kv_size)
            graph.node("Concat", [query, key, value], "qkv", axis=1)
        graph.output("next_residual", np.float32, ["tokens", spec.hidden_size])
        graph.output("qkv", np.float32, ["tokens", spec.q_size + 2 * spec.kv_size])

    def _mlp(self, name: str, tensors: LayerTensors, hidden: str) -> str:
        """``down(silu(gate) * up)``; QuickGelu with ``alpha`` 1 is SiLU in one operator.

        Gate and up are two products: one would have to be split, and splitting copies it.
        """
        graph = self._graph
        gate = self._storage.linear(hidden, [tensors.gate], f"{name}/gate")
        up = self._storage.linear(hidden, [tensors.up], f"{name}/up")
        activated = graph.node("QuickGelu", [gate], f"{name}/silu", domain=_CONTRIB, alpha=1.0)
        gated = graph.node("Mul", [activated, up], f"{name}/gated")
        return self._storage.linear(gated, [tensors.down], f"{name}/down")

    def _add_and_norm(
        self, name: str, weight: str, residual: str, delta: str, total: str
    ) -> tuple[str, str]:
        """RMS norm of ``residual + delta``; returns the normed value and the sum."""
        if not delta:
            return self._norm(residual, weight, name), residual
        normed, *_, total = self._graph.multi_node(
            "SkipSimplifiedLayerNormalization",
            [delta, residual, self._vector([weight])],
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
        inputs = [x, self._vector([weight])]
        return self._graph.node(
            "SimplifiedLayerNormalization", inputs, output, axis=-1, epsilon=self._spec.norm_eps
        )

    def _vector(self, names: Sequence[str]) -> str:
        """Add one-dimensional tensors, end to end, in float32."""
        vector = np.concatenate([self._checkpoint.tensor(name) for name in names])
        return self._graph.weight("+".join(names), np.dtype(np.float32), vector.shape, [vector])
