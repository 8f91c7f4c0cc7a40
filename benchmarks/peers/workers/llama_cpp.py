"""llama.cpp through the C API that llama-cpp-python binds, as its own batched-bench uses it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.worker import GGUF_SOURCE, Options, answered, available_cores, main

_SEQUENCES = 32
_CONTEXT = 1280  # of each sequence
_BATCH = 2048
_FLASH_ATTENTION = 1
_LEAST_SHARED = 64


class LlamaCpp:
    """A context with a KV cache for each sequence.

    llama.cpp leaves it to its caller which sequences share a beginning: here one that all prompts
    of a request share is computed once and copied, as ``llama-batched-bench -pps`` does.
    """

    def __init__(self, model: Path, kind: str) -> None:
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(model / "model.gguf").encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = _SEQUENCES * _CONTEXT
        params.n_batch = _BATCH
        params.n_ubatch = 512
        params.n_seq_max = _SEQUENCES
        params.n_threads = params.n_threads_batch = available_cores()
        params.flash_attn_type = _FLASH_ATTENTION
        params.kv_unified = False
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp could not make a context")
        self._memory = llama_cpp.llama_get_memory(self._context)
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)
        self.settings: dict[str, Any] = {
            "weights": kind,
            "n_ctx": params.n_ctx,
            "n_batch": params.n_batch,
            "n_ubatch": params.n_ubatch,
            "n_seq_max": params.n_seq_max,
            "kv_unified": params.kv_unified,
            "KV cache": "f16",
            "flash attention": True,
            "threads": params.n_threads,
        }

    def generate(
        self, prompts: list[list[int]], output_tokens: int, end_ids: Sequence[int] = ()
    ) -> list[int]:
        """Continue all prompts by ``output_tokens``, or to an end."""
        llama_cpp.llama_memory_clear(self._memory, False)
        shared = _shared(prompts)
        if shared:
            self._decode([(0, position, prompts[0][position], False) for position in range(shared)])
            for sequence in range(1, len(prompts)):
                llama_cpp.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
        # A batch of whole prompts, so that each batch's logits are those of its last tokens.
        answers: list[list[int]] = [[] for _ in prompts]
        for part in _batches([len(prompt) - shared for prompt in prompts]):
            tokens = self._decode(
                [
                    (sequence, position, token, position == len(prompts[sequence]) - 1)
                    for sequence in part
                    for position, token in enumerate(prompts[sequence])
                    if position >= shared
                ]
            )
            for sequence, token in zip(part, tokens, strict=True):
                answers[sequence].append(token)
        places = list(
            range(len(prompts))
        )  # the answer that each sequence of the cache goes on with
        for step in range(output_tokens - 1):
            self._close_ranks(places, [answers[place][-1] in end_ids for place in places])
            if not places:
                break
            tokens = self._decode(
                [
                    (sequence, len(prompts[place]) + step, answers[place][-1], True)
                    for sequence, place in enumerate(places)
                ]
            )
            for place, token in zip(places, tokens, strict=True):
                answers[place].append(token)
        return [answered(answer, end_ids) for answer in answers]

    def _close_ranks(self, places: list[int], ended: list[bool]) -> None:
        """Have the last sequences take the places of those that ended.

        llama.cpp computes sequences together whose numbers follow on one another; with gaps it
        takes each run of them for itself.
        """
        for sequence in reversed(range(len(places))):
            if ended[sequence]:
                last = len(places) - 1
                llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
                if sequence < last:
                    llama_cpp.llama_memory_seq_cp(self._memory, last, sequence, -1, -1)
                    llama_cpp.llama_memory_seq_rm(self._memory, last, -1, -1)
                    places[sequence] = places[last]
                places.pop()

    def logits(self, tokens: list[int], rows: int) -> NDArray[np.float32]:
        """What the model predicts, in the same context."""
        llama_cpp.llama_memory_clear(self._memory, False)
        first = len(tokens) - rows
        self._decode([(0, place, token, place >= first) for place, token in enumerate(tokens)])
        return self._rows(rows)

    def _decode(self, entries: list[tuple[int, int, int, bool]]) -> list[int]:
        """Compute a batch of (sequence, position, token, whether its logits are needed).

        Returns:
            The likeliest next token for each that needs its logits, in order.
        """
        batch, wanted = self._batch, 0
        batch.n_tokens = len(entries)
        for index, (sequence, position, token, logits) in enumerate(entries):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = logits
            wanted += logits
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        if not wanted:
            return []
        chosen: list[int] = self._rows(wanted).argmax(axis=1).tolist()
        return chosen

    def _rows(self, count: int) -> NDArray[np.float32]:
        """The logits of the last batch, valid until the next."""
        pointer = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (count, self._vocab_size)
        )


def _shared(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with, where that is worth a batch of its own."""
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts))  # noqa: B905
    count = sum(1 for _ in alike)
    return count if len(prompts) > 1 and count >= _LEAST_SHARED else 0


def _batches(lengths: Sequence[int]) -> Iterator[range]:
    """Which sequences' whole prompts are computed together."""
    first, taken = 0, 0
    for place, length in enumerate(lengths):
        if place > first and taken + length > _BATCH:
            yield range(first, place)
            first, taken = place, 0
        taken += length
    yield range(first, len(lengths))


def build(checkpoint: Path, model: Path, options: Options) -> None:
    """Quantize the checkpoint's GGUF file by llama.cpp's own tool, all settings its defaults."""
    from benchmarks.peers.gguf_file import write_gguf

    whole = checkpoint / GGUF_SOURCE
    if not whole.exists():
        whole = model / "bf16.gguf"
        write_gguf(checkpoint, whole)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{options['type'].upper()}")
    params.nthread = available_cores()
    status = llama_cpp.llama_model_quantize(
        str(whole).encode(), str(model / "model.gguf").encode(), ctypes.byref(params)
    )
    if status:
        raise RuntimeError(f"llama_model_quantize returned {status}")
    if whole.parent == model:
        whole.unlink()


def load(model: Path, options: Options) -> LlamaCpp:
    """Load the GGUF file."""
    return LlamaCpp(model, options["type"])


if __name__ == "__main__":
    main(build, load, ("llama-cpp-python",))
