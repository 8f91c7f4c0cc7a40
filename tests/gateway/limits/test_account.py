from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

from gateway.limits.account import Period


@pytest.fixture(params=["EAST-14", "WEST+11"])
def _far_from_utc(request, monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_far_from_utc")
@pytest.mark.parametrize(
    ("moment", "day", "month", "day_rest_s", "month_rest_s"),
    [
        ("2026-11-20T12:00:00", "2026-11-20", "2026-11", 43_200, 10.5 * 86_400),
        ("2026-12-31T23:59:59.5", "2026-12-31", "2026-12", 0.5, 0.5),
        ("2027-01-01T00:00:00", "2027-01-01", "2027-01", 86_400, 31 * 86_400),
        ("2028-02-29T00:00:00", "2028-02-29", "2028-02", 86_400, 86_400),
    ],
)
def test_days_and_months_are_of_the_calendar_in_utc(moment, day, month, day_rest_s, month_rest_s):
    at = datetime.fromisoformat(moment).replace(tzinfo=timezone.utc).timestamp()
    assert Period.at(at) == Period(day, month, day_rest_s, month_rest_s)
