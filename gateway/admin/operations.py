"""What an administrator can do. The command and the API do it through here, each change audited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import Engine

from gateway.tenants.credentials import Credential
from gateway.tenants.directory import Directory
from gateway.tenants.tenant import ApiKey, KeyPolicy, Tenant, TenantPolicy
from gateway.usage.prices import Price, PriceBook
from gateway.usage.usage_report import Query, UsageRow, report

T = TypeVar("T")


class ChangeLog(Protocol):
    """Writes down what administrators change."""

    async def check(self) -> None:
        """Raise `AuditUnavailable` where it could not be written down."""

    async def change(
        self, actor: str, action: str, subject: str, details: dict[str, Any] | None = None
    ) -> None:
        """Write down a change."""


class Administration:
    """The directory, prices and usage, for one administrator at a time."""

    def __init__(self, engine: Engine, changes: ChangeLog | None) -> None:
        """Administer what is in a database.

        Args:
            engine: The database.
            changes: Where changes are written down; None is nowhere.
        """
        self.directory = Directory(engine)
        self.prices = PriceBook(engine)
        self._engine = engine
        self._changes = changes

    async def create_tenant(self, actor: str, name: str, policy: TenantPolicy) -> Tenant:
        """Make a tenant. Raises what `Directory.create_tenant` does."""
        return await self._change(
            actor,
            "tenants.create",
            lambda: self.directory.create_tenant(name, policy),
            lambda tenant: (name, _json(policy)),
        )

    async def update_tenant(self, actor: str, name: str, policy: TenantPolicy) -> Tenant:
        """Give a tenant another policy. Raises what `Directory.update_tenant` does."""
        return await self._change(
            actor,
            "tenants.update",
            lambda: self.directory.update_tenant(name, policy),
            lambda tenant: (name, _json(policy)),
        )

    async def create_key(
        self, actor: str, tenant: str, policy: KeyPolicy
    ) -> tuple[ApiKey, Credential]:
        """Make a key. Raises what `Directory.create_key` does."""
        return await self._change(
            actor,
            "keys.create",
            lambda: self.directory.create_key(tenant, policy),
            lambda made: (made[0].id, {"tenant": tenant, **_json(policy)}),
        )

    async def rotate_key(
        self, actor: str, identity: str, overlap_s: float, expires_at: int | None
    ) -> tuple[ApiKey, Credential]:
        """Replace a key. Raises what `Directory.rotate_key` does."""
        return await self._change(
            actor,
            "keys.rotate",
            lambda: self.directory.rotate_key(identity, overlap_s, expires_at),
            lambda made: (identity, {"successor": made[0].id, "overlap_s": overlap_s}),
        )

    async def revoke_key(self, actor: str, identity: str) -> ApiKey:
        """End a key. Raises what `Directory.revoke_key` does."""
        return await self._change(
            actor,
            "keys.revoke",
            lambda: self.directory.revoke_key(identity),
            lambda key: (identity, {"tenant": key.tenant}),
        )

    async def create_admin(self, actor: str, name: str) -> Credential:
        """Make an administrator's token. Raises what `Directory.create_admin` does."""
        return await self._change(
            actor,
            "admins.create",
            lambda: self.directory.create_admin(name),
            lambda token: (name, {"token_id": token.id}),
        )

    async def revoke_admin(self, actor: str, name: str) -> None:
        """Take a token away. Raises what `Directory.revoke_admin` does."""
        await self._change(
            actor,
            "admins.revoke",
            lambda: self.directory.revoke_admin(name),
            lambda _: (name, {}),
        )

    async def set_price(self, actor: str, price: Price) -> None:
        """Set a price. Raises what `PriceBook.set` does."""
        await self._change(
            actor,
            "prices.set",
            lambda: self.prices.set(price),
            lambda _: (price.model, _json(price)),
        )

    async def report(self, query: Query) -> list[UsageRow]:
        """Return usage."""
        return await asyncio.to_thread(report, self._engine, query)

    async def note(self, actor: str, action: str, subject: str, details: dict[str, Any]) -> None:
        """Write down a change that was made elsewhere."""
        if self._changes is not None:
            await self._changes.change(actor, action, subject, details)

    async def _change(
        self,
        actor: str,
        action: str,
        do: Callable[[], T],
        told: Callable[[T], tuple[str, dict[str, Any]]],
    ) -> T:
        """Change something and write down what; nothing is changed where it couldn't be."""
        if self._changes is not None:
            await self._changes.check()
        done = await asyncio.to_thread(do)
        await self.note(actor, action, *told(done))
        return done


def _json(policy: TenantPolicy | KeyPolicy | Price) -> dict[str, Any]:
    return policy.model_dump(mode="json")
