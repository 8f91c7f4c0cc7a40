"""``/v1/responses``: OpenAI's newer API."""

from __future__ import annotations

from gateway.api.error_objects import error_body
from gateway.api.responses_answer import ResponsesEncoder
from gateway.api.responses_request import ResponsesRequest
from gateway.api.translator import Translator
from gateway.gateway_errors import GatewayError
from gateway.order import Order, Wish


class ResponsesTranslator(Translator[ResponsesRequest]):
    """OpenAI's responses."""

    name = "responses"
    path = "/responses"
    summary = "Answer an input"
    description = "An answer may be kept for a while, and gone on with by its id."
    body = ResponsesRequest

    def wish(self, body: ResponsesRequest) -> Wish:
        return body.wish()

    def encoder(self, body: ResponsesRequest, order: Order) -> ResponsesEncoder:
        return ResponsesEncoder(body, order)

    def error(self, error: GatewayError) -> bytes:
        return error_body(error, "input")
