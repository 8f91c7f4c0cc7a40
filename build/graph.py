"""The ONNX graph of a decoder, written from its :class:`~build.decoder.DecoderSpec`.

One call of the graph advances a batch by some tokens: it appends their keys and values to each
row's cache and returns the logits that follow the last of them. Activations are float32
``[batch * tokens, width]``, three-dimensional only around attention.

Inputs: ``input_ids`` int64 ``[batch, tokens]``; ``seqlens_k`` int32 ``[batch]``, each row's length
with its new tokens, minus one; ``total_sequence_length`` int32 scalar, the longest row's length;
``past_key_values.{layer}.key`` and ``.value`` float32 ``[batch, num_kv_heads, capacity,
head_dim]``. Outputs: ``logits`` float32 ``[batch, vocab]``; ``present.{layer}.key`` and
``.value``, which the caller may bind to the memory of the past.

More than one token a row needs either empty caches or a batch of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from build.checkpoint import Checkpoint
from build.decoder import DecoderSpec, LayerTensors
from build.onnx_writer import OnnxWriter
from build.storage import WeightStorage

_CONTRIB = "com.microsoft"


class DecoderGraph:
    """Writes one decoder's graph: its operators through a writer, its weights through a storage.

    Values are named after the layer and the part that computes them.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        checkpoint: Checkpoint,
        writer: OnnxWriter,
        storage: WeightStorage,
    ) -> None:
        self._spec = spec
        self._checkpoint = checkpoint
        self._writer = writer
        self._storage = storage

    def write(self, progress: Callable[[int], None]) -> None:
        """Write the whole graph, calling ``progress`` with the number of layers done."""
        spec = self._spec
        self._declare_inputs()
        self._add_shared_constants()
        embedded = self._storage.embedding(spec.embedding, "input_ids", "embedding")
        residual, delta = self._flatten(embedded, "hidden"), ""
        for index, layer in enumerate(spec.layers):
            residual, delta = self._layer(index, layer, residual, delta)
            progress(index + 1)
        hidden, _ = self._add_and_norm("final_norm", spec.final_norm, residual, delta)
        self._storage.linear(hidden, [spec.lm_head], "logits")
        self._declare_outputs()

    def _declare_inputs(self) -> None:
        writer = self._writer
        writer.input("input_ids", np.int64, ["batch", "tokens"])
        writer.input("seqlens_k", np.int32, ["batch"])
        writer.input("total_sequence_length", np.int32, [])
        for index in range(len(self._spec.layers)):
            for part in ("key", "value"):
                writer.input(f"past_key_values.{index}.{part}", np.float32, self._cache_shape)

    def _declare_outputs(self) -> None:
        writer = self._writer
        writer.output("logits", np.float32, ["batch", self._spec.vocab_size])
        for index in range(len(self._spec.layers)):
            for part in ("key", "value"):
                writer.output(f"present.{index}.{part}", np.float32, self._cache_shape)

    @property
    def _cache_shape(self) -> list[int | str]:
        return ["batch", self._spec.num_kv_heads, "capacity", self._spec.head_dim]

    def _add_shared_constants(self) -> None:
        """Add the shapes, sizes and rotary caches that the layers share."""
        writer, spec = self._writer, self._spec
        writer.constant("shape/hidden", np.array([-1, spec.hidden_size], np.int64))
        writer.constant("shape/queries", np.array([-1, spec.q_size], np.int64))
        writer.constant("shape/width", np.array([-1], np.int64))
        writer.node("Shape", ["input_ids"], "shape/batch_tokens")
        writer.node(
            "Concat", ["shape/batch_tokens", "shape/width"], "shape/batch_tokens_width", axis=0
        )
        writer.constant("last", np.array(-1, np.int64))
        if any(layer.qk_norm for layer in spec.layers):
            writer.constant("shape/heads", np.array([-1, spec.head_dim], np.int64))
            sizes = [spec.q_size, spec.kv_size, spec.kv_size]
            writer.constant("sizes/qkv", np.array(sizes, np.int64))
        for name, cache in zip(("cos", "sin"), spec.rotary_caches(), strict=True):
            writer.weight(f"rotary/{name}", cache.dtype, cache.shape, [cache])

    def _layer(
        self, index: int, tensors: LayerTensors, residual: str, delta: str
    ) -> tuple[str, str]:
        """Add a layer. The residual stream is ``residual + delta`` before it and after it."""
        name = f"layers.{index}"
        hidden, residual = self._add_and_norm(
            f"{name}/attention_norm", tensors.attention_norm, residual, delta
        )
        attention = self._attention(index, tensors, hidden)
        if index + 1 < len(self._spec.layers):
            attention = self._flatten(attention, "queries")
        else:
            # From here on only the last token of each row is of use.
            attention = self._last_token(attention)
            residual = self._last_token(self._unflatten(residual, self._spec.hidden_size))
        delta = self._storage.linear(
            attention, [tensors.attention_output], f"{name}/attention_output"
        )
        hidden, residual = self._add_and_norm(f"{name}/mlp_norm", tensors.mlp_norm, residual, delta)
        return residual, self._mlp(f"{name}/mlp", tensors, hidden)

    def _attention(self, index: int, tensors: LayerTensors, hidden: str) -> str:
        """Grouped-query attention with rotary embedding, ``[batch, tokens, heads * head_dim]``."""
        writer, spec = self._writer, self._spec
        name = f"layers.{index}/attention"
        bias = self._vector(tensors.qkv_bias) if tensors.qkv_bias else ""
        packed = self._storage.linear(hidden, tensors.qkv, f"{name}/qkv", bias)
        if tensors.qk_norm is None:
            query, key, value = self._unflatten(packed, spec.q_size + 2 * spec.kv_size), "", ""
        else:
            parts = [f"{name}/{part}" for part in ("query", "key", "value")]
            query, key, value = writer.multi_node("Split", [packed, "sizes/qkv"], parts, axis=1)
            query = self._head_norm(query, tensors.qk_norm[0])
            key = self._head_norm(key, tensors.qk_norm[1])
            query = self._unflatten(query, spec.q_size)
            key, value = (self._unflatten(part, spec.kv_size) for part in (key, value))
        attended, *_ = writer.multi_node(
            "GroupQueryAttention",
            [
                query,
                key,
                value,
                f"past_key_values.{index}.key",
                f"past_key_values.{index}.value",
                "seqlens_k",
                "total_sequence_length",
                "rotary/cos",
                "rotary/sin",
            ],
            [name, f"present.{index}.key", f"present.{index}.value"],
            domain=_CONTRIB,
            num_heads=spec.num_heads,
            kv_num_heads=spec.num_kv_heads,
            scale=spec.head_dim**-0.5,
            do_rotary=1,
        )
        return attended

    def _mlp(self, name: str, tensors: LayerTensors, hidden: str) -> str:
        """``down(silu(gate) * up)``; QuickGelu with ``alpha`` 1 is SiLU in one operator."""
        writer = self._writer
        gate_up = self._storage.linear(hidden, tensors.gate_up, f"{name}/gate_up")
        gate, up = writer.multi_node(
            "Split", [gate_up], [f"{name}/gate", f"{name}/up"], axis=1, num_outputs=2
        )
        activated = writer.node("QuickGelu", [gate], f"{name}/silu", domain=_CONTRIB, alpha=1.0)
        gated = writer.node("Mul", [activated, up], f"{name}/gated")
        return self._storage.linear(gated, [tensors.down], f"{name}/down")

    def _add_and_norm(self, name: str, weight: str, residual: str, delta: str) -> tuple[str, str]:
        """RMS norm of ``residual + delta``; returns the normed value and the sum."""
        if not delta:
            return self._norm(residual, weight, name), residual
        normed, *_, total = self._writer.multi_node(
            "SkipSimplifiedLayerNormalization",
            [delta, residual, self._vector([weight])],
            [name, "", "", f"{name}/residual"],
            domain=_CONTRIB,
            epsilon=self._spec.norm_eps,
        )
        return normed, total

    def _head_norm(self, x: str, weight: str) -> str:
        """RMS norm of each head: ``[batch * tokens * heads, head_dim]``."""
        heads = self._writer.node("Reshape", [x, "shape/heads"], f"{x}/heads")
        return self._norm(heads, weight, f"{x}/norm")

    def _norm(self, x: str, weight: str, output: str) -> str:
        inputs = [x, self._vector([weight])]
        return self._writer.node(
            "SimplifiedLayerNormalization", inputs, output, axis=-1, epsilon=self._spec.norm_eps
        )

    def _vector(self, names: Sequence[str]) -> str:
        """Add one-dimensional tensors, end to end, as a float32 constant."""
        parts = [self._checkpoint.tensor(name).astype(np.float32) for name in names]
        return self._writer.constant("+".join(names), np.concatenate(parts))

    def _flatten(self, x: str, width: str) -> str:
        """``[batch, tokens, width]`` to ``[batch * tokens, width]``."""
        return self._writer.node("Reshape", [x, f"shape/{width}"], f"{x}/flat")

    def _unflatten(self, x: str, width: int) -> str:
        """``[batch * tokens, width]`` to ``[batch, tokens, width]``."""
        rows = self._writer.node("Reshape", [x, "shape/batch_tokens_width"], f"{x}/rows")
        return self._writer.declare(rows, np.float32, ["batch", "tokens", width])

    def _last_token(self, x: str) -> str:
        """``[batch, tokens, width]`` to the ``[batch, width]`` of the last token."""
        return self._writer.node("Gather", [x, "last"], f"{x}/last", axis=1)
