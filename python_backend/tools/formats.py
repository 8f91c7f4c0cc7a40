"""The formats in which families write calls, and which of them a chat template speaks."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from contract.model_settings import ToolFormat
from python_backend.tools import gemma, hermes, llama, mistral, phi, qwen_xml
from python_backend.tools.call_grammar import GrammarWriter, Shape
from python_backend.tools.call_parser import CallParser
from python_backend.tools.tool_functions import Functions

_OF_OTHERS = {"$ref", "anyOf", "oneOf", "allOf", "properties", "items"}
"""Keywords of schemas that aren't those of a text."""
_LETTERS = string.ascii_letters + string.digits


def long_id() -> str:
    """A call's id, which nobody has had before, as OpenAI's are."""
    return "call_" + "".join(secrets.choice(_LETTERS) for _ in range(24))


def short_id() -> str:
    """The same as Mistral's templates want them: nine letters and digits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(9))


@dataclass(frozen=True)
class Format:
    """How calls are written.

    Attributes:
        name: Its name in the settings.
        parser: Reads an answer.
        shape: What it is generated as.
        kept: Special tokens that its parser looks for.
        new_id: Makes ids that its templates take.
        arguments: What an object of a call names them by; empty where calls are no objects.
        needs_types: Whether only a parameter's type tells what its value is.
    """

    name: ToolFormat
    parser: Callable[[Functions, Callable[[], str]], CallParser]
    shape: Shape
    kept: tuple[str, ...] = ()
    new_id: Callable[[], str] = long_id
    arguments: str = ""
    needs_types: bool = False

    @property
    def can_be_told(self) -> bool:
        """Whether a model can be told in words how calls are written."""
        return bool(self.arguments)

    def written(self, calls: Sequence[tuple[str, Any]]) -> str:
        """Some calls, as an answer has them."""
        shape = self.shape
        objects = [
            json.dumps({"name": name, self.arguments: arguments}, ensure_ascii=False)
            for name, arguments in calls
        ]
        return f"{shape.begin}{shape.opening}{(shape.between or '; ').join(objects)}{shape.end}"


def _object(
    arguments: str, before: str = "", behind: str = ""
) -> Callable[[GrammarWriter, str, dict[str, Any]], str]:
    """A call as an object of JSON with its name first."""

    def call(writer: GrammarWriter, name: str, schema: dict[str, Any]) -> str:
        head = f'{before}{{"name": {json.dumps(name)}, "{arguments}": '
        return f"{json.dumps(head)} {writer.json(schema)} {json.dumps('}' + behind)}"

    return call


def _element(writer: GrammarWriter, name: str, schema: dict[str, Any]) -> str:
    """Qwen3-Coder's: an element for each parameter; those that must be there come first."""
    head = json.dumps(f"\n<function={name}>")
    end = json.dumps(f"\n{qwen_xml.FUNCTION_END}\n")
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        parameter = writer.rule(f'"\\n<parameter=" /[^<>\\n]+/ ">\\n" {_any_text(writer)}')
        return f"{head} {parameter}* {end}"
    required = set(schema.get("required") or ())
    definitions: dict[str, Any] = {
        key: schema[key] for key in ("$defs", "definitions") if key in schema
    }
    parts = []
    for key in sorted(properties, key=lambda key: key not in required):
        value = properties[key] if isinstance(properties[key], dict) else {}
        body = _value(writer, value, definitions)
        rule = writer.rule(f"{json.dumps(f'{chr(10)}<parameter={key}>{chr(10)}')} {body}")
        parts.append(rule if key in required else f"{rule}?")
    return " ".join([head, *parts, end])


def _value(writer: GrammarWriter, schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A parameter's value with the end of its element: a text is as it is, all else JSON."""
    if schema.get("type", "string") != "string" or schema.keys() & _OF_OTHERS:
        return f"{writer.json({**schema, **definitions})} {json.dumps(_PARAMETER_END)}"
    if "enum" not in schema:
        return _any_text(writer)
    words = " | ".join(json.dumps(str(each)) for each in schema["enum"])
    return f"({words}) {json.dumps(_PARAMETER_END)}"


def _any_text(writer: GrammarWriter) -> str:
    return writer.until(_PARAMETER_END)


_PARAMETER_END = f"\n{qwen_xml.PARAMETER_END}"
_BETWEEN = f"{hermes.END}\n{hermes.BEGIN}"

_ALL = (
    Format(
        "hermes",
        hermes.HermesParser,
        Shape(
            call=_object("arguments", "\n", "\n"),
            begin=hermes.BEGIN,
            between=_BETWEEN,
            end=hermes.END,
        ),
        kept=(hermes.BEGIN, hermes.END),
        arguments="arguments",
    ),
    Format(
        "qwen_xml",
        qwen_xml.QwenXMLParser,
        Shape(call=_element, begin=qwen_xml.BEGIN, between=_BETWEEN, end=qwen_xml.END),
        kept=(qwen_xml.BEGIN, qwen_xml.END),
        needs_types=True,
    ),
    Format(
        "llama",
        llama.LlamaParser,
        Shape(call=_object("parameters"), between="; "),
        kept=(llama.TAG,),
        arguments="parameters",
    ),
    Format(
        "mistral",
        mistral.MistralParser,
        Shape(call=_object("arguments"), begin=mistral.MARK, opening="[", between=", ", end="]"),
        kept=(mistral.MARK, mistral.CALL_ID, mistral.ARGUMENTS),
        new_id=short_id,
        arguments="arguments",
    ),
    Format(
        "phi",
        phi.PhiParser,
        Shape(
            call=_object("arguments"),
            begin=phi.BEGIN,
            opening="[",
            between=", ",
            end=f"]{phi.END}",
        ),
        kept=(phi.BEGIN, phi.END),
        arguments="arguments",
    ),
    Format("gemma", gemma.GemmaParser, Shape(call=_object("parameters")), arguments="parameters"),
)

FORMATS: dict[str, Format] = {each.name: each for each in _ALL}


def format_of(template: str) -> Format | None:
    """The format that a chat template speaks; None where it speaks none that is known."""
    signs: tuple[tuple[ToolFormat, tuple[str, ...]], ...] = (
        ("mistral", (mistral.MARK,)),
        ("qwen_xml", (qwen_xml.FUNCTION,)),
        ("hermes", (hermes.BEGIN,)),
        ("phi", ("<|tool|>",)),
        ("phi", (phi.BEGIN,)),
        ("llama", (llama.TAG,)),
        ("llama", ("<|start_header_id|>", '"parameters": ')),
        ("gemma", ("<start_of_turn>",)),
    )
    return next(
        (FORMATS[name] for name, marks in signs if all(mark in template for mark in marks)), None
    )
