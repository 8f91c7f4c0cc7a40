"""How text is to be generated: the ensemble's optional inputs, as typed options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, TypedDict

from clients import tensors
from clients.client_errors import InvalidRequestError

_JSON = ("messages", "tools", "chat_template_kwargs")
"""Options that travel as JSON."""
_BIASES = {"embedding_bias": "embedding_bias_words", "logit_bias": "embedding_bias_ids"}
"""Options that travel as keys and weights."""


class OptionKeywords(TypedDict, total=False):
    """The fields of `GenerationOptions` as keyword arguments, for type checkers."""

    max_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int | None
    stop_words: Sequence[str]
    bad_words: Sequence[str]
    min_tokens: int | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    embedding_bias: Mapping[str, float]
    logit_bias: Mapping[int, float]
    end_id: int | None
    num_return_sequences: int | None
    exclude_input_in_output: bool | None
    return_log_probs: bool | None
    num_top_log_probs: int | None
    return_num_input_tokens: bool | None
    return_num_output_tokens: bool | None
    return_perf_metrics: bool | None
    include_stop_str_in_output: bool | None
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    chat_template_kwargs: Mapping[str, Any]
    priority: int | None


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    r"""How one request's text is generated.

        options = GenerationOptions(max_tokens=200, temperature=0.7, stop_words=["\n\n"])
        client.generate("Dear captain,", options)
        client.generate("Dear captain,", options, seed=7)  # a keyword wins over the options

    Names and meaning are TensorRT-LLM's, but for one thing: there, temperature alone changes
    nothing, because decoding is greedy unless `top_k` or `top_p` is given. Here a temperature above
    0 without any of `top_k`, `top_p` and `min_p` samples from all tokens, as people expect: `top_p`
    is sent as 1.

    None and an empty collection are not sent and leave the choice to the server.

    Attributes:
        max_tokens: The most tokens to generate.
        temperature: Above 1 flattens the distribution that tokens are drawn from, below 1 sharpens
            it; 0 is greedy.
        top_k: Draw among so many of the likeliest tokens; 1 is greedy.
        top_p: Draw among the likeliest tokens whose probabilities add up to this.
        min_p: Draw among the tokens that are at least so likely as a share of the likeliest. Not
            known to TensorRT-LLM's engine.
        seed: The same seed, prompt and options draw the same tokens.
        stop_words: Texts that end the sequence.
        bad_words: Texts that are never generated.
        min_tokens: The sequence does not end by itself before so many tokens.
        repetition_penalty: Above 1 makes tokens that were there before, in the prompt too, less
            likely, as a factor.
        presence_penalty: The same as a difference, once for a token.
        frequency_penalty: The same as a difference, for each time the token was there.
        embedding_bias: What to add to the logits of a text's tokens: above 0 makes the text
            likelier.
        logit_bias: The same by the tokens' ids, in place of texts.
        end_id: The token that ends a sequence, in place of the checkpoint's.
        num_return_sequences: How many answers to draw, for `generate_all` and `stream`.
        exclude_input_in_output: Whether the text leaves the prompt out.
        return_log_probs: Report `tokens`, `log_probs` and `cum_log_prob`.
        num_top_log_probs: Report `top_tokens` and `top_log_probs` as well, so many for each token.
            Not known to TensorRT-LLM's engine.
        return_num_input_tokens: Report the prompt's tokens.
        return_num_output_tokens: Report the tokens generated.
        return_perf_metrics: Report the engine's `PerfMetrics`.
        include_stop_str_in_output: Whether the stop word that ended the text is part of it; by
            default it is.
        messages: A chat in place of the prompt, which must be empty then: OpenAI's messages.
        tools: Functions that the model may call, as OpenAI's chat API has them.
        chat_template_kwargs: What else the checkpoint's chat template is given.
        priority: 1 goes first, 5 last; 3 is the default. Not known to TensorRT-LLM's engine.

    Raises:
        InvalidRequestError: A value is of another type than the server takes. Whether it makes
            sense is for the server to say, when the request is sent.
    """

    max_tokens: int = 128
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop_words: Sequence[str] = ()
    bad_words: Sequence[str] = ()
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    embedding_bias: Mapping[str, float] = field(default_factory=dict)
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    end_id: int | None = None
    num_return_sequences: int | None = None
    exclude_input_in_output: bool | None = None
    return_log_probs: bool | None = None
    num_top_log_probs: int | None = None
    return_num_input_tokens: bool | None = None
    return_num_output_tokens: bool | None = None
    return_perf_metrics: bool | None = None
    include_stop_str_in_output: bool | None = None
    messages: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None

    def __post_init__(self) -> None:
        for name in ("stop_words", "bad_words"):
            words = getattr(self, name)
            if isinstance(words, str):
                raise InvalidRequestError(f"{name} is one text; it must be a list of texts", name)
            object.__setattr__(self, name, tuple(words))
        if self.embedding_bias and self.logit_bias:
            raise InvalidRequestError(
                "embedding_bias and logit_bias are for texts and for ids; give one", "logit_bias"
            )
        for name in ("embedding_bias", "logit_bias"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        tensors.check(self.inputs())

    def inputs(self) -> tensors.Values:
        """The ensemble's inputs that these options send, in the contract's names."""
        inputs: dict[str, Sequence[tensors.Value]] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in _JSON:
                if value:
                    inputs[each.name] = (json.dumps(value, ensure_ascii=False),)
            elif each.name in _BIASES:
                if value:
                    inputs[_BIASES[each.name]] = tuple(value)
                    inputs["embedding_bias_weights"] = tuple(value.values())
            elif isinstance(value, tuple):
                if value:
                    inputs[each.name] = value
            elif value is not None:
                inputs[each.name] = (value,)
        bounds = (self.top_k, self.top_p, self.min_p)
        if self.temperature and all(bound is None for bound in bounds):
            inputs["top_p"] = (1.0,)
        return inputs
