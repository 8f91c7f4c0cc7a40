"""LlamaIndex: chats, streamed and not, and completions."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# It looks for word lists when it is imported, and would ask the internet for them.
words = Path(tempfile.mkdtemp())
for name in ("corpora/stopwords", "tokenizers/punkt"):
    (words / name).mkdir(parents=True)
os.environ["NLTK_DATA"] = str(words)

from llama_index.core.llms import ChatMessage  # noqa: E402
from llama_index.llms.openai_like import OpenAILike  # noqa: E402

FRANCE = [ChatMessage(role="user", content="What is the capital of France?")]
ANSWER = "The capital of France is Paris."

print("# LlamaIndex")
model = OpenAILike(
    model="demo", api_base=sys.argv[1], api_key="none", is_chat_model=True, max_retries=0
)
said = model.chat(FRANCE)
assert said.message.content == ANSWER
print("chat:", repr(said.message.content))
pieces = [each.delta for each in model.stream_chat(FRANCE)]
assert "".join(pieces) == ANSWER
print("streamed:", pieces)
second = [*FRANCE, said.message, ChatMessage(role="user", content="What is the capital of Italy?")]
said = model.chat(second)
assert said.message.content == "The capital of Italy is Rome."
print("the conversation goes on:", repr(said.message.content))
texts = OpenAILike(model="demo", api_base=sys.argv[1], api_key="none", max_tokens=4)
print("text model:", repr(texts.complete("The capital of").text))
