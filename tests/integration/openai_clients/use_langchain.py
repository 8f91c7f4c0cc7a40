"""LangChain: a chat model and a text model, at once, streamed and in batches."""

from __future__ import annotations

import asyncio
import sys

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

QUESTION = "What is the capital of France?"


class Person(BaseModel):
    """Whom an answer is to describe."""

    name: str = Field(max_length=20)
    age: int


def main(base_url: str) -> None:
    chat = ChatOpenAI(base_url=base_url, api_key="any", model="demo", temperature=0, max_retries=0)
    answer = chat.invoke([HumanMessage(QUESTION)])
    print("invoke:", answer.content, answer.usage_metadata)
    assert "Paris" in answer.content
    assert answer.usage_metadata["output_tokens"] > 0

    pieces = [chunk.content for chunk in chat.stream([HumanMessage(QUESTION)])]
    print("stream:", pieces)
    assert "".join(pieces) == answer.content

    batch = chat.batch([[HumanMessage(QUESTION)], [HumanMessage("Spell the word ship.")]])
    print("batch:", [each.content for each in batch])
    assert batch[0].content == answer.content

    answers = asyncio.run(chat.abatch([[HumanMessage(QUESTION)]] * 4))
    assert [each.content for each in answers] == [answer.content] * 4
    print("abatch: all the same")

    assert chat.invoke([SystemMessage("Be brief."), HumanMessage(QUESTION)]).content

    person = chat.with_structured_output(Person, method="json_schema").invoke(QUESTION)
    print("structured:", person)
    assert isinstance(person, Person)

    text = OpenAI(base_url=base_url, api_key="any", model="demo", max_tokens=8, temperature=0)
    results = text.generate(["The sea is", "A ship is"])
    print("text model:", [each[0].text for each in results.generations])
    assert all(each[0].text for each in results.generations)
    assert "".join(text.stream("The sea is"))


if __name__ == "__main__":
    main(sys.argv[1])
