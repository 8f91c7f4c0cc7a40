"""What a guide may be, and what is said of one that can't be kept to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.bounds import MAX_GUIDE_BYTES
from contract.errors import EngineError, InvalidRequestError
from contract.guides import GUIDE_TYPES, Guide
from python_backend.guidance.grammars import Grammars
from tests.python_backend.guidance.vocabulary import make_grammars


@pytest.fixture(scope="module")
def grammars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grammars]:
    grammars, _ = make_grammars(tmp_path_factory.mktemp("vocabulary"))
    yield grammars
    grammars.close()


def schema(value: object) -> Guide:
    return Guide("json_schema", json.dumps(value))


def deep(levels: int) -> dict[str, object]:
    value: dict[str, object] = {"type": "object"}
    for _ in range(levels):
        value = {"type": "object", "properties": {"a": value}}
    return value


REFUSED = {
    "no JSON": (Guide("json_schema", "{"), "not valid JSON"),
    "no schema": (Guide("json_schema", "[1]"), "an object or a boolean"),
    "another keyword": (schema({"dependentSchemas": {"a": {}}}), "dependentSchemas"),
    "one of two that overlap": (
        schema({"oneOf": [{"type": "string"}, {"type": "string", "minLength": 3}]}),
        "oneOf",
    ),
    "nothing is so": (schema({"type": "string", "minLength": 5, "maxLength": 2}), "minLength"),
    "nothing at all": (Guide("json_schema", "false"), "not"),
    "elsewhere": (schema({"$ref": "http://example.com/x.json"}), "example.com"),
    "itself": (schema({"$ref": "#"}), "no text keeps to it"),
    "deep": (schema(deep(400)), "recursion"),
    "a product": (
        schema(
            {
                "allOf": [
                    {"anyOf": [{"properties": {f"p{i}": {"const": j}}} for j in range(10)]}
                    for i in range(12)
                ]
            }
        ),
        "too large",
    ),
    "no expression": (Guide("regex", "(a"), "unclosed group"),
    "no grammar": (Guide("ebnf_grammar", "root ::= nope"), "nope"),
    "words": (Guide("ebnf_grammar", "say something nice"), "can't be read"),
}


@pytest.mark.parametrize(("guide", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_kept_to_is_refused(grammars: Grammars, guide: Guide, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said) as caught:
        grammars.compile(guide)
    assert caught.value.param == "guided_decoding_guide"
    assert caught.value.message.startswith("guided_decoding_guide: ")
    assert len(caught.value.message) < 400


COSTLY = {
    # The library's stack would overflow, and end the process.
    "a chain of rules": Guide(
        "ebnf_grammar",
        "\n".join(f'r{i} ::= "a" r{i + 1}' for i in range(6000)) + '\nr6000 ::= "b"\nroot ::= r0',
    ),
    "a chain of references": schema(
        {
            "$ref": "#/$defs/d0",
            "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(3500)}
            | {"d3500": {"type": "string"}},
        }
    ),
    # It would read for minutes.
    "what may be there": Guide("regex", "a?" * 60_000 + "b"),
    "all of them": schema(
        {"allOf": [{"type": "string", "pattern": f"^.*{i}.*$"} for i in range(2500)]}
    ),
}


@pytest.mark.parametrize("guide", COSTLY.values(), ids=COSTLY)
def test_what_costs_too_much_is_refused_and_nobody_notices(
    grammars: Grammars, guide: Guide
) -> None:
    with pytest.raises(InvalidRequestError, match="it takes more than"):
        grammars.compile(guide)
    grammars.compile(Guide("regex", "yes|no"))


def test_a_trial_that_died_is_begun_again(grammars: Grammars) -> None:
    grammars.compile(Guide("regex", "first"))
    process = grammars._trial._process
    assert process is not None
    process.kill()
    process.wait()
    with pytest.raises(EngineError, match="the process that tries guides ended"):
        grammars.compile(Guide("regex", "second"))
    grammars.compile(Guide("regex", "second"))


def test_a_grammar_is_compiled_once_and_forgotten_in_turn(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    made, _ = make_grammars(tmp_path)
    grammars = Grammars(tmp_path / "tokenizer.json", made.vocab_size, made.end_ids, most=2)
    request.addfinalizer(grammars.close)
    first, second, third = Guide("regex", "a"), Guide("regex", "b"), Guide("regex", "c")
    grammars.compile(first)
    kept = grammars._known[first]
    grammars.compile(second)
    grammars.compile(first)
    grammars.compile(third)
    assert list(grammars._known) == [first, third]
    assert grammars._known[first] is kept


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"tokenizer\.json is no tokenizer"):
        Grammars(tmp_path / "tokenizer.json", 10, [2]).compile(Guide("json"))


@pytest.mark.parametrize(
    ("kind", "text", "said", "param"),
    [
        ("", "{}", "needs a guided_decoding_guide_type", "guided_decoding_guide_type"),
        ("xml", "x", "'xml', which is not known", "guided_decoding_guide_type"),
        ("structural_tag", "x", "which is not supported", "guided_decoding_guide_type"),
        ("json", "{}", "json takes no", "guided_decoding_guide"),
        ("regex", "", "needs a guided_decoding_guide", "guided_decoding_guide"),
        ("regex", "ä" * MAX_GUIDE_BYTES, f"at most {MAX_GUIDE_BYTES}", "guided_decoding_guide"),
    ],
)
def test_the_inputs_go_together(kind: str, text: str, said: str, param: str) -> None:
    with pytest.raises(InvalidRequestError, match=said) as caught:
        Guide.of(kind, text)
    assert caught.value.param == param


def test_no_guide_is_none() -> None:
    assert Guide.of(None, None) is None
    assert Guide.of("", "") is None
    assert Guide.of("json", None) == Guide("json")
    assert set(GUIDE_TYPES) == {"json", "json_schema", "regex", "ebnf_grammar", "calls"}
