"""How many examples Hypothesis tries, where a test knows better than the default of 100."""

from __future__ import annotations

from hypothesis import settings


def examples(count: int) -> int:
    """So many in a whole run, and in one with fewer (`make check`) as many fewer as anywhere."""
    return max(1, count * settings().max_examples // 100)
