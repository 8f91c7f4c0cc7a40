from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from gateway.database import open_database
from gateway.limits.limit import Limits
from gateway.tenants import credentials
from gateway.tenants.directory import Conflict, Directory, NotFound
from gateway.tenants.tenant import KeyPolicy, TenantPolicy


@pytest.fixture
def directory(database_url, clock):
    return Directory(open_database(database_url), clock)


def test_what_is_said_of_a_tenant_is_kept(directory):
    policy = TenantPolicy(
        tenant_class="interactive",
        models=frozenset({"small", "large"}),
        policy="strict",
        fallback_allowed=True,
        data_residency="eu",
        limits=Limits(tokens_per_month=10**12),
        key_limits=Limits(requests_per_minute=5),
    )
    made = directory.create_tenant("acme", policy)
    directory.create_tenant("all-defaults", TenantPolicy())
    assert directory.tenant("acme") == made
    assert directory.tenants() == [made, directory.tenant("all-defaults")]
    assert directory.tenant("all-defaults").models is None
    locked = directory.update_tenant("acme", TenantPolicy(locked=True))
    assert locked == directory.tenant("acme")
    assert (locked.locked, locked.models, locked.created_at) == (True, None, made.created_at)


def test_a_key_is_kept_without_itself(directory):
    directory.create_tenant("acme", TenantPolicy())
    key, credential = directory.create_key("acme", KeyPolicy(application="chat", expires_at=2**33))
    assert directory.key(key.id) == key
    assert credential.matches(key.digest)
    assert credential.text not in str(directory.keys())


def test_a_rotated_key_goes_on_for_the_overlap(directory, clock):
    directory.create_tenant("acme", TenantPolicy())
    policy = KeyPolicy(application="chat", models=frozenset({"m"}), limits=Limits())
    old, _ = directory.create_key("acme", policy)
    new, _ = directory.rotate_key(old.id, overlap_s=3600)
    assert (new.application, new.models, new.limits) == (old.application, old.models, old.limits)
    old = directory.key(old.id)
    assert old.successor == new.id
    assert old.ended(clock() + 3599) is None
    assert old.ended(clock() + 3600) == "expired"
    assert new.ended(clock() + 10**9) is None


def test_an_overlap_makes_no_key_live_longer(directory, clock):
    directory.create_tenant("acme", TenantPolicy())
    old, _ = directory.create_key("acme", KeyPolicy(expires_at=int(clock()) + 10))
    directory.rotate_key(old.id, overlap_s=3600)
    assert directory.key(old.id).expires_at == clock() + 10


def test_of_rotations_at_once_one_wins(directory):
    directory.create_tenant("acme", TenantPolicy())
    old, _ = directory.create_key("acme", KeyPolicy())
    outcomes = []
    barrier = threading.Barrier(6)

    def rotate():
        barrier.wait()
        try:
            outcomes.append(directory.rotate_key(old.id, overlap_s=60)[0].id)
        except Conflict as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=rotate) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = directory.key(old.id).successor
    assert sorted(outcomes) == sorted([won, *[f"key {old.id} was rotated before"] * 5])
    assert {key.id for key in directory.keys("acme")} == {old.id, won}


def test_a_revoked_key_stays_revoked(directory, clock):
    directory.create_tenant("acme", TenantPolicy())
    key, _ = directory.create_key("acme", KeyPolicy())
    assert directory.revoke_key(key.id).ended(clock()) == "revoked"
    revoked_at = directory.key(key.id).revoked_at
    clock.now += 100
    assert directory.revoke_key(key.id).revoked_at == revoked_at
    with pytest.raises(Conflict, match="revoked: create a new one"):
        directory.rotate_key(key.id, overlap_s=0)


def test_an_admin_is_known_by_the_token(directory):
    token = directory.create_admin("ada")
    assert directory.admin(token.text) == "ada"
    assert directory.admin(credentials.make(credentials.ADMIN).text) is None
    assert directory.admin(token.text[:-1] + "!") is None
    assert directory.admins() == ["ada"]
    directory.revoke_admin("ada")
    assert directory.admin(token.text) is None


def test_what_is_not_there_or_there_already_is_told(directory):
    directory.create_tenant("acme", TenantPolicy(models=frozenset({"small"})))
    directory.create_admin("ada")
    with pytest.raises(Conflict, match="tenant acme is there already"):
        directory.create_tenant("acme", TenantPolicy())
    with pytest.raises(Conflict, match="admin ada is there already"):
        directory.create_admin("ada")
    with pytest.raises(Conflict, match="may not ask model large"):
        directory.create_key("acme", KeyPolicy(models=frozenset({"large"})))
    calls: list[tuple[Callable[..., Any], Any]] = [
        (directory.tenant, ()),
        (directory.update_tenant, (TenantPolicy(),)),
        (directory.create_key, (KeyPolicy(),)),
        (directory.key, ()),
        (directory.rotate_key, (0,)),
        (directory.revoke_key, ()),
        (directory.revoke_admin, ()),
    ]
    for call, arguments in calls:
        with pytest.raises(NotFound, match=r"there is no (tenant|key|admin) x"):
            call("x", *arguments)
