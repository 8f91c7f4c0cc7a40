"""The settings of tenants: where they are kept, and which identity providers are trusted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from contract.settings_base import Settings
from gateway.tenants.tenant import Name

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""Signatures with a public key only: a shared secret has no place in a published key set."""


class IdentityProviderSettings(Settings):
    """An OpenID Connect provider whose tokens are taken.

    Attributes:
        name: Names it in the audit.
        issuer: The ``iss`` of its tokens; its keys are found from there.
        audience: What its tokens must be for.
        algorithms: Signatures that are taken.
        tenant_claim: The claim that says the tenant.
        tenants: The tenant for each value of that claim; None takes the value as it is.
        application_claim: The claim that says the application; without it, it is ``default``.
        clock_skew_s: How far the provider's clock may be from this one.
        keys_ttl_s: How long its keys are used before they are asked for again.
        keys_stale_s: How long they are used where it doesn't answer.
        refresh_interval_s: Least time between two tries to get them, whatever tokens come.
        timeout_s: How long it may take to answer.
    """

    name: Name
    issuer: str = Field(
        pattern=r"^https://\S+$|^http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?(/\S*)?$"
    )
    audience: Annotated[str, Field(min_length=1)]
    algorithms: frozenset[Algorithm] = frozenset({"RS256", "PS256", "ES256", "EdDSA"})
    tenant_claim: str = Field(default="tenant", min_length=1)
    tenants: dict[str, Name] | None = None
    application_claim: str = Field(default="azp", min_length=1)
    clock_skew_s: float = Field(default=30, ge=0, le=300)
    keys_ttl_s: float = Field(default=300, gt=0, le=86_400)
    keys_stale_s: float = Field(default=3600, gt=0, le=604_800)
    refresh_interval_s: float = Field(default=10, gt=0, le=3600)
    timeout_s: float = Field(default=5, gt=0, le=60)


class TenantSettings(Settings):
    """Who may ask.

    Attributes:
        cache_s: How long a key and a tenant are used before the database is asked again: so soon
            a revoked key is refused everywhere.
        stale_s: How long they are used where the database doesn't answer.
        cache_size: Most keys, and most tenants, that are remembered.
        identity_providers: Whose tokens are taken beside API keys.
    """

    cache_s: float = Field(default=5, ge=0, le=3600)
    stale_s: float = Field(default=300, ge=0, le=86_400)
    cache_size: int = Field(default=10_000, ge=1, le=1_000_000)
    identity_providers: tuple[IdentityProviderSettings, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for what in ("name", "issuer"):
            values = [getattr(provider, what) for provider in self.identity_providers]
            if len(set(values)) < len(values):
                raise ValueError(f"identity_providers: two have one {what}")
        return self
