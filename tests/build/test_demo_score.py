"""The exam judges answers and counts them by kind."""

import json

import pytest

from build.demo.data import KINDS, Example, held_out
from build.demo.score import is_right, mark


def test_the_right_answers_score_full_marks() -> None:
    examples = held_out(10)
    report = mark(examples, [f" {example.answer}\n" for example in examples])
    assert report.accuracy == 1.0
    assert report.failures == ()


def test_wrong_answers_are_counted_by_kind_and_kept() -> None:
    examples = held_out(10)
    answers = ["no idea" if each.kind == "sorting" else each.answer for each in examples]
    report = mark(examples, answers)
    assert report.accuracy_of("sorting") == 0.0
    assert report.accuracy_of("facts") == 1.0
    assert report.accuracy == pytest.approx(1 - 1 / len(KINDS))
    assert {failure.answer for failure in report.failures} == {"no idea"}
    assert "| sorting | 0 | 10 | 0.0% |" in report.table()


def test_json_is_compared_as_an_object() -> None:
    example = Example("json", "?", '{"name": "Ada", "age": 36}', "")
    assert is_right(example, '{ "age":36, "name":"Ada" }')
    assert not is_right(example, '{"name": "Ada", "age": "36"}')
    assert not is_right(example, '{"name": "Ada"')


def test_a_number_in_place_of_true_is_wrong() -> None:
    example = Example("json", "?", json.dumps({"in_stock": True, "quantity": 1}), "")
    assert not is_right(example, '{"in_stock": 1, "quantity": 1}')


def test_a_missing_answer_is_an_error() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        mark(held_out(1), [])
