"""What the API asks of those around it: who is this, may they, and write down that they did.

The API knows these few types and none of their implementations: keys in a database, limits in
Redis and a log on disk live in rooms of their own, and a laptop without any of them runs with
`gateway.open_access`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from contract.codes import FinishReason

TenantClass = Literal["interactive", "standard", "batch"]
"""Priority classes, the first served first."""

TENANT_CLASSES: tuple[TenantClass, ...] = ("interactive", "standard", "batch")


@dataclass(frozen=True)
class Principal:
    """Who asks, and what that lets them do.

    Attributes:
        tenant: Who pays.
        application: Which of the tenant's applications asks.
        key_id: Which credential it showed: a name that may be logged, never the credential.
        tenant_class: The highest priority class that its requests may have.
        models: The models, or aliases of models, that it may ask; None is all of them.
        policy: The safety policy that its requests get; None is the server's own.
        fallback_allowed: Whether another provider may answer.
        data_residency: Where its data may be processed, such as ``eu``; None is anywhere.
    """

    tenant: str
    application: str
    key_id: str
    tenant_class: TenantClass
    models: frozenset[str] | None
    policy: str | None
    fallback_allowed: bool
    data_residency: str | None


class Authenticator(Protocol):
    """Tells who sent a request."""

    async def authenticate(self, authorization: str | None) -> Principal:
        """Return who is behind an ``Authorization`` header (None where there is none).

        Raises:
            AuthenticationError: Nobody that is known, or a credential that has ended.
            PermissionDenied: Known, and locked.
            IdentityUnavailable: That can't be found out now.
        """


class Reservation(Protocol):
    """What a limiter has put aside for one request until its true cost is known.

    Attributes:
        headers: The usual rate-limit headers for the answer.
    """

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def settle(self, prompt_tokens: int, output_tokens: int) -> None:
        """Replace the estimate by the true cost. Called exactly once, also after a failure."""


class Limiter(Protocol):
    """Holds tenants to their rates and quotas."""

    async def reserve(
        self,
        principal: Principal,
        model: str,
        prompt_tokens: int,
        max_tokens: int,
        answers: int = 1,
    ) -> Reservation:
        """Put aside one request and what it may cost at most.

        Args:
            principal: Who asks.
            model: What is asked.
            prompt_tokens: Length of the prompt, an estimate.
            max_tokens: The most tokens that all of its answers together may have.
            answers: How many these are.

        Raises:
            LimitExceeded: One of the limits has no room for it.
            LimitsUnavailable: That can't be found out now.
        """


@dataclass(frozen=True)
class AuditRecord:
    """One request that was taken in, however it ended.

    Attributes:
        request_id: The request's id from the HTTP header to the engine.
        time: When it came, seconds since the epoch.
        principal: Who asked.
        model: The model as asked, maybe an alias.
        model_version: The model and version that answered; empty where none did.
        upstream: Who answered: a replica's or a provider's name; empty where none did.
        policy: The safety policy in force; None is the server's own.
        prompt_tokens: Length of the prompt.
        output_tokens: Length of all answers.
        cached_tokens: Tokens of the prompt that the engine had computed before.
        charged_prompt_tokens: Tokens of prompts that the engine computed, once for each answer that
            didn't find them in its cache; the prompt's length where that isn't known.
        charged_output_tokens: Tokens that the engine generated, also behind a stop text and for a
            client that had left; the answers' length where that isn't known.
        ttft_s: Time to the first token; None where there was none.
        latency_s: Time to the end.
        finish_reasons: Why its answers ended, each reason once; ``cancelled`` or ``error`` alone
            where the request itself did so.
        status: The HTTP status. A stream that fails midway keeps the 200 it began with, and its
            finish reason says ``error``.
        verdicts: What the safety filters found.
        prompt: The prompt as bytes. Only a keyed digest of it is kept, never itself.
        answer: The answer, likewise.
        code: Why it failed, or was refused by a model; empty where it didn't and wasn't.
    """

    request_id: str
    time: float
    principal: Principal
    model: str
    model_version: str
    upstream: str
    policy: str | None
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    charged_prompt_tokens: int
    charged_output_tokens: int
    ttft_s: float | None
    latency_s: float
    finish_reasons: tuple[FinishReason, ...]
    status: int
    verdicts: tuple[str, ...]
    prompt: bytes = field(repr=False)
    answer: bytes = field(repr=False)
    code: str = ""


@dataclass(frozen=True)
class CallRecord:
    """One request that no model heard of: refused, or only looking something up.

    Attributes:
        request_id: Its id.
        time: When it came, seconds since the epoch.
        tenant: Who asked; empty where that isn't known.
        application: Which of the tenant's applications; likewise.
        key_id: Which credential it showed: the public part, also of one that nobody has; empty
            where it has none.
        address: Where it came from.
        route: Method and route.
        model: The model as asked, where it was found; else empty.
        status: The HTTP status.
        code: Why it was refused; empty where it wasn't.
    """

    request_id: str
    time: float
    tenant: str
    application: str
    key_id: str
    address: str
    route: str
    model: str
    status: int
    code: str


@dataclass(frozen=True)
class Ticket:
    """That a request was taken in, as the audit has it.

    Attributes:
        sequence: The number of its beginning in the log, by which its end is told from others',
            whatever ids their clients gave them; None where it goes on unaudited.
        written: Returns when the beginning is on disk.
    """

    sequence: int | None
    written: Awaitable[None]


AuditState = Literal["none", "written", "damaged", "unavailable"]
"""How an audit log is: there is none, it is written, it is and a part of it was taken away under
this process, it can't be written now."""


class AuditLog(Protocol):
    """Writes down what was served.

    Attributes:
        state: How it is now.
    """

    @property
    def state(self) -> AuditState: ...

    async def check(self) -> None:
        """Return where a record could be written now.

        Raises:
            AuditUnavailable: It could not, and nothing is to be served unaudited.
        """

    def begin(self, request_id: str, time: float, principal: Principal, model: str) -> Ticket:
        """Write down that a request was taken in, before a model hears of it.

        The record is with the operating system when this returns, so a killed process can't lose
        it, and on disk when the ticket's `written` has been awaited: await that before the answer's
        first byte goes out, beside the model's work on the prompt rather than before it. Every
        request that began ends with one `append` of its ticket.

        Raises:
            AuditUnavailable: It could not be written.
        """

    async def append(self, record: AuditRecord, ticket: Ticket) -> None:
        """Write down how a request ended. The record is on disk when this returns.

        Raises:
            AuditUnavailable: It could not be written.
        """

    def call(self, record: CallRecord) -> None:
        """Write down a request that no model heard of, soon; many alike may become one line."""
