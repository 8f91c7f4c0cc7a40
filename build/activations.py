"""What the inputs of a decoder's products are on real text, a segment at a time.

The checkpoint is computed in float32, segment by segment and all samples through each, so that only
one segment's weights are in memory or on disk at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from build.decoder import DecoderSpec
from build.onnx_writer import OnnxGraph, WeightsFile
from build.segments import Segment
from build.storage import FloatStorage
from build.weight_tensors import Tensors
from python_backend.engine.attention import BLOCK_TOKENS, Layout, NumpyAttention, PackedBatch

Measures = dict[str, NDArray[np.float32]]


class Measure(NamedTuple):
    """What is asked of a value, float32 ``[tokens, columns]``, and how two samples' are joined."""

    of: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    join: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


SECOND_MOMENTS = Measure(lambda x: x.T @ x, np.add)
"""float32 ``[columns, columns]``"""
LARGEST = Measure(lambda x: np.abs(x).max(axis=0), np.maximum)
"""The largest magnitude in each column, float32 ``[columns]``"""


class _Recording(FloatStorage):
    """Notes which value each product multiplies.

    Attributes:
        inputs: The value, by the name of the product's first weight.
    """

    def __init__(self, graph: OnnxGraph, tensors: Tensors) -> None:
        super().__init__(graph, tensors)
        self.inputs: dict[str, str] = {}

    def linear(self, x: str, weights: Sequence[str], output: str, bias: str = "") -> str:
        self.inputs[weights[0]] = x
        return super().linear(x, weights, output, bias)


class ProductInputs:
    """What the products' inputs are, segment after segment.

    Args:
        spec: The decoder.
        tensors: Its weights.
        samples: Token ids, int64 ``[tokens]`` each.
        rotary_start: The row of the rotary embedding's table that their first position has.
        measure: What is asked of them.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        tensors: Tensors,
        samples: Sequence[NDArray[np.int64]],
        rotary_start: int = 0,
        measure: Measure = SECOND_MOMENTS,
    ) -> None:
        self._measure = measure
        self._spec = spec
        self._rotary_start = rotary_start
        self._tensors = tensors
        self._ids = list(samples)
        self._index = 0
        self._residuals: list[NDArray[np.float32]] = []
        self._qkv: list[NDArray[np.float32]] = []
        heads = spec.decoder.heads
        layout = Layout(len(heads), heads[0].num_heads, heads[0].num_kv_heads, heads[0].head_dim)
        blocks = -(-max(map(len, samples)) // BLOCK_TOKENS)
        # Each sample writes over what the one before it left: nothing reads it again.
        pool = np.zeros((blocks, *layout.block_shape), np.float32)
        self._table = np.arange(blocks, dtype=np.int32)[None]
        self._attention = NumpyAttention(layout, pool, spec.rotary_table(), heads)

    def next_segment(self) -> Measures:
        """Compute the next segment; returns the measures by the name of a product's first weight.

        Products of one value share the array.
        """
        with tempfile.TemporaryDirectory() as folder:
            session, names = self._session(Path(folder))
            values = sorted(set(names.values()))
            found: dict[str, NDArray[np.float32]] = {}
            for sample in range(len(self._ids)):
                for value, x in zip(values, self._compute(session, sample, values), strict=True):
                    new = self._measure.of(x)
                    found[value] = self._measure.join(found[value], new) if value in found else new
        self._index += 1
        return {weight: found[value] for weight, value in names.items()}

    def _session(self, folder: Path) -> tuple[ort.InferenceSession, dict[str, str]]:
        with WeightsFile(folder / "weights.bin") as weights:
            graph = OnnxGraph("segment", weights)
            storage = _Recording(graph, self._tensors)
            Segment(self._spec, self._tensors, graph, storage).write(self._index)
            for value in sorted(set(storage.inputs.values()) - {"attention"}):
                width = self._tensors.shape(
                    next(name for name, x in storage.inputs.items() if x == value)
                )[1]
                graph.output(value, np.float32, ["tokens", width])
            graph.save(folder / "segment.onnx")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        path = str(folder / "segment.onnx")
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return session, storage.inputs

    def _compute(
        self, session: ort.InferenceSession, sample: int, values: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Compute the segment on one sample; returns the values of that name."""
        feed = self._feed(sample)
        last = self._index == len(self._spec.layers)
        wanted = [value for value in values if value not in feed]
        carried = [] if last else ["next_residual", "qkv"]
        found = session.run([*carried, *wanted], feed)
        if not last:
            residual, qkv = found[:2]
            if self._index:
                self._residuals[sample], self._qkv[sample] = residual, qkv
            else:
                self._residuals.append(residual)
                self._qkv.append(qkv)
        computed = dict(zip(wanted, found[len(carried) :], strict=True))
        return [computed[value] if value in computed else feed[value] for value in values]

    def _feed(self, sample: int) -> dict[str, NDArray[Any]]:
        if self._index == 0:
            return {"input_ids": self._ids[sample]}
        heads, qkv = self._spec.decoder.heads, self._qkv[sample]
        batch = PackedBatch(
            starts=np.array([0, len(qkv)], np.int32),
            lengths=np.zeros(1, np.int32),
            rotary_starts=np.array([self._rotary_start], np.int32),
            tables=self._table,
        )
        attended = np.zeros((len(qkv), heads[self._index - 1].q_size), np.float32)
        self._attention(self._index - 1, batch, qkv, attended)
        feed: dict[str, NDArray[Any]] = {
            "attention": attended,
            "residual": self._residuals[sample],
        }
        if self._index == len(heads):
            feed["rows"] = np.arange(len(qkv), dtype=np.int64)
        return feed
