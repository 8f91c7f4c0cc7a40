"""Running the ONNX graph, cut at its attentions.

ONNX Runtime computes what lies between two attentions, on the tokens of all scheduled sequences
packed without padding; the attention kernel does the rest on the paged KV cache. A step makes no
copy of keys or values and allocates nothing that grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from python_backend.engine.attention import Layout, PackedBatch, load_attention
from python_backend.engine.config import ENGINE_FILE, EngineConfig, segment_file
from python_backend.engine.kv_cache import KVMemory
from python_backend.engine.processor import exact_products
from python_backend.engine.scheduler import Scheduled
from python_backend.errors import EngineError


class Runner:
    """The segments of a graph and the attention between them.

    Attributes:
        attention: What computes attention.
    """

    def __init__(
        self,
        folder: Path,
        config: EngineConfig,
        memory: KVMemory,
        layout: Layout,
        max_tokens: int,
        max_sequences: int,
        num_threads: int,
    ) -> None:
        """Load the graph.

        Args:
            folder: The engine folder.
            config: Its description.
            memory: Where keys and values lie.
            layout: How they lie there.
            max_tokens: Most tokens of a step.
            max_sequences: Most sequences of a step.
            num_threads: Threads of one operator and of attention.

        Raises:
            EngineError: The graph is missing, damaged or not the one that ``config`` describes.
        """
        self._segments = [
            _load_segment(folder, config, index, num_threads)
            for index in range(config.num_layers + 1)
        ]
        width = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        self._ids = np.zeros(max_tokens, dtype=np.int64)
        self._rows = np.zeros(max_sequences, dtype=np.int64)
        self._qkv = np.zeros((max_tokens, width), dtype=np.float32)
        self._attended = np.zeros(
            (max_tokens, config.num_heads * config.head_dim), dtype=np.float32
        )
        self._residual = np.zeros((max_tokens, config.hidden_size), dtype=np.float32)
        # Arrays lie at the beginning of the buffers, so their sizes say which they are.
        self._bindings: dict[tuple[int, tuple[int, ...]], ort.IOBinding] = {}
        self._logits = np.zeros((max_sequences, config.vocab_size), dtype=np.float32)
        try:
            rotary = np.load(folder / "rotary.npy")
        except (OSError, ValueError) as error:
            raise EngineError(f"{folder / 'rotary.npy'} can't be read: {error}") from error
        rotary_dim = config.attention.rotary_dim or config.head_dim
        if rotary.shape[::2] != (2, rotary_dim // 2) or rotary.dtype != np.float32:
            raise EngineError(f"{folder / 'rotary.npy'} is not this engine's")
        self.attention = load_attention(
            layout, memory.blocks, rotary, num_threads, config.attention
        )

    def run(self, work: list[Scheduled]) -> NDArray[np.float32]:
        """Compute the scheduled tokens.

        Args:
            work: What is scheduled; the sequences' blocks have room for it.

        Returns:
            float32 ``[sequences, vocab]``: logits after the last token of each sequence that is to
            choose a next one, in order; valid until the next call.

        Raises:
            EngineError: ONNX Runtime failed.
        """
        batch, tokens, rows = self._pack(work)
        ids, qkv = self._ids[:tokens], self._qkv[:tokens]
        attended = self._attended[:tokens]
        # A segment has read its residual before it writes the next one: they share memory.
        residual = self._residual[:tokens]
        outputs = {"next_residual": residual, "qkv": qkv}
        self._compute(0, {"input_ids": ids}, outputs)
        last = len(self._segments) - 1
        for index in range(1, last):
            self.attention(index - 1, batch, qkv, attended)
            self._compute(index, {"attention": attended, "residual": residual}, outputs)
        self.attention(last - 1, batch, qkv, attended)
        logits = self._logits[:rows]
        if rows:
            inputs = {"attention": attended, "residual": residual}
            self._compute(last, {**inputs, "rows": self._rows[:rows]}, {"logits": logits})
        return logits

    def _pack(self, work: list[Scheduled]) -> tuple[PackedBatch, int, int]:
        """Lay the scheduled tokens side by side; returns how many they and the samples are."""
        starts = np.zeros(len(work) + 1, dtype=np.int32)
        np.cumsum([each.num_tokens for each in work], out=starts[1:])
        lengths = np.array([each.sequence.num_computed for each in work], dtype=np.int32)
        tables = np.zeros((len(work), max(len(e.sequence.blocks) for e in work)), dtype=np.int32)
        rows = 0
        for index, each in enumerate(work):
            sequence, computed = each.sequence, each.sequence.num_computed
            tables[index, : len(sequence.blocks)] = sequence.blocks
            span = slice(starts[index], starts[index + 1])
            self._ids[span] = sequence.pending(each.num_tokens)
            if each.samples:
                self._rows[rows] = starts[index + 1] - 1
                rows += 1
            assert computed + each.num_tokens <= sequence.num_tokens, "tokens that don't exist"
        return PackedBatch(starts, lengths, tables), int(starts[-1]), rows

    def _compute(
        self, index: int, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> None:
        session = self._segments[index]
        sizes = tuple(len(array) for array in (*inputs.values(), *outputs.values()))
        try:
            binding = self._bindings.get((index, sizes))
            if binding is None:
                binding = _bind(session, inputs, outputs)
                if max(sizes) <= len(self._rows):  # steps that only decode: few sizes, often
                    self._bindings[index, sizes] = binding
            session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise EngineError(f"the engine failed: {error}") from error


def _bind(
    session: ort.InferenceSession,
    inputs: Mapping[str, NDArray[Any]],
    outputs: Mapping[str, NDArray[Any]],
) -> ort.IOBinding:
    """Have a session read and write arrays where they are."""
    binding = session.io_binding()
    for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
        for name, array in tensors.items():
            bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    return binding


def _widths(config: EngineConfig, index: int) -> dict[str, int | None]:
    """Each tensor of a segment and its last dimension; None where that varies."""
    first, last = index == 0, index == config.num_layers
    attended = config.num_heads * config.head_dim
    inputs = (
        {"input_ids": None} if first else {"attention": attended, "residual": config.hidden_size}
    )
    if last:
        return {**inputs, "rows": None, "logits": config.vocab_size}
    qkv = attended + 2 * config.num_kv_heads * config.head_dim
    return {**inputs, "next_residual": config.hidden_size, "qkv": qkv}


def _load_segment(
    folder: Path, config: EngineConfig, index: int, num_threads: int
) -> ort.InferenceSession:
    """A segment's session; refuses another graph, which would write past the memory it is given."""
    path = folder / segment_file(index)
    session = _load(path, num_threads)
    found = {
        tensor.name: tensor.shape[-1] if isinstance(tensor.shape[-1], int) else None
        for tensor in (*session.get_inputs(), *session.get_outputs())
    }
    if found != _widths(config, index):
        raise EngineError(
            f"{path} is not the graph that the {ENGINE_FILE} beside it describes: "
            "build the engine anew"
        )
    return session


def _load(path: Path, num_threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # A spinning thread takes its core from Triton and from the other models' processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in exact_products().items():
        options.add_session_config_entry(name, value)
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        raise EngineError(f"{path} can't be loaded: {error}") from error
