"""pydantic-ai: over chats and responses, with history and a type for the answer."""

from __future__ import annotations

import sys

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

PROVIDER = OpenAIProvider(base_url=sys.argv[1], api_key="none")
MODELS: tuple[Model, ...] = (
    OpenAIChatModel("demo", provider=PROVIDER),
    OpenAIResponsesModel("demo", provider=PROVIDER),
)


class City(BaseModel):
    """A city by its name."""

    name: str


print("# pydantic-ai")
for model in MODELS:
    agent = Agent(model)
    first = agent.run_sync("What is the capital of France?")
    assert first.output == "The capital of France is Paris."
    second = agent.run_sync("What is the capital of Italy?", message_history=first.all_messages())
    assert second.output == "The capital of Italy is Rome."
    typed = Agent(model, output_type=NativeOutput(City)).run_sync("Name a city.")
    assert isinstance(typed.output, City)
    print(f"{type(model).__name__}: {first.output!r}, {second.output!r}, a City")
