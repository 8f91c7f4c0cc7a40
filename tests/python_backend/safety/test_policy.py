"""Policy files: what they say, what is wrong with them, and how a new one comes into force."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import InvalidRequestError
from python_backend.safety.policy import Policies, PolicyError, load_policies
from python_backend.safety.policy_store import PolicyStore
from python_backend.safety.scanner import scan_text

ROOT = Path(__file__).parents[3]
GOOD = """
default: a
policies:
  a:
    rules:
      - {name: personal, find: personal_data, kinds: [email], input: flag, output: redact}
      - {name: names, find: terms, terms: [Rosa], output: replace, replacement: '<{kind}>'}
      - {name: code, find: pattern, pattern: 'PRO-[0-9]{2}', output: block}
    refusals: ['^Sorry']
  b: {}
"""


def load(tmp_path: Path, text: str) -> Policies:
    path = tmp_path / "policies.yaml"
    path.write_text(text, encoding="utf-8")
    return load_policies(path)


def test_rules_act_on_the_side_and_in_the_way_that_they_say(tmp_path: Path) -> None:
    policies = load(tmp_path, GOOD)
    policy = policies.get(None)
    text = "Rosa ana@acme.example PRO-17 Rosa"
    assert scan_text(policy.input, text).text == text
    assert [each.action for each in scan_text(policy.input, text).verdicts] == ["flag"]
    scanned = scan_text(policy.output, text)
    assert scanned.text == "<NAMES> [EMAIL] "
    assert scanned.blocked
    assert [each.rule for each in scanned.verdicts] == ["names", "personal", "code"]
    assert scan_text(policies.get("b").output, text).text == text


def test_a_request_gets_the_policy_that_it_names_or_none(tmp_path: Path) -> None:
    policies = load(tmp_path, GOOD)
    assert policies.get("b").name == "b"
    names: list[object] = ["c", "", 1, ["a"], {}]
    for name in names:
        with pytest.raises(InvalidRequestError, match=r"safety_policy is .*; there are a, b"):
            policies.get(name)


@pytest.mark.parametrize("path", sorted((ROOT / "policies").glob("*.yaml")), ids=lambda p: p.name)
def test_the_policies_here_are_right(path: Path) -> None:
    load_policies(path)


RULE = "default: a\npolicies: {a: {rules: [{name: r, output: redact, %s}]}}"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "the file: input should be a valid dictionary"),
        ("a: [", "can't be read: while parsing a flow"),
        ("default: a\ndefault: b", "the key 'default' comes twice"),
        ("default: a\npolicies: {}", "policies is {}: dictionary should have at least 1 item"),
        ("default: b\npolicies: {a: {}}", "default is b; there is no policy of that name"),
        ("default: a\npolicies: {a: {rule: []}}", "policies.a.rule is not a setting; the nearest"),
        ("default: a\npolicys: {a: {}}", "policys is not a setting; the nearest is policies"),
        ("default: on\npolicies: {on: {}}", "default is True: input should be a valid string"),
        (RULE % "find: magic", "input tag 'magic'"),
        (RULE % "find: secrets, ouput: block", "ouput is not a setting; the nearest is output"),
        (
            RULE % "find: secrets, input: delete",
            "rules.0.secrets.input is 'delete': input should be 'redact', 'replace'",
        ),
        (RULE % "find: personal_data, kinds: [name]", "kinds.0 is 'name': input should be 'email'"),
        (RULE % "find: personal_data, regions: [UK]", "'UK' is not known; the nearest is"),
        (RULE % "find: personal_data, countries: [xx]", "'xx' is not known; the nearest is"),
        (RULE % "find: pattern, pattern: '(a'", "rules.r: it is no regular expression: missing"),
        (RULE % "find: pattern, pattern: 'a*'", "rules.r: it may match more than 4096"),
        (RULE % "find: terms", "rules.r: there are no terms"),
        (RULE % "find: terms, terms_file: no.txt", "rules.r: [Errno 2] No such file"),
        (RULE % "find: classifier, model: nowhere, thresholds: {x: 0.5}", "holds no classifier"),
        (
            RULE % "find: classifier, model: nowhere, thresholds: {x: 0.5}, window: 16, stride: 64",
            "stride is 64; it must be at most window, 16",
        ),
        (
            RULE.replace("redact", "replace") % "find: secrets",
            "replacement and the action replace come together",
        ),
        (
            RULE.replace("redact", "replace") % "find: secrets, replacement: '{text}'",
            "replacement may have {kind} and no other field",
        ),
        (
            "default: a\npolicies: {a: {rules: [{name: r, find: secrets}, "
            "{name: r, find: secrets}]}}",
            "several rules have the name r",
        ),
        ("default: a\npolicies: {a: {refusals: ['a*']}}", "policies.a.refusals: 'a*': it may"),
    ],
)
def test_a_wrong_file_is_told_where_it_is_wrong(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load(tmp_path, text)
    assert error in str(caught.value)
    assert str(tmp_path / "policies.yaml") in str(caught.value)


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_whatever_is_in_a_file_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    data = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
    path.write_bytes(data)
    with pytest.raises(PolicyError):
        load_policies(path)


def await_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def replace(path: Path, text: str) -> None:
    """Write a file in one go: who looks meanwhile finds the old one or the new."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_a_new_file_comes_into_force_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    path, terms = tmp_path / "policies.yaml", tmp_path / "terms.txt"
    terms.write_text("# terms\ncat\n")
    rule = "{name: t, find: terms, terms_file: terms.txt, output: redact}"
    path.write_text(f"default: a\npolicies: {{a: {{rules: [{rule}]}}}}")
    told: list[PolicyError | None] = []
    store = PolicyStore(path, 0.01, told.append)

    def leaves(text: str) -> str:
        return scan_text(store.current.get(None).output, text).text

    try:
        assert leaves("cat dog") == "[T] dog"
        replace(terms, "dog # or what it eats\n")
        await_true(lambda: leaves("cat dog") == "cat [T]")
        replace(path, "default: a\npolicies: {a: {rulez: []}}")
        await_true(lambda: len(told) == 2)
        assert "rulez is not a setting" in str(told[1])
        assert leaves("cat dog") == "cat [T]"
        path.unlink()
        await_true(lambda: len(told) == 3)
        assert leaves("cat dog") == "cat [T]"
        replace(path, "default: b\npolicies: {b: {}}")
        await_true(lambda: leaves("cat dog") == "cat dog" and len(told) == 4)
        assert told[0] is None
        assert told[-1] is None
    finally:
        store.close()


def test_without_a_right_file_nothing_is_served(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="can't be read"):
        PolicyStore(tmp_path / "missing.yaml", 1, lambda _: None)
