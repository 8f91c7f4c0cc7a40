"""What a tenant sees of its limits, counted in memory and in Redis."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.gateway_errors import InvalidRequest, LimitExceeded, LimitsUnavailable
from gateway.interfaces import Principal
from gateway.limits.account import Account, Holder
from gateway.limits.limit import Limits
from gateway.limits.limiter import TenantLimiter, duration
from tests.gateway.limits.conftest import PRINCIPAL, limits_are

pytestmark = pytest.mark.anyio


async def refused(
    limiter: TenantLimiter, prompt: int = 1, most: int = 1, principal: Principal = PRINCIPAL
) -> LimitExceeded:
    with pytest.raises(LimitExceeded) as raised:
        await limiter.reserve(principal, "m", prompt, most)
    return raised.value


async def test_requests_of_a_minute(limiter, clock):
    limited = limiter(Limits(requests_per_minute=3))
    left = []
    for _ in range(3):
        reservation = await limited.reserve(PRINCIPAL, "m", 1, 1)
        await reservation.settle(1, 1)
        left.append(reservation.headers["x-ratelimit-remaining-requests"])
        clock.now += 1
    assert left == ["2", "1", "0"]
    error = await refused(limited)
    assert (error.status, error.code, error.limit) == (
        429,
        "rate_limit_exceeded",
        "requests_per_minute",
    )
    assert error.headers == {
        "retry-after": "58",
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    assert error.message == (
        "the tenant has 3 requests a minute, and they are used up: try again in 58s"
    )
    assert error.retry_after_s == pytest.approx(57.75, abs=0.002)  # a second counts as a whole
    clock.now += error.retry_after_s
    await limited.reserve(PRINCIPAL, "m", 1, 1)
    assert (await refused(limited)).retry_after_s < 1.001


async def test_what_is_a_minute_ago_counts_no_more(limiter, clock):
    limited = limiter(Limits(requests_per_minute=3, tokens_per_minute=100))
    for _ in range(3):
        await limited.reserve(PRINCIPAL, "m", 10, 20)
    clock.now += 300
    assert (await limited.reserve(PRINCIPAL, "m", 10, 20)).headers == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "1m1s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "70",
        "x-ratelimit-reset-tokens": "1m1s",
    }


async def test_tokens_are_reserved_and_what_is_not_used_comes_back(limiter, clock):
    limited = limiter(key=Limits(tokens_per_minute=100))
    first = await limited.reserve(PRINCIPAL, "m", 10, 60)
    assert first.headers["x-ratelimit-remaining-tokens"] == "30"
    assert (await refused(limited, 11, 20)).limit == "tokens_per_minute"
    await first.settle(10, 5)
    second = await limited.reserve(PRINCIPAL, "m", 11, 20)
    assert second.headers["x-ratelimit-remaining-tokens"] == "54"
    await second.settle(15, 20)  # the prompt was longer than was thought
    third = await limited.reserve(PRINCIPAL, "m", 1, 1)
    assert third.headers["x-ratelimit-remaining-tokens"] == "48"


async def test_a_settled_request_is_settled_once(limiter):
    limited = limiter(Limits(tokens_per_minute=100, tokens_per_day=100, concurrent_requests=2))
    first = await limited.reserve(PRINCIPAL, "m", 0, 50)
    await limited.reserve(PRINCIPAL, "m", 0, 50)
    for _ in range(3):
        await first.settle(0, 10)
    await limited.reserve(PRINCIPAL, "m", 0, 40)
    assert (await refused(limited, 0, 1)).limit == "tokens_per_day"


async def test_a_store_gives_back_once_and_only_what_it_counted(store):
    holders = (Holder("tenant", Limits()), Holder("key:k1", Limits()))
    account = Account("acme", "k1", holders)
    grant = await store.acquire("ours", account, 60)
    assert [(each.tokens, each.day, each.running) for each in grant.counts] == [(60, 60, 1)] * 2
    for lease in ("nobody's", "ours", "ours"):
        await store.settle(lease, account, grant, 25)
    counts = (await store.acquire("another", account, 0)).counts
    assert [(each.tokens, each.day, each.month, each.running) for each in counts] == [
        (35, 35, 35, 1)
    ] * 2


async def test_a_request_of_several_answers_counts_as_so_many_at_a_time(limiter):
    limited = limiter(Limits(concurrent_requests=5))
    several = await limited.reserve(PRINCIPAL, "m", 1, 1, 3)
    await limited.reserve(PRINCIPAL, "m", 1, 1)
    with pytest.raises(LimitExceeded, match="5 requests at a time"):
        await limited.reserve(PRINCIPAL, "m", 1, 1, 2)
    with pytest.raises(InvalidRequest, match="makes 6 answers at a time") as never:
        await limited.reserve(PRINCIPAL, "m", 1, 1, 6)
    assert (never.value.param, never.value.code) == ("n", "request_exceeds_limit")
    await limited.reserve(PRINCIPAL, "m", 1, 1)
    await several.settle(0, 0)
    await limited.reserve(PRINCIPAL, "m", 1, 1, 3)


async def test_requests_at_a_time(limiter):
    limited = limiter(Limits(concurrent_requests=2))
    running = [await limited.reserve(PRINCIPAL, "m", 1, 1) for _ in range(2)]
    error = await refused(limited)
    assert (error.limit, error.headers["retry-after"]) == ("concurrent_requests", "1")
    await running[0].settle(0, 0)
    await limited.reserve(PRINCIPAL, "m", 1, 1)


@pytest.mark.parametrize(
    ("limits", "rest_s"),
    [
        (Limits(tokens_per_day=100), 57_600 - 0.25),
        (Limits(tokens_per_month=100), 16 * 86_400 + 57_600 - 0.25),
    ],
)
async def test_a_quota_lasts_until_its_period_ends(limiter, clock, limits, rest_s):
    limited = limiter(limits)
    first = await limited.reserve(PRINCIPAL, "m", 40, 50)
    assert (await refused(limited, 10, 1)).headers["x-should-retry"] == "false"
    await first.settle(40, 10)
    await limited.reserve(PRINCIPAL, "m", 40, 10)
    clock.now += 3600
    error = await refused(limited)
    assert error.retry_after_s == pytest.approx(rest_s - 3600)
    clock.now += error.retry_after_s
    await limited.reserve(PRINCIPAL, "m", 50, 50)


async def test_a_request_that_spans_midnight_gives_back_to_its_own_day(limiter, clock):
    limited = limiter(Limits(tokens_per_day=100))
    first = await limited.reserve(PRINCIPAL, "m", 0, 100)
    clock.now += 86_400
    await limited.reserve(PRINCIPAL, "m", 0, 100)
    await first.settle(0, 0)
    assert (await refused(limited)).limit == "tokens_per_day"


async def test_a_tenants_keys_share_its_limits_and_have_their_own(limiter):
    limited = limiter(Limits(requests_per_minute=3), Limits(requests_per_minute=2))
    other = replace(PRINCIPAL, key_id="k2")
    for _ in range(2):
        await limited.reserve(PRINCIPAL, "m", 1, 1)
    error = await refused(limited)
    assert "the API key has 2 requests a minute" in error.message
    await limited.reserve(other, "m", 1, 1)
    assert "the tenant has 3 requests" in (await refused(limited, principal=other)).message
    await limited.reserve(replace(PRINCIPAL, tenant="globex"), "m", 1, 1)


@pytest.mark.parametrize("tightest", ["tenant", "key"])
async def test_the_headers_tell_of_the_one_that_has_the_least_left(limiter, tightest):
    loose = Limits(requests_per_minute=9, tokens_per_minute=500)
    tight = Limits(requests_per_minute=2, tokens_per_minute=100)
    limited = limiter(**{"tenant": loose, "key": loose, tightest: tight})
    reservation = await limited.reserve(PRINCIPAL, "m", 10, 20)
    told = {name: value for name, value in reservation.headers.items() if "reset" not in name}
    assert told == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "70",
    }


async def test_where_tenant_and_key_run_out_together_one_is_told(limiter):
    limited = limiter(Limits(requests_per_minute=1), Limits(requests_per_minute=1))
    await limited.reserve(PRINCIPAL, "m", 1, 1)
    assert (await refused(limited)).limit == "requests_per_minute"


async def test_of_limits_that_ran_out_the_one_that_lasts_longest_is_told(limiter):
    limited = limiter(Limits(requests_per_minute=1), Limits(tokens_per_day=10))
    await limited.reserve(PRINCIPAL, "m", 5, 5)
    error = await refused(limited)
    assert (error.limit, error.headers["x-should-retry"]) == ("tokens_per_day", "false")


async def test_what_is_refused_counts_nowhere(limiter):
    loose = limiter(Limits(requests_per_minute=5, tokens_per_minute=100))
    tight = limiter(Limits(requests_per_minute=5, tokens_per_minute=100), Limits(tokens_per_day=10))
    for _ in range(10):
        with pytest.raises(InvalidRequest):
            await tight.reserve(PRINCIPAL, "m", 5, 6)
    await tight.reserve(PRINCIPAL, "m", 5, 5)
    for _ in range(10):
        await refused(tight)
    reservation = await loose.reserve(PRINCIPAL, "m", 0, 10)
    assert reservation.headers["x-ratelimit-remaining-requests"] == "3"
    assert reservation.headers["x-ratelimit-remaining-tokens"] == "80"


async def test_what_can_never_fit_is_the_requests_fault(limiter):
    limited = limiter(Limits(tokens_per_month=100))
    with pytest.raises(InvalidRequest, match="the tenant has 100 tokens a month in all") as raised:
        await limited.reserve(PRINCIPAL, "m", 50, 51)
    assert raised.value.param == "max_tokens"
    assert "may take 50 tokens of prompt and 51 of answers" in raised.value.message
    await limited.reserve(PRINCIPAL, "m", 50, 50)


class Silent:
    """A store that doesn't answer."""

    closed = False

    async def acquire(self, lease, account, tokens):
        raise LimitsUnavailable("the store is silent")

    async def settle(self, lease, account, grant, refund):
        raise AssertionError("nothing was counted")

    async def close(self):
        self.closed = True


