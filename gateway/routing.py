"""From the name of a model to those who may answer: aliases, versions, rules, data residency.

Everything here is a pure function of the configuration and the request, so that a canary's share
can be tested without a server. Who of several replicas gets the request is `gateway.balance`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.configuration import (
    Configuration,
    FallbackSettings,
    ModelSettings,
    ProviderSettings,
    VersionSettings,
)
from gateway.gateway_errors import ModelNotFound, PermissionDenied
from gateway.interfaces import Principal
from gateway.upstreams.fleet import Replica


@dataclass(frozen=True)
class Model:
    """A model as it was asked for.

    Attributes:
        name: Its own name.
        asked: The name that it was asked by: its own or an alias.
        settings: What stands behind it.
    """

    name: str
    asked: str
    settings: ModelSettings


@dataclass(frozen=True)
class Target:
    """Who may answer, all of them alike.

    Attributes:
        version: What the answer and the audit call it.
        model: What the upstreams call it.
        replicas: The upstreams.
    """

    version: str
    model: str
    replicas: tuple[Replica, ...]


class Router:
    """Finds models, versions and fallbacks."""

    def __init__(self, configuration: Configuration, replicas: Mapping[str, Replica]) -> None:
        self._replicas = replicas
        self.serve(configuration.models)

    def serve(self, models: Mapping[str, ModelSettings]) -> None:
        """Know these models from now on; what was asked of others before goes on.

        Args:
            models: By their names; their versions are of the upstreams that are known.
        """
        self._models = models
        self._names = {name: name for name in models}
        for name, model in models.items():
            self._names.update(dict.fromkeys(model.aliases, name))
        self._targets: dict[tuple[str, str, str | None, bool], Target] = {}

    def models(self, principal: Principal) -> list[Model]:
        """All that somebody may ask, aliases too, in the order of their names."""
        return [
            Model(name, asked, self._models[name])
            for asked, name in sorted(self._names.items())
            if _may_ask(principal, asked, name)
        ]

    def resolve(self, asked: str, principal: Principal) -> Model:
        """The model of a name; no name is the only model's.

        Raises:
            ModelNotFound: There is none, or the principal isn't to know of it.
        """
        if not asked:
            asked = self._only(principal)
        name = self._names.get(asked)
        if name is None or not _may_ask(principal, asked, name):
            raise ModelNotFound(
                f"the model {asked!r} does not exist or you do not have access to it",
                param="model",
            )
        return Model(name, asked, self._models[name])

    def _only(self, principal: Principal) -> str:
        """The name of the only model that somebody may ask."""
        names = {model.name for model in self.models(principal)}
        if len(names) != 1:
            raise ModelNotFound(
                f"model is missing, and there are {len(names)} of them", param="model"
            )
        (name,) = names
        return name

    def target(
        self, model: Model, principal: Principal, request_id: str, prompt_bytes: int
    ) -> Target:
        """The version for a request, and those of its upstreams that may have the request.

        A version that none of the principal's data may go to is as if it weren't there.

        Raises:
            PermissionDenied: That holds for all of them.
        """
        targets = {v.name: self._target(model.name, v, principal) for v in model.settings.versions}
        versions = [v for v in model.settings.versions if targets[v.name].replicas]
        if not versions:
            raise PermissionDenied(
                f"{model.asked} is served only where the requests of {principal.tenant} may not go",
                code="data_residency",
            )
        version = _by_rule(model, versions, principal, prompt_bytes) or _by_share(
            versions, principal, request_id
        )
        return targets[version.name]

    def _target(self, model: str, version: VersionSettings, principal: Principal) -> Target:
        # One object for the same choice: the queue compares the replicas.
        key = (model, version.name, principal.data_residency, principal.fallback_allowed)
        if key not in self._targets:
            replicas = (self._replicas[name] for name in version.upstreams)
            allowed = tuple(replica for replica in replicas if _may_have(replica, principal))
            self._targets[key] = Target(version.name, version.model, allowed)
        return self._targets[key]

    def fallback(
        self, model: Model, principal: Principal
    ) -> tuple[Target, FallbackSettings] | None:
        """Who answers where no replica can; None where nobody may."""
        fallback = model.settings.fallback
        if fallback is None or not principal.fallback_allowed:
            return None
        replica = self._replicas[fallback.upstream]
        if not _may_have(replica, principal):
            return None
        return Target(f"{fallback.upstream}/{fallback.model}", fallback.model, (replica,)), fallback


def _may_ask(principal: Principal, asked: str, name: str) -> bool:
    return principal.models is None or asked in principal.models or name in principal.models


def _may_have(replica: Replica, principal: Principal) -> bool:
    """Whether a principal's data may go there."""
    if isinstance(replica.settings, ProviderSettings) and not principal.fallback_allowed:
        return False
    residency = principal.data_residency
    return residency is None or replica.settings.region == residency


def _by_rule(
    model: Model, versions: Sequence[VersionSettings], principal: Principal, prompt_bytes: int
) -> VersionSettings | None:
    names = {version.name: version for version in versions}
    for rule in model.settings.rules:
        if (
            rule.version in names
            and (rule.aliases is None or model.asked in rule.aliases)
            and (rule.tenants is None or principal.tenant in rule.tenants)
            and rule.min_prompt_bytes <= prompt_bytes
            and (rule.max_prompt_bytes is None or prompt_bytes <= rule.max_prompt_bytes)
        ):
            return names[rule.version]
    return None


def _by_share(
    versions: Sequence[VersionSettings], principal: Principal, request_id: str
) -> VersionSettings:
    for version in versions:
        if principal.tenant in version.tenants:
            return version
    # The request's id decides, so that a replay of it goes the same way.
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    point = int.from_bytes(digest, "big") / 2**64 * sum(v.weight for v in versions)
    for version in versions:
        point -= version.weight
        if point < 0:
            return version
    return max(versions, key=lambda v: v.weight)  # rounding, at the very end
