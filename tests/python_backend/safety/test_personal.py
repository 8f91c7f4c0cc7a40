"""Personal data: what is found, what only looks like it, and how often that goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from python_backend.safety.personal import COUNTRIES, DEFAULT_COUNTRIES, KINDS, personal_finders
from python_backend.safety.scanner import Rule, RuleSet, scan_text
from python_backend.safety.secrets import secret_finders

CORPUS = Path(__file__).with_name("corpus.jsonl")
FINDERS = (*personal_finders(KINDS, [], DEFAULT_COUNTRIES), *secret_finders())
RULES = RuleSet([Rule("all", "redact", "[{kind}]", FINDERS)], "output")
EVERYWHERE = RuleSet(
    [Rule("all", "redact", "[{kind}]", tuple(personal_finders(KINDS, ["US", "GB"], COUNTRIES)))],
    "output",
)
CASES = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
HARD = [case for case in CASES if "redacted" in case]
NEAR_MISSES = [case["text"] for case in CASES if "redacted" not in case]


@pytest.mark.parametrize("case", HARD, ids=lambda case: case["text"][:40])
def test_hard_cases(case: dict[str, str]) -> None:
    rules = EVERYWHERE if case.get("everywhere") else RULES
    assert scan_text(rules, case["text"]).text == case["redacted"]


def test_near_misses_stay_as_they_are() -> None:
    """Invoice numbers, versions, dates, code: of all of them none is taken for personal data."""
    assert len(NEAR_MISSES) >= 60
    wrong = [text for text in NEAR_MISSES if scan_text(RULES, text).text != text]
    assert wrong == []
