"""Settings of the ``tensorrt_llm`` model on TensorRT-LLM's C++ backend (release 1.2).

The fields are the backend's own parameters by their own names; one that is None is left out, and
the backend's own default holds.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from contract.model_settings import ModelSettings
from contract.names import TENSORRT_LLM

Ids = tuple[Annotated[int, Field(ge=0)], ...]

_NOT_PARAMETERS = frozenset(
    {"communication", "world_size", "max_queue_size", "max_queue_delay_microseconds"}
)
_CHOICES = r"^\{\d+(, ?\d+)*\}(, ?\{\d+(, ?\d+)*\})*$"


class CppBackendSettings(ModelSettings):
    """The C++ backend: the parameters of its ``config.pbtxt``, and how its ranks run.

    Attributes:
        gpt_model_path: Folder of the engine; relative to the model's version folder, which it is
            by default.
        gpt_model_type: ``inflight_fused_batching`` or, one batch after the other, ``V1``.
        encoder_model_path: Folder of an encoder's engine, for encoder-decoder models.
        max_beam_width: Widest beam search of a request.
        batch_scheduler_policy: ``max_utilization`` packs as many requests as possible and may pause
            one; ``guaranteed_no_evict`` never pauses one that has started.
        enable_chunked_context: Long prompts in chunks; the engine needs
            ``use_paged_context_fmha``.
        max_tokens_in_paged_kv_cache: Most tokens of the KV cache.
        kv_cache_free_gpu_mem_fraction: Part of the GPU memory left after loading that keys and
            values take.
        cross_kv_cache_fraction: Part of that for cross attention, in encoder-decoder models.
        kv_cache_host_memory_bytes: Host memory that blocks are moved to.
        kv_cache_onboard_blocks: Whether blocks come back from there.
        enable_kv_cache_reuse: A beginning that an earlier request had is not computed again.
        max_attention_window_size: Keys that a query sees, for each layer or repeated over them.
        sink_token_length: Tokens at the beginning that stay visible.
        max_queue_size: Most requests that wait; 0 is no limit.
        max_queue_delay_microseconds: How long Triton gathers requests before it hands them over.
        exclude_input_in_output: Whether an answer leaves out its prompt.
        normalize_log_probs: Whether log probabilities are divided by the length.
        cancellation_check_period_ms: How soon a cancelled request is noticed.
        stats_check_period_ms: How often statistics are read.
        iter_stats_max_iterations: Steps whose statistics are kept.
        request_stats_max_iterations: Steps whose request statistics are kept.
        recv_poll_period_ms: Rest between two looks for responses in orchestrator mode.
        gpu_device_ids: GPUs of each instance, such as ``[[0,1],[2,3]]``: an instance for each.
        participant_ids: MPI ranks of each instance, in orchestrator mode without spawning.
        num_nodes: Machines that share the model.
        communication: ``leader``: MPI starts a tritonserver for each rank. ``orchestrator``: one
            tritonserver starts the ranks as processes of its own.
        world_size: All ranks: tensor times pipeline parallelism.
        executor_worker_path: The program of a rank in orchestrator mode.
        decoding_mode: How tokens are chosen.
        lookahead_window_size: Of lookahead decoding, as are the next two.
        lookahead_ngram_size: Longest n-gram.
        lookahead_verification_set_size: Candidates verified in a step.
        medusa_choices: The tree of Medusa's candidates, such as ``{0}, {0, 0}, {1}``.
        eagle_choices: The tree of Eagle's candidates.
        speculative_decoding_fast_logits: Draft logits straight from GPU to GPU, in orchestrator
            mode without spawning.
        gpu_weights_percent: Part of the weights on the GPU, for engines with weight streaming.
        multi_block_mode: Several blocks of threads for one long sequence.
        enable_context_fmha_fp32_acc: Prompts' attention sums in float32.
        cuda_graph_mode: Decode steps as CUDA graphs.
        cuda_graph_cache_size: How many graphs are kept.
        lora_cache_optimal_adapter_size: Rank that cache pages are made for.
        lora_cache_max_adapter_size: Widest rank of an adapter.
        lora_cache_gpu_memory_fraction: Part of the GPU memory left then for adapters.
        lora_cache_host_memory_bytes: Host memory for adapters.
        lora_prefetch_dir: Adapters that are loaded at once.
        guided_decoding_backend: ``xgrammar`` turns guided decoding on.
        xgrammar_tokenizer_info_path: The tokenizer as xgrammar's JSON, which it then needs.
        tokenizer_dir: Read by TensorRT-LLM's Python runtime only.
    """

    gpt_model_path: str | None = Field(default=None, min_length=1)
    gpt_model_type: Literal["inflight_fused_batching", "V1"] = "inflight_fused_batching"
    encoder_model_path: str | None = Field(default=None, min_length=1)
    max_beam_width: int = Field(default=1, ge=1, le=256)
    batch_scheduler_policy: Literal["max_utilization", "guaranteed_no_evict"] = (
        "guaranteed_no_evict"
    )
    enable_chunked_context: bool = True
    max_tokens_in_paged_kv_cache: int | None = Field(default=None, ge=1)
    kv_cache_free_gpu_mem_fraction: float = Field(default=0.9, gt=0, le=1)
    cross_kv_cache_fraction: float | None = Field(default=None, gt=0, lt=1)
    kv_cache_host_memory_bytes: int | None = Field(default=None, ge=0)
    kv_cache_onboard_blocks: bool | None = None
    enable_kv_cache_reuse: bool = True
    max_attention_window_size: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, min_length=1
    )
    sink_token_length: int | None = Field(default=None, ge=0)
    max_queue_size: int = Field(default=1024, ge=0, le=1_048_576)
    max_queue_delay_microseconds: int = Field(default=0, ge=0, le=10_000_000)
    exclude_input_in_output: bool = False
    normalize_log_probs: bool = True
    cancellation_check_period_ms: int = Field(default=100, ge=1, le=60_000)
    stats_check_period_ms: int = Field(default=100, ge=1, le=60_000)
    iter_stats_max_iterations: int | None = Field(default=None, ge=0)
    request_stats_max_iterations: int | None = Field(default=None, ge=0)
    recv_poll_period_ms: int | None = Field(default=None, ge=0, le=60_000)
    gpu_device_ids: tuple[Ids, ...] | None = Field(default=None, min_length=1)
    participant_ids: tuple[Ids, ...] | None = Field(default=None, min_length=1)
    num_nodes: int | None = Field(default=None, ge=1, le=1024)
    communication: Literal["leader", "orchestrator"] = "leader"
    world_size: int = Field(default=1, ge=1, le=4096)
    executor_worker_path: str = "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker"
    decoding_mode: (
        Literal[
            "top_k",
            "top_p",
            "top_k_top_p",
            "beam_search",
            "medusa",
            "redrafter",
            "lookahead",
            "eagle",
        ]
        | None
    ) = None
    lookahead_window_size: int | None = Field(default=None, ge=1)
    lookahead_ngram_size: int | None = Field(default=None, ge=1)
    lookahead_verification_set_size: int | None = Field(default=None, ge=1)
    medusa_choices: str | None = Field(default=None, pattern=_CHOICES)
    eagle_choices: str | None = Field(default=None, pattern=_CHOICES)
    speculative_decoding_fast_logits: bool | None = None
    gpu_weights_percent: float | None = Field(default=None, ge=0, le=1)
    multi_block_mode: bool | None = None
    enable_context_fmha_fp32_acc: bool | None = None
    cuda_graph_mode: bool | None = None
    cuda_graph_cache_size: int | None = Field(default=None, ge=0)
    lora_cache_optimal_adapter_size: int | None = Field(default=None, ge=1)
    lora_cache_max_adapter_size: int | None = Field(default=None, ge=1)
    lora_cache_gpu_memory_fraction: float | None = Field(default=None, gt=0, lt=1)
    lora_cache_host_memory_bytes: int | None = Field(default=None, ge=0)
    lora_prefetch_dir: str | None = Field(default=None, min_length=1)
    guided_decoding_backend: Literal["", "xgrammar"] = ""
    xgrammar_tokenizer_info_path: str = ""
    tokenizer_dir: str = ""

    @model_validator(mode="after")
    def _go_together(self) -> CppBackendSettings:
        lookahead = (
            self.lookahead_window_size,
            self.lookahead_ngram_size,
            self.lookahead_verification_set_size,
        )
        if self.decoding_mode == "lookahead" and None in lookahead:
            raise ValueError(
                "decoding_mode=lookahead needs lookahead_window_size, lookahead_ngram_size and "
                "lookahead_verification_set_size"
            )
        if bool(self.guided_decoding_backend) != bool(self.xgrammar_tokenizer_info_path):
            raise ValueError("guided_decoding_backend needs xgrammar_tokenizer_info_path")
        if self.gpt_model_type == "V1" and self.enable_chunked_context:
            raise ValueError("enable_chunked_context needs gpt_model_type=inflight_fused_batching")
        if self.participant_ids and self.communication != "orchestrator":
            raise ValueError("participant_ids needs communication=orchestrator")
        for name in ("gpu_device_ids", "participant_ids"):
            for instance in getattr(self, name) or ():
                if len(instance) != self.world_size:
                    raise ValueError(
                        f"{name} has {len(instance)} of an instance; world_size is "
                        f"{self.world_size}"
                    )
        return self

    @property
    def instances(self) -> int:
        """How many instances of the model run."""
        return len(self.gpu_device_ids or self.participant_ids or ((),))

    def parameters(self) -> dict[str, str]:
        """The parameters of ``config.pbtxt``, as the backend parses them."""
        return {"FORCE_CPU_ONLY_INPUT_TENSORS": "no"} | {
            name: _text(value)
            for name, value in self
            if value is not None and name not in _NOT_PARAMETERS
        }

    def launch(self, repository: Path) -> str:
        """The command that starts Triton on a repository, as a line for a shell."""
        server = ["tritonserver", f"--model-repository={repository}"]
        server.append("--disable-auto-complete-config")
        if self.communication == "orchestrator":
            spawns = 0 if self.participant_ids else 1
            switches = f"TRTLLM_ORCHESTRATOR=1 TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES={spawns}"
            return f"{switches} {shlex.join(server)}"
        if self.world_size == 1:
            return shlex.join(server)
        # Rank 0 serves; the others load the engine alone and answer no client.
        worker = [*server, "--model-control-mode=explicit", f"--load-model={TENSORRT_LLM}"]
        ranks = [server, *[worker] * (self.world_size - 1)]
        command = ["mpirun", "--allow-run-as-root"]
        for rank, each in enumerate(ranks):
            prefix = f"--backend-config=python,shm-region-prefix-name=prefix{rank}_"
            command += [*([":"] if rank else []), "-n", "1", *each, prefix]
        return shlex.join(command)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        nested = value and isinstance(value[0], tuple)
        separator = ";" if nested else ","
        return separator.join(_text(each) if nested else str(each) for each in value)
    return str(value)
