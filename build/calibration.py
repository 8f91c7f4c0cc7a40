"""What an int8 KV cache has to know of a model: which channels of its keys are out of proportion.

Some models (Qwen2's, above all) have key channels a hundred times larger than the others. Rounded
together, the others would vanish. So keys are divided and queries multiplied by a factor for each
channel, which changes no score: it is chosen so that both become as even as each other, from what
they are on real text. It is SmoothQuant's migration (Xiao et al. 2023) with alpha 1/2, between
queries and keys.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from build.checkpoint import TOKENIZER_FILE
from build.recipe import CALIBRATION_TEXT
from python_backend.engine.attention import BLOCK_TOKENS, Layout, PackedBatch, rotate_heads
from python_backend.engine.engine_config import SMOOTHING_FILE, EngineConfig
from python_backend.engine.kv_cache import KVMemory
from python_backend.engine.onnx_runner import OnnxRunner
from python_backend.engine.processor import available_cores
from python_backend.engine.runner import Limits, load_rotary
from python_backend.engine.scheduled import Scheduled
from python_backend.engine.sequence import SamplingParams, Sequence

PROMPT_TOKENS = 256
MOST_TOKENS = 2048
"""Of a text, for an int8 cache: which channels stand out shows in the first hundreds."""


class _Magnitudes:
    """Notes the largest magnitude of each channel of queries and keys.

    Attributes:
        queries: float32 ``[layers, num_kv_heads, head_dim]``, over the heads that share keys.
        keys: float32 of the same shape.
    """

    def __init__(self, config: EngineConfig, rotary: NDArray[np.float32]) -> None:
        shape = (config.num_layers, config.num_kv_heads, config.head_dim)
        self.queries = np.zeros(shape, np.float32)
        self.keys = np.zeros(shape, np.float32)
        self._config = config
        self._rotary = rotary

    def __call__(self, layer: int, batch: PackedBatch, qkv: NDArray[np.float32]) -> None:
        config = self._config
        heads = np.abs(self._rotated(layer, batch, qkv)).max(axis=0)
        queries = heads[: config.num_heads].reshape(config.num_kv_heads, -1, config.head_dim)
        keys = heads[config.num_heads :]
        np.maximum(self.queries[layer], queries.max(axis=1), out=self.queries[layer])
        np.maximum(self.keys[layer], keys, out=self.keys[layer])

    def _rotated(
        self, layer: int, batch: PackedBatch, qkv: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Queries and keys as attention sees them, ``[tokens, heads, head_dim]``."""
        config = self._config
        heads = qkv.reshape(len(qkv), -1, config.head_dim)[:, : -config.num_kv_heads]
        if not config.decoder.heads[layer].rotary_dim:
            return heads
        firsts, counts = batch.rotary_starts + batch.lengths, np.diff(batch.starts)
        rows = np.concatenate(
            [np.arange(first, first + count) for first, count in zip(firsts, counts, strict=True)]
        )
        return rotate_heads(heads, rows, *self._rotary)


def calibrate_kv_cache(folder: Path, text: Path = CALIBRATION_TEXT) -> None:
    """Write a built engine's ``kv_smoothing.npy``, from a text that resembles what it will read.

    Args:
        folder: The engine folder.
        text: UTF-8; a line or paragraph of a few thousand tokens' text in all is enough.
    """
    config = EngineConfig.load(folder)
    tokens = calibration_tokens(folder, text, config.vocab_size).astype(np.int32)
    found = _magnitudes(folder, config, tokens[:MOST_TOKENS])
    np.save(folder / SMOOTHING_FILE, even_factors(found.queries, found.keys))


def _magnitudes(folder: Path, config: EngineConfig, tokens: NDArray[np.int32]) -> _Magnitudes:
    """What queries and keys of a text's tokens are, cut into prompts, by the engine's graphs."""
    observer = _Magnitudes(config, load_rotary(folder, config))
    layout = Layout(config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim)
    size = min(PROMPT_TOKENS, config.context_length)
    # Each prompt writes over what the one before it left: nothing reads it again.
    blocks = list(range(-(-size // BLOCK_TOKENS)))
    memory = KVMemory(layout, len(blocks))
    limits = Limits(size, max_sequences=1, max_rows=0, num_threads=available_cores())
    runner = OnnxRunner(folder, config, memory, layout, limits, observer)
    for start in range(0, len(tokens), size):
        sequence = Sequence(tokens[start : start + size], SamplingParams(max_tokens=1))
        sequence.blocks = blocks
        sequence.rotary_start = config.rotary_start(size)
        runner.run([Scheduled(sequence, len(sequence.prompt))])
    return observer


def calibration_tokens(folder: Path, text: Path, vocab_size: int) -> NDArray[np.int64]:
    """A text's tokens, int64 ``[tokens]``, by the tokenizer of a checkpoint or engine folder."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    encoding = tokenizer.encode(text.read_text(encoding="utf-8"), add_special_tokens=False)
    tokens = np.array(encoding.ids, dtype=np.int64)
    return tokens[tokens < vocab_size]


def even_factors(queries: NDArray[np.float32], keys: NDArray[np.float32]) -> NDArray[np.float32]:
    """The factors that keys are divided and queries multiplied by; or inputs, and weights.

    Args:
        queries: float32, such as ``[layers, num_kv_heads, head_dim]``, the largest magnitudes.
        keys: The same of the keys.

    Returns:
        float32 of the same shape; 1 where a channel is always zero.
    """
    factors = np.ones_like(keys)
    alive = (queries > 0) & (keys > 0)
    factors[alive] = np.sqrt(keys[alive] / queries[alive])
    return factors
