"""Where keys and values lie.

One array a layer holds a row for each running sequence, long enough for the whole context. Memory
that was never written is not resident, so an empty cache costs nothing. Row i belongs to the i-th
running sequence, which lets a decode step bind the first n rows as one batch without a copy.
"""

from __future__ import annotations

import math

import numpy as np

from python_backend.engine.config import EngineConfig
from python_backend.errors import EngineError


class KVCache:
    """Keys and values of all running sequences.

    Attributes:
        num_rows: Most sequences that can run at once.
        layers: For each layer its keys and its values, float32
            ``[num_rows, num_kv_heads, context_length, head_dim]``.
    """

    def __init__(self, config: EngineConfig, num_rows: int) -> None:
        """Reserve the memory.

        Raises:
            EngineError: The machine can't reserve so much.
        """
        self.num_rows = num_rows
        shape = (num_rows, config.num_kv_heads, config.context_length, config.head_dim)
        try:
            self.layers = [
                (np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32))
                for _ in range(config.num_layers)
            ]
        except MemoryError:
            size_gib = math.prod(shape) * 4 * 2 * config.num_layers / 2**30
            raise EngineError(
                f"a KV cache for {num_rows} sequences of {config.context_length} tokens takes "
                f"{size_gib:.0f} GiB, more than can be reserved: lower max_num_sequences, or build "
                "the engine with a shorter context"
            ) from None

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of one row over another, so that running rows stay together."""
        for keys, values in self.layers:
            keys[target, :, :tokens] = keys[source, :, :tokens]
            values[target, :, :tokens] = values[source, :, :tokens]
