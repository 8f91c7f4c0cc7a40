"""Calls in the log: a line for each, and of floods a few."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.audit.calls import Calls
from gateway.interfaces import CallRecord

CALL = CallRecord("r", 100.0, "", "", "00ff", "192.0.2.1", "POST /x", "", 401, "invalid_api_key")
KNOWN = replace(CALL, tenant="acme", application="chat", status=400, code="invalid_value")


class Desk:
    """Where lines go, and a clock."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.now = 0.0
        self.works = True
        self.calls = Calls(self.write, lambda: self.now)

    def write(self, fields: dict[str, Any]) -> bool:
        if self.works:
            self.lines.append(fields)
        return self.works

    @property
    def count(self) -> int:
        return sum(line["count"] for line in self.lines)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_one_who_is_known_has_a_line_at_once(desk):
    desk.calls.add(KNOWN)
    [line] = desk.lines
    assert (line["event"], line["count"], line["tenant"]) == ("call", 1, "acme")
    assert (line["key_id"], line["address"], line["until"]) == ("00ff", "192.0.2.1", 100.0)
    assert not desk.calls.pending


def test_strangers_of_one_address_are_one_line_a_second(desk):
    for number in range(500):
        desk.calls.add(replace(CALL, key_id=f"{number:016x}", time=100 + number / 1000))
    desk.calls.add(replace(CALL, address="192.0.2.2"))
    assert desk.lines == []
    desk.calls.flush()
    assert [(line["address"], line["count"]) for line in desk.lines] == [
        ("192.0.2.1", 500),
        ("192.0.2.2", 1),
    ]
    assert (desk.lines[0]["time"], desk.lines[0]["until"]) == (100.0, 100.499)
    assert (desk.lines[0]["key_id"], desk.lines[1]["key_id"]) == ("", "00ff")


def test_one_address_hides_no_other_by_asking_for_everything(desk):
    for number in range(300):
        desk.calls.add(replace(CALL, route=f"X{number % 60} /x", status=400 + number % 5))
    desk.calls.add(replace(CALL, address="192.0.2.2"))
    desk.calls.flush()
    assert desk.count == 301
    assert len(desk.lines) == 8 + 1 + 1
    assert desk.lines[-1]["address"] == "192.0.2.2"
    assert [line["address"] for line in desk.lines if not line["route"]] == ["192.0.2.1"]


def test_a_day_of_guesses_from_everywhere_fills_no_disk(desk):
    number = 0
    for second in range(3600):
        desk.now = float(second)
        for _ in range(10):  # five times as many as have a line
            number += 1
            desk.calls.add(replace(CALL, address=f"2001:db8::{number:x}"))
        desk.calls.flush()
    assert len(desk.lines) <= 100 + 2 * 3600
    desk.calls.flush(all_of_it=True)
    assert desk.count == number
    assert len(desk.lines) <= 100 + 2 * 3600 + 100


def test_one_key_without_end_has_lines_in_common(desk):
    for second in range(600):
        desk.now = float(second)
        for _ in range(50):
            desk.calls.add(KNOWN)
        desk.calls.add(replace(KNOWN, key_id="other", tenant="globex"))
        desk.calls.flush()
    others = [line for line in desk.lines if line["tenant"] == "globex"]
    assert len(others) == 600  # and nobody else is wronged by it
    assert len(desk.lines) - len(others) <= 100 + 2 * 600
    desk.calls.flush(all_of_it=True)
    assert desk.count == 600 * 51


def test_keys_that_ask_no_more_are_forgotten_though_nothing_waits(desk):
    for second in range(3600):
        desk.now = float(second)
        desk.calls.add(replace(KNOWN, key_id=f"{second:016x}"))
        assert not desk.calls.pending  # and so nothing is flushed
    assert len(desk.lines) == 3600
    assert len(desk.calls._budgets) <= 102
    for _ in range(50):  # and nobody has more lines for it
        desk.now += 60
        for _ in range(300):
            desk.calls.add(KNOWN)
    assert len(desk.lines) - 3600 <= 100 + 2 * 60 * 50


def test_what_cannot_be_written_waits_counted(desk):
    desk.works = False
    for _ in range(10):
        desk.calls.add(KNOWN)
        desk.calls.add(CALL)
    desk.calls.flush()
    assert desk.lines == []
    assert desk.calls.pending
    desk.works = True
    desk.calls.flush()
    assert sorted(line["count"] for line in desk.lines) == [10, 10]
    assert not desk.calls.pending
