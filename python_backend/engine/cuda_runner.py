"""Running a whole decoder as one graph on the GPU, attention and its paged KV cache included.

Token ids, block tables and lengths go up in a step; keys and values stay on the device, bound once,
read and written in place. What comes down is a token a row where every sequence takes the
likeliest, and logits otherwise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contract.errors import EngineError
from python_backend.engine.cuda_device import Device, DeviceKVMemory
from python_backend.engine.engine_config import ENGINE_FILE, GRAPH_FILE, EngineConfig
from python_backend.engine.runner import Limits, Packed, Packer
from python_backend.engine.scheduled import Scheduled


class CudaRunner:
    """The session, and what is bound to it."""

    def __init__(
        self,
        folder: Path,
        config: EngineConfig,
        memory: DeviceKVMemory,
        device: Device,
        limits: Limits,
    ) -> None:
        """Load the graph onto the device.

        Args:
            folder: The engine folder.
            config: Its description.
            memory: Where keys and values lie.
            device: Where it runs.
            limits: What to make room for.

        Raises:
            EngineError: The graph is missing, damaged or not the one that ``config`` describes, or
                the device has no room for it.
        """
        self.name = device.name
        self._device = device
        self._packer = Packer(limits)
        self._session = _load(folder, config, memory, device)
        self._logits = np.zeros((limits.max_rows, config.vocab_size), dtype=np.float32)
        self._tokens = np.zeros(limits.max_rows, dtype=np.int64)
        # Logits that stay where they are. The graph computes them whether or not they are wanted.
        self._device_logits = device.allocate(self._logits.shape, np.float32)
        self._binding = self._session.io_binding()
        for name, cache in memory.caches.items():
            self._binding.bind_ortvalue_input(name, cache)
            self._binding.bind_ortvalue_output(f"{name}.out", cache)

    def run(self, work: list[Scheduled]) -> NDArray[np.float32] | list[int]:
        step = self._packer.pack(work)
        inputs = feeds(step)
        rows = inputs["rows"].size
        tokens, logits = self._tokens[:rows], self._logits[:rows]
        likeliest = all(each.sequence.takes_likeliest for each in work if each.num_rows)
        try:
            for name, value in inputs.items():
                self._binding.bind_cpu_input(name, value)
            self._bind("tokens", tokens)
            if likeliest:
                self._leave_logits(rows)
            else:
                self._bind("logits", logits)
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise EngineError(f"the engine failed: {error}") from error
        count = step.rows.size
        return tokens[:count].tolist() if likeliest else logits[:count]

    def _leave_logits(self, rows: int) -> None:
        """Have the logits written to memory of the device."""
        where = (self._device.kind, self._device.index)
        shape = (rows, self._logits.shape[1])
        address = self._device_logits.data_ptr()
        self._binding.bind_output("logits", *where, np.float32, shape, address)

    def _bind(self, name: str, array: NDArray[np.float32] | NDArray[np.int64]) -> None:
        """Have an output written to memory of the host."""
        self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def feeds(step: Packed) -> dict[str, NDArray[np.int64] | NDArray[np.int32]]:
    """What a step tells the graph, beside the keys and values that it knows."""
    batch = step.batch
    new = np.diff(batch.starts)
    longest = (batch.lengths + new).max()
    return {
        "input_ids": step.ids,
        # A row at least, of use or not: a kernel can't be launched over none.
        "rows": step.rows if step.rows.size else np.zeros(1, dtype=np.int64),
        "cumulative_sequence_length": batch.starts,
        "past_seqlens": batch.lengths,
        "block_table": batch.tables,
        # New tokens of a sequence and tokens in all, at most, and the latter at least: attention
        # then has no need to ask the device and wait for it, in every layer.
        "attention_metadata": np.array([new.max(), longest, longest], dtype=np.int32),
    }


def _load(
    folder: Path, config: EngineConfig, memory: DeviceKVMemory, device: Device
) -> ort.InferenceSession:
    """The session; refuses another graph, which would write past the memory it is given."""
    path = folder / GRAPH_FILE
    session = device.load(path)
    found = {each.name: each.shape for each in (*session.get_inputs(), *session.get_outputs())}
    caches = {name: cache.shape() for name, cache in memory.caches.items()}
    fits = found.get("logits", [None])[-1] == config.vocab_size and all(
        found.get(name, [])[1:] == shape[1:] and f"{name}.out" in found
        for name, shape in caches.items()
    )
    expected = len(caches) == sum(name.startswith(("key", "value")) for name in found) // 2
    if not (fits and expected):
        raise EngineError(
            f"{path} is not the graph that the {ENGINE_FILE} beside it describes: "
            "build the engine anew"
        )
    return session
