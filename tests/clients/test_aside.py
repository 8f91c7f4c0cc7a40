"""What is large is done beside the loop, and what is small is not."""

from __future__ import annotations

import threading

import pytest

from clients.aside import aside

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("entries", "beside"), [(0, False), (100, False), (40_000, True)])
async def test_only_what_is_large_goes_to_a_thread(entries: int, beside: bool) -> None:
    thread = await aside(threading.get_ident, entries)
    assert (thread != threading.get_ident()) == beside


@pytest.mark.parametrize("entries", [0, 40_000])
async def test_what_it_raises_is_raised(entries: int) -> None:
    with pytest.raises(ZeroDivisionError):
        await aside(lambda: 1 // 0, entries)
