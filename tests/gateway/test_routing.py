"""From a model's name to those who may answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from gateway.configuration import (
    FallbackSettings,
    HealthSettings,
    ModelSettings,
    ProviderSettings,
    RuleSettings,
    TritonSettings,
    VersionSettings,
)
from gateway.gateway_errors import ModelNotFound, PermissionDenied
from gateway.open_access import LOCAL
from gateway.routing import Router
from gateway.upstreams.fleet import Replica
from tests.gateway.fakes import FakeUpstream, configuration

UPSTREAMS = (
    TritonSettings(name="a", address="h:1", region="eu"),
    TritonSettings(name="b", address="h:2", region="us"),
    ProviderSettings(kind="openai", name="cloud", url="http://h/v1", region="us"),
)


def router(*versions: VersionSettings, **more: Any) -> Router:
    settings = configuration(UPSTREAMS, {"demo": ModelSettings(versions=versions, **more)})
    replicas = {
        each.name: Replica(each, FakeUpstream(), HealthSettings(), probe_model=None)
        for each in settings.upstreams
    }
    return Router(settings, replicas)


V1 = VersionSettings(name="v1", upstreams=("a", "b"), weight=90)
V2 = VersionSettings(name="v2", upstreams=("a",), weight=10, tenants=frozenset({"pilot"}))
CLOUD = VersionSettings(name="cloud", upstreams=("cloud",), model="big", weight=0)


def names(found: Router, principal=LOCAL, count: int = 1, size: int = 100, asked: str = "demo"):
    model = found.resolve(asked, principal)
    return Counter(
        found.target(model, principal, f"request-{index}", size).version for index in range(count)
    )


def test_the_split_follows_the_weights_and_a_request_s_id_decides():
    found = router(V1, V2)
    shares = names(found, count=5000)
    assert shares["v2"] == pytest.approx(500, abs=100)
    assert names(found, count=200) == names(found, count=200)


def test_a_tenant_keeps_its_version():
    assert names(router(V1, V2), replace(LOCAL, tenant="pilot"), 100) == {"v2": 100}


def test_aliases_and_permissions():
    found = router(V1, aliases=frozenset({"gpt-4o-mini"}))
    assert found.resolve("gpt-4o-mini", LOCAL).name == "demo"
    assert [model.asked for model in found.models(LOCAL)] == ["demo", "gpt-4o-mini"]
    alias_only = replace(LOCAL, models=frozenset({"gpt-4o-mini"}))
    assert [model.asked for model in found.models(alias_only)] == ["gpt-4o-mini"]
    for principal, asked in ((LOCAL, "other"), (alias_only, "demo")):
        with pytest.raises(ModelNotFound, match="does not exist or you do not have access"):
            found.resolve(asked, principal)


@pytest.mark.parametrize(
    ("rule", "matching", "passing"),
    [
        ({"min_prompt_bytes": 1000}, {"size": 1000}, {"size": 999}),
        ({"max_prompt_bytes": 10}, {"size": 10}, {"size": 11}),
        ({"aliases": frozenset({"big"})}, {"asked": "big"}, {"asked": "demo"}),
        (
            {"tenants": frozenset({"t"})},
            {"principal": replace(LOCAL, tenant="t")},
            {"principal": LOCAL},
        ),
    ],
)
def test_rules(rule, matching, passing):
    rules = (RuleSettings(version="cloud", **rule),)
    found = router(V1, CLOUD, rules=rules, aliases=frozenset({"big"}))
    assert names(found, **matching) == {"cloud": 1}
    assert names(found, **passing) == {"v1": 1}


def test_data_stays_in_its_region():
    found = router(V1, CLOUD, rules=(RuleSettings(version="cloud"),))
    european = replace(LOCAL, data_residency="eu")
    target = found.target(found.resolve("demo", european), european, "id", 1)
    assert (target.version, [each.name for each in target.replicas]) == ("v1", ["a"])
    with pytest.raises(PermissionDenied) as refused:
        names(found, replace(LOCAL, data_residency="mars"))
    assert refused.value.code == "data_residency"


def test_who_forbids_other_providers_gets_none():
    found = router(V1, CLOUD, rules=(RuleSettings(version="cloud"),))
    assert names(found, replace(LOCAL, fallback_allowed=False)) == {"v1": 1}


def test_the_fallback_and_who_may_have_it():
    found = router(V1, fallback=FallbackSettings(upstream="cloud", model="big"))
    model = found.resolve("demo", LOCAL)
    fallback = found.fallback(model, LOCAL)
    assert fallback is not None
    assert (fallback[0].version, fallback[0].model) == ("cloud/big", "big")
    for principal in (
        replace(LOCAL, fallback_allowed=False),
        replace(LOCAL, data_residency="eu"),
    ):
        assert found.fallback(model, principal) is None


def test_the_same_choice_is_the_same_object():
    """The queue compares replicas by it."""
    found = router(V1)
    model = found.resolve("demo", LOCAL)
    assert found.target(model, LOCAL, "x", 1) is found.target(model, LOCAL, "y", 1)
