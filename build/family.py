"""A family of architectures: what it has, and what each setting of ``config.json`` is to it.

A setting is **understood** by a family (it stands in its table, with transformers' own default and
a reader), **refused** by name (it would change what is computed, in a way that is not built),
**neutral** (it changes nothing that an engine computes), or **foreign**: transformers' class for
the family doesn't know it, so that it changes nothing there, either. What is foreign is not obeyed,
and the person who builds is told. A ``config.json`` that a newer transformers wrote may mean
something by it, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from build.build_errors import CheckpointError
from build.model_config import Reader

Role: TypeAlias = Literal["understood", "neutral", "refused", "foreign"]

WindowRule: TypeAlias = Literal["none", "every layer", "Qwen", "Gemma-2", "SmolLM3"]
"""Which layers have a sliding window, where ``layer_types`` doesn't tell or isn't read."""

KNOWN_TRANSFORMERS = (5, 20)
"""The release whose classes the tables follow."""


@dataclass(frozen=True)
class Settings:
    """A ``config.json`` as its family reads it, under transformers' names.

    What a family has not is None, or as if it were switched off.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope_theta: float
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str | None = None
    hidden_activation: str | None = None
    eos_token_id: tuple[int, ...] = ()
    rope_parameters: dict[str, Any] = field(default_factory=dict)
    rope_scaling: dict[str, Any] = field(default_factory=dict)
    partial_rotary_factor: float | None = None
    original_max_position_embeddings: int | None = None
    sliding_window: int | None = None
    use_sliding_window: bool = False
    max_window_layers: int = 0
    layer_types: tuple[str, ...] | None = None
    no_rope_layers: tuple[int, ...] | None = None
    no_rope_layer_interval: int | None = None
    query_pre_attn_scalar: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None

    @property
    def num_kv_heads(self) -> int:
        """Key and value heads: as many as there are query heads, where it doesn't say."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        """Width of a head: the residual stream's share of one, where it doesn't say."""
        return self.head_dim or max(1, self.hidden_size // self.num_attention_heads)


class Field(NamedTuple):
    """A setting that a family understands.

    Attributes:
        default: What it is where ``config.json`` leaves it out.
        read: Checks what is there.
    """

    default: Any
    read: Reader


@dataclass(frozen=True)
class Family:
    """An architecture: what it has that the plain Llama has not, and its settings.

    Attributes:
        architecture: What ``config.json`` calls it among ``architectures``.
        model_type: What it calls it beside that.
        table: The settings that it understands.
        refused: Settings that it knows and that are built only where they are off.
        windows: Which layers have a sliding window.
        rope_types: The rotary embedding's kinds that it knows, and what they are called here.
        turns_partly: Whether ``partial_rotary_factor`` means anything without a scaling.
        qkv_bias: Queries, keys and values have a bias.
        qk_norm: Query and key heads are normed.
        packed: Projections are stored in one matrix.
        post_norms: What a part adds to the residual stream is normed.
        norm_offset: Added to every norm's weight.
        scales_embedding: The embedding is multiplied with the root of its width.
    """

    architecture: str
    model_type: str
    table: Mapping[str, Field]
    refused: tuple[str, ...] = ()
    windows: WindowRule = "none"
    rope_types: Mapping[str, str] = field(
        default_factory=lambda: {
            name: name for name in ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
        }
    )
    turns_partly: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    packed: bool = False
    post_norms: bool = False
    norm_offset: float = 0.0
    scales_embedding: bool = False

    def role(self, name: str) -> Role:
        """What a setting is to this family."""
        if name in self.table:
            return "understood"
        if name in self.refused or name in _REFUSED:
            return "refused"
        return "neutral" if name in NEUTRAL else "foreign"

    def read(self, config: Mapping[str, Any]) -> Settings:
        """Read ``config.json``.

        Raises:
            CheckpointError: A setting is refused or wrong.
        """
        for name, value in config.items():
            if self.role(name) == "refused" and value:
                raise CheckpointError(self._refusal(name, value))
        found = {
            name: each.read(name, self.value(config, name)) for name, each in self.table.items()
        }
        return Settings(**found)

    def value(self, config: Mapping[str, Any], name: str) -> Any:
        """A setting as it stands in ``config.json``, or its default."""
        return config.get(name, self.table[name].default)

    def completed(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """``config.json`` with the family's defaults, and without what is foreign to it."""
        ours = {name: value for name, value in config.items() if self.role(name) != "foreign"}
        return {name: each.default for name, each in self.table.items()} | ours

    def foreign(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """The settings that say something and mean nothing to this family.

        Raises:
            CheckpointError: They may mean something to the transformers that wrote them.
        """
        names = tuple(
            sorted(
                name
                for name, value in config.items()
                if self.role(name) == "foreign" and value is not None and value is not False
            )
        )
        version = str(config.get("transformers_version"))
        parts = re.match(r"(\d+)\.(\d+)", version)
        if names and parts and (int(parts[1]), int(parts[2])) > KNOWN_TRANSFORMERS:
            raise CheckpointError(
                f"config.json was written by transformers {version} and says {names[0]} = "
                f"{config[names[0]]!r}, which is not known for {self.architecture}; take it "
                "out of config.json if it changes nothing"
            )
        return names

    def _refusal(self, name: str, value: Any) -> str:
        if name not in ("quantization_config", "compression_config"):
            return f"{name} is not supported for {self.architecture}"
        method = value.get("quant_method") if isinstance(value, dict) else None
        return (
            f"the checkpoint is already quantized ({method or name}); start from the original "
            "weights"
        )


_REFUSED = ("quantization_config", "compression_config", "per_layer_config", "is_encoder_decoder")
"""Of every family."""

NEUTRAL = frozenset(
    # What the checkpoint is, and who wrote it; modules of its own are refused by the plan.
    "architectures auto_map dtype model_type name_or_path torch_dtype transformers_version "
    "_attn_implementation_autoset _attn_implementation_internal _commit_hash "
    "_experts_implementation_internal _name_or_path model_max_length "
    "unsloth_fixed unsloth_version "
    # Of training, and of transformers' own way to run a model.
    "attention_dropout attn_implementation attn_pdrop chunk_size_feed_forward embd_pdrop "
    "experts_implementation gradient_checkpointing hidden_dropout initializer_range "
    "output_attentions output_hidden_states output_router_logits pretraining_tp resid_pdrop "
    "return_dict tie_last_hidden_states torchscript use_bfloat16 use_cache use_return_dict "
    "keys_to_ignore_at_inference cache_implementation "
    # Of other tasks.
    "classifier_dropout finetuning_task id2label label2id num_labels problem_type "
    "task_specific_params "
    # Tokens and sampling: requests say how to sample.
    "bos_token_id pad_token_id sep_token_id decoder_start_token_id unk_token_id bad_words_ids "
    "begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size "
    "exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty "
    "max_length max_new_tokens min_length no_repeat_ngram_size num_beam_groups num_beams "
    "num_return_sequences output_scores prefix pruned_heads remove_invalid_values "
    "repetition_penalty return_dict_in_generate suppress_tokens temperature tf_legacy_loss "
    "tokenizer_class top_k top_p typical_p".split()
)
"""Settings that change nothing that an engine computes, whatever the family."""
