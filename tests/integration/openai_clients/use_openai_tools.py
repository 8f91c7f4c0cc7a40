"""The official `openai` package with tools: forced, streamed, parsed, and what follows a call.

The demo doesn't call by itself, so it is made to: what comes is decided by the schemas.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import openai
from pydantic import BaseModel, Field

Digits = Annotated[int, Field(ge=0, le=99)]
MESSAGES: list[Any] = [{"role": "user", "content": "What is 17 + 25?"}]


class Add(BaseModel):
    """Adds two numbers."""

    a: Digits
    b: Digits


PAINT = {
    "type": "function",
    "function": {
        "name": "paint",
        "description": "Paints a ship.",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
            "required": ["colour"],
        },
    },
}
ADD = {"type": "function", "function": {"name": "add", "parameters": Add.model_json_schema()}}
TOOLS: list[Any] = [ADD, PAINT]
NAMED: Any = {"type": "function", "function": {"name": "add"}}


def main(base_url: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key="any", max_retries=0)
    create = client.chat.completions.create
    asked: Any = {"model": "demo", "tools": TOOLS, "temperature": 0, "parallel_tool_calls": False}

    answer = create(messages=MESSAGES, tool_choice="required", **asked)
    message = answer.choices[0].message
    (call,) = message.tool_calls
    print("call:", call.function.name, call.function.arguments, answer.choices[0].finish_reason)
    assert set(json.loads(call.function.arguments)) in ({"a", "b"}, {"colour"})
    assert message.content is None
    assert answer.choices[0].finish_reason == "tool_calls"

    result = {"role": "tool", "tool_call_id": call.id, "content": "42"}
    for history in (message, message.model_dump(), message.to_dict()):
        last = create(messages=[*MESSAGES, history, result], tools=TOOLS, model="demo")
        assert last.usage.prompt_tokens > answer.usage.prompt_tokens
    print("the conversation goes on with the call as object and dict")

    pieces: dict[int, list[str]] = {}
    chunks = 0
    for chunk in create(messages=MESSAGES, tool_choice=NAMED, stream=True, **asked):
        for delta in chunk.choices[0].delta.tool_calls or ():
            chunks += 1
            known = pieces.setdefault(delta.index, ["", "", ""])
            for place, text in enumerate((delta.id, delta.function.name, delta.function.arguments)):
                known[place] += text or ""
        reason = chunk.choices[0].finish_reason
    print("streamed:", pieces, f"in {chunks} chunks, {reason}")
    assert [name for _, name, _ in pieces.values()] == ["add"]
    Add.model_validate_json(pieces[0][2])
    assert reason == "stop"

    with client.chat.completions.stream(
        messages=MESSAGES, tool_choice="required", **asked
    ) as helper:
        final = helper.get_final_completion().choices[0].message
    assert final.tool_calls[0].function.arguments == call.function.arguments
    print("the stream helper says the same")

    parsed = client.chat.completions.parse(
        model="demo",
        messages=MESSAGES,
        tools=[openai.pydantic_function_tool(Add, name="add")],
        tool_choice="required",
        temperature=1.3,
        seed=5,
    )
    arguments = parsed.choices[0].message.tool_calls[0].function.parsed_arguments
    print("parsed:", arguments)
    assert isinstance(arguments, Add)

    none = create(messages=MESSAGES, tool_choice="none", **asked)
    assert none.choices[0].message.content == "17+25=42"
    assert not none.choices[0].message.tool_calls

    refusals: list[Any] = []
    for wrong in (
        {"messages": MESSAGES, "tools": [ADD, ADD]},
        {"messages": [*MESSAGES, result], "tools": TOOLS},
        {"messages": [*MESSAGES, message], "tools": TOOLS},
    ):
        try:
            create(model="demo", **wrong)
        except openai.BadRequestError as error:
            refusals.append(error.param)
    print("refused:", refusals)
    assert refusals == [
        "tools.1.function.name",
        "messages.1.tool_call_id",
        "messages.1.tool_calls.0.id",
    ]


if __name__ == "__main__":
    main(sys.argv[1])
