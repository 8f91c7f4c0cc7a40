"""Holds tenants and their keys to their limits, and tells them how much is left."""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable, Mapping

from gateway.gateway_errors import InvalidRequest, LimitExceeded, LimitsUnavailable
from gateway.interfaces import Principal
from gateway.limits.account import Account, Count, Grant, Holder, Store, lease_of, shortages
from gateway.limits.limit import Limits

LimitSource = Callable[[Principal], Awaitable[tuple[Limits, Limits]]]
"""Gets the limits of a principal's tenant and of its key."""

_QUOTAS = ("tokens_per_day", "tokens_per_month")
_WORDS = {
    "requests_per_minute": "{limit} requests a minute",
    "tokens_per_minute": "{limit} tokens a minute",
    "concurrent_requests": "{limit} requests at a time",
    "tokens_per_day": "{limit} tokens a day",
    "tokens_per_month": "{limit} tokens a month",
}


class TenantLimiter:
    """Reserves what a request may cost at most, and settles what it cost."""

    def __init__(
        self, store: Store, limits: LimitSource, *, allow_when_unavailable: bool = False
    ) -> None:
        """Count in a store.

        Args:
            store: Where.
            limits: Gets a principal's limits.
            allow_when_unavailable: Whether requests pass uncounted while the store doesn't answer.
        """
        self._store = store
        self._limits = limits
        self._allow_when_unavailable = allow_when_unavailable

    async def reserve(
        self,
        principal: Principal,
        model: str,
        prompt_tokens: int,
        max_tokens: int,
        answers: int = 1,
    ) -> TenantReservation:
        """Put aside one request and what it may cost at most.

        Raises:
            InvalidRequest: It may cost more than a limit has in all, so that waiting is no use.
            LimitExceeded: One of the limits has no room for it now.
            LimitsUnavailable: That can't be told now.
        """
        tenant, key = await self._limits(principal)
        holders = (Holder("tenant", tenant), Holder(f"key:{principal.key_id}", key))
        account = Account(principal.tenant, principal.key_id, holders)
        tokens = prompt_tokens + max_tokens
        for holder in holders:
            _refuse_what_never_fits(holder, prompt_tokens, max_tokens)
            _refuse_too_many_answers(holder, answers)
        lease = lease_of(secrets.token_hex(12), answers)
        try:
            grant = await self._store.acquire(lease, account, tokens)
        except LimitsUnavailable:
            if not self._allow_when_unavailable:
                raise
            return TenantReservation(self._store, lease, account, None, tokens)
        if not grant.granted:
            raise _exceeded(account, grant, tokens, answers)
        return TenantReservation(self._store, lease, account, grant, tokens)

    async def close(self) -> None:
        """Let go of what the store holds open."""
        await self._store.close()


class TenantReservation:
    """What was put aside for one request.

    Attributes:
        headers: The rate-limit headers of its answer.
    """

    def __init__(
        self, store: Store, lease: str, account: Account, grant: Grant | None, tokens: int
    ) -> None:
        """Hold a grant; None is a request that passed uncounted.

        Args:
            store: Where it was counted.
            lease: Its name there.
            account: Whom it was counted for.
            grant: What the store said.
            tokens: What it was counted as.
        """
        self.headers: Mapping[str, str] = (
            {} if grant is None else rate_limit_headers(account, grant.counts)
        )
        self._store = store
        self._lease = lease
        self._account = account
        self._grant = grant
        self._tokens = tokens

    async def settle(self, prompt_tokens: int, output_tokens: int) -> None:
        """Replace the estimate by the true cost. Called again, it changes nothing."""
        grant, self._grant = self._grant, None
        if grant is not None:
            refund = self._tokens - prompt_tokens - output_tokens
            await self._store.settle(self._lease, self._account, grant, refund)


def rate_limit_headers(account: Account, counts: tuple[Count, ...]) -> dict[str, str]:
    """Return OpenAI's rate-limit headers, of the holder that has the least left.

    ``x-ratelimit-limit-requests`` and so on are there where such a limit is.
    """
    headers: dict[str, str] = {}
    for what in ("requests", "tokens"):
        left = [
            (max(0, limit - getattr(count, what)), limit, getattr(count, f"{what}_reset_s"))
            for holder, count in zip(account.holders, counts, strict=True)
            if (limit := getattr(holder.limits, f"{what}_per_minute")) is not None
        ]
        if left:
            remaining, limit, reset_s = min(left)
            headers[f"x-ratelimit-limit-{what}"] = str(limit)
            headers[f"x-ratelimit-remaining-{what}"] = str(remaining)
            headers[f"x-ratelimit-reset-{what}"] = duration(reset_s)
    return headers


def duration(seconds: float) -> str:
    """Write a time as OpenAI's headers do: ``120ms``, ``6s``, ``1m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _refuse_what_never_fits(holder: Holder, prompt_tokens: int, max_tokens: int) -> None:
    for name in ("tokens_per_minute", *_QUOTAS):
        limit = getattr(holder.limits, name)
        if limit is not None and prompt_tokens + max_tokens > limit:
            raise InvalidRequest(
                f"this request may take {prompt_tokens} tokens of prompt and {max_tokens} of "
                f"answers; the {_owner(holder)} has {_WORDS[name].format(limit=limit)} in all",
                param="max_tokens",
                code="request_exceeds_limit",
            )


def _refuse_too_many_answers(holder: Holder, answers: int) -> None:
    limit = holder.limits.concurrent_requests
    if limit is not None and answers > limit:
        raise InvalidRequest(
            f"this request makes {answers} answers at a time, each of which counts as a request; "
            f"the {_owner(holder)} has {_WORDS['concurrent_requests'].format(limit=limit)}",
            param="n",
            code="request_exceeds_limit",
        )


def _exceeded(account: Account, grant: Grant, tokens: int, answers: int) -> LimitExceeded:
    """Tell of the limit that takes longest to have room, so that the next try may succeed."""
    wait_s, limit, holder = max(
        (
            (wait_s, limit, holder)
            for holder, count in zip(account.holders, grant.counts, strict=True)
            for limit, wait_s in shortages(
                holder.limits, count, grant.period, tokens, answers
            ).items()
        ),
        key=lambda each: each[0],
    )
    headers = rate_limit_headers(account, grant.counts)
    headers["retry-after"] = str(max(1, math.ceil(wait_s)))
    if limit in _QUOTAS:  # OpenAI's clients would try again at once, and in vain
        headers["x-should-retry"] = "false"
    words = _WORDS[limit].format(limit=getattr(holder.limits, limit))
    return LimitExceeded(
        f"the {_owner(holder)} has {words}, and they are used up: try again in {duration(wait_s)}",
        limit=limit,
        retry_after_s=wait_s,
        headers=headers,
    )


def _owner(holder: Holder) -> str:
    return "tenant" if holder.name == "tenant" else "API key"
