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

from collections.abc import Callable
from pathlib import Path

import numpy as np

from build.decoder import DecoderSpec
from build.decoder_graph import DecoderGraph
from build.onnx_writer import OnnxGraph, WeightsFile
from build.storage import StorageFactory
from build.weight_tensors import Tensors
from python_backend.engine.engine_config import segment_file
from python_backend.engine.layers import GroupedAttention, Norm


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


class Segment(DecoderGraph):
    """Writes one segment."""

    def write(self, index: int) -> None:
        """Write the segment that ends where layer ``index`` attends."""
        spec = self._spec
        if index == 0:
            ids = self._graph.input("input_ids", np.int64, ["tokens"])
            residual, delta = self._embedding(ids, "next_residual"), ""
        else:
            residual, delta = self._rest_of_layer(
                index - 1, only_rows_of_use=index == len(spec.layers)
            )
        if index < len(spec.layers):
            attention = spec.layers[index].attention
            self._before_attention(f"layers.{index}", attention, residual, delta)
        else:
            hidden, _ = self._add_and_norm(
                "final_norm", spec.decoder.final_norm, residual, delta, "final_residual"
            )
            self._logits(hidden, "logits")
            self._graph.output("logits", np.float32, ["sequences", spec.decoder.vocab_size])

    def _rest_of_layer(self, layer: int, only_rows_of_use: bool) -> tuple[str, str]:
        """What comes after the attention of a layer, from the segment's inputs."""
        graph, spec = self._graph, self._spec
        q_size = spec.layers[layer].attention.heads.q_size
        attention = graph.input("attention", np.float32, ["tokens", q_size])
        residual = graph.input("residual", np.float32, ["tokens", spec.decoder.hidden_size])
        if only_rows_of_use:
            rows = graph.input("rows", np.int64, ["sequences"])
            attention = graph.node("Gather", [attention, rows], "attention/rows")
            residual = graph.node("Gather", [residual, rows], "residual/rows")
        return self._after_attention(f"layers.{layer}", spec.layers[layer], attention, residual)

    def _before_attention(
        self, name: str, attention: GroupedAttention, residual: str, delta: str
    ) -> None:
        """A layer's norm, queries, keys and values, which are the segment's outputs."""
        graph, heads = self._graph, attention.heads
        hidden, _ = self._add_and_norm(
            f"{name}/attention_norm", attention.norm, residual, delta, "next_residual"
        )
        if attention.q_norm is None or attention.k_norm is None:
            self._product(hidden, attention.qkv, "qkv")
        else:
            packed = self._product(hidden, attention.qkv, f"{name}/qkv")
            parts = [f"{name}/{part}" for part in ("query", "key", "value")]
            sizes = np.array(attention.qkv.rows, np.int64)
            query, key, value = graph.multi_node(
                "Split", [packed, graph.constant("sizes/qkv", sizes)], parts, axis=1
            )
            query = self._head_norm(query, attention.q_norm, heads.q_size)
            key = self._head_norm(key, attention.k_norm, heads.kv_size)
            graph.node("Concat", [query, key, value], "qkv", axis=1)
        graph.output("next_residual", np.float32, ["tokens", self._spec.decoder.hidden_size])
        graph.output("qkv", np.float32, ["tokens", heads.qkv_size])

    def _head_norm(self, x: str, norm: Norm, width: int) -> str:
        """The norm of each head of ``[tokens, width]``."""
        graph = self._graph
        by_head = graph.constant("shape/heads", np.array([-1, norm.width], np.int64))
        by_token = graph.constant(f"shape/{width}", np.array([-1, width], np.int64))
        heads = graph.node("Reshape", [x, by_head], f"{x}/heads")
        return graph.node("Reshape", [self._norm(heads, norm, f"{x}/norm"), by_token], f"{x}/rows")
