"""Which replica gets a request."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from gateway.balance import choose


@dataclass
class Loaded:
    name: str
    in_flight: int = 0
    capacity: int = 32


def idle(count: int) -> list[Loaded]:
    return [Loaded(f"r{index}") for index in range(count)]


def test_without_a_prefix_the_least_loaded_is_chosen():
    replicas = [Loaded("a", 5), Loaded("b", 2), Loaded("c", 3, capacity=64)]
    assert choose(replicas, None, 1.25).name == "c"


@given(st.binary(min_size=1), st.integers(2, 8))
def test_a_prefix_stays_where_it_was_when_another_replica_goes(prefix, count):
    replicas = idle(count)
    home = choose(replicas, prefix, 1.25)
    for gone in replicas:
        if gone is not home:
            rest = [replica for replica in replicas if replica is not gone]
            assert choose(rest, prefix, 1.25) is home


def test_prefixes_spread():
    counts = Counter(choose(idle(4), b"%d" % index, 1.25).name for index in range(2000))
    assert len(counts) == 4
    assert min(counts.values()) > 400


@given(st.lists(st.integers(0, 3), min_size=20, max_size=200), st.floats(1, 3))
def test_a_popular_prefix_drowns_nobody(prefixes, load_factor):
    replicas = idle(4)
    for prefix in prefixes:
        chosen = choose(replicas, b"%d" % prefix, load_factor)
        chosen.in_flight += 1
        average = sum(replica.in_flight for replica in replicas) / 4
        assert chosen.in_flight <= load_factor * average + 1
