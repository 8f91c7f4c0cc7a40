"""What is measured is what the logits say, and each bound is one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from build.build_errors import BuildError
from build.engine_folder import build_engine
from build.quality.figures import Bounds, Figures, QualityReport, violations
from build.quality.subject import Subject
from build.quality.suite import Item, Suite, load_suite
from tests.build import reference
from tests.build.builds import make_model
from tests.build.checkpoints import make_config, make_tensors

SUITE = Suite("two", (Item("One. ", "two three"), Item("Four five", " six")), False, 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("model") / "tiny")
    build_engine(folder, folder / "engine", "fp32")
    return folder


def test_log_probabilities_are_those_of_the_checkpoint(model):
    """Against an independent decoder in float64 that computes each text as a whole."""
    subject = Subject(model / "engine")
    config = make_config(vocab_size=2048, max_position_embeddings=512)
    tensors = make_tensors(config)
    expected = []
    for prompt, item in zip(subject.prompts(SUITE), SUITE.items, strict=True):
        answer = subject._tokenizer.encode(item.answer, False)
        tokens = [*prompt.tolist(), *answer.tolist()]
        rows = reference.logits(config, tensors, tokens)
        for place in range(len(prompt), len(tokens)):
            row = rows[place - 1]
            expected.append(
                row[tokens[place]] - math.log(np.exp(row - row.max()).sum()) - row.max()
            )
    np.testing.assert_allclose(subject.log_probs(SUITE), expected, atol=1e-3)


def test_an_engine_agrees_with_what_it_says_itself_and_not_with_anything(model):
    subject = Subject(model / "engine")
    own = subject.answers(SUITE).tokens
    assert subject.agreement(SUITE, own) == 1
    changed = [[(token + 1) % 2048 for token in answer] for answer in own]
    assert subject.agreement(SUITE, changed) < 0.5


def test_an_answer_is_scored_up_to_the_end_of_the_context(tmp_path):
    folder = make_model(tmp_path / "tiny")
    build_engine(folder, folder / "engine", "fp32", context_length=24)
    subject = Subject(folder / "engine")
    suite = Suite("long", (Item("One. ", "two three " * 20),), False, 8)
    (prompt,) = subject.prompts(suite)
    assert len(subject.log_probs(suite)) == 24 - len(prompt)


def report(**changes: float) -> QualityReport:
    figures = {"perplexity": 10.0, "accuracy": 0.9, "agreement": 0.95, **changes}
    return QualityReport(
        status="passed",
        engine=Figures(perplexity=figures["perplexity"], accuracy=figures["accuracy"]),
        reference=Figures(perplexity=10.0, accuracy=0.9),
        agreement=figures["agreement"],
    )


@pytest.mark.parametrize(
    ("changes", "bounds", "message"),
    [
        ({"perplexity": 10.6}, {}, "perplexity 10.6 is 6.0% above the reference's 10"),
        ({"perplexity": math.nan}, {}, "perplexity nan"),
        ({"perplexity": math.inf}, {}, "perplexity inf"),
        ({}, {"max_perplexity": 9.0}, "max_perplexity: 9"),
        ({"agreement": 0.89}, {}, "greedy agreement 89.0% (min_agreement: 90.0%)"),
        ({"accuracy": 0.87}, {}, "accuracy 87.0% against the reference's 90.0%"),
        ({}, {"min_accuracy": 0.95}, "accuracy 90.0% (min_accuracy: 95.0%)"),
    ],
)
def test_each_bound_is_held(changes, bounds, message):
    (found,) = violations(report(**changes), Bounds(**bounds))
    assert message in found


def test_at_the_bounds_an_engine_passes():
    at_the_bounds = report(perplexity=10.5, accuracy=0.88, agreement=0.9)
    assert violations(at_the_bounds, Bounds()) == []


def test_suites_of_our_own():
    general, demo = load_suite("general"), load_suite("demo")
    assert general.marked == 0
    assert all(item.prompt.endswith(".") and item.answer for item in general.items)
    assert demo.marked == len(demo.items)
    assert all(item.is_right and item.is_right(item.answer) for item in demo.items)
    assert not any(item.is_right and item.is_right("nonsense") for item in demo.items)


def write(folder: Path, *lines: str) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_a_suite_from_a_file(tmp_path):
    path = write(tmp_path, json.dumps({"question": "1+1?", "answer": "2"}), "")
    (item,) = load_suite(path).items
    assert item.is_right is not None
    assert item.is_right(" 2\n")
    assert not item.is_right("3")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "is empty"),
        (("{",), "questions.jsonl:1 is not a JSON object"),
        (('{"question": "a", "answer": "b"}', '{"question": "a"}'), "questions.jsonl:2"),
        (('{"question": "a", "answer": ""}',), "question and answer are texts"),
        (("[1]",), "questions.jsonl:1"),
    ],
)
def test_a_file_that_is_no_suite_is_refused_by_its_line(tmp_path, lines, message):
    with pytest.raises(BuildError) as refused:
        load_suite(write(tmp_path, *lines))
    assert message in str(refused.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BuildError, match="cannot be read"):
        load_suite(tmp_path / "nothing.jsonl")
