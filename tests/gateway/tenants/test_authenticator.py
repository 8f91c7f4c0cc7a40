from __future__ import annotations

import asyncio
import hmac
import json
import signal
import sqlite3
import time

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from gateway.database import open_database
from gateway.gateway_errors import AuthenticationError, IdentityUnavailable, PermissionDenied
from gateway.interfaces import Principal
from gateway.limits.limit import Limits
from gateway.tenants import credentials
from gateway.tenants.authenticator import TenantAuthenticator, TokenVerifier
from gateway.tenants.directory import Directory
from gateway.tenants.registry import Registry
from gateway.tenants.tenant import KeyPolicy, TenantPolicy
from gateway.tenants.tenant_settings import IdentityProviderSettings, TenantSettings
from tests.gateway.servers import postgres_server
from tests.gateway.tenants.identity_provider import IdentityProvider

pytestmark = pytest.mark.anyio


@pytest.fixture
def registry(directory):
    return Registry(directory, TenantSettings(cache_s=0))


@pytest.fixture
def authenticator(registry, clock):
    return TenantAuthenticator(registry, {}, clock)


@pytest.fixture
def idp():
    provider = IdentityProvider()
    yield provider
    provider.close()


@pytest.fixture
async def with_tokens(registry, idp, clock):
    """Builds an authenticator that takes the provider's tokens."""
    async with httpx.AsyncClient() as client:

        def build(**settings):
            checked = IdentityProviderSettings(
                name="corp", issuer=idp.issuer, audience="trireme", **settings
            )
            return TenantAuthenticator(
                registry, {idp.issuer: TokenVerifier(checked, client, clock)}
            )

        yield build


