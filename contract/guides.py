"""What an answer may be made to keep to: TensorRT-LLM's kinds of guides, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from contract.bounds import MAX_GUIDE_BYTES
from contract.chat_parameters import ChatInputs
from contract.errors import InvalidRequestError
from contract.nvidia import EngineInputs

GuideType = Literal["json", "json_schema", "regex", "ebnf_grammar", "calls"]
"""``json`` is any object of JSON and takes no guide; ``calls`` is preprocessing's own, the grammar
of an answer with calls of functions."""

GUIDE_TYPES: tuple[GuideType, ...] = get_args(GuideType)
_REFUSED = ("structural_tag",)
"""TensorRT-LLM has them too."""

_TYPE = EngineInputs.GUIDED_DECODING_GUIDE_TYPE.name
_GUIDE = EngineInputs.GUIDED_DECODING_GUIDE.name


def refused_guide(reason: str, guide: Guide | None = None) -> InvalidRequestError:
    """What a request is told whose guide can't be kept to, by the input that the guide comes of."""
    name = ChatInputs.TOOLS.name if guide is not None and guide.type == "calls" else _GUIDE
    return InvalidRequestError(f"{name}: {reason}", name)


@dataclass(frozen=True)
class Guide:
    """What a text keeps to.

    Attributes:
        type: What the guide is.
        text: The guide: a JSON schema, a regular expression (of the whole text), or a grammar
            (GBNF, or Lark as llguidance has it); empty where the type says all.
    """

    type: GuideType
    text: str = ""

    @classmethod
    def of(cls, guide_type: str | None, text: str | None) -> Guide | None:
        """The guide that a request's two inputs say; None where they say none.

        Raises:
            InvalidRequestError: One is missing, not known or too large.
        """
        if not guide_type:
            if text:
                raise InvalidRequestError(f"{_GUIDE} needs a {_TYPE}", _TYPE)
            return None
        if guide_type not in GUIDE_TYPES:
            known = ", ".join(each for each in GUIDE_TYPES if each != "calls")
            what = "not supported" if guide_type in _REFUSED else "not known"
            raise InvalidRequestError(
                f"{_TYPE} is {guide_type[:64]!r}, which is {what}; it must be one of {known}", _TYPE
            )
        if guide_type == "json":
            if text:
                raise InvalidRequestError(f"{_TYPE} json takes no {_GUIDE}", _GUIDE)
            return cls(guide_type)
        if not text:
            raise InvalidRequestError(f"{_TYPE} {guide_type} needs a {_GUIDE}", _GUIDE)
        size = len(text.encode())
        if size > MAX_GUIDE_BYTES:
            raise InvalidRequestError(
                f"{_GUIDE} has {size} bytes; it must have at most {MAX_GUIDE_BYTES}", _GUIDE
            )
        return cls(guide_type, text)
