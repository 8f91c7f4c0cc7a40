"""LiteLLM: complete and streamed, sync and async."""

from __future__ import annotations

import asyncio
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would ask the internet for prices

import litellm

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def main(base_url: str) -> None:
    where = {"model": "openai/demo", "api_base": base_url, "api_key": "any", "max_retries": 0}
    answer = litellm.completion(messages=MESSAGES, temperature=0, **where)
    text = answer.choices[0].message.content
    print("completion:", text, dict(answer.usage)["total_tokens"])
    assert "Paris" in text

    stream = litellm.completion(messages=MESSAGES, temperature=0, stream=True, **where)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    print("streamed:", pieces)
    assert "".join(pieces) == text

    async def ask() -> str:
        answer = await litellm.acompletion(messages=MESSAGES, temperature=0, **where)
        return str(answer.choices[0].message.content)

    assert asyncio.run(ask()) == text
    try:
        litellm.completion(messages=MESSAGES, temperature=9, **where)
    except litellm.BadRequestError as error:
        print("BadRequestError:", str(error)[:160])
    else:
        raise AssertionError("a temperature of 9 was taken")


if __name__ == "__main__":
    main(sys.argv[1])
