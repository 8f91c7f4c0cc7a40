"""Orders as intake makes them, for tests of what reads and writes them."""

from __future__ import annotations

from typing import Any

from gateway.api.translator import Translator
from gateway.configuration import AdmissionSettings, KeepingSettings
from gateway.conversations import Conversations
from gateway.generation import Delta
from gateway.intake import Intake
from gateway.open_access import LOCAL
from gateway.order import Arrival, Order
from gateway.routing import Router
from gateway.run_progress import Progress
from tests.gateway.fakes import configuration

ARRIVAL = Arrival("id", {}, 1.7e9, 100.0)


def order(translator: Translator[Any], body: dict[str, Any], **headers: str) -> Order:
    """What is to be done for a body."""
    arrival = Arrival("id", headers, 1.7e9, 100.0)
    wish = translator.wish(translator.body.model_validate(body))
    return intake().order(LOCAL, arrival, wish)


def intake() -> Intake:
    return Intake(
        Router(configuration(), {}), AdmissionSettings(), Conversations(KeepingSettings())
    )


def encoder(translator: Translator[Any], body: dict[str, Any]) -> Any:
    return translator.encoder(translator.body.model_validate(body), order(translator, body))


def progress(*deltas: Delta) -> Progress:
    """What is known after some pieces of one answer."""
    known = Progress()
    for delta in deltas:
        known.add(delta)
    return known
