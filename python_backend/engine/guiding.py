"""Guides work ahead while the model computes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from python_backend.engine.scheduled import Scheduled
from python_backend.engine.sequence import Sequence


class Guiding:
    """Has a thread prepare what the guides of a step's sequences allow."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guides")

    @contextmanager
    def beside(self, work: list[Scheduled]) -> Iterator[None]:
        """Prepare the rows that a step will choose from, as long as this lasts, and to the end."""
        guided = [each.sequence for each in work if each.sequence.guide and each.num_chosen]
        if not guided:
            yield
            return
        prepared = self._thread.submit(_prepare, guided)
        try:
            yield
        finally:
            prepared.result()


def _prepare(guided: list[Sequence]) -> None:
    for sequence in guided:
        if sequence.guide is not None:
            sequence.guide.prepare(sequence.output)
