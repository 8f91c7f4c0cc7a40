"""What requests read of the directory: tenants, keys and their limits, remembered for seconds."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError

from gateway.gateway_errors import IdentityUnavailable, PermissionDenied
from gateway.interfaces import Principal
from gateway.limits.limit import Limits
from gateway.tenants.cache import Cache
from gateway.tenants.directory import Directory, NotFound
from gateway.tenants.tenant import ApiKey, Tenant
from gateway.tenants.tenant_settings import TenantSettings


class Registry:
    """The directory, as requests ask it: without blocking, and mostly without a query."""

    def __init__(self, directory: Directory, settings: TenantSettings) -> None:
        """Remember nothing yet.

        Args:
            directory: The directory.
            settings: How long and how much to remember.
        """

        def tenant(name: str) -> Tenant | None:
            try:
                return directory.tenant(name)
            except NotFound:
                return None

        def key(identity: str) -> ApiKey | None:
            try:
                return directory.key(identity)
            except NotFound:
                return None

        ttl_s, stale_s, size = settings.cache_s, settings.stale_s, settings.cache_size
        self._tenants = Cache(
            tenant, ttl_s=ttl_s, stale_s=stale_s, size=size, failures=SQLAlchemyError
        )
        self._keys = Cache(key, ttl_s=ttl_s, stale_s=stale_s, size=size, failures=SQLAlchemyError)

    async def tenant(self, name: str) -> Tenant | None:
        """Return a tenant; None where there is none of that name.

        Raises:
            IdentityUnavailable: The database can't tell.
        """
        try:
            return await self._tenants.get(name)
        except SQLAlchemyError as error:
            raise _unavailable() from error

    async def key(self, identity: str) -> ApiKey | None:
        """Return a key by its public part; None where there is none.

        Raises:
            IdentityUnavailable: The database can't tell.
        """
        try:
            return await self._keys.get(identity)
        except SQLAlchemyError as error:
            raise _unavailable() from error

    async def limits(self, principal: Principal) -> tuple[Limits, Limits]:
        """Return the limits of a principal's tenant, and of its key.

        An application of an identity provider (``provider:application``) has the tenant's limits
        for keys.

        Raises:
            PermissionDenied: There is no such tenant.
            IdentityUnavailable: The database can't tell.
        """
        tenant = await self.tenant(principal.tenant)
        if tenant is None:  # no tenant is ever deleted, so it was never one
            raise PermissionDenied(f"there is no tenant {principal.tenant}")
        key = None if ":" in principal.key_id else await self.key(principal.key_id)
        return tenant.limits, tenant.key_limits if key is None or key.limits is None else key.limits


def _unavailable() -> IdentityUnavailable:
    return IdentityUnavailable("who asks can't be found out now; try again in a moment")
