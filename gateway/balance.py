"""Which replica gets a request: the one with its prompt's beginning in the cache, or the idlest.

Rendezvous hashing (Thaler and Ravishankar, 1998) gives each prefix an order of replicas that stays
the same when others come and go, and a bound on the load (Mirrokni, Thorup and Zadimoghaddam,
«Consistent hashing with bounded loads», 2018) keeps a popular prefix from drowning its replica.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Loaded(Protocol):
    """What can be chosen."""

    @property
    def name(self) -> str: ...

    @property
    def in_flight(self) -> int:
        """Sequences under way."""

    @property
    def capacity(self) -> int:
        """Sequences that it may have."""


L = TypeVar("L", bound=Loaded)


def choose(replicas: Sequence[L], prefix: bytes | None, load_factor: float) -> L:
    """Choose among replicas that all have room.

    Args:
        replicas: At least one.
        prefix: The beginning of the prompt; None where affinity isn't worth it.
        load_factor: The most load a replica takes for affinity, in times the average.
    """
    if len(replicas) == 1:
        return replicas[0]
    if prefix is not None:
        # Relative to what each can bear, and with the request that is to come counted in.
        average = (sum(r.in_flight for r in replicas) + 1) / sum(r.capacity for r in replicas)
        for replica in sorted(replicas, key=lambda r: _score(prefix, r.name), reverse=True):
            if replica.in_flight < max(1.0, load_factor * average * replica.capacity):
                return replica
    return min(replicas, key=lambda r: (r.in_flight / r.capacity, r.name))


def _score(prefix: bytes, name: str) -> bytes:
    return hashlib.blake2b(prefix, digest_size=8, key=name.encode()[:64]).digest()
