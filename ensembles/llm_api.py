"""Settings of the ``tensorrt_llm`` model on TensorRT-LLM's LLM API (release 1.2).

The fields are the arguments of its ``LLM`` by their own names, which ``model.yaml`` holds; one that
is None is left out, and TensorRT-LLM's own default holds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from contract.settings_base import Settings


class KVCacheSettings(Settings):
    """The LLM API's ``kv_cache_config``.

    Attributes:
        enable_block_reuse: A beginning that an earlier request had is not computed again.
        free_gpu_memory_fraction: Part of the GPU memory left that keys and values take.
        max_tokens: Most tokens of the KV cache.
        max_attention_window: Keys that a query sees, for each layer or repeated over them.
        host_cache_size: Bytes of host memory that blocks are moved to.
        dtype: Precision of keys and values; ``auto`` is what the checkpoint says.
        tokens_per_block: Tokens of a block.
    """

    enable_block_reuse: bool = True
    free_gpu_memory_fraction: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_attention_window: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, min_length=1
    )
    host_cache_size: int | None = Field(default=None, ge=0)
    dtype: Literal["auto", "fp8", "nvfp4"] = "auto"
    tokens_per_block: int = Field(default=32, ge=1)


class SchedulerSettings(Settings):
    """The LLM API's ``scheduler_config``.

    Attributes:
        capacity_scheduler_policy: As ``batch_scheduler_policy`` of the C++ backend.
    """

    capacity_scheduler_policy: Literal["MAX_UTILIZATION", "GUARANTEED_NO_EVICT"] = (
        "GUARANTEED_NO_EVICT"
    )


class TritonSettings(Settings):
    """What the LLM API's model tells Triton, in ``triton_config``.

    Attributes:
        decoupled: Whether requests may stream.
        max_batch_size: 0: that model takes one prompt a request.
        cancellation_check_period_ms: How soon a cancelled request is noticed.
    """

    decoupled: bool = True
    max_batch_size: Literal[0] = 0
    cancellation_check_period_ms: int = Field(default=100, ge=1, le=60_000)


class LLMAPISettings(Settings):
    """The LLM API: the arguments of its ``LLM``, which ``model.yaml`` holds.

    Attributes:
        model: The checkpoint's folder, such as the ``hf`` form that ``build.tensorrt_llm`` writes;
            relative to the model's version folder.
        backend: ``pytorch``.
        tensor_parallel_size: GPUs that share each layer.
        pipeline_parallel_size: Groups of layers, one after the other.
        max_batch_size: Most requests that run at once.
        max_num_tokens: Most tokens of a step.
        max_seq_len: Longest sequence; by default the checkpoint's own limit.
        max_beam_width: Widest beam search.
        enable_chunked_prefill: Long prompts in chunks.
        guided_decoding_backend: Turns guided decoding on.
        kv_cache_config: Keys and values.
        scheduler_config: Which requests run.
        triton_config: What Triton is told.
    """

    model: str = Field(default="hf", min_length=1)
    backend: Literal["pytorch"] = "pytorch"
    tensor_parallel_size: int = Field(default=1, ge=1, le=1024)
    pipeline_parallel_size: int = Field(default=1, ge=1, le=1024)
    max_batch_size: int = Field(default=64, ge=1, le=65_536)
    max_num_tokens: int = Field(default=8192, ge=1)
    max_seq_len: int | None = Field(default=None, ge=1)
    max_beam_width: int = Field(default=1, ge=1, le=256)
    enable_chunked_prefill: bool = True
    guided_decoding_backend: Literal["xgrammar", "llguidance"] | None = None
    kv_cache_config: KVCacheSettings = KVCacheSettings()
    scheduler_config: SchedulerSettings = SchedulerSettings()
    triton_config: TritonSettings = TritonSettings()

    def arguments(self) -> dict[str, Any]:
        """The contents of ``model.yaml``."""
        return self.model_dump(mode="json", exclude_none=True)
