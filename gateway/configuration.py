"""All that one gateway is told: where it listens, whom it asks, and how requests find their way.

`python -m gateway --config gateway.yaml` reads a `Configuration`; docs/gateway.md shows one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator
from typing_extensions import Self

from contract.settings_base import Settings
from gateway.audit.audit_settings import AuditSettings
from gateway.interfaces import TenantClass
from gateway.limits.limit_settings import LimitSettings
from gateway.tenants.tenant_settings import TenantSettings
from gateway.usage.usage_settings import UsageSettings

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$")]
"""What may name a model, a version or an upstream: it goes into headers and labels."""


_LOCAL = "local"
"""The only upstream, where no file says which there are."""


class TlsSettings(Settings):
    """The gateway's certificate, PEM files."""

    certificate: Path
    key: Path


class ListenSettings(Settings):
    """Where the gateway listens, and what a connection may send.

    Attributes:
        host: Address to bind.
        port: TCP port of the API.
        metrics_port: Port of Prometheus' endpoint, on `metrics_host`; None for none.
        metrics_host: Its address: loopback, because it says who is a tenant's class and model.
        tls: Certificate and key; None is plain HTTP, for loopback or behind a proxy.
        cors_origins: Web pages that may call; none by default.
        max_body_bytes: Longest request body, also of a WebSocket's message.
        max_held_bytes: Bodies of all requests under way together; further ones get 503. A tenant's
            have half of it.
        max_header_bytes: All headers together.
        body_timeout_s: How long a client may take to send its request.
        slow_client_timeout_s: How long a client may take none of an answer that waits for it.
        shutdown_grace_s: How long running answers may go on after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    tls: TlsSettings | None = None
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = Field(default=4 << 20, ge=1 << 10, le=1 << 30)
    max_held_bytes: int = Field(default=256 << 20, ge=1 << 10, le=1 << 40)
    max_header_bytes: int = Field(default=16 << 10, ge=1 << 10, le=1 << 20)
    body_timeout_s: float = Field(default=30.0, gt=0, le=600)
    slow_client_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    shutdown_grace_s: float = Field(default=60.0, ge=0, le=3600)

    @model_validator(mode="after")
    def _check_held(self) -> Self:
        if self.max_held_bytes < 2 * self.max_body_bytes:
            raise ValueError(
                f"max_held_bytes is {self.max_held_bytes}; it must be at least twice "
                f"max_body_bytes, {self.max_body_bytes}"
            )
        return self


class UpstreamSettings(Settings):
    """What every upstream has.

    Attributes:
        name: Names it in headers, metrics and the audit.
        max_concurrent: Most answers at once, each a sequence of the engine; further requests wait
            in the gateway, by class and by tenant. No more than the engine runs at once
            (`max_num_sequences`).
        region: Where it processes data. A tenant with a data-residency rule is served only there.
        first_token_timeout_s: Longest wait for the first token; then another one is asked. Where
            the upstream answers others meanwhile, or a probe, it is ten times as long: others may
            be more urgent.
        token_timeout_s: Longest wait between two pieces of a stream, likewise.
    """

    name: Name
    max_concurrent: int = Field(default=32, ge=1, le=65536)
    region: str | None = None
    first_token_timeout_s: float = Field(default=60.0, gt=0, le=3600)
    token_timeout_s: float = Field(default=30.0, gt=0, le=3600)


class TritonSettings(UpstreamSettings):
    """A Triton server with Trireme's ensemble (or TensorRT-LLM's).

    Attributes:
        address: ``host:port`` of its gRPC endpoint.
        priorities: Whether its ensemble knows the input `priority`, as Trireme's own engine does
            and TensorRT-LLM's doesn't, and shares its places out by that and by tenant; and so
            `fit_max_tokens`, by which a default never refuses a request, and
            `prompt_ignore_length`, by which penalties count the answer only.
    """

    kind: Literal["triton"] = "triton"
    address: str = Field(pattern=r"^[^\s/]+:\d+$")
    priorities: bool = True


class ProviderSettings(UpstreamSettings):
    """A provider that speaks OpenAI's API.

    Attributes:
        url: Base URL, up to and with ``/v1``.
        api_key_env: Environment variable that holds its key; None sends none.
        send_service_tier: Whether it is told the priority class, as OpenAI's `service_tier`.
    """

    kind: Literal["openai"]
    url: str = Field(pattern=r"^https?://\S+$")
    api_key_env: str | None = None
    send_service_tier: bool = False

    def api_key(self) -> SecretStr | None:
        """The key, from the environment.

        Raises:
            ValueError: The variable isn't set.
        """
        if self.api_key_env is None:
            return None
        if not os.environ.get(self.api_key_env):
            raise ValueError(f"{self.name}: environment variable {self.api_key_env} is not set")
        return SecretStr(os.environ[self.api_key_env])


AnyUpstream = Annotated[TritonSettings | ProviderSettings, Field(discriminator="kind")]


class VersionSettings(Settings):
    """One version of a model, served by some upstreams.

    Attributes:
        name: Names it in answers and the audit.
        upstreams: Names of the upstreams that have it.
        model: What those upstreams call it.
        weight: Its share of the model's requests, beside the other versions' weights.
        tenants: Tenants that always get this version.
    """

    name: Name
    upstreams: tuple[Name, ...] = Field(min_length=1)
    model: str = "ensemble"
    weight: float = Field(default=1.0, ge=0)
    tenants: frozenset[str] = frozenset()


class FallbackSettings(Settings):
    """Who answers where no upstream of a model can.

    Attributes:
        upstream: The provider's name.
        model: What it calls the model.
        when: ``unavailable``: no replica is healthy, or those asked failed before their first
            token; ``saturated``: the queue is full or the deadline can't be met.
    """

    upstream: Name
    model: str
    when: frozenset[Literal["unavailable", "saturated"]] = frozenset({"unavailable", "saturated"})


class RuleSettings(Settings):
    """Sends some of a model's requests to one version, all conditions met. The first rule wins.

    Attributes:
        version: The version's name.
        aliases: Names that the model was asked by.
        tenants: Who asks.
        min_prompt_bytes: The prompt is at least so long.
        max_prompt_bytes: The prompt is at most so long.
    """

    version: Name
    aliases: frozenset[str] | None = None
    tenants: frozenset[str] | None = None
    min_prompt_bytes: int = Field(default=0, ge=0)
    max_prompt_bytes: int | None = Field(default=None, ge=0)


class ModelSettings(Settings):
    """A model as clients know it.

    Attributes:
        versions: What stands behind its name.
        aliases: Other names for it.
        rules: Exceptions from the weighted split.
        fallback: Who answers where none of the versions can; None is nobody.
        default_max_tokens: How long an answer may get where the request doesn't say.
        default_temperature: How its tokens are drawn then: OpenAI's 1; 0 is greedy.
        max_tokens: The most that a request may ask for.
        created_s: When it was made, in seconds since 1970, as `/v1/models` says.
        context_length: Most tokens of a prompt and its answer, as `/v1/models` says; None leaves it
            out.
    """

    versions: tuple[VersionSettings, ...] = Field(min_length=1)
    aliases: frozenset[Name] = frozenset()
    rules: tuple[RuleSettings, ...] = ()
    fallback: FallbackSettings | None = None
    default_max_tokens: int = Field(default=256, ge=1)
    default_temperature: float = Field(default=1.0, ge=0, le=2)
    max_tokens: int = Field(default=32768, ge=1)
    created_s: int = Field(default=0, ge=0)
    context_length: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [version.name for version in self.versions]
        if len(set(names)) < len(names):
            raise ValueError("two versions have one name")
        if not any(version.weight for version in self.versions):
            raise ValueError("at least one version must have a weight above 0")
        for rule in self.rules:
            if rule.version not in names:
                raise ValueError(f"a rule names version {rule.version!r}, which isn't there")
        return self


class ClassSettings(Settings):
    """How one priority class waits.

    Attributes:
        max_waiting: Most requests of the class that wait; a further one is refused at once, unless
            its tenant has less than its part of them.
        ceiling: The class gets in only while an upstream is filled to less than this part of its
            `max_concurrent`: the rest is kept free for higher classes. The request that fills it
            may have more answers than that; the engine lets the higher classes go before them.
        guarantee: The part of `max_concurrent` that the class gets whatever the others want, so
            that none starves; at least one answer.
    """

    max_waiting: int = Field(default=256, ge=0, le=1_000_000)
    ceiling: float = Field(default=1.0, gt=0, le=1)
    guarantee: float = Field(default=0.05, ge=0, le=0.33)


class AdmissionSettings(Settings):
    """How requests wait for an upstream.

    Attributes:
        interactive: People who wait for each word.
        standard: The default of applications.
        batch: Work that can wait.
        default_deadline_s: How long a request may take in all where its header doesn't say.
        max_deadline_s: The most that a header may ask for.
    """

    interactive: ClassSettings = ClassSettings()
    standard: ClassSettings = ClassSettings(ceiling=0.9)
    batch: ClassSettings = ClassSettings(max_waiting=1024, ceiling=0.75)
    default_deadline_s: float = Field(default=300.0, gt=0)
    max_deadline_s: float = Field(default=3600.0, gt=0)

    def of(self, tenant_class: TenantClass) -> ClassSettings:
        """The settings of one class."""
        settings: ClassSettings = getattr(self, tenant_class)
        return settings


class HealthSettings(Settings):
    """How upstreams are watched.

    Attributes:
        interval_s: A probe generates a token where none came by itself for so long.
        timeout_s: How long it may take.
        failures: Failures in a row that open the circuit.
        open_s: How long it stays open the first time; doubled each further time up to
            `max_open_s`. Then a probe decides.
        max_open_s: The longest.
    """

    interval_s: float = Field(default=10.0, gt=0, le=3600)
    timeout_s: float = Field(default=10.0, gt=0, le=600)
    failures: int = Field(default=2, ge=1, le=1000)
    open_s: float = Field(default=1.0, gt=0, le=600)
    max_open_s: float = Field(default=30.0, gt=0, le=3600)


class AffinitySettings(Settings):
    """How a prompt finds the replica that may have its beginning in its prefix cache.

    Attributes:
        prefix_bytes: How much of the prompt's beginning counts.
        min_prompt_bytes: A shorter prompt goes to the least loaded replica.
        load_factor: A replica gets no more than so many times the average load for affinity.
    """

    prefix_bytes: int = Field(default=1024, ge=1, le=1 << 20)
    min_prompt_bytes: int = Field(default=128, ge=0, le=1 << 20)
    load_factor: float = Field(default=1.25, ge=1, le=100)


class KeepingSettings(Settings):
    """How answers of `/v1/responses` are kept, in this process alone.

    Attributes:
        max_bytes: Of all that are kept; one tenant has half of it at most, and 0 keeps none.
        keep_s: For how long.
    """

    max_bytes: int = Field(default=64 << 20, ge=0)
    keep_s: float = Field(default=3600.0, gt=0)


class TracingSettings(Settings):
    """Where traces go.

    Attributes:
        endpoint: OTLP over HTTP, with ``/v1/traces``; None makes no traces.
        service_name: What the gateway is called there.
        sample_ratio: Part of the requests without a trace of their own that gets one.
    """

    endpoint: str | None = Field(default=None, pattern=r"^https?://\S+$")
    service_name: str = "trireme-gateway"
    sample_ratio: float = Field(default=1.0, ge=0, le=1)


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


class Configuration(ServiceSettings):
    """One gateway.

    Attributes:
        listen: Addresses, TLS and what a connection may send.
        region: Where this machine stands: the region of every upstream of kind ``triton`` that
            names no other.
        upstreams: Whom it asks.
        models: What it offers, by name.
        admission: How requests wait.
        health: How upstreams are watched.
        affinity: How prompts find a warm prefix cache.
        keeping: How answers are kept that requests go on with.
        tracing: Where traces go.

    Who may ask, how much, and where it is written down: see `ServiceSettings`.
    """

    listen: ListenSettings = ListenSettings()
    region: str | None = None
    upstreams: tuple[AnyUpstream, ...] = Field(min_length=1)
    models: dict[Name, ModelSettings] = Field(min_length=1)
    admission: AdmissionSettings = AdmissionSettings()
    health: HealthSettings = HealthSettings()
    affinity: AffinitySettings = AffinitySettings()
    keeping: KeepingSettings = KeepingSettings()
    tracing: TracingSettings = TracingSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = [upstream.name for upstream in self.upstreams]
        if len(set(known)) < len(known):
            raise ValueError("upstreams: two have one name")
        asked = {
            name for model in self.models.values() for v in model.versions for name in v.upstreams
        }
        asked |= {model.fallback.upstream for model in self.models.values() if model.fallback}
        for name in sorted(asked - set(known)):
            raise ValueError(f"models: upstream {name!r} isn't among the upstreams")
        names = [
            *self.models,
            *(alias for model in self.models.values() for alias in model.aliases),
        ]
        if len(set(names)) < len(names):
            raise ValueError("models: two models or aliases have one name")
        return self

    @classmethod
    def for_triton(
        cls,
        address: str,
        *,
        model: str = "demo",
        created_s: int = 0,
        context_length: int | None = None,
    ) -> Self:
        """One local Triton, one model: what `make serve` runs."""
        return cls(
            upstreams=(TritonSettings(name=_LOCAL, address=address),),
            models={model: local_model(model, created_s, context_length)},
        )


def local_model(name: str, created_s: int, context_length: int | None) -> ModelSettings:
    """The model of one local Triton.

    Greedy unless a request says otherwise: the demo is a small model.
    """
    return ModelSettings(
        versions=(VersionSettings(name=name, upstreams=(_LOCAL,)),),
        default_temperature=0,
        created_s=created_s,
        context_length=context_length,
    )
