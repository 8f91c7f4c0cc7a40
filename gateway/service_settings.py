"""The settings of tenants, limits, audit and usage: part of the gateway's `Configuration`."""

from __future__ import annotations

from pydantic import SecretStr

from gateway.audit.settings import AuditSettings
from gateway.limits.settings import LimitSettings
from gateway.settings import Settings
from gateway.tenants.settings import TenantSettings
from gateway.usage.settings import UsageSettings


class ServiceSettings(Settings):
    """Who may ask, how much, and where it is written down.

    Attributes:
        database: URL of the database of tenants, prices and usage, ``sqlite:///path`` or
            ``postgresql://…``. None is open access: one local tenant, no keys, no limits.
        tenants: How tenants are found; only with a database.
        limits: Where their requests and tokens are counted.
        audit: The audit log; None writes nothing down, and then there is no usage either.
        usage: How usage is counted.
    """

    database: SecretStr | None = None
    tenants: TenantSettings = TenantSettings()
    limits: LimitSettings = LimitSettings()
    audit: AuditSettings | None = None
    usage: UsageSettings = UsageSettings()
