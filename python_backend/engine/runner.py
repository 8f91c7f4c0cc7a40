"""Running the ONNX graph.

Binds rows of the KV cache as past and present of one buffer, so that a step copies no keys or
values, and keeps the bindings of each decode batch size, which never change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from python_backend.engine.config import ENGINE_FILE, EngineConfig
from python_backend.engine.kv_cache import KVCache
from python_backend.errors import EngineError


class Runner:
    """An ONNX Runtime session over a KV cache."""

    def __init__(
        self, folder: Path, config: EngineConfig, cache: KVCache, num_threads: int = 0
    ) -> None:
        """Load the graph.

        Args:
            folder: The engine folder.
            config: Its description.
            cache: Where keys and values lie.
            num_threads: Threads of one operator; 0 is one for each core.

        Raises:
            EngineError: The graph is missing, damaged or of another layout.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        # A spinning thread takes its core from Triton and from the other models' processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        path = folder / config.graph
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise EngineError(f"{path} can't be loaded: {error}") from error
        if _layout(self._session) != _described_layout(config):
            raise EngineError(
                f"{path} is not the graph that the {ENGINE_FILE} beside it describes: "
                "build the engine anew"
            )
        self._config = config
        self._cache = cache
        self._logits = np.zeros((cache.num_rows, config.vocab_size), dtype=np.float32)
        self._tokens = np.zeros((cache.num_rows, 1), dtype=np.int64)
        self._lengths = np.zeros(cache.num_rows, dtype=np.int32)
        self._total = np.zeros((), dtype=np.int32)
        self._decodes: dict[int, ort.IOBinding] = {}

    def prefill(self, row: int, start: int, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """Compute prompt tokens of one sequence.

        Args:
            row: Its cache row.
            start: Tokens that the row has already.
            tokens: int32 ``[tokens]``, the ones to add.

        Returns:
            float32 ``[1, vocab]``: logits after the last token, valid until the next call.
        """
        self._lengths[row] = start + tokens.size - 1
        self._total[...] = start + tokens.size
        ids = tokens.astype(np.int64)[None]
        self._run(self._bind(row, 1, ids))
        return self._logits[row : row + 1]

    def decode(self, tokens: list[int], lengths: list[int]) -> NDArray[np.float32]:
        """Compute one token for each sequence in the first rows.

        Args:
            tokens: The newest token of each.
            lengths: Tokens that each row has already.

        Returns:
            float32 ``[sequences, vocab]``, valid until the next call.
        """
        count = len(tokens)
        self._tokens[:count, 0] = tokens
        self._lengths[:count] = lengths
        self._total[...] = max(lengths) + 1
        if count not in self._decodes:
            self._decodes[count] = self._bind(0, count, self._tokens[:count])
        self._run(self._decodes[count])
        return self._logits[:count]

    def _run(self, binding: ort.IOBinding) -> None:
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # see __init__
            raise EngineError(f"the engine failed: {error}") from error

    def _bind(self, row: int, count: int, ids: NDArray[np.int64]) -> ort.IOBinding:
        binding = self._session.io_binding()
        rows = slice(row, row + count)
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": ids,
            "seqlens_k": self._lengths[rows],
            "total_sequence_length": self._total,
        }
        outputs: dict[str, NDArray[Any]] = {"logits": self._logits[rows]}
        for layer, arrays in enumerate(self._cache.layers):
            for part, array in zip(("key", "value"), arrays, strict=True):
                inputs[f"past_key_values.{layer}.{part}"] = array[rows]
                outputs[f"present.{layer}.{part}"] = array[rows]
        for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, array in tensors.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return binding


def _layout(session: ort.InferenceSession) -> dict[str, tuple[int, ...]]:
    """The fixed sizes of a graph's caches and logits, by name."""
    values = [*session.get_inputs(), *session.get_outputs()]
    sizes = {v.name: tuple(size for size in v.shape if isinstance(size, int)) for v in values}
    return {name: sizes[name] for name in sizes if name.startswith("past_") or name == "logits"}


def _described_layout(config: EngineConfig) -> dict[str, tuple[int, ...]]:
    cache = (config.num_kv_heads, config.head_dim)
    layout: dict[str, tuple[int, ...]] = {
        f"past_key_values.{layer}.{part}": cache
        for layer in range(config.num_layers)
        for part in ("key", "value")
    }
    return {**layout, "logits": (config.vocab_size,)}
