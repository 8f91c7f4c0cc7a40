"""Endpoints that tell the tokens of a prompt: vLLM's two, and the count of Anthropic's API."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from contract.bounds import MAX_TEMPLATE_VARIABLES
from contract.parameters import ROWS, ParameterKeywords
from contract.tool_choice import ToolChoice
from gateway.api.anthropic_messages import error_of
from gateway.api.anthropic_request import CountRequest
from gateway.api.chat_messages import ChatMessage, check_calls
from gateway.api.completions import Text, TokenIds
from gateway.api.error_objects import error_body
from gateway.api.functions import Tools, check_tools, tool_parameters
from gateway.api.neutral import asking
from gateway.api.translator import Endpoint
from gateway.exchange import Gateway
from gateway.gateway_errors import GatewayError
from gateway.generation import AnyPrompt, Chat, Texts, Tokens
from gateway.order import Order, Wish

Body = TypeVar("Body", bound=BaseModel)
Model = Annotated[
    str, Field(max_length=256, description="A name from /v1/models; left out it is the only one.")
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: Model = ""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        return asking(values, cls.model_fields.keys(), cls.neutral)


class TokenizeRequest(_Request):
    """The body of ``POST /tokenize``: a text or a chat."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
        "return_token_strs": (False,),
        "chat_template": (),
        "mm_processor_kwargs": ({},),
    }

    prompt: Text | None = None
    messages: list[ChatMessage] = Field(default=[], max_length=4096, fail_fast=True)
    add_special_tokens: bool | None = Field(
        default=None, description="By default a text gets them, and a chat has its template's."
    )
    tools: Tools = []
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None,
        max_length=MAX_TEMPLATE_VARIABLES,
        description=ROWS["chat_template_kwargs"].meaning,
    )

    @model_validator(mode="after")
    def _is_one(self) -> TokenizeRequest:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("give either prompt or messages")
        if self.messages and self.add_special_tokens:
            raise ValueError("add_special_tokens is for a prompt: a chat has its template's")
        check_calls(self.messages)
        check_tools(self.tools, ToolChoice())
        return self

    def wish(self) -> Wish:
        """What the body asks for."""
        if self.prompt is not None:
            return _wish(self.model, Texts.of([self.prompt], self.add_special_tokens is not False))
        parameters = tool_parameters(self.tools, ToolChoice(), None)
        if self.chat_template_kwargs:
            parameters["chat_template_kwargs"] = self.chat_template_kwargs
        return _wish(
            self.model, Chat.of([message.plain() for message in self.messages]), parameters
        )


class DetokenizeRequest(_Request):
    """The body of ``POST /detokenize``."""

    tokens: TokenIds


def _wish(model: str, prompt: AnyPrompt, parameters: ParameterKeywords | None = None) -> Wish:
    return Wish(model, prompt, {**(parameters or {}), "max_tokens": 1})


class TokenEndpoint(Endpoint[Body]):
    """An endpoint for which nothing is generated."""

    @abstractmethod
    async def answer(self, gateway: Gateway, order: Order) -> bytes:
        """The body of the answer.

        Raises:
            GatewayError: There is none.
        """


class Tokenize(TokenEndpoint[TokenizeRequest]):
    """vLLM's."""

    name = "tokenize"
    path = "/tokenize"
    summary = "The tokens of a text or a chat"
    description = "As the model gets them: chats through the template, held to the policy."
    body = TokenizeRequest

    def wish(self, body: TokenizeRequest) -> Wish:
        return body.wish()

    async def answer(self, gateway: Gateway, order: Order) -> bytes:
        tokens = await gateway.tokenizing.tokens(order)
        return orjson.dumps(
            {
                "count": len(tokens),
                "max_model_len": order.model.settings.context_length,
                "tokens": tokens,
                "token_strs": None,
            }
        )

    def error(self, error: GatewayError) -> bytes:
        return error_body(error)


class Detokenize(TokenEndpoint[DetokenizeRequest]):
    """vLLM's."""

    name = "detokenize"
    path = "/detokenize"
    summary = "The text of tokens"
    description = "As an answer of them would have it, held to the policy."
    body = DetokenizeRequest

    def wish(self, body: DetokenizeRequest) -> Wish:
        return _wish(body.model, Tokens.of([body.tokens]))

    async def answer(self, gateway: Gateway, order: Order) -> bytes:
        return orjson.dumps({"prompt": await gateway.tokenizing.text(order)})

    def error(self, error: GatewayError) -> bytes:
        return error_body(error, "tokens")


class CountTokens(TokenEndpoint[CountRequest]):
    """Anthropic's."""

    name = "count_tokens"
    path = "/v1/messages/count_tokens"
    summary = "How long a conversation is"
    description = "In tokens of the model's, with its template and its tools."
    body = CountRequest

    def wish(self, body: CountRequest) -> Wish:
        return body.wish()

    async def answer(self, gateway: Gateway, order: Order) -> bytes:
        return orjson.dumps({"input_tokens": len(await gateway.tokenizing.tokens(order))})

    def error(self, error: GatewayError) -> bytes:
        return error_of(error)


ENDPOINTS: tuple[TokenEndpoint[Any], ...] = (Tokenize(), Detokenize(), CountTokens())
"""All of them."""