class TestKeys:
    async def test_a_key_leads_to_its_tenant_and_application(self, directory, authenticator):
        directory.create_tenant(
            "acme",
            TenantPolicy(
                tenant_class="interactive",
                models=frozenset({"small", "large"}),
                policy="strict",
                fallback_allowed=True,
                data_residency="eu",
            ),
        )
        key, credential = directory.create_key(
            "acme", KeyPolicy(application="chat", models=frozenset({"small"}))
        )
        assert await authenticator.authenticate(f"Bearer {credential.text}") == Principal(
            tenant="acme",
            application="chat",
            key_id=key.id,
            tenant_class="interactive",
            models=frozenset({"small"}),
            policy="strict",
            fallback_allowed=True,
            data_residency="eu",
        )

    async def test_a_key_follows_its_tenant_where_that_lost_a_model(self, directory, authenticator):
        directory.create_tenant("acme", TenantPolicy())
        _, credential = directory.create_key("acme", KeyPolicy(models=frozenset({"a", "b"})))
        directory.update_tenant("acme", TenantPolicy(models=frozenset({"b", "c"})))
        principal = await authenticator.authenticate(f"Bearer {credential.text}")
        assert principal.models == {"b"}

    async def test_what_is_no_key_is_refused(self, directory, authenticator):
        directory.create_tenant("acme", TenantPolicy())
        _, credential = directory.create_key("acme", KeyPolicy())
        other = credentials.make(credentials.KEY).text
        wrong_secret = credential.text[:-43] + other[-43:]
        admin = directory.create_admin("ada").text
        for header in (None, "", "Bearer x", "Basic x", "Bearer a.b.c", f"Bearer {admin}"):
            with pytest.raises(AuthenticationError) as raised:
                await authenticator.authenticate(header)
            assert raised.value.headers["www-authenticate"].startswith("Bearer")
        messages = set()
        for text in (other, wrong_secret):
            with pytest.raises(AuthenticationError) as raised:
                await authenticator.authenticate(f"Bearer {text}")
            messages.add(raised.value.message)
        assert len(messages) == 1  # nobody learns which ids there are

    async def test_digests_are_compared_in_constant_time(
        self, directory, authenticator, monkeypatch
    ):
        compared = []

        def compare(a, b):
            compared.append((len(a), len(b)))
            return hmac_compare(a, b)

        hmac_compare = hmac.compare_digest
        monkeypatch.setattr("hmac.compare_digest", compare)
        directory.create_tenant("acme", TenantPolicy())
        _, good = directory.create_key("acme", KeyPolicy())
        await authenticator.authenticate(f"Bearer {good.text}")
        for _ in range(2):
            unknown = credentials.make(credentials.KEY).text
            with pytest.raises(AuthenticationError):
                await authenticator.authenticate(f"Bearer {unknown}")
        assert compared == [(64, 64)] * 3  # also where there is nothing to compare with

    async def test_a_key_ends(self, directory, authenticator, clock):
        directory.create_tenant("acme", TenantPolicy())
        _, short = directory.create_key("acme", KeyPolicy(expires_at=int(clock()) + 10))
        revoked, gone = directory.create_key("acme", KeyPolicy())
        await authenticator.authenticate(f"Bearer {short.text}")
        clock.now += 10
        directory.revoke_key(revoked.id)
        for credential, code in ((short, "expired_api_key"), (gone, "revoked_api_key")):
            with pytest.raises(AuthenticationError) as raised:
                await authenticator.authenticate(f"Bearer {credential.text}")
            assert raised.value.code == code

    async def test_rotation_has_no_gap(self, directory, authenticator, clock):
        directory.create_tenant("acme", TenantPolicy())
        key, old = directory.create_key("acme", KeyPolicy())
        _, new = directory.rotate_key(key.id, overlap_s=60)
        for credential in (old, new):
            await authenticator.authenticate(f"Bearer {credential.text}")
        clock.now += 60
        await authenticator.authenticate(f"Bearer {new.text}")
        with pytest.raises(AuthenticationError):
            await authenticator.authenticate(f"Bearer {old.text}")

    async def test_a_locked_tenant_is_shut_out(self, directory, authenticator):
        directory.create_tenant("acme", TenantPolicy(locked=True))
        _, credential = directory.create_key("acme", KeyPolicy())
        with pytest.raises(PermissionDenied, match="tenant acme is locked"):
            await authenticator.authenticate(f"Bearer {credential.text}")

    async def test_without_the_database_those_known_go_on(self, tmp_path, directory, clock):
        authenticator = TenantAuthenticator(
            Registry(directory, TenantSettings(cache_s=0, stale_s=60)), {}, clock
        )
        directory.create_tenant("acme", TenantPolicy())
        _, known = directory.create_key("acme", KeyPolicy())
        _, unknown = directory.create_key("acme", KeyPolicy())
        await authenticator.authenticate(f"Bearer {known.text}")
        with sqlite3.connect(tmp_path / "gateway.db") as connection:
            connection.execute("ALTER TABLE api_keys RENAME TO lost")
        await authenticator.authenticate(f"Bearer {known.text}")
        with pytest.raises(IdentityUnavailable) as raised:
            await authenticator.authenticate(f"Bearer {unknown.text}")
        assert "api_keys" not in raised.value.message


async def test_a_database_server_that_goes_down_is_bridged_and_found_again(clock):
    with postgres_server() as server:
        engine = open_database(f"postgresql://test@127.0.0.1:{server.port}/postgres")
        directory = Directory(engine, clock)
        directory.create_tenant("acme", TenantPolicy())
        known = directory.create_key("acme", KeyPolicy())[1].text
        unknown = directory.create_key("acme", KeyPolicy())[1].text
        authenticator = TenantAuthenticator(
            Registry(directory, TenantSettings(cache_s=0, stale_s=60)), {}, clock
        )
        await authenticator.authenticate(f"Bearer {known}")
        server.stop(signal.SIGQUIT)  # at once, as in a crash
        await authenticator.authenticate(f"Bearer {known}")
        with pytest.raises(IdentityUnavailable):
            await authenticator.authenticate(f"Bearer {unknown}")
        server.start()
        for key in (known, unknown):
            await authenticator.authenticate(f"Bearer {key}")
        engine.dispose()


