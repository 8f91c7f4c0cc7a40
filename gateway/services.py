"""Tenants, limits, audit and usage as one gateway process has them, by its settings."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from sqlalchemy import Engine

from contract.settings_base import SettingsError
from gateway.admin.operations import Administration
from gateway.audit.audit_errors import AuditError
from gateway.audit.log import FileAuditLog
from gateway.configuration import ServiceSettings
from gateway.database import DatabaseError, open_database
from gateway.interfaces import AuditLog, Authenticator, Limiter
from gateway.limits.account import Spent, Store, nothing_spent
from gateway.limits.in_memory import MemoryStore
from gateway.limits.limit_settings import LimitSettings
from gateway.limits.limiter import TenantLimiter
from gateway.limits.redis import RedisStore, connect
from gateway.open_access import NoAudit, OpenAuthenticator, Unlimited
from gateway.tenants.authenticator import TenantAuthenticator, TokenVerifier
from gateway.tenants.directory import Directory
from gateway.tenants.registry import Registry
from gateway.usage.ledger import Ledger


@dataclass(frozen=True)
class Services:
    """What `create_app` asks for beside its configuration.

    Attributes:
        authenticator: Knows the keys.
        limiter: Knows the limits.
        audit: Writes requests down.
        administration: Changes tenants; None without a database.
        settings: What all of it was made of.
    """

    authenticator: Authenticator
    limiter: Limiter
    audit: AuditLog
    administration: Administration | None
    settings: ServiceSettings
    _engine: Engine | None = None
    _ledger: Ledger | None = None
    _client: httpx.AsyncClient | None = None

    @classmethod
    def open(cls, settings: ServiceSettings) -> Services:
        """Open the database and the audit log.

        Raises:
            SettingsError: One of them can't be opened; the message says which and why.
        """
        engine: Engine | None = None
        try:
            if settings.database is not None:
                engine = open_database(settings.database.get_secret_value())
            log = None if settings.audit is None else FileAuditLog.open(settings.audit)
        except (DatabaseError, AuditError) as error:
            raise SettingsError(str(error)) from error
        audit = NoAudit() if log is None else log
        if engine is None:
            return cls(OpenAuthenticator(), Unlimited(), audit, None, settings)
        ledger = None if log is None else Ledger(engine, log.directory, log.keys)
        registry = Registry(Directory(engine), settings.tenants)
        client = httpx.AsyncClient(verify=ssl.create_default_context())
        verifiers = {
            each.issuer: TokenVerifier(each, client) for each in settings.tenants.identity_providers
        }
        return cls(
            authenticator=TenantAuthenticator(registry, verifiers),
            limiter=TenantLimiter(
                _store(settings.limits, nothing_spent if ledger is None else ledger.spent),
                registry.limits,
                allow_when_unavailable=settings.limits.when_unavailable == "allow",
            ),
            audit=audit,
            administration=Administration(engine, log),
            settings=settings,
            _engine=engine,
            _ledger=ledger,
            _client=client,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sum usage up while requests come, and close everything at the end.

        What a former process left is summed up first: quotas begin with it.
        """
        tasks: list[asyncio.Task[None]] = []
        if isinstance(self.audit, FileAuditLog):
            tasks.append(asyncio.create_task(self.audit.watch()))
        if self._ledger is not None:
            await asyncio.to_thread(self._ledger.fold)
            run = self._ledger.run(self.settings.usage.interval_s)
            tasks.append(asyncio.create_task(run))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            await self._close()

    async def _close(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            if self._engine is not None:
                stack.callback(self._engine.dispose)
            if self._client is not None:
                stack.push_async_callback(self._client.aclose)
            if self._ledger is not None:
                stack.push_async_callback(asyncio.to_thread, self._ledger.fold)
            if isinstance(self.audit, FileAuditLog):
                stack.push_async_callback(self.audit.close)
            if isinstance(self.limiter, TenantLimiter):
                stack.push_async_callback(self.limiter.close)


def _store(settings: LimitSettings, spent: Spent) -> Store:
    if settings.redis is None:
        return MemoryStore(spent)
    return RedisStore(
        connect(settings.redis.get_secret_value(), settings.timeout_s),
        prefix=settings.prefix,
        lease_s=settings.lease_s,
        spent=spent,
    )
