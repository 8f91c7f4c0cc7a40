"""OpenAI's responses by its package: whole, streamed, parsed, gone on with, kept and deleted."""

from __future__ import annotations

import json
import sys

from openai import NotFoundError, OpenAI
from pydantic import BaseModel

client = OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
FRANCE, ITALY = "What is the capital of France?", "What is the capital of Italy?"
ANSWER = "The capital of France is Paris."


class City(BaseModel):
    """A city by its name."""

    name: str


print("# OpenAI's responses")
first = client.responses.create(model="demo", input=FRANCE)
assert (first.output_text, first.status) == (ANSWER, "completed")
print("response:", repr(first.output_text), first.usage.total_tokens, "tokens")

second = client.responses.create(model="demo", input=ITALY, previous_response_id=first.id)
assert second.output_text == "The capital of Italy is Rome."
assert second.usage.input_tokens > first.usage.total_tokens
print("gone on with by its id:", repr(second.output_text))

history = [{"role": "user", "content": FRANCE}, *first.output, {"role": "user", "content": ITALY}]
again = client.responses.create(model="demo", input=history, store=False)
assert again.output_text == second.output_text
print("gone on with by its items: the same")

with client.responses.stream(model="demo", input=FRANCE) as stream:
    kinds = [event.type for event in stream]
    streamed = stream.get_final_response()
assert streamed.output_text == ANSWER
print("streamed:", kinds[0], "…", kinds[-1], repr(streamed.output_text))

parsed = client.responses.parse(model="demo", input="Name a city.", text_format=City)
assert isinstance(parsed.output_parsed, City)
print("parsed: a", type(parsed.output_parsed).__name__)

cut = client.responses.create(model="demo", input=FRANCE, max_output_tokens=3)
assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
print("cut off:", cut.incomplete_details.reason)

ADD = {
    "type": "function",
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {key: {"type": "integer", "minimum": 0, "maximum": 99} for key in "ab"},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "strict": True,
}
called = client.responses.create(
    model="demo", input="What is 17 + 25?", tools=[ADD], tool_choice="required"
)
(call,) = (item for item in called.output if item.type == "function_call")
assert (call.name, sorted(json.loads(call.arguments))) == ("add", ["a", "b"])
result = {"type": "function_call_output", "call_id": call.call_id, "output": "42"}
heard = client.responses.create(
    model="demo", input=[result], previous_response_id=called.id, tools=[ADD], tool_choice="none"
)
assert heard.status in ("completed", "incomplete")
print("a function that must be called:", call.name, "of a and b, and its result heard")

assert client.responses.retrieve(first.id).output_text == ANSWER
client.responses.delete(first.id)
try:
    client.responses.retrieve(first.id)
except NotFoundError as error:
    print(f"{type(error).__name__}: {error.code}")
else:
    raise AssertionError("it is kept though it was deleted")
