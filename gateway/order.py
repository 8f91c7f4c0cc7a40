"""One request on its way through the gateway: how it came, what it wishes, what is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from contract.parameters import ParameterKeywords
from gateway.configuration import AffinitySettings
from gateway.generation import AnyPrompt, Generation
from gateway.interfaces import Principal, TenantClass
from gateway.routing import Model


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


@dataclass(frozen=True)
class Wish:
    """What a request's body asks for, in no API's words; what it doesn't say isn't there.

    Attributes:
        model: The model's name, or an alias.
        prompt: What is to be gone on with.
        parameters: How, as far as it says.
        stream: Whether pieces are wanted as they are made.
        tenant_class: The priority; None is the highest that the tenant has.
        affinity_key: The client's word for what belongs together; None for none.
    """

    model: str
    prompt: AnyPrompt
    parameters: ParameterKeywords
    stream: bool = False
    tenant_class: TenantClass | None = None
    affinity_key: str | None = None


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
    """

    arrival: Arrival
    principal: Principal
    model: Model
    generation: Generation
    affinity_key: str | None
    deadline_s: float

    @property
    def tenant_class(self) -> TenantClass:
        """The priority that the request has."""
        return self.generation.tenant_class

    def prefix(self, affinity: AffinitySettings) -> bytes | None:
        """What decides which replica has the prompt's beginning; None where it isn't worth it."""
        if self.affinity_key is not None:
            return self.affinity_key.encode()
        prompt = self.generation.prompt
        if len(prompt.encoded) < affinity.min_prompt_bytes:
            return None
        return prompt.beginning[: affinity.prefix_bytes]
