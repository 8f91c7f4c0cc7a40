"""OpenAI's agents: over responses and over chats, with history and streamed."""

from __future__ import annotations

import asyncio
import sys

from agents import (
    Agent,
    Model,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

client = AsyncOpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
set_tracing_disabled(True)
FRANCE, ITALY = "What is the capital of France?", "What is the capital of Italy?"


async def use(model: Model) -> None:
    """Ask an agent."""
    agent = Agent(name="Guide", model=model)
    first = await Runner.run(agent, FRANCE)
    assert first.final_output == "The capital of France is Paris."
    history = [*first.to_input_list(), {"role": "user", "content": ITALY}]
    second = await Runner.run(agent, history)
    assert second.final_output == "The capital of Italy is Rome."
    streamed = Runner.run_streamed(agent, FRANCE)
    async for _ in streamed.stream_events():
        pass
    assert streamed.final_output == first.final_output
    print(f"{type(model).__name__}: {first.final_output!r}, {second.final_output!r}, streamed")


async def main() -> None:
    """Over both APIs."""
    print("# OpenAI's agents")
    await use(OpenAIResponsesModel("demo", client))
    await use(OpenAIChatCompletionsModel("demo", client))


asyncio.run(main())
