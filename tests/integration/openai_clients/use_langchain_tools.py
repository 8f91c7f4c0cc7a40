"""LangChain with tools: bound, called, streamed, and their results. The demo is made to call."""

from __future__ import annotations

import sys
from typing import Annotated

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

QUESTION = "What is 17 + 25?"


class Person(BaseModel):
    """Whom an answer is to describe."""

    name: str = Field(max_length=20)
    age: Annotated[int, Field(ge=0, le=99)]


def paint(colour: Annotated[str, Field(max_length=8)]) -> str:
    """Paints a ship."""
    return f"It is {colour}."


def now() -> str:
    """Tells the time."""
    return "14:05"


TOOLS = {each.__name__: tool(each) for each in (paint, now)}


def main(base_url: str) -> None:
    chat = ChatOpenAI(base_url=base_url, api_key="any", model="demo", temperature=0, max_retries=0)
    for name in TOOLS:
        bound = chat.bind_tools([*TOOLS.values()], tool_choice=name)
        messages = [HumanMessage(QUESTION)]
        answer = bound.invoke(messages)
        print("calls:", answer.tool_calls, answer.response_metadata["finish_reason"])
        assert [call["name"] for call in answer.tool_calls] == [name]
        assert not answer.invalid_tool_calls

        first, *rest = bound.stream(messages)
        streamed = sum(rest, first)
        assert [call["args"] for call in streamed.tool_calls] == [
            call["args"] for call in answer.tool_calls
        ]

        messages.append(answer)
        messages += [TOOLS[call["name"]].invoke(call) for call in answer.tool_calls]
        last = chat.bind_tools([*TOOLS.values()]).invoke(messages)
        assert last.usage_metadata["input_tokens"] > answer.usage_metadata["input_tokens"]

    any_of = chat.bind_tools([*TOOLS.values()], tool_choice="any", parallel_tool_calls=False)
    (call,) = any_of.invoke(QUESTION).tool_calls
    print("any:", call)
    assert call["name"] in TOOLS

    person = chat.with_structured_output(Person, method="function_calling").invoke(QUESTION)
    print("structured, by a call:", person)
    assert isinstance(person, Person)


if __name__ == "__main__":
    main(sys.argv[1])
