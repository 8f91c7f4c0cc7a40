"""instructor: an answer as an object of a class."""

from __future__ import annotations

import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field

client = OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=20)
    people: int = Field(ge=0, le=99_999_999)


print("# instructor")
found = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA).chat.completions.create(
    model="demo",
    response_model=City,
    messages=[{"role": "user", "content": "Name a city."}],
    max_retries=0,
)
assert isinstance(found, City)
print("response_model: a", type(found).__name__)
