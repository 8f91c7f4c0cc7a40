"""Running a quantized decoder in C: a step is one call (``kernels/decoder.c``).

The weights are those that the graphs name, packed at load time in the order in which the kernels
read them. What is computed is what the graphs compute, up to the rounding of floats.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from python_backend.engine.attention import KernelAttention, Layout
from python_backend.engine.engine_config import EngineConfig
from python_backend.engine.kernels import load_kernels
from python_backend.engine.kernels import structures as c
from python_backend.engine.kv_cache import KVMemory
from python_backend.engine.layers import products
from python_backend.engine.native_weights import PRECISIONS, Arena, NativeWeights, round_up
from python_backend.engine.runner import Limits, Packer, load_rotary, load_smoothing
from python_backend.engine.scheduled import Scheduled


def load_native_runner(
    folder: Path, config: EngineConfig, memory: KVMemory, layout: Layout, limits: Limits
) -> NativeRunner | None:
    """The native runner, if it can run this engine on this machine.

    Args:
        folder: The engine folder.
        config: Its description.
        memory: Where keys and values lie.
        layout: How they lie there.
        limits: What to make room for.

    Raises:
        EngineError: A file is damaged or not the one that ``config`` describes.
    """
    if config.precision not in PRECISIONS:
        return None
    kernels = load_kernels(limits.num_threads)
    if kernels is None or not hasattr(kernels, "trireme_decode"):
        return None
    return NativeRunner(kernels, folder, config, memory, layout, limits)


class NativeRunner:
    """The C decoder and its packed weights."""

    def __init__(
        self,
        kernels: ctypes.CDLL,
        folder: Path,
        config: EngineConfig,
        memory: KVMemory,
        layout: Layout,
        limits: Limits,
    ) -> None:
        """Pack the weights; the arguments are those of :func:`load_native_runner`."""
        kernels.trireme_instructions.restype = ctypes.c_char_p
        self.name = f"native decoder ({kernels.trireme_instructions().decode()})"
        self._decode = kernels.trireme_decode
        self._decode.restype = None
        self._decode.argtypes = tuple(map(ctypes.POINTER, (c.Decoder, c.Batch, c.Step)))
        self._packer = Packer(limits)
        arena = Arena()
        self._logits = arena.zeros(limits.max_rows, config.vocab_size)
        decoder = config.decoder
        weights = NativeWeights(kernels, folder, config, arena)
        self._attention = KernelAttention(
            kernels,
            layout,
            memory.blocks,
            load_rotary(folder, config),
            decoder.heads,
            load_smoothing(folder, config),
        )
        layers = (c.Layer * config.num_layers)(*map(weights.layer, decoder.layers))
        feed_forwards = tuple(layer.feed_forward for layer in decoder.layers)
        widest = max(round_up(each.columns, c.GROUP) for each in products(decoder))
        tokens = limits.max_tokens
        arrays = {
            "residual": arena.zeros(tokens, config.hidden_size),
            "normed": arena.zeros(tokens, config.hidden_size),
            "qkv": arena.zeros(tokens, decoder.heads[0].qkv_size),
            "attended": arena.zeros(tokens, decoder.heads[0].q_size),
            "inner": arena.zeros(tokens, max(each.outputs for each in products(feed_forwards))),
            "levels": arena.zeros(tokens, widest, dtype=np.int8),
            "scales": arena.zeros(tokens, widest // c.GROUP),
            "sums": arena.zeros(tokens, widest // c.GROUP),
            "offsets": arena.zeros(tokens, widest // c.GROUP, dtype=np.int64),
        }
        self._decoder = c.Decoder(
            num_layers=config.num_layers,
            hidden_size=config.hidden_size,
            embedding_scale=decoder.embedding_scale,
            logit_softcap=decoder.logit_softcap or 0.0,
            **weights.embedding(),
            final_norm=weights.norm(decoder.final_norm),
            lm_head=weights.linear(decoder.lm_head),
            layers=ctypes.addressof(layers),
            **{name: array.ctypes.data for name, array in arrays.items()},
        )
        weights.release()
        # Kept alive: the decoder knows their addresses only.
        self._alive = (arena, layers, weights)

    def run(self, work: list[Scheduled]) -> NDArray[np.float32]:
        packed = self._packer.pack(work)
        step = c.Step(
            num_tokens=packed.ids.size,
            num_rows=packed.rows.size,
            ids=packed.ids.ctypes.data,
            rows=packed.rows.ctypes.data,
            logits=self._logits.ctypes.data,
        )
        batch = self._attention.describe(packed.batch)
        self._decode(ctypes.byref(self._decoder), ctypes.byref(batch), ctypes.byref(step))
        return self._logits[: packed.rows.size]
