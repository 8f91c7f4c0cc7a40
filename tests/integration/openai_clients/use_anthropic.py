"""Anthropic's package: messages, streams, history, a beginning, counts, errors."""

from __future__ import annotations

import sys

from anthropic import Anthropic, APIStatusError

client = Anthropic(base_url=sys.argv[1].removesuffix("/v1"), api_key="none", max_retries=0)
FRANCE = {"role": "user", "content": "What is the capital of France?"}
ITALY = {"role": "user", "content": "What is the capital of Italy?"}
ANSWER = "The capital of France is Paris."

print("# Anthropic")
said = client.messages.create(model="demo", max_tokens=64, messages=[FRANCE])
assert said.content[0].text == ANSWER
assert said.stop_reason == "end_turn"
print(f"messages: {ANSWER!r}", said.usage.input_tokens, "+", said.usage.output_tokens, "tokens")

counted = client.messages.count_tokens(model="demo", messages=[FRANCE])
assert counted.input_tokens == said.usage.input_tokens + said.usage.cache_read_input_tokens
print("count_tokens says the same")

with client.messages.stream(model="demo", max_tokens=64, messages=[FRANCE]) as stream:
    pieces = list(stream.text_stream)
    whole = stream.get_final_message()
assert "".join(pieces) == whole.content[0].text == ANSWER
print("streamed:", pieces)

history = [FRANCE, {"role": "assistant", "content": whole.content}, ITALY]
said = client.messages.create(model="demo", max_tokens=64, messages=history)
assert said.content[0].text == "The capital of Italy is Rome."
print("the conversation goes on:", repr(said.content[0].text))

stopped = client.messages.create(
    model="demo", max_tokens=64, messages=[FRANCE], stop_sequences=["Rome", "is Paris"]
)
assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "is Paris")
print("stop:", repr(stopped.content[0].text), stopped.stop_sequence)

begun = {"role": "assistant", "content": "The capital of France is"}
said = client.messages.create(model="demo", max_tokens=64, messages=[FRANCE, begun])
assert said.content[0].text == " Paris."
print("an answer that was begun:", repr(said.content[0].text))

ADD = {
    "name": "add",
    "description": "Adds two numbers.",
    "input_schema": {
        "type": "object",
        "properties": {key: {"type": "integer", "minimum": 0, "maximum": 99} for key in "ab"},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
SUM = {"role": "user", "content": "What is 17 + 25?"}
calling = {"model": "demo", "max_tokens": 256, "tools": [ADD]}
called = client.messages.create(**calling, messages=[SUM], tool_choice={"type": "any"})
assert called.stop_reason == "tool_use"
(use,) = (block for block in called.content if block.type == "tool_use")
assert (use.name, sorted(use.input)) == ("add", ["a", "b"])
with client.messages.stream(**calling, messages=[SUM], tool_choice={"type": "any"}) as stream:
    (streamed,) = (b for b in stream.get_final_message().content if b.type == "tool_use")
assert streamed.input == use.input
result = {"type": "tool_result", "tool_use_id": use.id, "content": "42"}
history = [
    SUM,
    {"role": "assistant", "content": called.content},
    {"role": "user", "content": [result]},
]
heard = client.messages.create(**calling, messages=history, tool_choice={"type": "none"})
assert all(block.type == "text" for block in heard.content)
print(
    "a tool that must be called:", use.name, "of a and b, streamed the same, and its result heard"
)

wrong = (
    {"model": "none"},
    {"max_tokens": 0},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
)
for fields in wrong:
    asked = {"model": "demo", "max_tokens": 4, "messages": [FRANCE], **fields}
    try:
        client.messages.create(**asked)
    except APIStatusError as error:
        print(f"{type(error).__name__}: {error.body['error']['message']}")
    else:
        raise AssertionError(f"{fields} was taken")
