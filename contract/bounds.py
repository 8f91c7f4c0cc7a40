"""How much of each input a request may bring: what is beyond is refused before it is read."""

from __future__ import annotations

from typing import NamedTuple

from contract.codes import ErrorCode


class Bound(NamedTuple):
    """What the texts of one input may be, for each prompt.

    Attributes:
        most: Most texts.
        most_bytes: Most bytes of all of them together.
        code: What kind of mistake more bytes are, where that has a word.
    """

    most: int
    most_bytes: int
    code: ErrorCode | None = None


STOP_WORDS = Bound(64, 4_096)
BAD_WORDS = Bound(1_024, 65_536)
BIAS_WORDS = Bound(1_024, 65_536)

MAX_BIAS_IDS = 4_096
"""Most tokens that are biased by their ids."""

MAX_ANSWERS = 128
"""Most answers to one request, to all of its prompts together; OpenAI's own bound for one."""

MAX_TOOLS = 128
"""Most functions that a model may call; OpenAI's own bound."""

MAX_TEMPLATE_VARIABLES = 64
"""Most variables in ``chat_template_kwargs``."""

MAX_CHAT_TEXTS = 8_192
"""Most different names and values of a chat, its tools and variables beside the messages' contents:
each is held to the policy."""

MAX_PARAMETERS_BYTES = 65_536
"""Most bytes of a request's parameters, as JSON."""

MAX_PROMPT_BYTES = 16_000_000
"""Most bytes of a prompt where the engine's context is not known."""

MAX_JSON_VALUES = 32_768
"""Most values in the body of a request to the gateway: each becomes an object."""

MAX_BODY_NAME = 64
"""Most characters of a name in a body that an error repeats, or looks for what is like it."""

JSON_GROWTH = 6
"""A character of one byte takes up to so many in JSON, as ``\\u0041``."""

JSON_BYTES_PER_TOKEN = 64
"""What JSON puts around the shortest message or argument, which is a token at least."""

MAX_GUIDE_BYTES = 131_072
"""Most bytes of a JSON schema, a regular expression or a grammar that an answer keeps to."""
