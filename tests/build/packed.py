"""Runs an engine folder's segments, with an attention in numpy between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from python_backend.engine.engine_config import ROTARY_FILE, EngineConfig, segment_file
from python_backend.engine.processor import exact_products

Array = NDArray[np.float32]


class PackedEngine:
    """Advances sequences together, their new tokens packed one after the other.

    Attributes:
        config: What the folder says about itself.
        segments: A session for each segment.
    """

    def __init__(self, folder: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        for entry in exact_products().items():
            options.add_session_config_entry(*entry)
        self.config = EngineConfig.load(folder)
        self.segments = [
            ort.InferenceSession(
                folder / segment_file(index), options, providers=["CPUExecutionProvider"]
            )
            for index in range(self.config.num_layers + 1)
        ]
        self._rotary = np.load(folder / ROTARY_FILE, mmap_mode="r")
        self._lengths: dict[int, int] = {}
        self._rotary_starts: dict[int, int] = {}
        self._caches: dict[tuple[int, int], tuple[Array, Array]] = {}

    def begin(self, sequence: int, num_tokens: int) -> None:
        """Say how many tokens a sequence may grow to; it is as many as can be otherwise."""
        self._rotary_starts[sequence] = self.config.rotary_start(num_tokens)

    def step(self, batch: Sequence[tuple[int, list[int]]], every_token: bool = False) -> Array:
        """Append tokens to sequences, each given by its number, in the order given.

        Returns:
            The logits after the last token of each, ``[len(batch), vocab]``, or after every token.
        """
        input_ids = np.array([token for _, tokens in batch for token in tokens], np.int64)
        ends = np.cumsum([len(tokens) for _, tokens in batch])
        residual, qkv = self.segments[0].run(None, {"input_ids": input_ids})
        for layer, segment in enumerate(self.segments[1:]):
            parts = np.split(qkv, ends[:-1])
            attended = [
                self._attend(layer, sequence, part)
                for (sequence, _), part in zip(batch, parts, strict=True)
            ]
            inputs = {"attention": np.concatenate(attended), "residual": residual}
            if layer + 1 < self.config.num_layers:
                residual, qkv = segment.run(["next_residual", "qkv"], inputs)
        for sequence, tokens in batch:
            self._lengths[sequence] = self._lengths.get(sequence, 0) + len(tokens)
        rows = np.arange(len(input_ids)) if every_token else ends - 1
        logits: Array = segment.run(["logits"], {**inputs, "rows": rows})[0]
        return logits

    def _attend(self, layer: int, sequence: int, qkv: Array) -> Array:
        """Append keys and values of one sequence, and attend to all that it has."""
        config, count = self.config, len(qkv)
        described = config.decoder.heads[layer]
        start = self._lengths.get(sequence, 0)
        heads = qkv.reshape(count, -1, config.head_dim).swapaxes(0, 1)
        turned, value = np.split(heads, [config.num_heads + config.num_kv_heads])
        if described.rotary_dim:
            first = self._rotary_starts.get(sequence, 0) + start
            cos, sin = self._rotary[:, first : first + count]
            half = cos.shape[-1]
            low, high, rest = np.split(turned, [half, 2 * half], axis=-1)
            turned = np.concatenate([low * cos - high * sin, high * cos + low * sin, rest], axis=-1)
        query, key = np.split(turned, [config.num_heads])
        if start:
            past_key, past_value = self._caches[layer, sequence]
            key = np.concatenate([past_key, key], axis=1)
            value = np.concatenate([past_value, value], axis=1)
        self._caches[layer, sequence] = key, value
        outputs = []
        seen = np.tri(count, start + count, start, dtype=bool)
        if described.window:
            seen &= ~np.tri(count, start + count, start - described.window, dtype=bool)
        scale, cap = described.scale, described.logit_softcap
        for head in range(config.num_heads):
            kv_head = head * config.num_kv_heads // config.num_heads
            scores = query[head] @ key[kv_head].T * scale
            if cap:
                scores = cap * np.tanh(scores / cap)
            scores = np.where(seen, scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            outputs.append(weights / weights.sum(axis=-1, keepdims=True) @ value[kv_head])
        return np.concatenate(outputs, axis=-1).astype(np.float32)
