"""What an answer is to keep to, in OpenAI's words and in vLLM's, older and newer.

All come to one of the contract's guides; a body may ask for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from contract.bounds import MAX_GUIDE_BYTES
from contract.guides import Guide
from gateway.api.neutral import asking, unsupported

MOST_CHOICES = 1024

_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")


def _small(text: str) -> str:
    size = len(text.encode())
    if size > MAX_GUIDE_BYTES:
        raise ValueError(f"it has {size} bytes; it must have at most {MAX_GUIDE_BYTES}")
    if not text:
        raise ValueError("it must not be empty")
    return text


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return asking(values, known, cls.neutral)


Schema = dict[str, Any] | bool


class JSONSchema(_Part):
    """A schema by its name, as OpenAI's API has it."""

    name: str = Field(max_length=64)
    description: str | None = None
    schema_: Schema = Field(default={}, alias="schema")
    strict: bool | None = Field(
        default=None, description="An answer keeps to the schema whatever this says."
    )

    @field_validator("schema_")
    @classmethod
    def _is_small(cls, schema: Schema) -> Schema:
        schema_text(schema)
        return schema


class ResponseFormat(_Part):
    """OpenAI's: any object, or one of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("type json_schema and json_schema go together")
        return self


class StructuredOutputs(_Part):
    """vLLM's: one of these."""

    neutral = {
        "disable_any_whitespace": (False,),
        "disable_additional_properties": (False,),
        "disable_fallback": (True, False),
        "whitespace_pattern": (),
        "structural_tag": (),
    }

    json_: Schema | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = Field(default=None, min_length=1, max_length=MOST_CHOICES)
    grammar: str | None = None
    json_object: bool = False

    @field_validator("json_", "regex", "choice", "grammar")
    @classmethod
    def _is_small(cls, value: Any) -> Any:
        if isinstance(value, str):
            _small(value)
        elif isinstance(value, list):
            _small(_choice(value))
        elif value is not None:
            schema_text(value)
        return value

    def guides(self) -> list[Guide]:
        """All that it asks for."""
        found = [Guide("json")] if self.json_object else []
        if self.json_ is not None:
            text = self.json_ if isinstance(self.json_, str) else schema_text(self.json_)
            found.append(Guide("json_schema", text))
        if self.regex is not None:
            found.append(Guide("regex", self.regex))
        if self.choice is not None:
            found.append(Guide("regex", _choice(self.choice)))
        if self.grammar is not None:
            found.append(Guide("ebnf_grammar", self.grammar))
        return found


class Structured(BaseModel):
    """The fields of a body that say what its answers keep to."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | str | None = Field(default=None, description="vLLM's older fields.")
    guided_regex: str | None = None
    guided_choice: list[str] | None = Field(default=None, min_length=1, max_length=MOST_CHOICES)
    guided_grammar: str | None = None

    @field_validator("guided_json", "guided_regex", "guided_choice", "guided_grammar")
    @classmethod
    def _is_small(cls, value: Any) -> Any:
        return StructuredOutputs._is_small(value)

    _guide: Guide | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _is_one_guide(self) -> Structured:
        guides = self._guides()
        if len(guides) > 1:
            raise unsupported(
                "an answer can keep to one guide: {name} comes beside another",
                name="response_format" if self.response_format else "structured_outputs",
            )
        self._guide = next(iter(guides), None)
        return self

    @property
    def guide(self) -> Guide | None:
        """What its answers keep to; None where they are free."""
        return self._guide

    def _guides(self) -> list[Guide]:
        found = []
        wanted = self.response_format
        if wanted is not None and wanted.type == "json_object":
            found.append(Guide("json"))
        if wanted is not None and wanted.json_schema is not None:
            found.append(Guide("json_schema", schema_text(wanted.json_schema.schema_)))
        if self.structured_outputs is not None:
            found += self.structured_outputs.guides()
        older = StructuredOutputs.model_construct(
            json_=self.guided_json,
            regex=self.guided_regex,
            choice=self.guided_choice,
            grammar=self.guided_grammar,
        )
        return found + older.guides()


def schema_text(schema: Schema) -> str:
    """A schema as JSON.

    Raises:
        ValueError: It is too large.
    """
    try:
        return _small(orjson.dumps(schema).decode())
    except TypeError:  # orjson goes 254 levels deep
        raise ValueError("the schema is nested too deeply") from None


def _choice(texts: list[str]) -> str:
    """The regular expression of a few texts."""
    return "|".join(_SPECIAL.sub(r"\\\g<0>", text) for text in texts)
