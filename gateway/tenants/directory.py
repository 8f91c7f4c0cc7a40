"""The directory of tenants, API keys and admins: all that the admin command and API change."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Engine, Row, Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.database import admins, api_keys, tenants
from gateway.tenants import credentials
from gateway.tenants.credentials import Credential
from gateway.tenants.tenant import ApiKey, KeyPolicy, Tenant, TenantPolicy


class DirectoryError(Exception):
    """What was asked for can't be done; the message says why."""


class NotFound(DirectoryError):  # noqa: N818 - says what happened
    """There is no such tenant, key or admin."""


class Conflict(DirectoryError):  # noqa: N818 - says what happened
    """It is there already, or has ended."""


class Directory:
    """Tenants and keys in the database. Its methods block: an event loop calls them in a thread."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        """Use a database that is open and migrated.

        Args:
            engine: The database.
            clock: Seconds since the epoch.
        """
        self._engine = engine
        self._clock = clock

    def create_tenant(self, name: str, policy: TenantPolicy) -> Tenant:
        """Make a tenant.

        Raises:
            Conflict: It is there already.
        """
        tenant = Tenant(name=name, created_at=self._now(), **dict(policy))
        self._insert(tenants, tenant, f"tenant {name} is there already")
        return tenant

    def update_tenant(self, name: str, policy: TenantPolicy) -> Tenant:
        """Give a tenant another policy.

        Raises:
            NotFound: There is no such tenant.
        """
        with self._engine.begin() as connection:
            done = connection.execute(
                update(tenants).where(tenants.c.name == name).values(policy.model_dump(mode="json"))
            )
        if not done.rowcount:
            raise NotFound(f"there is no tenant {name}")
        return self.tenant(name)

    def tenant(self, name: str) -> Tenant:
        """Return a tenant.

        Raises:
            NotFound: There is no such tenant.
        """
        found = self._find(tenants, tenants.c.name == name)
        if found is None:
            raise NotFound(f"there is no tenant {name}")
        return Tenant.model_validate(found._asdict())

    def tenants(self) -> list[Tenant]:
        """Return all tenants by name."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(tenants).order_by(tenants.c.name)).all()
        return [Tenant.model_validate(row._asdict()) for row in rows]

    def create_key(self, tenant: str, policy: KeyPolicy) -> tuple[ApiKey, Credential]:
        """Make a key. The credential is kept nowhere: this is the only time it is seen.

        Raises:
            NotFound: There is no such tenant.
            Conflict: It names a model that the tenant may not ask.
        """
        owner = self.tenant(tenant)
        for model in sorted(policy.models or ()):
            if not owner.may_ask(model):
                raise Conflict(f"tenant {tenant} may not ask model {model}")
        key, credential = self._make_key(tenant, policy)
        self._insert(api_keys, key, f"key {key.id} is there already")
        return key, credential

    def key(self, identity: str) -> ApiKey:
        """Return a key by its public part.

        Raises:
            NotFound: There is no such key.
        """
        found = self._find(api_keys, api_keys.c.id == identity)
        if found is None:
            raise NotFound(f"there is no key {identity}")
        return ApiKey.model_validate(found._asdict())

    def keys(self, tenant: str | None = None) -> list[ApiKey]:
        """Return a tenant's keys, or everybody's, the oldest first."""
        query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        with self._engine.connect() as connection:
            return [ApiKey.model_validate(row._asdict()) for row in connection.execute(query)]

    def rotate_key(
        self, identity: str, overlap_s: float, expires_at: int | None = None
    ) -> tuple[ApiKey, Credential]:
        """Make a key that may do what another may, which goes on for a while beside it.

        Args:
            identity: The key to replace.
            overlap_s: How long it goes on.
            expires_at: When the new key ends; None is never.

        Raises:
            NotFound: There is no such key.
            Conflict: It has ended, or was rotated before.
        """
        old = self.key(identity)
        now = self._now()
        if reason := old.ended(now):
            raise Conflict(f"key {identity} is {reason}: create a new one")
        policy = KeyPolicy(
            application=old.application,
            models=old.models,
            limits=old.limits,
            expires_at=expires_at,
        )
        end = now + int(overlap_s)
        with self._engine.begin() as connection:
            key, credential = self._make_key(old.tenant, policy)
            connection.execute(insert(api_keys).values(key.model_dump(mode="json")))
            # Of two that rotate one key at a time, one wins and the other's new key is undone.
            done = connection.execute(
                update(api_keys)
                .where(api_keys.c.id == identity, api_keys.c.successor.is_(None))
                .values(
                    successor=key.id,
                    expires_at=end if old.expires_at is None else min(end, old.expires_at),
                )
            )
            if not done.rowcount:
                raise Conflict(f"key {identity} was rotated before")
        return key, credential

    def revoke_key(self, identity: str) -> ApiKey:
        """End a key. To end one that has ended already changes nothing.

        Raises:
            NotFound: There is no such key.
        """
        with self._engine.begin() as connection:
            connection.execute(
                update(api_keys)
                .where(api_keys.c.id == identity, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=self._now())
            )
        return self.key(identity)

    def create_admin(self, name: str) -> Credential:
        """Make an admin's token, which is seen this once.

        Raises:
            Conflict: There is an admin of that name.
        """
        token = credentials.make(credentials.ADMIN)
        row = {
            "name": name,
            "token_id": token.id,
            "digest": token.digest,
            "created_at": self._now(),
        }
        self._insert(admins, row, f"admin {name} is there already")
        return token

    def revoke_admin(self, name: str) -> None:
        """Take an admin's token away.

        Raises:
            NotFound: There is no such admin.
        """
        with self._engine.begin() as connection:
            if not connection.execute(delete(admins).where(admins.c.name == name)).rowcount:
                raise NotFound(f"there is no admin {name}")

    def admins(self) -> list[str]:
        """Return the names of all admins."""
        with self._engine.connect() as connection:
            return list(connection.scalars(select(admins.c.name).order_by(admins.c.name)))

    def admin(self, token: str) -> str | None:
        """Return the name of the admin whose token this is; None where it is nobody's."""
        credential = credentials.read(credentials.ADMIN, token)
        if credential is None:
            return None
        found = self._find(admins, admins.c.token_id == credential.id)
        matches = credential.matches(found.digest if found else credentials.NOBODY)
        return str(found.name) if found and matches else None

    def _make_key(self, tenant: str, policy: KeyPolicy) -> tuple[ApiKey, Credential]:
        credential = credentials.make(credentials.KEY)
        key = ApiKey(
            id=credential.id,
            tenant=tenant,
            digest=credential.digest,
            created_at=self._now(),
            **dict(policy),
        )
        return key, credential

    def _insert(self, table: Table, row: BaseModel | dict[str, Any], conflict: str) -> None:
        values = row.model_dump(mode="json") if isinstance(row, BaseModel) else row
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(table).values(values))
        except IntegrityError:
            raise Conflict(conflict) from None

    def _find(self, table: Table, condition: Any) -> Row[Any] | None:
        with self._engine.connect() as connection:
            return connection.execute(select(table).where(condition)).one_or_none()

    def _now(self) -> int:
        return int(self._clock())
