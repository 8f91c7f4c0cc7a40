"""How text is to be generated: the contract's parameters, checked for what the wire can carry."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from clients import wire
from clients.client_errors import InvalidRequestError
from contract.parameter import described
from contract.parameters import ROWS, GenerationParameters, ParameterKeywords

OptionKeywords = ParameterKeywords
"""The options as keyword arguments."""


@described
@dataclass(frozen=True, kw_only=True)
class GenerationOptions(GenerationParameters):
    r"""How one request's text is generated.

        options = GenerationOptions(max_tokens=200, temperature=0.7, stop_words=["\n\n"])
        client.generate("Dear captain,", options)
        client.generate("Dear captain,", options, seed=7)  # a keyword wins over the options

    Names and meaning are TensorRT-LLM's, but for two things: there, temperature alone changes
    nothing, because decoding is greedy unless `top_k` or `top_p` is given. Here a temperature above
    0 without any of `top_k`, `top_p` and `min_p` samples from all tokens, as people expect: `top_p`
    is sent as 1. Nor does the text begin with the prompt, unless `exclude_input_in_output` is
    False.

    None and an empty collection are not sent and leave the choice to the server.

    Raises:
        InvalidRequestError: A value is of another type than the server takes. Whether it makes
            sense is for the server to say, when the request is sent.
    """

    def __post_init__(self) -> None:
        for name, row in ROWS.items():
            value = getattr(self, name)
            if row.weights is not None:
                object.__setattr__(self, name, MappingProxyType(dict(value)))
            elif row.many:
                if isinstance(value, str):
                    of = "texts" if row.texts else "numbers"
                    raise InvalidRequestError(
                        f"{name} is one text; it must be a list of {of}", name
                    )
                object.__setattr__(self, name, tuple(value))
        if self.embedding_bias and self.logit_bias:
            raise InvalidRequestError(
                "embedding_bias and logit_bias are for texts and for ids; give one", "logit_bias"
            )
        wire.check(self.inputs())
