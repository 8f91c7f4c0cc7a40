"""What of a prompt's log probabilities isn't told: it would tell what the policy takes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.safety.policy import Policy, load_policies
from python_backend.safety.scanner import Scanner
from python_backend.serving.prompt_scores import telling
from python_backend.text.detokenizer import Vocabulary
from tests.examples import examples
from tests.python_backend.text.samples import byte_level

TOKENIZER = byte_level()
VOCABULARY = Vocabulary(TOKENIZER)
CARD = "4000 0093 9348 4764"
POLICIES = """
default: redact
policies:
  redact:
    rules:
      - {name: personal, find: personal_data, output: redact}
      - {name: secrets, find: secrets, output: redact}
  block:
    rules:
      - {name: codename, find: pattern, pattern: 'PROJECT-[0-9]{4}', output: block}
  flag:
    rules:
      - {name: personal, find: personal_data, output: flag}
  none: {}
"""


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    path = tmp_path_factory.mktemp("policies") / "policies.yaml"
    path.write_text(POLICIES)
    loaded = load_policies(Path(path))
    return {name: loaded.get(name) for name in ("redact", "block", "flag", "none")}


def told(policy: Policy, text: str) -> tuple[list[str], list[str]]:
    """The tokens of a text whose log probabilities are told, and those whose aren't."""
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    hidden = telling(VOCABULARY, policy.output, ids)
    names = [VOCABULARY.text_of(each) for each in ids]
    return (
        [name for name, is_hidden in zip(names, hidden, strict=True) if not is_hidden],
        [name for name, is_hidden in zip(names, hidden, strict=True) if is_hidden],
    )


def test_prose_is_told(policies: dict[str, Policy]) -> None:
    text = "The cat sat on the mat, and the dog looked on. It was 1999; there were 12 of them."
    assert told(policies["redact"], text)[1] == []


def test_a_number_is_not_told_nor_what_would_follow_its_beginning(
    policies: dict[str, Policy],
) -> None:
    kept, hidden = told(policies["redact"], f"no {CARD}, yes")
    assert "".join(hidden).strip().startswith(CARD)
    assert "".join(kept).startswith("no")
    assert "".join(kept).endswith("yes")
    for end in range(6, len(CARD)):  # a guess that goes on with something else
        kept, hidden = told(policies["redact"], f"no {CARD[:end]}x")
        assert any("x" in each for each in hidden), CARD[:end]
    assert told(policies["redact"], "no 4000x")[1] == []


@pytest.mark.parametrize(
    "text", ["a ana.silva@acme.exam", "token ghp_a1a1a1a1a1", "+44 20 7946 01"]
)
def test_other_beginnings_are_not_told_either(policies: dict[str, Policy], text: str) -> None:
    assert told(policies["redact"], text)[1] != []
    assert told(policies["flag"], text)[1] == []
    assert told(policies["none"], text)[1] == []


def test_nothing_is_told_behind_what_is_blocked(policies: dict[str, Policy]) -> None:
    kept, hidden = told(policies["block"], "so PROJECT-1234 is the name")
    assert "".join(kept).strip() == "so"
    assert "".join(hidden).endswith("PROJECT-1234 is the name")
    assert any("9" in each for each in told(policies["block"], "so PROJECT-9")[1])


@settings(max_examples=examples(200))
@given(
    parts=st.lists(
        st.sampled_from(["4000", " ", "0093", "9348", "4764", "a.b", "@", "x", "\n", ","])
    )
)
def test_remembering_ends_changes_nothing(policies: dict[str, Policy], parts: list[str]) -> None:
    """What is remembered of one text is what another would find."""
    rules = policies["redact"].output
    ids = TOKENIZER.encode("".join(parts), add_special_tokens=False).ids
    remembered = telling(VOCABULARY, rules, ids)
    rules.telling.clear()
    assert np.array_equal(telling(VOCABULARY, rules, ids), remembered)


def test_to_ask_changes_nothing(policies: dict[str, Policy]) -> None:
    asked, other = (Scanner(policies["redact"].output) for _ in range(2))
    for letter in f"mail ana.silva@acme.example, {CARD}.":
        asked.would_take()
        assert asked.add(letter) == other.add(letter)
    assert asked.add("", final=True) == other.add("", final=True)


def test_a_single_word_tells_nothing_of_personal_data_and_secrets(
    policies: dict[str, Policy],
) -> None:
    """So nobody is asked about most of a text."""
    rules = policies["redact"].output
    assert not rules.words_tell
    assert policies["block"].output.words_tell
    for word in ("a", "Silva", "supercalifragilistic", "sk", "hooks", "https"):
        scanner = Scanner(rules)
        scanner.add(f"so {word}")
        assert not scanner._tells(), word
