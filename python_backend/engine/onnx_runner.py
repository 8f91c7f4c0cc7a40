"""Running the ONNX graph, cut at its attentions.

ONNX Runtime computes what lies between two attentions, on the tokens of all scheduled sequences
packed without padding; the attention kernel does the rest on the paged KV cache. A step makes no
copy of keys or values and allocates nothing that grows.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contract.errors import EngineError
from python_backend.engine.attention import (
    Attention,
    KernelAttention,
    Layout,
    PackedBatch,
    load_attention,
)
from python_backend.engine.engine_config import ENGINE_FILE, EngineConfig, segment_file
from python_backend.engine.kv_cache import KVMemory
from python_backend.engine.processor import exact_products
from python_backend.engine.runner import Limits, Observer, Packer, load_rotary, load_smoothing
from python_backend.engine.scheduled import Scheduled


class OnnxRunner:
    """The segments of a graph and the attention between them."""

    def __init__(
        self,
        folder: Path,
        config: EngineConfig,
        memory: KVMemory,
        layout: Layout,
        limits: Limits,
        observer: Observer | None = None,
    ) -> None:
        """Load the graph.

        Args:
            folder: The engine folder.
            config: Its description.
            memory: Where keys and values lie.
            layout: How they lie there.
            limits: What to make room for.
            observer: What is shown each layer's queries, keys and values.

        Raises:
            EngineError: The graph is missing, damaged or not the one that ``config`` describes.
        """
        self._segments = [
            _load_segment(folder, config, index, limits.num_threads)
            for index in range(config.num_layers + 1)
        ]
        heads = config.decoder.heads[0]
        self._packer = Packer(limits)
        self._max_sequences = limits.max_sequences
        self._qkv = np.zeros((limits.max_tokens, heads.qkv_size), dtype=np.float32)
        self._attended = np.zeros((limits.max_tokens, heads.q_size), dtype=np.float32)
        self._residual = np.zeros((limits.max_tokens, config.hidden_size), dtype=np.float32)
        # Arrays lie at the beginning of the buffers, so their sizes say which they are.
        self._bindings: dict[tuple[int, tuple[int, ...]], ort.IOBinding] = {}
        self._logits = np.zeros((limits.max_rows, config.vocab_size), dtype=np.float32)
        self._observer = observer
        self._attention: Attention = load_attention(
            layout,
            memory.blocks,
            load_rotary(folder, config),
            limits.num_threads,
            config.decoder.heads,
            load_smoothing(folder, config),
        )
        kernel = "C" if isinstance(self._attention, KernelAttention) else "numpy (no kernels)"
        self.name = f"ONNX Runtime, attention in {kernel}"

    def run(self, work: list[Scheduled]) -> NDArray[np.float32]:
        step = self._packer.pack(work)
        tokens, rows = step.ids.size, step.rows.size
        qkv = self._qkv[:tokens]
        attended = self._attended[:tokens]
        # A segment has read its residual before it writes the next one: they share memory.
        residual = self._residual[:tokens]
        outputs = {"next_residual": residual, "qkv": qkv}
        self._compute(0, {"input_ids": step.ids}, outputs)
        last = len(self._segments) - 1
        for index in range(1, last):
            self._attend(index - 1, step.batch, qkv, attended)
            self._compute(index, {"attention": attended, "residual": residual}, outputs)
        self._attend(last - 1, step.batch, qkv, attended)
        logits = self._logits[:rows]
        if rows:
            inputs = {"attention": attended, "residual": residual}
            self._compute(last, {**inputs, "rows": step.rows}, {"logits": logits})
        return logits

    def _attend(
        self,
        layer: int,
        batch: PackedBatch,
        qkv: NDArray[np.float32],
        attended: NDArray[np.float32],
    ) -> None:
        if self._observer is not None:
            self._observer(layer, batch, qkv)
        self._attention(layer, batch, qkv, attended)

    def _compute(
        self, index: int, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> None:
        session = self._segments[index]
        sizes = tuple(len(array) for array in (*inputs.values(), *outputs.values()))
        try:
            binding = self._bindings.get((index, sizes))
            if binding is None:
                binding = _bind(session, inputs, outputs)
                if max(sizes) <= self._max_sequences:  # steps that only decode: few sizes, often
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
    heads, hidden = config.decoder.heads[0], config.hidden_size
    inputs = {"input_ids": None} if first else {"attention": heads.q_size, "residual": hidden}
    if last:
        return {**inputs, "rows": None, "logits": config.vocab_size}
    return {**inputs, "next_residual": hidden, "qkv": heads.qkv_size}


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


@functools.cache
def _share_memory() -> None:
    """Make the pool that this process's sessions share; it grows by what is asked for."""
    kind, memory = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    ort.create_and_register_allocator(
        ort.OrtMemoryInfo("Cpu", kind, 0, memory),
        ort.OrtArenaCfg({"arena_extend_strategy": 1}),
    )


def _load(path: Path, num_threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # A spinning thread takes its core from Triton and from the other models' processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in exact_products().items():
        options.add_session_config_entry(name, value)
    # One pool of memory for all segments, which take turns, in place of one for each.
    options.add_session_config_entry("session.use_env_allocators", "1")
    _share_memory()
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        raise EngineError(f"{path} can't be loaded: {error}") from error
