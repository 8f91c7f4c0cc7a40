"""One request on its way through the gateway: how it came, what it wishes, what is to be done."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from contract.codes import ErrorCode
from contract.parameters import ParameterKeywords
from gateway.configuration import AffinitySettings
from gateway.conversations import Follows, Keeper
from gateway.gateway_errors import GatewayError
from gateway.generation import AnyPrompt, Generation
from gateway.interfaces import Principal, TenantClass
from gateway.routing import Model

CLIENT_DEADLINE = "client_deadline"
"""Why a request failed whose client gave it less time than it took."""
_DEADLINES: tuple[ErrorCode, ...] = ("deadline_exceeded", "deadline_unreachable")


@dataclass(frozen=True)
class Arrival:
    """What is known of a request before its body is.

    Attributes:
        request_id: Its id.
        headers: Its headers, names in lower case.
        time: When it came, seconds since the epoch.
        received_s: The same on the clock of `time.monotonic`.
    """

    request_id: str
    headers: Mapping[str, str]
    time: float
    received_s: float

    @property
    def authorization(self) -> str | None:
        """Who says to be asking; clients of Anthropic's API send the key in a header of its own."""
        key = self.headers.get("x-api-key")
        return self.headers.get("authorization") or (None if key is None else f"Bearer {key}")


@dataclass(frozen=True)
class Wish:
    """What a request's body asks for, in no API's words; what it doesn't say isn't there.

    Attributes:
        model: The model's name, or an alias.
        prompt: What is to be gone on with, or how that follows from what is kept.
        parameters: How, as far as it says.
        stream: Whether pieces are wanted as they are made.
        tenant_class: The priority; None is the highest that the tenant has.
        affinity_key: The client's word for what belongs together; None for none.
        keeps: Whether its own answer is to be kept.
    """

    model: str
    prompt: AnyPrompt | Follows
    parameters: ParameterKeywords
    stream: bool = False
    tenant_class: TenantClass | None = None
    affinity_key: str | None = None
    keeps: bool = False


@dataclass(frozen=True)
class Order:
    """What is to be done, and for whom.

    Attributes:
        arrival: How the request came.
        principal: Who asked.
        model: What was asked, found and permitted.
        generation: What is to be generated.
        affinity_key: The client's own word for what belongs together; None for none.
        deadline_s: When the answer must be there, on the clock of `time.monotonic`.
        deadline_is_asked: Whether the client chose it, and less than requests have by default.
        keeper: What keeps the answer; None where its API keeps none.
    """

    arrival: Arrival
    principal: Principal
    model: Model
    generation: Generation
    affinity_key: str | None
    deadline_s: float
    deadline_is_asked: bool = False
    keeper: Keeper | None = None

    @property
    def tenant_class(self) -> TenantClass:
        """The priority that the request has."""
        return self.generation.tenant_class

    def cause(self, error: BaseException) -> str:
        """A word for why it failed, in metrics, traces, logs and the audit."""
        if isinstance(error, GatewayError):
            if self.deadline_is_asked and error.code in _DEADLINES:
                return CLIENT_DEADLINE
            return error.code or type(error).__name__
        return "disconnected" if isinstance(error, asyncio.CancelledError) else "internal"

    def is_client_s(self, error: BaseException) -> bool:
        """Whether it ended by its client's own doing: it was wrong, or no longer waited for."""
        if isinstance(error, GatewayError):
            return error.status < 500 or self.cause(error) == CLIENT_DEADLINE
        return isinstance(error, asyncio.CancelledError)

    def prefix(self, affinity: AffinitySettings) -> bytes | None:
        """What decides which replica has the prompt's beginning; None where it isn't worth it."""
        if self.affinity_key is not None:
            return self.affinity_key.encode()
        prompt = self.generation.prompt
        if len(prompt.encoded) < affinity.min_prompt_bytes:
            return None
        return prompt.beginning[: affinity.prefix_bytes]
