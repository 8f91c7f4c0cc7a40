"""What a tenant and an API key are, and what may be said of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from contract.settings_base import Settings
from gateway.interfaces import TenantClass
from gateway.limits.limit import Limits

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
"""Names a tenant, an application or an admin."""

Models = frozenset[Annotated[str, Field(min_length=1, max_length=256)]]


class TenantPolicy(Settings):
    """What a tenant may do.

    Attributes:
        tenant_class: The highest priority class of its requests.
        models: The models that it may ask; None is all of them.
        policy: The safety policy that its requests get; None is the server's own.
        fallback_allowed: Whether another provider may answer.
        data_residency: Where its data may be processed; None is anywhere.
        limits: Limits of all its keys together.
        key_limits: Limits of each key that has none of its own, and of each application that comes
            with an identity provider's token.
        locked: Whether it is shut out.
    """

    tenant_class: TenantClass = "standard"
    models: Models | None = None
    policy: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    fallback_allowed: bool = False
    data_residency: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    limits: Limits = Limits()
    key_limits: Limits = Limits()
    locked: bool = False


class Tenant(TenantPolicy):
    """A tenant as it is kept.

    Attributes:
        name: Its name.
        created_at: When it was made, seconds since the epoch.
    """

    name: Name
    created_at: int

    def may_ask(self, model: str) -> bool:
        """Whether that model is among the tenant's."""
        return self.models is None or model in self.models


class KeyPolicy(Settings):
    """What a new key may do.

    Attributes:
        application: The application that it is for.
        models: The models that it may ask, of those that its tenant may; None is all of these.
        limits: Its limits; None is the tenant's `key_limits`.
        expires_at: When it ends, seconds since the epoch; None is never.
    """

    application: Name = "default"
    models: Models | None = None
    limits: Limits | None = None
    expires_at: Annotated[int, Field(gt=0)] | None = None


class ApiKey(KeyPolicy):
    """A key as it is kept: all but the key itself.

    Attributes:
        id: Its public part.
        tenant: Whose it is.
        digest: SHA-256 of the whole key.
        created_at: When it was made, seconds since the epoch.
        revoked_at: When it was revoked; None where it wasn't.
        successor: The key that it was rotated to; None where it wasn't.
    """

    id: str
    tenant: Name
    digest: str = Field(repr=False)
    created_at: int
    revoked_at: int | None = None
    successor: str | None = None

    def ended(self, now: float) -> Literal["revoked", "expired"] | None:
        """Why the key is good no more; None where it is."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return None
