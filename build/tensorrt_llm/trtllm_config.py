"""What ``trtllm-build`` has to know of a model beside its tensors.

Where TensorRT-LLM is not installed, ModelOpt writes a checkpoint's ``config.json`` by itself, and
leaves out settings that TensorRT-LLM would then take its own defaults for: Qwen3 would be given
attention biases, a Llama 3 another rotary base. What TensorRT-LLM's ``from_hugging_face`` reads
(``tensorrt_llm/models/*/config.py``, release 1.2) is written here.
"""

from __future__ import annotations

from typing import Any

from build.build_errors import BuildError, CheckpointError
from build.checkpoint import GENERATION_CONFIG_FILE, TOKENIZER_FILE
from build.families import FAMILIES
from build.tensorrt_llm.trtllm_settings import TensorRTLLMTarget

ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
"""What ModelOpt 0.47 writes as a TensorRT-LLM checkpoint, of the architectures that Trireme knows;
the others have the ``hf`` form only."""


TEXT_FILES = (
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    GENERATION_CONFIG_FILE,
)
"""What preprocessing and postprocessing read of a checkpoint."""


def check_architecture(config: dict[str, Any]) -> str:
    """The checkpoint's architecture, if there is a TensorRT-LLM checkpoint for it.

    Raises:
        CheckpointError: There is none.
    """
    architecture = str((config.get("architectures") or ["no architecture"])[0])
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{architecture} has no TensorRT-LLM checkpoint, only {', '.join(ARCHITECTURES)} have; "
            "take forms: [hf], which the LLM API reads"
        )
    return architecture


def _with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    family = FAMILIES.get(str((config.get("architectures") or [""])[0]))
    return config if family is None else family.completed(config)


def check_mapping(config: dict[str, Any], target: TensorRTLLMTarget) -> None:
    """Refuse a sharding that leaves a remainder.

    Raises:
        BuildError: The model doesn't divide among so many GPUs.
    """
    config = _with_defaults(config)
    tensor, pipeline = target.tensor_parallel, target.pipeline_parallel
    for name, parts in (
        ("num_attention_heads", tensor),
        ("intermediate_size", tensor),
        ("num_hidden_layers", pipeline),
    ):
        if config[name] % parts:
            raise BuildError(f"{name} is {config[name]}, which doesn't divide among {parts} GPUs")
    kv_heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    if kv_heads % tensor and tensor % kv_heads:
        raise BuildError(f"{kv_heads} KV heads don't divide among {tensor} GPUs")


def rope_settings(config: dict[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """Base and scaling of the rotary embedding, from an old or a new ``config.json``.

    transformers 5 writes ``rope_parameters``, which TensorRT-LLM 1.2 and transformers 4 don't read;
    where there are both, the old one goes first.
    """
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
    kind = rope.get("rope_type") or rope.get("type") or "default"
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    return float(theta), scaling if kind != "default" else None


def completed(exported: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The exported ``config.json`` with all that TensorRT-LLM reads from it.

    Args:
        exported: What ModelOpt wrote.
        config: The checkpoint's own ``config.json``.
    """
    architecture = check_architecture(config)
    told, config = config, _with_defaults(config)
    theta, scaling = rope_settings(config)
    common = {
        "rotary_base": theta,
        "rotary_scaling": scaling,
        "attn_bias": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings")),
    }
    if not architecture.startswith("Qwen"):
        return {**exported, **common}
    return {
        **exported,
        **common,
        "attn_bias": architecture == "Qwen2ForCausalLM",
        "qwen_type": config.get("model_type") or architecture.removesuffix("ForCausalLM").lower(),
        "seq_length": int(told.get("seq_length") or 8192),
        "use_logn_attn": bool(told.get("use_logn_attn")),
        "moe_intermediate_size": 0,
        "moe_shared_expert_intermediate_size": 0,
    }
