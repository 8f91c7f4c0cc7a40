"""What in a body asks for nothing: other servers' fields, and what frameworks always send.

A conversation comes back as its answers were given, with every field that an answer has, and
clients spell out defaults. What carries nothing is left out before a body is read; what carries
something that isn't supported stays, and is refused by its name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Set
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from contract.bounds import MAX_BODY_NAME

NEUTRAL: dict[str, tuple[Any, ...]] = {
    # Known here, and these values of them are nobody's wish.
    "top_k": (-1, 0),
    "stop": ([],),
    "logit_bias": ({},),
    "metadata": ({},),
    # OpenAI's.
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"], []),
    "store": (False,),
    "suffix": ("",),
    "audio": (),
    "moderation": (),
    "prediction": (),
    "prompt_cache_retention": ("in_memory", "in-memory"),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM's and its kin's.
    "add_generation_prompt": (True,),
    "add_special_tokens": (),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "cache_salt": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "detokenize": (True,),
    "documents": ([],),
    "early_stopping": (False,),
    "guided_decoding_backend": (),
    "include_reasoning": (True, False),
    "include_stop_str_in_output": (False,),
    "kv_transfer_params": ({},),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "mm_processor_kwargs": ({},),
    "priority": (0,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_token_ids": ([],),
    "structured_outputs": ({},),
    "thinking_token_budget": (),
    "truncate_prompt_tokens": (),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
}
"""Fields that other servers know, and the values with which they ask for nothing; so does null."""


def unsupported(message: str, **context: str) -> PydanticCustomError:
    """What to raise in a validator where `name`, a parameter, can't be had."""
    return PydanticCustomError("unsupported_parameter", message, context)


def wrong(message: str, **context: str) -> PydanticCustomError:
    """What to raise in a validator where `name`, a parameter, has a value that can't be."""
    return PydanticCustomError("wrong_parameter", message, context)


def asking(values: Any, known: Set[str], neutral: Mapping[str, tuple[Any, ...]] = NEUTRAL) -> Any:
    """The fields of a body that ask for something.

    Args:
        values: The body; what is no mapping is returned as it is, for pydantic to refuse.
        known: The fields that are served.
        neutral: Values that ask for nothing, of these fields and of others.

    Raises:
        PydanticCustomError: One of them is not served, or unknown: the message names it and the
            nearest that is known.
    """
    if not isinstance(values, Mapping):
        return values
    kept = {}
    for name, value in values.items():
        if value is None or any(_same(value, each) for each in neutral.get(name, ())):
            continue
        if name in known:
            kept[name] = value
        elif name in neutral:
            raise unsupported("{name} is not supported here", name=name)
        else:
            raise _unknown(name, known)
    return kept


_MESSAGE_FIELDS = frozenset(
    {
        "annotations",
        "audio",
        "function_call",
        "reasoning",
        "reasoning_content",
        "refusal",
        "tool_call_id",
        "tool_calls",
    }
)
"""What messages of other servers carry."""


def carrying(values: Any, known: Set[str]) -> Any:
    """The same for a message or a part of one, whose other fields differ from server to server.

    Whatever it is called, a field that is null, false, empty, or made of nothing else is left out.
    """
    if not isinstance(values, Mapping) or values.keys() <= known:
        return values
    kept = {name: value for name, value in values.items() if name in known or not _empty(value)}
    for name in kept:
        if name in known:
            continue
        if name in _MESSAGE_FIELDS:
            raise unsupported("{name} is not supported here", name=name)
        raise _unknown(name, known)
    return kept


class Open(BaseModel):
    """What may have further fields, as long as nothing is in them."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return carrying(values, known)


def _unknown(name: Any, known: Set[str]) -> PydanticCustomError:
    name = str(name)[:MAX_BODY_NAME]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return unsupported("unknown parameter {name}{hint}", name=name, hint=hint)


def _same(value: Any, neutral: Any) -> bool:
    """Whether they are the same value of JSON, where true is not 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _empty(value: Any) -> bool:
    """Whether a value carries nothing, however deep."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
        elif value is not None and value is not False and value != "":
            return False
    return True
