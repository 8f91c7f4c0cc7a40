"""The ONNX engine: schedule, run, sample."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from contract.errors import EngineError, InvalidRequestError
from contract.models import EngineInputs
from python_backend.engine.attention import Layout, can_attend_int8
from python_backend.engine.cuda_device import CudaDevice, CudaLayout, Device, DeviceKVMemory
from python_backend.engine.cuda_runner import CudaRunner
from python_backend.engine.engine_config import KV_DTYPES, EngineConfig, KVDtype
from python_backend.engine.engine_core import EngineCore, EngineStats
from python_backend.engine.guiding import Guiding
from python_backend.engine.kv_cache import BlockPool, KVMemory
from python_backend.engine.native_runner import load_native_runner
from python_backend.engine.onnx_runner import OnnxRunner
from python_backend.engine.processor import available_cores
from python_backend.engine.runner import Limits, Runner
from python_backend.engine.sampler import sample
from python_backend.engine.scheduled import Scheduled
from python_backend.engine.scheduler import SPARE_ROWS, Scheduler
from python_backend.engine.selection import load_selection
from python_backend.engine.sequence import Outcome, SamplingParams, Sequence


class OnnxEngine(EngineCore):
    """An engine that ``build/`` made, on a CPU or through ONNX Runtime on a GPU.

    Attributes:
        config: What the engine folder says about itself.
        layout: How keys and values lie in a block.
        scheduler: The sequences and their blocks.
        batch_size: Sequences that the last step computed.
    """

    def __init__(
        self,
        folder: Path,
        max_sequences: int | None = None,
        max_num_tokens: int | None = None,
        kv_cache_bytes: int | None = None,
        kv_cache_dtype: KVDtype | Literal["auto"] = "auto",
        num_threads: int = 0,
        native: bool = True,
        device: Device | None = None,
        spare_rows: int = SPARE_ROWS,
    ) -> None:
        """Load an engine folder.

        Args:
            folder: What ``build/`` made.
            max_sequences: Most sequences that run at once; others wait. None is what the engine
                was built for, as it is of the next two.
            max_num_tokens: Budget of tokens a step.
            kv_cache_bytes: Most memory that keys and values take, of the GPU where one computes.
            kv_cache_dtype: How they are stored; ``auto`` is what the engine was built for, but
                float32 where this machine lacks the kernels for int8.
            num_threads: Threads to compute with; 0 is one for each core.
            native: Whether the native decoder may take the place of the graphs.
            device: The GPU that an engine for CUDA runs on; by default the first.
            spare_rows: Budget of rows of logits a step beside one for each sequence.

        Raises:
            EngineError: The folder holds no usable engine, this machine can't run it, or the budget
                holds not one block.
        """
        self.config = config = EngineConfig.load(folder)
        if max_sequences is None:
            max_sequences = config.limits.max_num_sequences
        if max_num_tokens is None:
            max_num_tokens = config.limits.max_num_tokens
        if kv_cache_bytes is None:
            kv_cache_bytes = config.limits.kv_cache_bytes
        num_threads = num_threads or available_cores()
        self.layout = layout = _layout(config, kv_cache_dtype, num_threads)
        num_blocks = kv_cache_bytes // layout.block_bytes
        if not num_blocks:
            raise EngineError(
                f"the KV cache has {kv_cache_bytes} bytes; {layout.block_tokens} tokens take "
                f"{layout.block_bytes}"
            )
        pool = BlockPool(num_blocks, layout.block_tokens)
        self.scheduler = Scheduler(pool, max_sequences, max_num_tokens, spare_rows)
        self.batch_size = 0
        self._selection = load_selection(num_threads)
        self._guiding = Guiding()
        limits = Limits(
            max_tokens=max_num_tokens + max_sequences,
            max_sequences=max_sequences,
            max_rows=max_sequences + spare_rows,
            num_threads=num_threads,
        )
        self._memory: KVMemory | DeviceKVMemory
        self._runner: Runner
        if isinstance(layout, CudaLayout):
            device = device or CudaDevice(0)
            self._memory = DeviceKVMemory(device, layout, num_blocks)
            self._runner = CudaRunner(folder, config, self._memory, device, limits)
        else:
            self._memory = KVMemory(layout, num_blocks)
            inputs = (folder, config, self._memory, layout, limits)
            # The native decoder runs quantized engines, where this machine can run it.
            self._runner = (native and load_native_runner(*inputs)) or OnnxRunner(*inputs)

    @property
    def runner(self) -> Runner:
        """What computes."""
        return self._runner

    @property
    def name(self) -> str:
        """What computes, for the one who reads the log."""
        return self._runner.name

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a sequence where its request names no other."""
        return self.config.end_token_ids

    @property
    def kv_cache_resident_bytes(self) -> int:
        """Physical memory that keys and values take now, as the operating system counts it; on a
        GPU all that was allocated.
        """
        return self._memory.resident_bytes

    def check(self, prompt: NDArray[np.int32], params: SamplingParams) -> SamplingParams:
        """Refuse what can never run. Any thread may call this.

        Args:
            prompt: int32 ``[tokens]``.
            params: How it is to be sampled.

        Returns:
            How it is sampled: ``max_tokens`` is cut to the room where that is asked for.

        Raises:
            InvalidRequestError: The prompt is empty, has an unknown token or doesn't fit.
        """
        context, vocab_size = self.config.context_length, self.config.vocab_size
        if prompt.size == 0:
            raise InvalidRequestError(
                "the prompt is empty; it needs at least 1 token", EngineInputs.INPUT_IDS.name
            )
        if prompt.min() < 0 or prompt.max() >= vocab_size:
            raise InvalidRequestError(
                f"input_ids has a token outside the vocabulary of {vocab_size} tokens",
                EngineInputs.INPUT_IDS.name,
            )
        most = context - min(params.max_tokens, 1)
        if prompt.size > most:
            raise InvalidRequestError(
                f"the prompt has {prompt.size} tokens; with the context of {context} tokens "
                f"it can have at most {most}",
                EngineInputs.INPUT_IDS.name,
                code="context_length_exceeded",
            )
        params = self._fitted(prompt, params)
        if prompt.size + params.max_tokens > context:
            raise InvalidRequestError(
                f"max_tokens is {params.max_tokens}; after a prompt of {prompt.size} tokens the "
                f"context of {context} tokens has room for at most {context - prompt.size}",
                "max_tokens",
                code="context_length_exceeded",
            )
        for name, words in (("stop_words", params.stop_words), ("bad_words", params.bad_words)):
            if any(not word or min(word) < 0 or max(word) >= vocab_size for word in words):
                raise InvalidRequestError(
                    f"{name} has an empty word or a token outside the vocabulary of {vocab_size}",
                    name,
                )
        if params.embedding_bias is not None and params.embedding_bias.size > vocab_size:
            raise InvalidRequestError(
                f"embedding_bias has {params.embedding_bias.size} values; "
                f"it can have at most one for each of the {vocab_size} tokens",
                EngineInputs.EMBEDDING_BIAS.name,
            )
        pool = self.scheduler.pool
        wanted = pool.blocks_for(prompt.size + params.max_tokens)
        if wanted > pool.num_blocks:
            raise InvalidRequestError(
                f"max_tokens is {params.max_tokens}; with a prompt of {prompt.size} tokens that is "
                f"{wanted} blocks of keys and values, and the cache has {pool.num_blocks} "
                f"(room for {pool.num_blocks * pool.block_tokens} tokens)",
                "max_tokens",
            )
        return params

    def _fitted(self, prompt: NDArray[np.int32], params: SamplingParams) -> SamplingParams:
        """Cut ``max_tokens`` to the room in the context and in the cache, where that is asked for.

        At least one token is left, so that what has no room at all is refused as ever.
        """
        pool = self.scheduler.pool
        holds = min(self.config.context_length, pool.num_blocks * pool.block_tokens)
        room = max(holds - prompt.size, 1)
        if not params.fit_max_tokens or params.max_tokens <= room:
            return params
        return replace(params, max_tokens=room)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence that ``check`` accepts."""
        most = len(sequence.prompt) + sequence.params.max_tokens
        sequence.rotary_start = self.config.rotary_start(most)
        self.scheduler.add(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence now and free its memory. One that has ended stays as it is."""
        if not sequence.finished:
            sequence.finish_reason = "cancelled"
            self._remove(sequence)

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits or runs."""
        return self.scheduler.has_work

    def step(self) -> list[Sequence]:
        """Give every sequence that can run its next token.

        Returns:
            The sequences that advanced: each has one more output token, or ended; where drafts
            were right it has several more.

        Raises:
            EngineError: The graph failed. The sequences that were running are to be given up with
                ``drop_running``.
        """
        work = self.scheduler.schedule()
        self.batch_size = len(work)
        with self._guiding.beside(work):
            computed = self._runner.run(work)
        outcomes = self._choose(computed, work)
        for each, outcome in zip(work, outcomes, strict=True):
            self.scheduler.computed(each, right=each.sequence.take(outcome))
            if each.sequence.finished:
                self._remove(each.sequence)
        return [each.sequence for each in work if each.num_chosen]

    def drop(self, sequence: Sequence) -> None:
        """Give up a sequence and free its memory; it has no reason to have finished."""
        self._remove(sequence)

    def drop_running(self) -> list[Sequence]:
        """Give up what runs, after a failure; what waits is untouched."""
        dropped = list(self.scheduler.running)
        for sequence in dropped:
            self.drop(sequence)
        return dropped

    def stats(self) -> EngineStats:
        """How its queues and its KV cache stand. Any thread may call this."""
        scheduler, pool = self.scheduler, self.scheduler.pool
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_preempted=scheduler.num_preempted,
            num_used_blocks=pool.num_used,
            num_cached_blocks=pool.num_cached,
            num_blocks=pool.num_blocks,
            block_bytes=self.layout.block_bytes,
            num_looked_up_blocks=scheduler.num_looked_up_blocks,
            num_reused_blocks=scheduler.num_reused_blocks,
        )

    def generate(self, prompts: list[NDArray[np.int32]], params: SamplingParams) -> list[list[int]]:
        """Continue prompts to their end; the offline way in, for tests and measurements."""
        sequences = [Sequence(prompt, self.check(prompt, params)) for prompt in prompts]
        for sequence in sequences:
            self.add(sequence)
        while self.has_work:
            self.step()
        return [sequence.output for sequence in sequences]

    def _choose(
        self, computed: NDArray[np.float32] | list[int], work: list[Scheduled]
    ) -> list[Outcome]:
        """What the rows say of each sequence, where the runner hasn't chosen the tokens."""
        if not isinstance(computed, list):
            return sample(computed, work, self._selection)
        tokens = iter(computed)
        return [Outcome([], list(islice(tokens, each.num_rows)), []) for each in work]

    def _remove(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self._memory.give_back(self.scheduler.take_emptied())


def _layout(
    config: EngineConfig, kv_cache_dtype: KVDtype | Literal["auto"], num_threads: int
) -> Layout | CudaLayout:
    """How keys and values are stored, as the settings, the engine and the machine have it."""
    provider = config.execution_provider
    if kv_cache_dtype not in ("auto", *KV_DTYPES[provider]):
        raise EngineError(
            f"kv_cache_dtype is {kv_cache_dtype}; the engine was built for {provider} and stores "
            f"keys and values in {' or '.join(KV_DTYPES[provider])}"
        )
    if provider == "cuda":
        return CudaLayout.of(config)
    if kv_cache_dtype == "auto":
        kv_cache_dtype = config.kv_cache_dtype if can_attend_int8(num_threads) else "float32"
    elif kv_cache_dtype == "int8" and not can_attend_int8(num_threads):
        raise EngineError(
            "kv_cache_dtype int8 needs a processor with AVX-512 VNNI: take auto or float32"
        )
    return Layout(
        config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim, kv_cache_dtype
    )
