"""Whatever stands in a token, who sent it is refused: it never fails the gateway."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt import PyJWK
from jwt.algorithms import RSAAlgorithm
from jwt.utils import base64url_encode

from gateway.gateway_errors import AuthenticationError, PermissionDenied
from gateway.tenants.authenticator import TenantAuthenticator, TokenVerifier
from gateway.tenants.tenant_settings import IdentityProviderSettings
from tests.examples import examples
from tests.gateway.fakes import CHAT, serving

ISSUER = "http://127.0.0.1:1/realm"
PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = PyJWK.from_dict(
    {**RSAAlgorithm.to_jwk(PRIVATE.public_key(), as_dict=True), "kid": "first", "use": "sig"}
)
SIGNER = RSAAlgorithm(RSAAlgorithm.SHA256)


class Keys:
    async def find(self, key_id: str | None) -> PyJWK | None:
        return PUBLIC if key_id in (None, "first") else None


class Nobody:
    """A registry without tenants and keys."""

    async def tenant(self, name: str) -> None:
        return None

    async def key(self, key_id: str) -> None:
        return None


def authenticator() -> TenantAuthenticator:
    provider = IdentityProviderSettings(
        name="corp", issuer=ISSUER, audience="trireme", application_claim="azp"
    )
    verifier: Any = TokenVerifier(provider, None)  # type: ignore[arg-type]
    verifier._keys = Keys()
    return TenantAuthenticator(Nobody(), {ISSUER: verifier})  # type: ignore[arg-type]


AUTHENTICATOR = authenticator()
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NO_JSON = st.binary() | st.just(b"[" * 3000) | st.just(b"1" * 5000)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "alg": ANY | st.sampled_from(["RS256", "ES256", "EdDSA", "none", "HS256"]),
        "kid": ANY | st.just("first"),
        "b64": ANY,
        "crit": ANY,
        "typ": ANY,
    },
)


def near(value: Any) -> st.SearchStrategy[Any]:
    return st.just(value) | ANY


CLAIMS = st.fixed_dictionaries(
    {
        "iss": near(ISSUER),
        "aud": near("trireme"),
        "iat": near(int(time.time())),
        "exp": near(int(time.time()) + 3600),
    },
    optional={"nbf": ANY, "sub": ANY, "jti": ANY, "tenant": near("acme"), "azp": near("app")},
)


def as_json(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return strategy.map(lambda value: json.dumps(value).encode())


def segment(raw: bytes) -> str:
    return base64url_encode(raw).decode()


def refused(token: str) -> None:
    with pytest.raises((AuthenticationError, PermissionDenied)):
        asyncio.run(AUTHENTICATOR.authenticate(f"Bearer {token}"))


@settings(max_examples=examples(200), deadline=None)
@given(as_json(HEADERS | ANY) | NO_JSON, as_json(CLAIMS | ANY) | NO_JSON, st.binary(max_size=8))
def test_a_token_that_nobody_signed(header, payload, signature):
    refused(f"{segment(header)}.{segment(payload)}.{segment(signature)}")


@settings(max_examples=examples(200), deadline=None)
@given(HEADERS, CLAIMS | ANY, st.booleans())
def test_a_token_that_is_signed(header, claims, taken):
    if taken:
        header = {**header, "alg": "RS256", "kid": "first"}
        header.pop("b64", None)
    signed = ".".join(segment(json.dumps(part).encode()) for part in (header, claims))
    refused(f"{signed}.{segment(SIGNER.sign(signed.encode(), PRIVATE))}")


@settings(max_examples=examples(100), deadline=None)
@given(st.text())
def test_a_text_that_is_no_token(text):
    refused(text)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "ES256", "kid": "first"},  # of another kind than the key
        {"alg": ["RS256"]},
        {"alg": 5},
        {"alg": None},
        {},
        [],
        None,
        "RS256",
    ],
    ids=str,
)
def test_over_http_it_is_a_401(header):
    claims = {"iss": ISSUER, "aud": "trireme", "iat": 1, "exp": int(time.time()) + 3600}
    token = f"{segment(json.dumps(header).encode())}.{segment(json.dumps(claims).encode())}.AAAA"
    with serving(authenticator=AUTHENTICATOR) as gateway:
        headers = {"authorization": f"Bearer {token}"}
        answer = gateway.post("/v1/chat/completions", CHAT, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_token"
