"""The signing keys of an identity provider, found by OpenID Connect discovery and kept fresh.

Keys rotate: a token whose key is not known makes the set be fetched again, but no oftener than the
settings allow, so that made-up tokens can't have the gateway flood the provider. While the
provider doesn't answer, the keys that are known serve on for a while.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
from jwt import PyJWK, PyJWKSet
from jwt.exceptions import PyJWKSetError

from gateway.tenants.cache import Remembered
from gateway.tenants.tenant_settings import IdentityProviderSettings

_MAX_DOCUMENT_BYTES = 1 << 20


class ProviderUnavailable(Exception):  # noqa: N818 - says what happened
    """The identity provider's keys can't be had."""


class KeySet:
    """An identity provider's public keys."""

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
            clock: Seconds.
        """
        self._settings = settings
        self._client = client
        self._keys = Remembered(
            self._take,
            ttl_s=settings.keys_ttl_s,
            stale_s=settings.keys_stale_s,
            failures=ProviderUnavailable,
            retry_s=settings.refresh_interval_s,
            clock=clock,
        )

    async def find(self, key_id: str | None) -> PyJWK | None:
        """Return the key of a token; None where the provider has no such key.

        Args:
            key_id: The token's ``kid``; None finds the only key, where there is only one.

        Raises:
            ProviderUnavailable: No keys are known, or only too old ones, and none can be had.
        """
        found = _only(await self._keys.get(), key_id)
        if found is None:
            await self._keys.renew()
            found = _only(await self._keys.get(), key_id)
        return found

    async def _take(self) -> list[PyJWK]:
        try:
            return await asyncio.wait_for(self._fetch(), self._settings.timeout_s)
        except (httpx.HTTPError, asyncio.TimeoutError, ValueError, PyJWKSetError) as error:
            reason = error or type(error).__name__
            raise ProviderUnavailable(f"{self._settings.name}: {reason}") from error

    async def _fetch(self) -> list[PyJWK]:
        issuer = self._settings.issuer
        discovery = await self._document(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if discovery.get("issuer") != issuer:
            raise ValueError(f"{issuer} says that it is {discovery.get('issuer')}")
        address = discovery.get("jwks_uri")
        if not isinstance(address, str):
            raise ValueError(f"{issuer} doesn't say where its keys are")
        if issuer.startswith("https:") and not address.startswith("https:"):
            raise ValueError(f"{issuer} has its keys at {address}, which is not https")
        published = PyJWKSet.from_dict(await self._document(address))
        return [key for key in published.keys if key.public_key_use in (None, "sig")]

    async def _document(self, address: str) -> dict[str, Any]:
        content = bytearray()
        async with self._client.stream("GET", address) as response:
            response.raise_for_status()
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > _MAX_DOCUMENT_BYTES:
                    raise ValueError(f"{address} is longer than {_MAX_DOCUMENT_BYTES} bytes")
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ValueError(f"{address} is not a JSON object")
        return document


def _only(keys: list[PyJWK], key_id: str | None) -> PyJWK | None:
    found = [key for key in keys if key_id is None or key.key_id == key_id]
    return found[0] if len(found) == 1 else None
