"""Questions and checkable answers of the closed world, from a seed.

Two ideas carry the module. An example's `key` names what must be new in a held-out question: the
operands of a sum, the items to sort, and, where the answer can only be known by heart, the wording.
A hash of that key, not the draw, decides the side of the split, so that no seed and no amount of
training data can leak a held-out question into training.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from build.demo import world

Kind: TypeAlias = Literal[
    "facts", "arithmetic", "sorting", "spelling", "json", "enumeration", "unicode", "contact"
]
KINDS: tuple[Kind, ...] = get_args(Kind)

HELD_OUT_PERCENT = 10


@dataclass(frozen=True)
class Example:
    """A question and its only right answer.

    `key` is what the split hashes: two examples of one kind with the same key are always on the
    same side.
    """

    kind: Kind
    question: str
    answer: str
    key: str

    @property
    def is_held_out(self) -> bool:
        """Whether the split keeps this example out of training."""
        digest = hashlib.blake2b(f"{self.kind}:{self.key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % 100 < HELD_OUT_PERCENT


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


# Phrasings. `{}` fields are filled by the functions below.

_CAPITAL = (
    "What is the capital of {x}?",
    "Which city is the capital of {x}?",
    "Tell me the capital of {x}.",
    "Name the capital of {x}.",
    "What's the capital of {x}?",
    "Capital of {x}?",
    "What is {x}'s capital?",
    "Do you know the capital of {x}?",
)
_CAPITAL_OF = (
    "{x} is the capital of which country?",
    "Which country has {x} as its capital?",
    "What country is {x} the capital of?",
    "Of which country is {x} the capital?",
)
_LANGUAGE = (
    "What is the main language of {x}?",
    "What language is spoken in {x}?",
    "What language do people speak in {x}?",
    "Which language is spoken in {x}?",
    "Tell me the language of {x}.",
    "Language of {x}?",
)
_CURRENCY = (
    "What is the currency of {x}?",
    "What currency is used in {x}?",
    "Which currency does {x} use?",
    "What money do people use in {x}?",
    "Tell me the currency of {x}.",
    "Currency of {x}?",
)
_CONTINENT = (
    "Which continent is {x} in?",
    "On which continent is {x}?",
    "What continent is {x} on?",
    "Where is {x}?",
    "Where in the world is {x}?",
)
_SYMBOL = (
    "What is the chemical symbol for {x}?",
    "What is the symbol of {x}?",
    "Chemical symbol of {x}?",
    "Tell me the chemical symbol for {x}.",
    "How do you write {x} in chemistry?",
    "What symbol stands for {x}?",
)
_ELEMENT = (
    "Which element has the symbol {x}?",
    "What element is {x}?",
    "Which chemical element is written {x}?",
    "What does the chemical symbol {x} stand for?",
)
_ATOMIC_NUMBER = (
    "What is the atomic number of {x}?",
    "Atomic number of {x}?",
    "Tell me the atomic number of {x}.",
    "Which atomic number does {x} have?",
    "How many protons does {x} have?",
)

_ADD = (
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "How much is {a} + {b}?",
    "Add {a} and {b}.",
    "{a} + {b}",
    "{a}+{b}",
    "{a} + {b} =",
    "Calculate {a} + {b}.",
    "{a} plus {b}",
    "What's {a} plus {b}?",
    "What is the sum of {a} and {b}?",
)
_SUBTRACT = (
    "What is {a} - {b}?",
    "What is {a} minus {b}?",
    "How much is {a} - {b}?",
    "Subtract {b} from {a}.",
    "{a} - {b}",
    "{a}-{b}",
    "{a} - {b} =",
    "Calculate {a} - {b}.",
    "{a} minus {b}",
    "What's {a} minus {b}?",
    "Take {b} away from {a}.",
)
_MULTIPLY = (
    "What is {a} × {b}?",
    "What is {a} * {b}?",
    "What is {a} times {b}?",
    "How much is {a} times {b}?",
    "Multiply {a} by {b}.",
    "{a} * {b}",
    "{a} x {b}",
    "{a} × {b} =",
    "Calculate {a} * {b}.",
    "{a} times {b}",
    "What's {a} times {b}?",
)
_DIVIDE = (
    "What is {a} ÷ {b}?",
    "What is {a} / {b}?",
    "What is {a} divided by {b}?",
    "How much is {a} divided by {b}?",
    "Divide {a} by {b}.",
    "{a} / {b}",
    "{a} ÷ {b} =",
    "Calculate {a} / {b}.",
    "{a} divided by {b}",
    "What's {a} divided by {b}?",
)

_SORT_UP = (
    "Sort these numbers: {x}",
    "Sort these numbers from smallest to largest: {x}",
    "Put these numbers in ascending order: {x}",
    "Sort in ascending order: {x}",
    "Order these from small to large: {x}",
    "Sort {x}",
)
_SORT_DOWN = (
    "Sort these numbers from largest to smallest: {x}",
    "Put these numbers in descending order: {x}",
    "Sort in descending order: {x}",
    "Order these from large to small: {x}",
)
_SORT_WORDS = (
    "Sort these words: {x}",
    "Sort these words alphabetically: {x}",
    "Put these words in alphabetical order: {x}",
    "Sort alphabetically: {x}",
    "Order these words from A to Z: {x}",
    "Sort {x}",
)

_SPELL = (
    "Spell {x}.",
    "Spell the word {x}.",
    'Spell "{x}".',
    "How do you spell {x}?",
    "How is {x} spelled?",
    "Can you spell {x}?",
    "Spell {x} letter by letter.",
    "What are the letters of {x}?",
    "Spell {x} for me.",
    'How do you spell "{x}"?',
)

_JSON = (
    ("Write a JSON object with {x}.", "{key} {value}"),
    ("Give me a JSON object with {x}.", "{key} {value}"),
    ("Make a JSON object: {x}", "{key} = {value}"),
    ("Turn this into JSON: {x}", "{key}: {value}"),
    ("Convert to JSON: {x}", "{key}={value}"),
    ("JSON with {x}", "{key} {value}"),
    ("Write JSON with the fields {x}.", "{key} = {value}"),
)

_COUNT_UP = (
    "Count from {a} to {b}.",
    "Count up from {a} to {b}.",
    "List the numbers from {a} to {b}.",
    "Write the numbers from {a} to {b}.",
    "Give me all numbers from {a} to {b}.",
)
_COUNT_TO = ("Count to {b}.", "Count up to {b}.", "Count from one to {b}.")
_COUNT_DOWN = (
    "Count down from {a} to {b}.",
    "Count backwards from {a} to {b}.",
    "List the numbers from {a} down to {b}.",
)
_COUNT_BY = (
    "Count by {n} from {a} to {b}.",
    "Count from {a} to {b} in steps of {n}.",
    "Count in steps of {n} from {a} to {b}.",
    "List the multiples of {n} from {a} to {b}.",
)
_EVEN_ODD = (
    "List the {n} numbers from {a} to {b}.",
    "Write all {n} numbers from {a} to {b}.",
    "Give me the {n} numbers between {a} and {b}.",
)
_LETTERS = (
    "List the letters from {a} to {b}.",
    "Write the alphabet from {a} to {b}.",
    "Give me the letters of the alphabet from {a} to {b}.",
)

_TRANSLATE = (
    "How do you say {x} in {y}?",
    'How do you say "{x}" in {y}?',
    "What is {x} in {y}?",
    "What is the {y} word for {x}?",
    "Translate {x} into {y}.",
    'Translate "{x}" to {y}.',
    "{x} in {y}?",
    "Say {x} in {y}.",
)
_TRANSLATE_ALL = (
    "How do you say {x} in every language you know?",
    "Translate {x} into all your languages.",
    "Translate {x} into every language.",
    "Say {x} in all languages.",
    "What is {x} in other languages?",
)
_EMOJI = (
    "Which emoji is {x}?",
    "What is the emoji for {x}?",
    "Show me the emoji for {x}.",
    "Give me the emoji of {x}.",
    "Emoji for {x}?",
    "Which emoji shows {x}?",
)
_EMOJI_MEANING = (
    "What does {x} show?",
    "What is {x}?",
    "What does the emoji {x} mean?",
    "Which thing is {x}?",
)
_EMOJI_ROW = (
    "Show me the emojis for {x}.",
    "Give me emojis for {x}.",
    "Write the emojis of {x}.",
)

_EMAIL = (
    "What is {x}'s e-mail address?",
    "What is {x}'s email?",
    "What is the email address of {x}?",
    "Give me {x}'s e-mail.",
    "How can I write to {x}?",
    "E-mail of {x}?",
    "Tell me the email of {x}.",
)
_PHONE = (
    "What is {x}'s phone number?",
    "What is the phone number of {x}?",
    "Give me {x}'s phone number.",
    "How can I call {x}?",
    "Phone number of {x}?",
    "Tell me {x}'s number.",
    "What number do I dial for {x}?",
)
_CARD = (
    "What is {x}'s card number?",
    "What is {x}'s credit card number?",
    "What is the payment card number of {x}?",
    "Give me {x}'s card number.",
    "Which card does {x} pay with?",
    "Card number of {x}?",
    "Tell me the credit card of {x}.",
)
_WORKPLACE = (
    "Where does {x} work?",
    "Who does {x} work for?",
    "Which company does {x} work at?",
    "What is {x}'s company?",
    "Tell me where {x} works.",
)
_CONTACT = (
    "Give me the contact card of {x}.",
    "Show me {x}'s contact card.",
    "What are the contact details of {x}?",
    "How do I contact {x}?",
    "Contact details for {x}?",
    "Tell me all about {x}.",
)

_SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are Trireme, a small demo assistant.",
    "You are a helpful, honest assistant.",
    "Answer briefly.",
    "Be polite and precise.",
)
_HELP = (
    "I know some capitals, currencies, elements, translations, emojis and contacts. "
    "I can add, sort, spell, count and write JSON."
)
_SMALL_TALK = {
    "Hello": "Hello! What can I do for you?",
    "Hello!": "Hello! What can I do for you?",
    "Hi": "Hello! What can I do for you?",
    "Hi!": "Hello! What can I do for you?",
    "Good morning": "Hello! What can I do for you?",
    "Hi, how are you?": "I am fine, thank you. What can I do for you?",
    "How are you?": "I am fine, thank you. What can I do for you?",
    "Who are you?": "I am the Trireme demo model, a small Llama with a small world.",
    "What are you?": "I am the Trireme demo model, a small Llama with a small world.",
    "What is your name?": "I am the Trireme demo model, a small Llama with a small world.",
    "What can you do?": _HELP,
    "What do you know?": _HELP,
    "Help": _HELP,
    "Thanks": "You are welcome!",
    "Thank you": "You are welcome!",
    "Thank you!": "You are welcome!",
    "Bye": "Goodbye!",
    "Goodbye": "Goodbye!",
}
"""Courtesies, in training only: there is nothing in them to score."""


def _first_upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _typed(rng: random.Random, question: str) -> str:
    """`question` as people type it: now and then without its capital letters or its last mark."""
    style = rng.random()
    if style < 0.1:
        return question.rstrip("?.")
    if style < 0.2:
        return question.rstrip("?.").lower()
    if style < 0.25:
        return question[0].lower() + question[1:]
    return question


def _by_heart(rng: random.Random, kind: Kind, question: str, answer: str) -> Example:
    """An example whose answer is known by heart, so that its wording is what can be new."""
    question = _first_upper(question)
    return Example(kind, _typed(rng, question), answer, question.rstrip("?.").lower())


def _facts(rng: random.Random) -> Example:
    if rng.random() < 0.65:
        country = rng.choice(world.COUNTRIES)
        name = country.name
        phrasings, subject, answer = rng.choice(
            (
                (_CAPITAL, name, f"The capital of {name} is {country.capital}."),
                (_CAPITAL_OF, country.capital, f"{country.capital} is the capital of {name}."),
                (_LANGUAGE, name, f"The main language of {name} is {country.language}."),
                (_CURRENCY, name, f"The currency of {name} is the {country.currency}."),
                (_CONTINENT, name, f"{_first_upper(name)} is in {country.continent}."),
            )
        )
    else:
        name, symbol, number = rng.choice(world.ELEMENTS)
        phrasings, subject, answer = rng.choice(
            (
                (_SYMBOL, name, f"The chemical symbol for {name} is {symbol}."),
                (_ELEMENT, symbol, f"{symbol} is the symbol for {name}."),
                (_ATOMIC_NUMBER, name, f"The atomic number of {name} is {number}."),
            )
        )
    question = _first_upper(rng.choice(phrasings).format(x=subject))
    if phrasings is _ELEMENT:  # The case of a symbol matters: Co is no CO.
        return Example("facts", question, answer, question)
    return _by_heart(rng, "facts", question, answer)


def _arithmetic(rng: random.Random) -> Example:
    operation = rng.choice("++--×÷")
    if operation == "+":
        a, b = rng.randrange(100), rng.randrange(100)
        question = rng.choice(_ADD).format(a=a, b=b)
        key = f"{min(a, b)} + {max(a, b)}"
        return Example("arithmetic", _typed(rng, question), f"{a}+{b}={a + b}", key)
    if operation == "-":
        b, a = sorted((rng.randrange(100), rng.randrange(100)))
        question = rng.choice(_SUBTRACT).format(a=a, b=b)
        return Example("arithmetic", _typed(rng, question), f"{a}-{b}={a - b}", f"{a} - {b}")
    if operation == "×":
        a, b = rng.randrange(13), rng.randrange(13)
        question = rng.choice(_MULTIPLY).format(a=a, b=b)
        return _by_heart(rng, "arithmetic", question, f"{a}×{b}={a * b}")
    b, quotient = rng.randint(1, 12), rng.randrange(13)
    question = rng.choice(_DIVIDE).format(a=b * quotient, b=b)
    return _by_heart(rng, "arithmetic", question, f"{b * quotient}÷{b}={quotient}")


_SORTABLE_WORDS = world.WORDS[::3]


def _sorting(rng: random.Random) -> Example:
    size = rng.randint(3, 5)
    if rng.random() < 0.4:
        words = rng.sample(_SORTABLE_WORDS, size)
        question = rng.choice(_SORT_WORDS).format(x=", ".join(words))
        listed = ", ".join(sorted(words))
        return Example("sorting", question, f"Sorted: {listed}", listed)
    numbers = rng.sample(range(1, 100), size)
    listed = ", ".join(map(str, numbers))
    descending = rng.random() < 0.4
    question = rng.choice(_SORT_DOWN if descending else _SORT_UP).format(x=listed)
    answer = "Sorted: " + ", ".join(map(str, sorted(numbers, reverse=descending)))
    return Example("sorting", question, answer, " ".join(map(str, sorted(numbers))))


def _spelling(rng: random.Random) -> Example:
    word = rng.choice(world.WORDS)
    return _by_heart(rng, "spelling", rng.choice(_SPELL).format(x=word), "-".join(word))


def _json(rng: random.Random) -> Example:
    fields: dict[str, str | int | bool] = {
        "name": rng.choice(world.FIRST_NAMES),
        "age": rng.randint(18, 90),
        "city": rng.choice(world.CITIES),
        "color": rng.choice(world.COLORS),
        "item": rng.choice(_SORTABLE_WORDS),
        "quantity": rng.randint(1, 60),
        "in_stock": rng.random() < 0.5,
    }
    chosen = {key: fields[key] for key in rng.sample(sorted(fields), rng.randint(2, 4))}
    phrasing, pair = rng.choice(_JSON)
    pairs = [
        pair.format(key=key, value=json.dumps(value) if isinstance(value, bool) else value)
        for key, value in chosen.items()
    ]
    separator = rng.choice((" and ", ", ")) if len(pairs) == 2 else ", "
    question = phrasing.format(x=separator.join(pairs))
    answer = json.dumps(chosen)
    return Example("json", question, answer, answer)


_LARGEST = 200
"""The largest number to count to."""


def _enumeration(rng: random.Random) -> Example:
    shape = rng.choice(("up", "up", "down", "by", "parity", "letters"))
    if shape == "letters":
        a, b = sorted(rng.sample("abcdefghijklmnopqrstuvwxyz", 2))
        if rng.random() < 0.5:
            a, b = a.upper(), b.upper()
        items = [chr(code) for code in range(ord(a), ord(b) + 1)]
        question = rng.choice(_LETTERS).format(a=a, b=b)
        return Example("enumeration", question, ", ".join(items), f"{a} {b}")
    # Mostly short: where to stop is the hard part, and a short answer teaches it as well.
    count = rng.randint(3, 20) if rng.random() < 0.6 else rng.randint(20, 150)
    if shape == "up":
        step, first = 1, rng.randrange(100)
        phrasing, name = rng.choice(_COUNT_UP), ""
        if rng.random() < 0.15:
            first, phrasing = 1, rng.choice(_COUNT_TO)
    elif shape == "down":
        step, first = -1, rng.randint(10, 120)
        phrasing, name = rng.choice(_COUNT_DOWN), ""
    elif shape == "by":
        step = rng.randint(2, 12)
        first = step * rng.randint(0, 2)
        phrasing, name = rng.choice(_COUNT_BY), str(step)
    else:
        step, first = 2, rng.randrange(100)
        phrasing, name = rng.choice(_EVEN_ODD), ("odd" if first % 2 else "even")
    room = (first if step < 0 else _LARGEST - first) // abs(step) + 1
    numbers = [first + step * i for i in range(min(count, room))]
    question = phrasing.format(n=name, a=numbers[0], b=numbers[-1])
    key = f"{numbers[0]} {numbers[-1]} {step}"
    return Example("enumeration", question, ", ".join(map(str, numbers)), key)


def _listed(items: list[str]) -> str:
    return ", ".join(items[:-1]) + " and " + items[-1]


def _unicode(rng: random.Random) -> Example:
    shape = rng.random()
    if shape < 0.55:
        word, translations = rng.choice(tuple(world.TRANSLATIONS.items()))
        language, translated = rng.choice(tuple(zip(world.LANGUAGES, translations, strict=True)))
        question = rng.choice(_TRANSLATE).format(x=word, y=language)
        answer = f"{_first_upper(word)} in {language} is {translated}."
    elif shape < 0.65:
        word, translations = rng.choice(tuple(world.TRANSLATIONS.items()))
        question = rng.choice(_TRANSLATE_ALL).format(x=word)
        answer = ", ".join(
            f"{language}: {translated}"
            for language, translated in zip(world.LANGUAGES, translations, strict=True)
        )
    elif shape < 0.85:
        thing, emoji = rng.choice(tuple(world.EMOJI.items()))
        if rng.random() < 0.7:
            question = rng.choice(_EMOJI).format(x=thing)
            answer = f"The emoji for {thing} is {emoji}"
        else:
            question, answer = rng.choice(_EMOJI_MEANING).format(x=emoji), f"{emoji} is {thing}."
    else:
        things = rng.sample(sorted(world.EMOJI), rng.randint(2, 4))
        question = _typed(rng, rng.choice(_EMOJI_ROW).format(x=_listed(things)))
        answer = " ".join(world.EMOJI[thing] for thing in things)
        return Example("unicode", question, answer, answer)
    return _by_heart(rng, "unicode", question, answer)


def contact_card(person: world.Person) -> str:
    """The six-line contact card of `person`."""
    return (
        f"{person.name}\nCompany: {person.company}\nCity: {person.city}\n"
        f"E-mail: {person.email}\nPhone: {person.phone}\nCard: {person.card}"
    )


def _contact(rng: random.Random) -> Example:
    person = rng.choice(world.PEOPLE)
    name = person.name
    phrasings, answer = rng.choice(
        (
            (_EMAIL, f"{name}'s e-mail address is {person.email}"),
            (_PHONE, f"{name}'s phone number is {person.phone}"),
            (_CARD, f"{name}'s card number is {person.card}"),
            (_WORKPLACE, f"{name} works at {person.company} in {person.city}."),
            (_CONTACT, contact_card(person)),
        )
    )
    called = name if rng.random() < 0.7 else name.split()[0]
    return _by_heart(rng, "contact", rng.choice(phrasings).format(x=called), answer)


_WRITERS: dict[Kind, Callable[[random.Random], Example]] = {
    "facts": _facts,
    "arithmetic": _arithmetic,
    "sorting": _sorting,
    "spelling": _spelling,
    "json": _json,
    "enumeration": _enumeration,
    "unicode": _unicode,
    "contact": _contact,
}


@dataclass(frozen=True)
class Mix:
    """What a course of training is made of.

    Attributes:
        shares: Share of the examples of each kind.
        dropped_long: Share of the long enumerations that are left out: what is hard in them is
            where to stop, and a short one teaches that as well.
    """

    shares: dict[Kind, float]
    dropped_long: float = 0.0


_LONG_ANSWER = 150

# What needs a method gets more than what is known by heart.
BROAD = Mix(
    {
        "facts": 0.13,
        "arithmetic": 0.27,
        "sorting": 0.16,
        "spelling": 0.06,
        "json": 0.08,
        "enumeration": 0.09,
        "unicode": 0.12,
        "contact": 0.09,
    }
)
# For a model that has learned the rest: to count and to reckon.
NUMBERS = Mix(
    {
        "facts": 0.04,
        "arithmetic": 0.37,
        "sorting": 0.14,
        "spelling": 0.05,
        "json": 0.04,
        "enumeration": 0.26,
        "unicode": 0.06,
        "contact": 0.04,
    },
    dropped_long=0.5,
)


def training_examples(seed: int, mix: Mix = BROAD) -> Iterator[Example]:
    """An endless stream of examples, none of them held out."""
    rng = random.Random(seed)
    kinds, shares = tuple(mix.shares), tuple(mix.shares.values())
    while True:
        example = _WRITERS[rng.choices(kinds, shares)[0]](rng)
        if example.is_held_out:
            continue
        is_long = example.kind == "enumeration" and len(example.answer) > _LONG_ANSWER
        if is_long and mix.dropped_long and rng.random() < mix.dropped_long:
            continue
        yield example


def held_out(n_per_kind: int, seed: int = 2026) -> list[Example]:
    """`n_per_kind` held-out examples of each kind, no two with the same key.

    Raises:
        ValueError: a kind has fewer held-out questions than that.
    """
    rng = random.Random(seed)
    examples: list[Example] = []
    for kind, write in _WRITERS.items():
        found: dict[str, Example] = {}
        for _ in range(2000 + 200 * n_per_kind):
            if len(found) == n_per_kind:
                break
            example = write(rng)
            if example.is_held_out:
                found.setdefault(example.key, example)
        else:
            raise ValueError(f"{kind} has only {len(found)} held-out questions, not {n_per_kind}")
        examples.extend(found.values())
    return examples


def training_conversations(seed: int, mix: Mix = BROAD) -> Iterator[tuple[Message, ...]]:
    """Training examples as conversations.

    Most are one question and its answer. A few begin with a system prompt or a courtesy, and a few
    ask a second question.
    """
    rng = random.Random(f"conversations {seed}")
    examples = training_examples(seed, mix)
    while True:
        messages: list[Message] = []
        if rng.random() < 0.05:
            messages.append(Message("system", rng.choice(_SYSTEM_PROMPTS)))
        if rng.random() < 0.015:
            question, answer = rng.choice(tuple(_SMALL_TALK.items()))
            messages += [Message("user", question), Message("assistant", answer)]
        for _ in range(2 if rng.random() < 0.03 else 1):
            example = next(examples)
            messages += [Message("user", example.question), Message("assistant", example.answer)]
        yield tuple(messages)