class TestLimits:
    async def test_a_key_has_its_own_or_its_tenants(self, directory, registry, authenticator):
        mine, every = Limits(requests_per_minute=1), Limits(requests_per_minute=2)
        shared = Limits(requests_per_minute=9)
        directory.create_tenant("acme", TenantPolicy(limits=shared, key_limits=every))
        for limits, expected in ((mine, mine), (None, every), (Limits(), Limits())):
            _, credential = directory.create_key("acme", KeyPolicy(limits=limits))
            principal = await authenticator.authenticate(f"Bearer {credential.text}")
            assert await registry.limits(principal) == (shared, expected)


class TestTokens:
    @pytest.fixture(autouse=True)
    def tenant(self, directory):
        directory.create_tenant("acme", TenantPolicy(key_limits=Limits(concurrent_requests=3)))

    async def test_a_token_leads_to_its_tenant_and_application(self, with_tokens, idp, registry):
        principal = await with_tokens().authenticate(f"Bearer {idp.token()}")
        assert (principal.tenant, principal.application) == ("acme", "assistant")
        assert principal.key_id == "corp:assistant"
        assert (await registry.limits(principal))[1] == Limits(concurrent_requests=3)

    async def test_claims_are_mapped(self, with_tokens, idp):
        authenticator = with_tokens(
            tenant_claim="org", tenants={"org-17": "acme"}, application_claim="client_id"
        )
        token = idp.token(org="org-17", client_id="batch-job")
        principal = await authenticator.authenticate(f"Bearer {token}")
        assert (principal.tenant, principal.application) == ("acme", "batch-job")
        with pytest.raises(AuthenticationError, match="claims org and client_id name no tenant"):
            await authenticator.authenticate(f"Bearer {idp.token(org='acme')}")

    async def test_what_a_token_lacks_or_pretends_is_refused(self, with_tokens, idp):
        idp.add_key("unpublished")
        idp.published.remove("unpublished")
        now = int(time.time())
        authenticator = with_tokens()
        good = idp.token()
        head, payload, signature = good.split(".")
        unsigned = jwt.encode({**jwt.decode(good, options={"verify_signature": False})}, "", "none")
        public = idp.keys["first"].public_key()
        pem = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        confused = jwt.utils.base64url_encode(b'{"alg":"HS256","kid":"first"}').decode()
        mac = hmac.digest(pem, f"{confused}.{payload}".encode(), "sha256")
        for token in (
            idp.token(exp=now - 31),
            idp.token(nbf=now + 90),
            idp.token(iat=now + 90),
            idp.token(exp=None),
            idp.token(iat=None),
            idp.token(aud="another"),
            idp.token(aud=None),
            idp.token(iss="http://127.0.0.1:1/other"),
            idp.token(tenant=None),
            idp.token(tenant=["acme"]),
            idp.token(tenant="a/../b"),
            idp.token(azp={"x": 1}),
            idp.token("unpublished"),
            idp.token(header={"kid": "nothing"}),
            unsigned,
            f"{confused}.{payload}.{jwt.utils.base64url_encode(mac).decode()}",
            f"{head}.{payload}.{signature[::-1]}",
            f"{head}.{payload}.",
            "..",
            "a.b.c",
            f"{head}.{'A' * 20_000}.{signature}",
        ):
            with pytest.raises(AuthenticationError):
                await authenticator.authenticate(f"Bearer {token}")
        await authenticator.authenticate(f"Bearer {good}")

    @pytest.mark.parametrize(
        "header",
        [
            {"alg": ["RS256"], "kid": "first"},
            {"alg": {"RS256": 1}, "kid": "first"},
            {"alg": None, "kid": "first"},
            {"kid": "first"},
            {"alg": "RS256", "kid": ["first"]},
            {"alg": "RS256", "kid": 1},
            {"alg": "RS256", "kid": "first", "crit": 1},
            ["RS256"],
        ],
        ids=str,
    )
    async def test_a_head_of_a_token_may_be_whatever_json_has(self, with_tokens, idp, header):
        _, payload, signature = idp.token().split(".")
        head = jwt.utils.base64url_encode(json.dumps(header).encode()).decode()
        with pytest.raises(AuthenticationError, match="token"):
            await with_tokens().authenticate(f"Bearer {head}.{payload}.{signature}")

    async def test_a_good_token_of_a_tenant_unknown_here_is_denied(self, with_tokens, idp):
        with pytest.raises(PermissionDenied, match="no tenant globex"):
            await with_tokens().authenticate(f"Bearer {idp.token(tenant='globex')}")

    async def test_clocks_may_differ_a_little(self, with_tokens, idp):
        now = int(time.time())
        for claims in ({"exp": now - 20}, {"nbf": now + 20}, {"iat": now + 20}):
            await with_tokens().authenticate(f"Bearer {idp.token(**claims)}")
        with pytest.raises(AuthenticationError):
            await with_tokens(clock_skew_s=0).authenticate(f"Bearer {idp.token(exp=now - 1)}")

    async def test_keys_rotate_and_made_up_ones_bring_no_flood(self, with_tokens, idp, clock):
        authenticator = with_tokens()
        await authenticator.authenticate(f"Bearer {idp.token()}")
        idp.add_key("second", "EC")
        clock.now += 10
        await authenticator.authenticate(f"Bearer {idp.token('second')}")
        assert len(idp.requests) == 4  # twice discovery and keys
        for number in range(20):
            token = idp.token(header={"kid": f"made-up-{number}"})
            with pytest.raises(AuthenticationError):
                await authenticator.authenticate(f"Bearer {token}")
        assert len(idp.requests) == 4
        idp.published.remove("first")
        clock.now += 300
        with pytest.raises(AuthenticationError, match="not among the issuer's"):
            await authenticator.authenticate(f"Bearer {idp.token('first')}")

    async def test_a_provider_that_is_down_is_bridged_for_a_while(self, with_tokens, idp, clock):
        authenticator = with_tokens(keys_ttl_s=300, keys_stale_s=3600)
        await authenticator.authenticate(f"Bearer {idp.token()}")
        idp.broken = True
        clock.now += 3899
        await authenticator.authenticate(f"Bearer {idp.token()}")
        clock.now += 1
        with pytest.raises(IdentityUnavailable):
            await authenticator.authenticate(f"Bearer {idp.token()}")
        idp.broken = False
        clock.now += 10
        await authenticator.authenticate(f"Bearer {idp.token()}")

    async def test_a_provider_that_hangs_holds_back_nobody(
        self, with_tokens, idp, clock, monkeypatch
    ):
        monkeypatch.setattr("gateway.tenants.cache._PATIENCE_S", 0.05)
        authenticator = with_tokens(timeout_s=60)
        await authenticator.authenticate(f"Bearer {idp.token()}")
        idp.go.clear()
        clock.now += 300
        await authenticator.authenticate(f"Bearer {idp.token()}")
        while len(idp.requests) < 3:  # the one that hangs is on its way
            await asyncio.sleep(0.01)
        await authenticator.authenticate(f"Bearer {idp.token()}")
        assert len(idp.requests) == 3

    @pytest.mark.parametrize(
        "discovery",
        [{"issuer": "http://127.0.0.1:1/other"}, {"jwks_uri": None}, {"jwks_uri": "nowhere:"}],
    )
    async def test_a_provider_that_says_nonsense_is_not_believed(self, with_tokens, idp, discovery):
        idp.discovery = discovery
        with pytest.raises(IdentityUnavailable):
            await with_tokens().authenticate(f"Bearer {idp.token()}")


def test_a_provider_is_trusted_over_tls_or_loopback_only():
    IdentityProviderSettings(name="a", issuer="https://example.com/realm", audience="x")
    for issuer in ("http://example.com", "http://127.0.0.1.example.com", "ftp://localhost"):
        with pytest.raises(ValueError, match="issuer"):
            IdentityProviderSettings(name="a", issuer=issuer, audience="x")
