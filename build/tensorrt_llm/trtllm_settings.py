"""The target of a recipe for TensorRT-LLM: quantization, sharding, and the options of its build.

The fields of :class:`EngineBuild` are ``trtllm-build``'s own options, by their own names (release
1.2). One that is None is left to ``trtllm-build``. How many sequences, tokens a sequence and tokens
a step there may be are the recipe's ``limits``, for every engine alike.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from contract.settings_base import Settings

RELEASE = "1.2.1"
"""The release of TensorRT-LLM that all of this is for: the last series with an engine build."""

CONTAINER = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
"""Triton's container with that release (triton-inference-server/server,
``docs/introduction/compatibility.md``, at 0f963c9; 26.04 to 26.07 carry 1.2.1)."""

MODELOPT = "0.47.0"
"""The release of NVIDIA ModelOpt that quantizes (``requirements/modelopt.txt``)."""

WeightsFormat = Literal["none", "fp8", "int8_smoothquant", "int4_awq", "nvfp4"]
ActivationsFormat = Literal["16bit", "fp8", "int8", "nvfp4"]
KVCacheFormat = Literal["auto", "fp8", "int8"]
Form = Literal["trtllm", "hf"]
Switch = Literal["enable", "disable"]
PluginDtype = Literal["auto", "float16", "float32", "bfloat16", "int32", "disable"]
GemmDtype = Literal["auto", "float16", "float32", "bfloat16", "int32", "fp8", "nvfp4", "disable"]


class EngineBuild(Settings):
    """The options of ``trtllm-build``.

    In-flight batching, KV cache reuse and chunked context need a paged KV cache, packed input, the
    attention plugin and paged context attention; the defaults have them all.

    Attributes:
        max_input_len: Longest prompt, in tokens.
        max_beam_width: Widest beam search.
        opt_num_tokens: The number of tokens that the kernels are chosen for.
        max_prompt_embedding_table_size: Room for prompt tuning or multimodal embeddings.
        kv_cache_type: How keys and values are stored.
        tokens_per_block: Tokens of a block of the paged KV cache.
        gpt_attention_plugin: Attention's own kernels.
        gemm_plugin: cuBLASLt for the products; ``fp8`` and ``nvfp4`` for quantized checkpoints.
        gemm_swiglu_plugin: Product and SwiGLU in one kernel (FP8, Hopper).
        low_latency_gemm_plugin: Products for small batches (FP8).
        low_latency_gemm_swiglu_plugin: Both (FP8).
        gemm_allreduce_plugin: Product and all-reduce in one kernel.
        nccl_plugin: Communication between GPUs.
        lora_plugin: LoRA adapters.
        context_fmha: Fused attention for prompts.
        remove_input_padding: Packs the tokens of all sequences.
        use_paged_context_fmha: Prompts attend through the paged KV cache.
        use_fp8_context_fmha: FP8 attention for prompts, in FP8 engines.
        multiple_profiles: Several TensorRT profiles: a longer build, better kernels.
        reduce_fusion: Residual and norm fused behind the all-reduce.
        user_buffer: Fewer copies around it; needs ``reduce_fusion`` (FP8 Llama).
        norm_quant_fusion: Norm and quantization in one kernel.
        fuse_fp4_quant: FP4 quantization inside attention.
        use_fused_mlp: Gate and up in one product.
        pp_reduce_scatter: Less traffic between stages of large mixtures of experts.
        logits_dtype: Type of the logits.
        gather_context_logits: Keep the logits of every prompt token.
        gather_generation_logits: Keep the logits of every output token.
        max_lora_rank: Widest LoRA adapter.
        lora_target_modules: Modules that adapters change.
        speculative_decoding_mode: Draft tokens, verified in one step. ``medusa``, ``eagle`` and
            ``explicit_draft_tokens`` need a checkpoint with those heads.
        max_draft_len: Most draft tokens.
        strip_plan: Leave the weights out of the engine.
        weight_streaming: Keep weights on the host and stream them.
        weight_sparsity: Use 2:4 sparsity.
        fast_build: Build faster, run slower.
        workers: Ranks that are built side by side.
        profiling_verbosity: What the engine keeps for profilers.
        log_level: What the build says.
    """

    max_input_len: int | None = Field(default=None, ge=1)
    max_beam_width: int = Field(default=1, ge=1, le=256)
    opt_num_tokens: int | None = Field(default=None, ge=1)
    max_prompt_embedding_table_size: int = Field(default=0, ge=0)
    kv_cache_type: Literal["paged", "continuous", "disabled"] = "paged"
    tokens_per_block: int = Field(default=32, ge=1)
    gpt_attention_plugin: PluginDtype = "auto"
    gemm_plugin: GemmDtype = "auto"
    gemm_swiglu_plugin: Literal["fp8", "disable"] | None = None
    low_latency_gemm_plugin: Literal["fp8", "disable"] | None = None
    low_latency_gemm_swiglu_plugin: Literal["fp8", "disable"] | None = None
    gemm_allreduce_plugin: Literal["float16", "bfloat16", "disable"] | None = None
    nccl_plugin: PluginDtype = "auto"
    lora_plugin: PluginDtype | None = None
    context_fmha: Switch = "enable"
    remove_input_padding: Switch = "enable"
    use_paged_context_fmha: Switch = "enable"
    use_fp8_context_fmha: Switch | None = None
    multiple_profiles: Switch = "disable"
    reduce_fusion: Switch | None = None
    user_buffer: Switch | None = None
    norm_quant_fusion: Switch | None = None
    fuse_fp4_quant: Switch | None = None
    use_fused_mlp: Switch | None = None
    pp_reduce_scatter: Switch | None = None
    logits_dtype: Literal["float16", "float32"] | None = None
    gather_context_logits: bool = False
    gather_generation_logits: bool = False
    max_lora_rank: int | None = Field(default=None, ge=1)
    lora_target_modules: tuple[str, ...] = ()
    speculative_decoding_mode: (
        Literal[
            "draft_tokens_external",
            "lookahead_decoding",
            "medusa",
            "explicit_draft_tokens",
            "eagle",
        ]
        | None
    ) = None
    max_draft_len: int = Field(default=0, ge=0, le=4096)
    strip_plan: bool = False
    weight_streaming: bool = False
    weight_sparsity: bool = False
    fast_build: bool = False
    workers: int = Field(default=1, ge=1, le=64)
    profiling_verbosity: Literal["layer_names_only", "detailed", "none"] = "layer_names_only"
    log_level: Literal[
        "internal_error", "error", "warning", "info", "verbose", "debug", "trace"
    ] = "info"

    @model_validator(mode="after")
    def _go_together(self) -> EngineBuild:
        if self.tokens_per_block & (self.tokens_per_block - 1):
            raise ValueError(f"tokens_per_block is {self.tokens_per_block}, not a power of two")
        paged = self.use_paged_context_fmha == "enable"
        if paged and (self.kv_cache_type, self.context_fmha) != ("paged", "enable"):
            raise ValueError(
                "use_paged_context_fmha needs kv_cache_type=paged and context_fmha=enable"
            )
        if (self.speculative_decoding_mode is None) != (self.max_draft_len == 0):
            raise ValueError("speculative_decoding_mode and max_draft_len go together")
        if self.speculative_decoding_mode is not None and not paged:
            raise ValueError("speculative_decoding_mode needs use_paged_context_fmha=enable")
        if self.user_buffer == "enable" and self.reduce_fusion != "enable":
            raise ValueError("user_buffer needs reduce_fusion=enable")
        lora = self.lora_plugin not in (None, "disable")
        if not lora and (self.max_lora_rank is not None or self.lora_target_modules):
            raise ValueError("max_lora_rank and lora_target_modules need lora_plugin")
        return self


class TensorRTLLMTarget(Settings):
    """A model for TensorRT-LLM, quantized by NVIDIA ModelOpt.

    Attributes:
        forms: ``trtllm`` is what ``trtllm-build`` reads, ``hf`` what the LLM API reads.
        weights: ``fp8``: weights and activations in E4M3, a scale for each matrix.
            ``int8_smoothquant``: weights in int8 with a scale a row, activations in int8, their
            outliers moved into the weights. ``int4_awq``: weights in four bits in blocks of 128,
            scaled by what the activations make of them. ``nvfp4``: weights and activations in E2M1
            in blocks of 16 with an E4M3 scale each (Blackwell). ``none`` keeps the weights.
        activations: What the products compute with. It follows from the weights and may be left
            out.
        kv_cache: Keys and values in ``fp8`` or ``int8``; ``auto`` is the model's own precision.
        tensor_parallel: GPUs that share each layer. The ``hf`` form is sharded when it is loaded.
        pipeline_parallel: Groups of layers, one after the other.
        build: Further options of ``trtllm-build``.
    """

    engine: Literal["tensorrt_llm"] = "tensorrt_llm"
    forms: tuple[Form, ...] = Field(default=("trtllm", "hf"), min_length=1)
    weights: WeightsFormat = "fp8"
    activations: ActivationsFormat
    kv_cache: KVCacheFormat = "auto"
    tensor_parallel: int = Field(default=1, ge=1, le=64)
    pipeline_parallel: int = Field(default=1, ge=1, le=64)
    build: EngineBuild = EngineBuild()

    @property
    def world_size(self) -> int:
        """All GPUs: a rank for each."""
        return self.tensor_parallel * self.pipeline_parallel

    @model_validator(mode="before")
    @classmethod
    def _follow_weights(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {name: value for name, value in values.items() if value is not None}
        return {"activations": _ACTIVATIONS.get(str(given.get("weights", "fp8")), "16bit"), **given}

    @model_validator(mode="after")
    def _go_together(self) -> TensorRTLLMTarget:
        if self.activations != _ACTIVATIONS[self.weights]:
            raise ValueError(
                f"{self.weights} weights compute with {_ACTIVATIONS[self.weights]} activations, "
                f"not {self.activations}"
            )
        if "hf" in self.forms and self.kv_cache == "int8":
            raise ValueError(
                "the hf form has no int8 KV cache; take fp8, or forms: [trtllm] for int8"
            )
        if self.forms == ("hf",) and (self.weights, self.kv_cache) == ("none", "auto"):
            raise ValueError("nothing is quantized: the LLM API reads the checkpoint as it is")
        if self.build.workers > self.world_size:
            raise ValueError(
                f"build.workers is {self.build.workers}, more than the {self.world_size} ranks "
                "of tensor_parallel times pipeline_parallel"
            )
        return self


_ACTIVATIONS: dict[str, str] = {
    "none": "16bit",
    "fp8": "fp8",
    "int8_smoothquant": "int8",
    "int4_awq": "16bit",
    "nvfp4": "nvfp4",
}
