"""Conversations in which the demo model calls functions: what it is told, calls, hears and says.

It is told of functions in a system turn, by name and parameters; of those that it knows it calls
the ones that are there, in Hermes' format, and answers with what they return. Held out is, as in
`build.demo.data`, what a hash of the key says: the operands, the cities.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from build.demo import world

HELD_OUT_PERCENT = 10
UNKNOWN = "I can't look that up."
"""The answer where the function that it would take isn't there."""

ADD, WEATHER, TIME = "add", "get_weather", "get_time"
KNOWN: dict[str, tuple[str, ...]] = {ADD: ("a", "b"), WEATHER: ("city",), TIME: ("city",)}
"""The functions that the model knows, with their parameters."""

_OTHERS: dict[str, tuple[str, ...]] = {
    "search": ("query",),
    "send_mail": ("to", "subject", "body"),
    "get_stock": ("symbol",),
    "translate": ("text", "language"),
    "now": (),
    "book_table": ("name", "people", "day"),
    "read_file": ("path",),
    "multiply": ("a", "b"),
}
_SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy")
_CITIES = tuple(sorted({*world.CITIES, *(country.capital for country in world.COUNTRIES)}))

_ADDING = (
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "How much is {a} + {b}?",
    "Add {a} and {b}.",
    "{a} + {b}",
    "Calculate {a} + {b}.",
    "What is the sum of {a} and {b}?",
)
_WEATHER = (
    "What is the weather in {x}?",
    "What's the weather like in {x}?",
    "How is the weather in {x}?",
    "Tell me the weather in {x}.",
    "Weather in {x}?",
    "How warm is it in {x}?",
)
_TIME = (
    "What time is it in {x}?",
    "What is the time in {x}?",
    "Tell me the time in {x}.",
    "Time in {x}?",
    "How late is it in {x}?",
)


@dataclass(frozen=True)
class Call:
    """A call, what it returns, and what is said of that."""

    function: str
    arguments: dict[str, Any]
    result: str
    said: str


@dataclass(frozen=True)
class ToolUse:
    """A question with functions at hand.

    Attributes:
        question: What is asked.
        functions: Those that are there, with their parameters.
        calls: What is called, in this order; nothing where the function isn't there.
        answer: What is said in the end.
        key: What the split hashes.
    """

    question: str
    functions: dict[str, tuple[str, ...]]
    calls: tuple[Call, ...]
    answer: str
    key: str

    @property
    def is_held_out(self) -> bool:
        """Whether the split keeps this one out of training; of sums, as without functions."""
        digest = hashlib.blake2b(self.key.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % 100 < HELD_OUT_PERCENT


def told(functions: dict[str, tuple[str, ...]]) -> str:
    """How the model is told of functions."""
    return "Tools:" + "".join(f"\n{name}({', '.join(of)})" for name, of in functions.items())


def written(calls: Sequence[Call]) -> str:
    """How the model calls."""
    return "\n".join(
        "<tool_call>\n"
        + json.dumps({"name": call.function, "arguments": call.arguments}, ensure_ascii=False)
        + "\n</tool_call>"
        for call in calls
    )


def heard(result: str) -> str:
    """How the model is told what a function returned."""
    return f"<tool_response>\n{result}\n</tool_response>"


def tool_use(rng: random.Random) -> ToolUse:
    """A question that a function answers, or would if it were there."""
    shape = rng.choice((ADD, ADD, WEATHER, WEATHER, TIME))
    if shape == ADD:
        calls, question, key = _adding(rng)
    else:
        calls, question, key = _asking(rng, shape)
    answer = " ".join(call.said for call in calls)
    is_there = rng.random() < 0.85
    functions = _functions(rng, shape if is_there else None, without=shape)
    if is_there:
        return ToolUse(question, functions, calls, answer, key)
    return ToolUse(question, functions, (), answer if shape == ADD else UNKNOWN, key)


def other_functions(rng: random.Random) -> dict[str, tuple[str, ...]]:
    """Functions that a question needs none of."""
    return _functions(rng, rng.choice((WEATHER, TIME)))


def _functions(
    rng: random.Random, wanted: str | None, without: str = ""
) -> dict[str, tuple[str, ...]]:
    """A few functions in any order, with the one that is wanted."""
    known = [name for name in KNOWN if name not in (wanted, without) and rng.random() < 0.5]
    names = known + rng.sample(sorted(_OTHERS), rng.choice((0, 0, 1, 2)))
    names += [wanted] if wanted else []
    if not names:
        names = [rng.choice(sorted(_OTHERS))]
    rng.shuffle(names)
    return {name: KNOWN.get(name) or _OTHERS.get(name, ()) for name in names}


def _adding(rng: random.Random) -> tuple[tuple[Call, ...], str, str]:
    a, b = rng.randrange(100), rng.randrange(100)
    call = Call(ADD, {"a": a, "b": b}, str(a + b), f"{a}+{b}={a + b}")
    return (call,), rng.choice(_ADDING).format(a=a, b=b), f"arithmetic:{min(a, b)} + {max(a, b)}"


def _asking(rng: random.Random, function: str) -> tuple[tuple[Call, ...], str, str]:
    cities = rng.sample(_CITIES, 2 if rng.random() < 0.2 else 1)
    calls = tuple(_call(rng, function, city) for city in cities)
    phrasings = _WEATHER if function == WEATHER else _TIME
    question = rng.choice(phrasings).format(x=" and in ".join(cities))
    return calls, question, f"{function} {question}"


def _call(rng: random.Random, function: str, city: str) -> Call:
    if function == WEATHER:
        degrees, sky = rng.randint(1, 39), rng.choice(_SKIES)
        result = json.dumps({"degrees": degrees, "sky": sky})
        return Call(
            function, {"city": city}, result, f"It is {degrees} degrees and {sky} in {city}."
        )
    time = f"{rng.randrange(24):02}:{rng.randrange(60):02}"
    return Call(function, {"city": city}, json.dumps({"time": time}), f"It is {time} in {city}.")
