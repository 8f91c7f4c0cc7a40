"""A whole decoder as one ONNX graph for ONNX Runtime's CUDA provider, computed in float16.

Attention is the operator ``com.microsoft.PagedAttention``, which has a kernel for CUDA alone. It
takes the tokens of many sequences packed without padding, and itself norms the heads where the
architecture does, turns them, writes the new keys and values into the blocks of a paged cache and
attends to what these hold. So the engine's scheduler and block tables serve a GPU as they are.

Inputs, beside the caches:

- ``input_ids`` int64 ``[tokens]``, the packed tokens;
- ``rows`` int64 ``[sequences_of_use]``, the tokens whose logits are wanted;
- ``cumulative_sequence_length`` int32 ``[sequences + 1]``, the first token of each sequence;
- ``past_seqlens`` int32 ``[sequences]``, the tokens that each has in the cache already;
- ``block_table`` int32 ``[sequences, blocks_of_each]``;
- ``attention_metadata`` int32 ``[3]``, in memory of the host: bounds of these lengths.

``key_cache.N`` and ``value_cache.N``, float16 ``[blocks, block_tokens, num_kv_heads, head_dim]``,
are written in place: the outputs ``key_cache.N.out`` and ``value_cache.N.out`` have to be bound to
the same memory. The other outputs are ``logits`` float32 ``[sequences_of_use, vocab]`` and
``tokens`` int64 ``[sequences_of_use]``, the likeliest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from build.build_errors import CheckpointError
from build.decoder import DecoderSpec
from build.decoder_graph import DecoderGraph
from build.onnx_writer import CONTRIB, OnnxGraph, WeightsFile, tensor_type
from build.storage import StorageFactory
from build.weight_tensors import Tensors
from python_backend.engine.engine_config import GRAPH_FILE
from python_backend.engine.layers import GroupedAttention

_OUTGROW_FLOAT16 = ("Gemma2ForCausalLM",)
"""Architectures whose residual stream goes beyond float16; vLLM refuses them in it, too."""

_ROTARY_DIM_MULTIPLE = 16
"""The operator turns eight pairs at a time."""


def check_spec(spec: DecoderSpec) -> None:
    """Refuse a decoder that the graph can't compute.

    Raises:
        CheckpointError: It can't, and why.
    """
    if spec.architecture in _OUTGROW_FLOAT16:
        raise CheckpointError(
            f"{spec.architecture} is not supported for CUDA: its residual stream outgrows float16, "
            "in which the graph computes"
        )
    if spec.rotary.dim % _ROTARY_DIM_MULTIPLE:
        raise CheckpointError(
            f"a rotary embedding of {spec.rotary.dim} elements of a head is not supported for "
            f"CUDA, only multiples of {_ROTARY_DIM_MULTIPLE} are"
        )


def write_graph(
    folder: Path,
    spec: DecoderSpec,
    tensors: Tensors,
    weights: WeightsFile,
    storage: StorageFactory,
    block_tokens: int,
    progress: Callable[[int], None],
) -> None:
    """Write the graph of a decoder.

    Args:
        folder: Where the graph goes, beside ``weights``.
        spec: The decoder; one that ``check_spec`` accepts.
        tensors: Its weights.
        weights: The file that the weights go to.
        storage: How they are stored; computes in float16.
        block_tokens: Tokens of a block of the cache.
        progress: Called with the number of layers done.
    """
    graph = OnnxGraph("decoder", weights)
    CudaGraph(spec, tensors, graph, storage(graph, tensors), np.float16).write(
        block_tokens, progress
    )
    graph.save(folder / GRAPH_FILE)


class CudaGraph(DecoderGraph):
    """Writes the graph."""

    def write(self, block_tokens: int, progress: Callable[[int], None]) -> None:
        """Write all of it."""
        graph, spec = self._graph, self._spec
        ids = graph.input("input_ids", np.int64, ["tokens"])
        rows = graph.input("rows", np.int64, ["sequences_of_use"])
        batch = [
            graph.input("cumulative_sequence_length", np.int32, ["sequences_and_one"]),
            graph.input("past_seqlens", np.int32, ["sequences"]),
            graph.input("block_table", np.int32, ["sequences", "blocks_of_each"]),
        ]
        bounds = graph.input("attention_metadata", np.int32, [3])
        rotary = self._rotary()
        residual, delta = self._embedding(ids, "embedded"), ""
        for index, layer in enumerate(spec.layers):
            name = f"layers.{index}"
            attention, heads = layer.attention, layer.attention.heads
            shape: list[int | str] = ["blocks", block_tokens, heads.num_kv_heads, heads.head_dim]
            caches = [f"{part}_cache.{index}" for part in ("key", "value")]
            for cache in caches:
                graph.input(cache, np.float16, shape)
                graph.output(f"{cache}.out", np.float16, shape)
            hidden, residual = self._add_and_norm(
                f"{name}/attention_norm", attention.norm, residual, delta, f"{name}/input"
            )
            qkv = self._product(hidden, attention.qkv, f"{name}/qkv")
            inputs = [qkv, "", "", *caches, *batch]
            attended = self._attention(index, attention, inputs, rotary, bounds)
            if index == len(spec.layers) - 1:
                attended = graph.node("Gather", [attended, rows], "attended/rows")
                residual = graph.node("Gather", [residual, rows], "residual/rows")
            residual, delta = self._after_attention(name, layer, attended, residual)
            progress(index + 1)
        hidden, _ = self._add_and_norm(
            "final_norm", spec.decoder.final_norm, residual, delta, "output"
        )
        logits = self._logits(hidden, "logits/half")
        graph.node("Cast", [logits], "logits", to=tensor_type(np.dtype(np.float32)))
        graph.node("ArgMax", ["logits"], "tokens", axis=-1, keepdims=0)
        graph.output("logits", np.float32, ["sequences_of_use", spec.decoder.vocab_size])
        graph.output("tokens", np.int64, ["sequences_of_use"])

    def _attention(
        self,
        index: int,
        attention: GroupedAttention,
        inputs: list[str],
        rotary: list[str],
        bounds: str,
    ) -> str:
        graph, heads = self._graph, attention.heads
        norms = [
            "" if norm is None else self._norm_weight(norm)
            for norm in (attention.q_norm, attention.k_norm)
        ]
        attributes: dict[str, Any] = {
            "num_heads": heads.num_heads,
            "kv_num_heads": heads.num_kv_heads,
            "scale": heads.scale,
            "softcap": heads.logit_softcap or 0.0,
            "local_window_size": heads.window or -1,
            "do_rotary": int(heads.rotary_dim > 0),
            "qk_norm_epsilon": (attention.q_norm or attention.norm).eps,
        }
        # Not used: the slots to write to, which follow from the block table; attention sinks.
        between = [*(rotary if heads.rotary_dim else ["", ""]), "", ""]
        outputs = [f"layers.{index}/attention", *(f"{cache}.out" for cache in inputs[3:5])]
        return graph.multi_node(
            "PagedAttention",
            [*inputs, *between, *norms, "", "", bounds],
            outputs,
            CONTRIB,
            **attributes,
        )[0]

    def _rotary(self) -> list[str]:
        """The cosines and sines, ``[context, rotary_dim / 2]``, for all layers."""
        tables = zip(("cosines", "sines"), self._spec.rotary_table(), strict=True)
        return [
            self._graph.weight(f"rotary/{name}", self._dtype, table.shape, [table])
            for name, table in tables
        ]
