"""Lines of a chain: sealed, taken apart and checked."""

from __future__ import annotations

import orjson
import pytest

from gateway.audit.chain import START, BrokenLine, Link, check, read, seal
from gateway.audit.keys import AuditKey

KEY, OTHER = AuditKey(b"a" * 32), AuditKey(b"b" * 32)
SEAL = b',"mac":"' + b"0" * 64 + b'"}\n'


def test_a_line_says_its_number_its_fields_and_its_seal():
    line, link = seal(KEY, Link(6, "ab" * 32), {"event": "x", "text": "é\n"})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert list(orjson.loads(line).items()) == [
        ("n", 7),
        ("event", "x"),
        ("text", "é\n"),
        ("mac", link.mac),
    ]
    assert link.sequence == 7
    assert read(line) == (orjson.loads(line), link)


def test_a_line_follows_the_one_before_and_no_other():
    first, link = seal(KEY, START, {"event": "x"})
    second, end = seal(KEY, link, {"event": "y"})
    assert check(KEY, START, first) == (orjson.loads(first), link)
    assert check(KEY, link, second) == (orjson.loads(second), end)
    with pytest.raises(BrokenLine, match="is number 1 and follows number -1"):
        check(KEY, START, second)
    with pytest.raises(BrokenLine, match="is number 0 and follows number 0"):
        check(KEY, link, first)
    with pytest.raises(BrokenLine, match="was changed, or the line before it was"):
        check(KEY, Link(0, "0" * 64), second)
    with pytest.raises(BrokenLine, match="was changed"):
        check(OTHER, link, second)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"[]\n",
        b"x" * 400,
        SEAL,
        b"{" + SEAL,
        b'{"m":0' + SEAL,
        b'{"n":"x"' + SEAL,
        b'{"n":null' + SEAL,
        b'{"n":1,' + SEAL,
        b'[{"n":1}' + SEAL,
        b'{"n":1' + SEAL[:-2] + b" }\n",
        b'{"n":1, ' + SEAL[1:],
    ],
)
def test_what_is_no_sealed_line_with_a_number_is_told(line):
    with pytest.raises(BrokenLine, match="is not a sealed line"):
        read(line)


def test_what_is_one_is_taken_apart_unchecked():
    assert read(b'{"n":1' + SEAL) == ({"n": 1, "mac": "0" * 64}, Link(1, "0" * 64))
