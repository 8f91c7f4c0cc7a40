"""The circuit breaker, on a clock of the test's own."""

from __future__ import annotations

import pytest

from gateway.configuration import HealthSettings
from gateway.upstreams.circuit import Circuit

SETTINGS = HealthSettings(failures=2, open_s=1, max_open_s=4, interval_s=10)


def proven() -> Circuit:
    circuit = Circuit(SETTINGS, probed=True)
    circuit.succeed(0)
    return circuit


def test_nothing_is_sent_before_the_first_token():
    circuit = Circuit(SETTINGS, probed=True)
    assert not circuit.allows(0)
    assert circuit.probe_due_s(0) == 0
    circuit.succeed(0)
    assert circuit.allows(0)


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not():
    circuit = proven()
    for now_s in range(5):
        circuit.fail(now_s)
        circuit.succeed(now_s)
    assert circuit.closed
    circuit.fail(6)
    circuit.fail(6)
    assert not circuit.allows(6)


def test_it_waits_longer_each_time_up_to_a_bound():
    circuit = proven()
    circuit.fail(0)
    circuit.fail(0)
    waits = []
    now_s = 0.0
    for _ in range(4):
        waits.append(circuit.probe_due_s(now_s))
        now_s += waits[-1]
        circuit.fail(now_s)
    assert waits == [1, 1, 2, 4]
    assert circuit.probe_due_s(now_s) == 4


def test_what_is_lost_opens_it_at_once():
    circuit = proven()
    circuit.fail(0, lost=True)
    assert not circuit.closed


def test_requests_that_were_under_way_when_it_opened_do_not_put_off_the_next_probe():
    circuit = proven()
    for _ in range(20):
        circuit.fail(0)
    assert circuit.probe_due_s(0) == SETTINGS.open_s


def test_a_success_makes_it_forget():
    circuit = proven()
    for _ in range(5):
        circuit.fail(0)
    circuit.succeed(1)
    circuit.fail(2)
    circuit.fail(2)
    assert circuit.probe_due_s(2) == 1


def test_traffic_that_succeeds_needs_no_probe():
    circuit = proven()
    assert circuit.probe_due_s(4) == 6
    circuit.succeed(4)
    assert circuit.probe_due_s(4) == 10


@pytest.mark.parametrize("outcome", ["succeed", "fail"])
def test_what_is_not_probed_is_tried_by_a_request(outcome):
    circuit = Circuit(SETTINGS, probed=False)
    assert circuit.allows(0)
    circuit.fail(0)
    circuit.fail(0)
    assert not circuit.allows(0.5)
    assert circuit.allows(1)
    getattr(circuit, outcome)(1)
    assert circuit.allows(1) == (outcome == "succeed")
