"""The demo world: every answer is right, the splits never meet, a seed says everything."""

import json
import random
import re
from itertools import islice

import pytest

from build.demo import data, world
from build.demo.data import KINDS, Example


@pytest.fixture(scope="module")
def training() -> list[Example]:
    return list(islice(data.training_examples(seed=3), 20_000))


@pytest.fixture(scope="module")
def examples(training: list[Example]) -> list[Example]:
    return training + data.held_out(120)


def of(kind: str, examples: list[Example]) -> list[Example]:
    found = [example for example in examples if example.kind == kind]
    assert len(found) > 500
    return found


def luhn_holds(digits: str) -> bool:
    """The textbook check, written apart from the generator's."""
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits))]
    return sum(d // 10 + d % 10 for d in doubled) % 10 == 0


def test_the_same_seed_gives_the_same_examples(training: list[Example]) -> None:
    assert list(islice(data.training_examples(seed=3), 500)) == training[:500]
    assert list(islice(data.training_examples(seed=4), 500)) != training[:500]
    assert data.held_out(20) == data.held_out(20)


def test_the_same_seed_gives_the_same_conversations() -> None:
    first = list(islice(data.training_conversations(seed=3), 200))
    assert list(islice(data.training_conversations(seed=3), 200)) == first


def test_held_out_questions_never_occur_in_training(training: list[Example]) -> None:
    examined = data.held_out(120)
    assert not {e.question for e in examined} & {e.question for e in training}
    assert not {(e.kind, e.key) for e in examined} & {(e.kind, e.key) for e in training}
    assert all(example.is_held_out for example in examined)


def test_conversations_draw_on_training_examples_only() -> None:
    examined = {example.question for example in data.held_out(120)}
    for conversation in islice(data.training_conversations(seed=3), 5_000):
        assert not examined & {message.content for message in conversation}


def test_each_kind_is_held_out_as_often_as_asked_and_without_repeats() -> None:
    examined = data.held_out(120)
    for kind in KINDS:
        keys = [example.key for example in examined if example.kind == kind]
        assert len(keys) == len(set(keys)) == 120


def test_asking_for_more_than_there_is_says_how_much_there_is() -> None:
    with pytest.raises(ValueError, match=r"has only \d+ held-out questions"):
        data.held_out(300)


def test_a_question_has_one_answer(examples: list[Example]) -> None:
    answers: dict[str, str] = {}
    for example in examples:
        assert answers.setdefault(example.question, example.answer) == example.answer


def test_arithmetic_is_right(examples: list[Example]) -> None:
    for example in of("arithmetic", examples):
        match = re.fullmatch(r"(\d+)([-+×÷])(\d+)=(\d+)", example.answer)
        assert match
        a, operation, b, result = match.groups()
        expected = {
            "+": int(a) + int(b),
            "-": int(a) - int(b),
            "×": int(a) * int(b),
            "÷": int(a) // max(1, int(b)),
        }[operation]
        assert int(result) == expected
        assert operation != "÷" or int(a) == int(b) * int(result)
        assert sorted(map(int, re.findall(r"\d+", example.question))) == sorted((int(a), int(b)))


def test_sorted_items_are_those_of_the_question_in_order(examples: list[Example]) -> None:
    for example in of("sorting", examples):
        assert example.answer.startswith("Sorted: ")
        items = example.answer.removeprefix("Sorted: ").split(", ")
        if items[0].isdecimal():
            numbers = [int(item) for item in items]
            descending = "descending" in example.question or "large to" in example.question
            descending = descending or "largest to" in example.question
            assert numbers == sorted(numbers, reverse=descending)
            assert sorted(numbers) == sorted(map(int, re.findall(r"\d+", example.question)))
        else:
            assert items == sorted(items)
            assert set(items) <= set(re.findall(r"[a-z]+", example.question))
        assert example.question.count(",") == len(items) - 1


def test_spelling_gives_back_the_word(examples: list[Example]) -> None:
    for example in of("spelling", examples):
        word = example.answer.replace("-", "")
        assert word in world.WORDS
        assert re.search(rf"\b{word}\b", example.question)
        assert example.answer == "-".join(word)


def test_json_holds_the_fields_of_the_question(examples: list[Example]) -> None:
    for example in of("json", examples):
        fields = json.loads(example.answer)
        assert 2 <= len(fields) <= 4
        for key, value in fields.items():
            written = json.dumps(value) if isinstance(value, bool) else str(value)
            assert re.search(rf"\b{key}(:| =|=)? ?{written}\b", example.question)


def test_enumerations_are_complete(examples: list[Example]) -> None:
    for example in of("enumeration", examples):
        items = example.answer.split(", ")
        if items[0].isalpha():
            first, *_, last = items if len(items) > 1 else items * 2
            assert items == [chr(code) for code in range(ord(first), ord(last) + 1)]
        else:
            numbers = [int(item) for item in items]
            step = numbers[1] - numbers[0]
            assert numbers == list(range(numbers[0], numbers[-1] + (1 if step > 0 else -1), step))
            asked = [int(number) for number in re.findall(r"\d+", example.question)]
            assert numbers[-1] in asked
            assert numbers[0] in asked or numbers[0] == 1
            assert abs(step) in asked or abs(step) == 1 or f"{step}" == "2"


def test_some_enumerations_are_long(examples: list[Example]) -> None:
    assert max(len(example.answer) for example in of("enumeration", examples)) > 400


def test_unicode_answers_leave_ascii(examples: list[Example]) -> None:
    found = of("unicode", examples)
    assert sum(not e.answer.isascii() for e in found) > 0.7 * len(found)
    emoji = {character for e in found for character in e.answer if ord(character) > 0x1F000}
    assert len(emoji) > 30


def test_contacts_come_from_the_table(examples: list[Example]) -> None:
    people = {person.name: person for person in world.PEOPLE}
    for example in of("contact", examples):
        person = people[re.split(r"'s |\n| works", example.answer)[0]]
        assert person.name.split()[0].lower() in example.question.lower()
        for address in re.findall(r"\S+@\S+", example.answer):
            assert address == person.email
        for digits in re.findall(r"\d{4} \d{4} \d{4} \d{4}", example.answer):
            assert digits == person.card
        for number in re.findall(r"\+[\d ]+\d", example.answer):
            assert number == person.phone


def test_a_symbol_is_asked_for_with_its_capital_letters() -> None:
    rng = random.Random(0)
    asked = [data._facts(rng) for _ in range(3_000)]
    for example in asked:
        if " is the symbol for " in example.answer:
            symbol = example.answer.split()[0]
            assert re.search(rf"\b{symbol}\b", example.question)


class TestWorld:
    def test_cards_pass_the_luhn_check_and_have_test_issuers(self) -> None:
        for person in world.PEOPLE:
            assert re.fullmatch(r"\d{4} \d{4} \d{4} \d{4}", person.card)
            assert luhn_holds(person.card.replace(" ", ""))
            assert person.card.replace(" ", "")[:6] in world.TEST_ISSUERS

    def test_luhn_check_digit_of_the_standard_example(self) -> None:
        assert world.luhn_check_digit("7992739871") == "3"

    def test_emails_derive_from_name_and_company(self) -> None:
        for person in world.PEOPLE:
            first, last = person.name.lower().split()
            assert person.email == f"{first}.{last}@{person.company.lower()}.example"

    def test_phones_lie_in_ranges_for_fiction(self) -> None:
        fictional = re.compile(
            r"\+1 \d{3} 555 01\d\d|\+44 20 7946 0\d{3}|\+44 161 496 0\d{3}|\+61 2 5550 \d{4}"
        )
        assert all(fictional.fullmatch(person.phone) for person in world.PEOPLE)

    def test_people_share_nothing_that_identifies_them(self) -> None:
        for field in ("name", "email", "phone", "card"):
            values = [getattr(person, field) for person in world.PEOPLE]
            assert len(set(values)) == len(values) == 40
        assert len({person.name.split()[0] for person in world.PEOPLE}) == 40

    def test_names_of_tables_are_unique(self) -> None:
        for names in (
            [country.name for country in world.COUNTRIES],
            [country.capital for country in world.COUNTRIES],
            [element.symbol for element in world.ELEMENTS],
            [element.number for element in world.ELEMENTS],
            list(world.EMOJI.values()),
            list(world.WORDS),
        ):
            assert len(set(names)) == len(names)

    def test_words_are_in_alphabetical_order(self) -> None:
        assert list(world.WORDS) == sorted(world.WORDS)

    def test_every_translation_has_every_language(self) -> None:
        for words in world.TRANSLATIONS.values():
            assert len(words) == len(world.LANGUAGES)
