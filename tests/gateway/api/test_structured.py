"""What an answer is to keep to, in all the words that clients have for it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pydantic import ValidationError

from contract.bounds import MAX_GUIDE_BYTES
from contract.parameters import GenerationParameters
from gateway.api.chat import ChatTranslator
from gateway.api.error_objects import invalid
from gateway.upstreams.provider_upstream import _guide_fields
from tests.gateway.fakes import CHAT

TRANSLATOR = ChatTranslator()
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}


def guide(**fields: Any) -> tuple[str | None, str | None]:
    wish = TRANSLATOR.wish(TRANSLATOR.body.model_validate({**CHAT, **fields}))
    parameters = GenerationParameters(**wish.parameters)
    return parameters.guided_decoding_guide_type, parameters.guided_decoding_guide


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": FORMAT},
        {"response_format": {**FORMAT, "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA), "disable_fallback": True}},
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA), "guided_regex": None, "structured_outputs": {}},
    ],
)
def test_a_schema_has_many_names(fields: dict[str, Any]) -> None:
    kind, text = guide(**fields)
    assert kind == "json_schema"
    assert text is not None
    assert json.loads(text) == SCHEMA


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (None, None)),
        ({"response_format": {"type": "text"}}, (None, None)),
        ({"response_format": {"type": "json_object"}}, ("json", None)),
        ({"structured_outputs": {"json_object": True}}, ("json", None)),
        ({"structured_outputs": {"regex": "a+"}}, ("regex", "a+")),
        ({"guided_regex": "a+"}, ("regex", "a+")),
        ({"guided_grammar": 'root ::= "a"'}, ("ebnf_grammar", 'root ::= "a"')),
    ],
)
def test_others_have_two(fields: dict[str, Any], expected: tuple[str | None, str | None]) -> None:
    assert guide(**fields) == expected


@pytest.mark.parametrize("name", ["structured_outputs", "guided_choice"])
def test_a_choice_is_an_expression_of_just_these_texts(name: str) -> None:
    texts = ["yes", "(no)", "a|b", "1.5*", "[x]{2}^$\\", "Où?", "two\nlines"]
    fields = (
        {"structured_outputs": {"choice": texts}} if name == "structured_outputs" else {name: texts}
    )
    kind, text = guide(**fields)
    assert kind == "regex"
    assert text is not None
    for each in texts:
        assert re.fullmatch(text, each)
    for other in ("no", "a", "b", "1x5", "x", "", "yes(no)"):
        assert not re.fullmatch(text, other)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "go together"),
        (
            {"response_format": {"type": "text", "json_schema": {"name": "x"}}},
            "response_format",
            "go together",
        ),
        (
            {"response_format": {"type": "json_object", "schema": {}}},
            "response_format.schema",
            "unknown parameter schema",
        ),
        (
            {"response_format": FORMAT, "guided_regex": "a"},
            "response_format",
            "one guide",
        ),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs", "one guide"),
        (
            {"structured_outputs": {"structural_tag": "{}"}},
            "structured_outputs.structural_tag",
            "not supported",
        ),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex", "must not be empty"),
        ({"guided_choice": []}, "guided_choice", "at least 1"),
        ({"guided_choice": ["a"] * 2000}, "guided_choice", "at most 1024"),
        (
            {"guided_json": {"enum": ["x" * MAX_GUIDE_BYTES]}},
            "guided_json",
            f"at most {MAX_GUIDE_BYTES}",
        ),
        ({"guided_grammar": "ä" * MAX_GUIDE_BYTES}, "guided_grammar", "bytes"),
    ],
)
def test_what_cannot_be_asked_is_named(fields: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TRANSLATOR.body.model_validate({**CHAT, **fields})
    error = invalid(caught.value)
    assert error.param == param
    assert said in error.message


@pytest.mark.parametrize(
    "fields",
    [{"response_format": {"type": "json_object"}}, {"response_format": FORMAT}],
)
def test_a_provider_is_asked_in_openais_words(fields: dict[str, Any]) -> None:
    kind, text = guide(**fields)
    asked = _guide_fields(
        GenerationParameters(guided_decoding_guide_type=kind, guided_decoding_guide=text)
    )
    assert guide(**asked) == (kind, text)


@pytest.mark.parametrize("fields", [{"guided_regex": "a"}, {"guided_grammar": 'root ::= "a"'}])
def test_or_in_vllms(fields: dict[str, Any]) -> None:
    kind, text = guide(**fields)
    asked = _guide_fields(
        GenerationParameters(guided_decoding_guide_type=kind, guided_decoding_guide=text)
    )
    assert set(asked) == {"structured_outputs"}
    assert guide(**asked) == (kind, text)
