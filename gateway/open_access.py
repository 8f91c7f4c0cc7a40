"""The gateway without tenants, for a laptop: everybody is the local tenant, nothing is counted.

`python -m gateway` runs like this where no keys are configured, and then listens on loopback only:
who can reach it is on this machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gateway.interfaces import AuditRecord, AuditState, CallRecord, Principal, Ticket

LOCAL = Principal(
    tenant="local",
    application="local",
    key_id="none",
    tenant_class="interactive",
    models=None,
    policy=None,
    fallback_allowed=True,
    data_residency=None,
)
"""Who asks where nobody is asked who they are."""


class OpenAuthenticator:
    """Takes everybody for the local tenant, whatever key their client sends."""

    async def authenticate(self, authorization: str | None) -> Principal:
        return LOCAL


class Unlimited:
    """Limits nothing."""

    async def reserve(
        self,
        principal: Principal,
        model: str,
        prompt_tokens: int,
        max_tokens: int,
        answers: int = 1,
    ) -> NoReservation:
        return NoReservation()


class NoReservation:
    """Nothing was put aside."""

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    async def settle(self, prompt_tokens: int, output_tokens: int) -> None:
        return None


class NoAudit:
    """Writes nothing down."""

    @property
    def state(self) -> AuditState:
        return "none"

    async def check(self) -> None:
        return None

    def begin(self, request_id: str, time: float, principal: Principal, model: str) -> Ticket:
        return Ticket(None, asyncio.sleep(0))

    async def append(self, record: AuditRecord, ticket: Ticket) -> None:
        return None

    def call(self, record: CallRecord) -> None:
        return None