async def test_while_the_store_is_silent_requests_are_refused_or_pass_as_is_set():
    store = Silent()
    limits = limits_are(Limits(requests_per_minute=1), Limits())
    with pytest.raises(LimitsUnavailable):
        await TenantLimiter(store, limits).reserve(PRINCIPAL, "m", 1, 1)
    lenient = TenantLimiter(store, limits, allow_when_unavailable=True)
    for _ in range(3):
        reservation = await lenient.reserve(PRINCIPAL, "m", 1, 1)
        assert reservation.headers == {}
        await reservation.settle(1, 1)
    await lenient.close()
    assert store.closed


async def test_without_limits_there_is_nothing_to_tell(limiter):
    reservations = [await limiter().reserve(PRINCIPAL, "m", 10**6, 10**6) for _ in range(50)]
    assert reservations[-1].headers == {}


async def test_of_many_at_once_exactly_so_many_get_in(limiter):
    limited = limiter(Limits(requests_per_minute=40), Limits(tokens_per_minute=250))

    async def ask() -> str:
        try:
            await limited.reserve(PRINCIPAL, "m", 4, 6)
        except LimitExceeded as error:
            return error.limit
        return "granted"

    outcomes = await asyncio.gather(*(ask() for _ in range(200)))
    assert (outcomes.count("granted"), outcomes.count("tokens_per_minute")) == (25, 175)


async def test_a_store_that_knows_nothing_learns_what_was_spent(build):
    asked = []

    async def spent(account, period):
        asked.append((account.tenant, account.key_id, period.day, period.month))
        await asyncio.sleep(0)
        return [(900, 5000), (90, 500)]

    store = build(spent=spent)
    limited = TenantLimiter(
        store, limits_are(Limits(tokens_per_day=1000), Limits(tokens_per_month=520))
    )
    results = await asyncio.gather(
        *(limited.reserve(PRINCIPAL, "m", 0, 10) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(each, LimitExceeded) for each in results) == 3
    assert set(asked) == {("acme", "k1", "2027-01-15", "2027-01")}
    asked.clear()
    await refused(limited, 0, 1)
    assert asked == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0121, "13ms"),
        (0.5001, "501ms"),
        (1, "1s"),
        (59.2, "1m0s"),
        (61, "1m1s"),
        (7200, "120m0s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds, text):
    assert duration(seconds) == text
