"""Who sent a request: an API key of ours, or a token of an identity provider."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import jwt
from pydantic import TypeAdapter, ValidationError

from contract.codes import ErrorCode
from gateway.gateway_errors import (
    AuthenticationError,
    GatewayError,
    IdentityUnavailable,
    PermissionDenied,
)
from gateway.interfaces import Principal
from gateway.tenants import credentials
from gateway.tenants.credentials import Credential
from gateway.tenants.oidc import KeySet, ProviderUnavailable
from gateway.tenants.registry import Registry
from gateway.tenants.tenant import ApiKey, Name, Tenant
from gateway.tenants.tenant_settings import IdentityProviderSettings

_CHALLENGE = {"www-authenticate": 'Bearer realm="trireme"'}
_ENDED: dict[str, ErrorCode] = {"revoked": "revoked_api_key", "expired": "expired_api_key"}
_MAX_TOKEN_LENGTH = 16 << 10
_ODD = (TypeError, ValueError, ArithmeticError, RecursionError)
"""What a library raises on a stranger's token beside its own errors."""

_name: TypeAdapter[str] = TypeAdapter(Name)


class TenantAuthenticator:
    """Maps credentials to tenants and applications."""

    def __init__(
        self,
        registry: Registry,
        providers: Mapping[str, TokenVerifier],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take API keys, and tokens of some providers.

        Args:
            registry: Tenants and keys.
            providers: What checks the tokens of each issuer.
            clock: Seconds since the epoch.
        """
        self._registry = registry
        self._providers = providers
        self._clock = clock

    async def authenticate(self, authorization: str | None) -> Principal:
        """Return who is behind an ``Authorization`` header.

        Raises:
            AuthenticationError: There is no credential, or it is not good or no longer.
            PermissionDenied: It is good and its tenant is locked or not known.
            IdentityUnavailable: That can't be found out now.
        """
        text = credentials.bearer(authorization)
        if text is None:
            raise _refused("an API key is needed: send it as `Authorization: Bearer KEY`")
        credential = credentials.read(credentials.KEY, text)
        if credential is not None:
            return await self._of_key(credential)
        if text.count(".") == 2 and self._providers and len(text) <= _MAX_TOKEN_LENGTH:
            return await self._of_token(text)
        raise _refused("this is not an API key")

    async def _of_key(self, credential: Credential) -> Principal:
        key = await self._registry.key(credential.id)
        shown = ("", "", credential.id)
        try:
            if not credential.matches(key.digest if key else credentials.NOBODY) or key is None:
                raise _refused("this API key is not known")
            shown = (key.tenant, key.application, key.id)
            if reason := key.ended(self._clock()):
                raise _refused(f"this API key is {reason}", code=_ENDED[reason])
            return _principal(await self._tenant(key.tenant), key.application, key.id, key)
        except GatewayError as error:
            error.shown = shown
            raise

    async def _of_token(self, token: str) -> Principal:
        verifier = self._providers.get(_issuer(token))
        if verifier is None:
            raise _refused("the token's issuer is not known", code="invalid_token")
        tenant, application = await verifier.verify(token)
        key_id = f"{verifier.name}:{application}"
        try:
            return _principal(await self._tenant(tenant), application, key_id, None)
        except GatewayError as error:
            error.shown = ("", application, key_id)  # a tenant's name is the provider's word only
            raise

    async def _tenant(self, name: str) -> Tenant:
        tenant = await self._registry.tenant(name)
        if tenant is None:
            raise PermissionDenied(f"there is no tenant {name}", code="unknown_tenant")
        if tenant.locked:
            raise PermissionDenied(f"tenant {name} is locked", code="tenant_locked")
        return tenant


class TokenVerifier:
    """Checks the tokens of one identity provider."""

    def __init__(
        self,
        settings: IdentityProviderSettings,
        client: httpx.AsyncClient,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Fetch nothing yet.

        Args:
            settings: The provider.
            client: How to reach it.
            clock: Seconds, for the age of its keys.
        """
        self.name = settings.name
        self._settings = settings
        self._keys = KeySet(settings, client, clock)

    async def verify(self, token: str) -> tuple[str, str]:
        """Return the tenant and the application of a token.

        Raises:
            AuthenticationError: It is not good, or says no tenant.
            IdentityUnavailable: The provider's keys can't be had.
        """
        claims = await self._claims(token)
        value = claims.get(self._settings.tenant_claim)
        mapping = self._settings.tenants
        tenant = mapping.get(str(value)) if mapping is not None else value
        application = claims.get(self._settings.application_claim, "default")
        try:
            return _name.validate_python(tenant), _name.validate_python(application)
        except ValidationError:
            claim = self._settings.tenant_claim, self._settings.application_claim
            raise _refused(
                f"the token's claims {claim[0]} and {claim[1]} name no tenant and application",
                code="invalid_token",
            ) from None

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            # Whatever JSON has may stand where a text is expected.
            algorithm, key_id = header.get("alg"), header.get("kid")
            if not isinstance(algorithm, str) or algorithm not in self._settings.algorithms:
                raise jwt.InvalidAlgorithmError(f"its algorithm {algorithm} is not taken")
            if not isinstance(key_id, str | None):
                raise jwt.InvalidKeyError("its key has no name")
            key = await self._keys.find(key_id)
            if key is None:
                raise jwt.InvalidKeyError("its key is not among the issuer's")
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=sorted(self._settings.algorithms),
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=self._settings.clock_skew_s,
                options={"require": ["exp", "iat", "iss", "aud"]},
            )
            return claims
        except ProviderUnavailable as error:
            raise IdentityUnavailable("the identity provider doesn't answer") from error
        except jwt.ExpiredSignatureError:
            raise _refused("the token has expired", code="expired_token") from None
        except jwt.PyJWTError as error:
            raise _refused(f"the token is not good: {error}", code="invalid_token") from None
        except _ODD:
            # A key of another kind than the algorithm's, or a value that nobody thought of.
            raise _refused("the token is not good", code="invalid_token") from None


def _issuer(token: str) -> str:
    """Who a token says made it, unchecked: it only picks who checks it."""
    try:
        return str(jwt.decode(token, options={"verify_signature": False}).get("iss"))
    except (jwt.PyJWTError, *_ODD):
        raise _refused("this is neither an API key nor a token", code="invalid_token") from None


def _principal(tenant: Tenant, application: str, key_id: str, key: ApiKey | None) -> Principal:
    models = [each.models for each in (tenant, key) if each and each.models is not None]
    return Principal(
        tenant=tenant.name,
        application=application,
        key_id=key_id,
        tenant_class=tenant.tenant_class,
        models=frozenset.intersection(*models) if models else None,
        policy=tenant.policy,
        fallback_allowed=tenant.fallback_allowed,
        data_residency=tenant.data_residency,
    )


def _refused(message: str, code: ErrorCode | None = None) -> AuthenticationError:
    return AuthenticationError(message, code=code, headers=_CHALLENGE)
