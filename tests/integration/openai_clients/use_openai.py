"""The official `openai` package: sync, async, streaming, raw, and its errors."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import openai
from pydantic import BaseModel, Field

QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "user", "content": QUESTION}]


class Person(BaseModel):
    """Whom an answer is to describe."""

    name: str = Field(max_length=20)
    age: int


def main(base_url: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key="any", max_retries=0)
    print("models:", [model.id for model in client.models.list()])

    answer = client.chat.completions.create(model="demo", messages=MESSAGES, temperature=0)
    text = answer.choices[0].message.content
    print(f"chat: {text!r} {answer.usage.prompt_tokens}+{answer.usage.completion_tokens} tokens")
    assert "Paris" in text
    assert answer.choices[0].finish_reason == "stop"

    pieces = []
    with client.chat.completions.create(
        model="demo", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    ) as stream:
        for chunk in stream:
            if chunk.choices:
                pieces.append(chunk.choices[0].delta.content or "")
            else:
                usage = chunk.usage
    print("streamed:", pieces)
    assert "".join(pieces) == text
    assert len(pieces) > 1
    assert usage.completion_tokens == answer.usage.completion_tokens

    with client.chat.completions.stream(model="demo", messages=MESSAGES) as helper:
        final = helper.get_final_completion()
    assert final.choices[0].message.content == text
    print("the stream helper says the same")

    said = answer.choices[0].message
    with_helper = final.choices[0].message
    for message in (said, said.model_dump(), said.to_dict(), with_helper, with_helper.to_dict()):
        history = [*MESSAGES, message, {"role": "user", "content": "And?"}]
        going_on = client.chat.completions.create(model="demo", messages=history, max_tokens=8)
        assert going_on.usage.prompt_tokens > answer.usage.total_tokens
    print("the conversation goes on with the message as object, dict and helper's")

    several = client.chat.completions.create(
        model="demo", messages=MESSAGES, n=3, temperature=1.5, seed=7, max_completion_tokens=12
    )
    again = client.chat.completions.create(
        model="demo", messages=MESSAGES, n=3, temperature=1.5, seed=7, max_tokens=12
    )
    answers = [choice.message.content for choice in several.choices]
    print("n=3, seed=7:", answers)
    assert answers == [choice.message.content for choice in again.choices]
    assert len(set(answers)) > 1

    stopped = client.chat.completions.create(model="demo", messages=MESSAGES, stop=["Paris"])
    print(f"stop: {stopped.choices[0].message.content!r} {stopped.choices[0].finish_reason}")
    assert "Paris" not in stopped.choices[0].message.content
    assert stopped.choices[0].finish_reason == "stop"

    likely = client.chat.completions.create(
        model="demo", messages=MESSAGES, logprobs=True, max_tokens=4
    ).choices[0]
    print(
        "logprobs:", [(entry.token, round(entry.logprob, 3)) for entry in likely.logprobs.content]
    )
    assert len(likely.logprobs.content) == 4
    assert "".join(entry.token for entry in likely.logprobs.content) == likely.message.content
    assert all(entry.logprob <= 0 for entry in likely.logprobs.content)

    continued = client.completions.create(
        model="demo", prompt=["The sea is", "A ship is"], max_tokens=8, echo=True
    )
    print("completions:", [choice.text for choice in continued.choices])
    assert continued.choices[1].text.startswith("A ship is")

    raw = client.chat.completions.with_raw_response.create(model="demo", messages=MESSAGES)
    parsed = client.chat.completions.parse(
        model="demo", messages=MESSAGES, response_format=Person, max_tokens=200
    )
    print("parsed:", parsed.choices[0].message.parsed)
    assert isinstance(parsed.choices[0].message.parsed, Person)

    print("served by:", raw.headers["x-trireme-served-by"], "| request:", raw.request_id)
    assert raw.headers["x-trireme-served-by"]

    refusal: Any = None
    for wrong, kind, param in (
        ({"model": "none"}, openai.NotFoundError, "model"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "f"}}]},
            openai.BadRequestError,
            "tools.0.custom",
        ),
        ({"max_tokens": 4000}, openai.BadRequestError, "max_tokens"),
    ):
        try:
            client.chat.completions.create(**{"model": "demo", "messages": MESSAGES, **wrong})
        except kind as error:
            refusal = error
        print(f"{type(refusal).__name__}: {refusal.body['message']}")
        assert refusal.param == param

    asyncio.run(concurrently(base_url, text))


async def concurrently(base_url: str, expected: str) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0) as client:

        async def ask() -> str:
            stream = await client.chat.completions.create(
                model="demo", messages=MESSAGES, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        answers = await asyncio.gather(*(ask() for _ in range(8)))
    assert answers == [expected] * 8
    print("8 at once, asynchronously: all the same")


if __name__ == "__main__":
    main(sys.argv[1])
