"""Texts that know their origin: they are texts in all else, and no mark is ever lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.text.chat_template import ChatTemplate
from python_backend.text.origin import GIVEN, OWN, Traced, origin_of
from tests.examples import examples

OWN_LETTERS, GIVEN_LETTERS = "abc \n", "xyz\t\rßŉİ"
"""A letter tells its origin here, in every case and after every method."""

CHARACTERS = OWN_LETTERS + GIVEN_LETTERS
ARGUMENTS = st.text(CHARACTERS, max_size=2)


def traced(text: str) -> Traced:
    return Traced(text, "".join(OWN if each in OWN_LETTERS else GIVEN for each in text))


def check(result: Any, expected: Any) -> None:
    """The result is that of a text, and no character that was given counts as the template's."""
    assert result == expected
    if isinstance(result, str):
        origin = origin_of(result)
        assert len(origin) == len(result)
        for character, mark in zip(str.__str__(result), origin, strict=True):
            assert mark == GIVEN or character.lower() in OWN_LETTERS
    elif isinstance(result, (list, tuple)):
        for each, other in zip(result, expected, strict=True):
            check(each, other)


CALLS: dict[str, list[tuple[Any, ...]]] = {
    "strip": [(), ("ax",)],
    "lstrip": [(), ("ax",)],
    "rstrip": [(), ("ax",)],
    "split": [(), (None, 1), ("a",), ("x", 1), ("ax",)],
    "rsplit": [(), (None, 1), ("a",), ("x", 1), ("ax",)],
    "splitlines": [(), (True,)],
    "partition": [("a",), ("xy",)],
    "rpartition": [("a",), ("xy",)],
    "removeprefix": [("a",), ("xa",)],
    "removesuffix": [("a",), ("xa",)],
    "upper": [()],
    "lower": [()],
    "title": [()],
    "capitalize": [()],
    "swapcase": [()],
    "casefold": [()],
}


@pytest.mark.parametrize("name", CALLS)
@given(text=st.text(CHARACTERS, max_size=12), data=st.data())
def test_methods_are_those_of_a_text(name: str, text: str, data: st.DataObject) -> None:
    args = data.draw(st.sampled_from(CALLS[name]))
    check(getattr(traced(text), name)(*args), getattr(text, name)(*args))


@given(text=st.text(CHARACTERS, max_size=12), old=ARGUMENTS, new=ARGUMENTS, n=st.integers(-1, 3))
def test_a_replacement_has_its_own_origin(text: str, old: str, new: str, n: int) -> None:
    check(traced(text).replace(old, traced(new), n), text.replace(old, new, n))


@given(text=st.text(CHARACTERS, max_size=12), other=ARGUMENTS, n=st.integers(-14, 14))
def test_parts_and_sums_keep_their_origin(text: str, other: str, n: int) -> None:
    one, two = traced(text), traced(other)
    check(one + two, text + other)
    check("ab" + one, "ab" + text)
    check(one + "ab", text + "ab")
    check(one * 2, text * 2)
    check(one[n:], text[n:])
    check(one[::-1], text[::-1])
    check(list(one), list(text))
    check(two.join([one, "a", two]), other.join([text, "a", other]))
    assert hash(one) == hash(text)


TEMPLATES = [
    "{{ m }}|{{ m ~ 1 ~ m }}|{{ 'ab' ~ m }}",
    "{{ 'ab %s c' % m }}|{{ '%-9s' % m }}|{{ 'ab %s' | format(m) }}",
    "{{ 'ab{}c{}'.format(m, 'a') }}|{{ m.format('a') }}|{{ 'ab{a}'.format_map({'a': m}) }}",
    "{{ [m, 'a', m] | join('b') }}|{{ ['a', m] | join }}|{{ 'b'.join([m, 'a']) }}",
    "{{ l | map(attribute='v') | join('b') }}|{{ l | map(attribute='v') | map('upper') | list }}",
    "{{ l | selectattr('v') | map(attribute='v') | first }}|{{ l | map(attribute='v') | string }}",
    "{{ l }}|{{ l[0] }}|{{ l[0] | string }}|{{ l ~ 'a' }}|{{ l | tojson }}|{{ m | tojson }}",
    "{{ l[0].items() | list }}|{{ l[0] | dictsort }}|{{ l[0].keys() | join('a') }}",
    "{% for c in m %}{{ c }}a{% endfor %}|{{ m | list }}|{{ m | last }}{{ m | reverse }}",
    "{% set ns = namespace(a='') %}{% for c in m %}{% set ns.a = ns.a + c %}{% endfor %}{{ ns.a }}",
    "{% macro f(x, y='a') %}a{{ x }}{{ y }}{% endmacro %}{{ f(m) }}{{ f('a', y=m) | trim }}",
    "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}{{ m }}a{% endcall %}",
    "{% set x %}a{{ m }}b{% endset %}{{ x | upper }}{% set y | trim %} a{{ m }}{% endset %}{{ y }}",
    "{% filter lower %}ab{{ m }}{% endfilter %}{% block b %}{{ m }}{% endblock %}{{ self.b() }}",
    "{{ m | indent(2) }}|{{ m | center(20) }}|{{ m | wordwrap(3) }}|{{ m | title }}|{{ m | e }}",
    "{{ m | replace('x', 'a') }}|{{ 'aba' | replace('b', m) }}|{{ m.replace('', 'a') }}",
    "{{ m | truncate(4) }}|{{ m | default('a') }}|{{ u | default(m) }}|{{ m | urlencode }}",
    "{{ m.encode().decode() }}|{{ m.center(20) }}|{{ m.zfill(20) }}|{{ m.expandtabs() }}",
    "{{ m.ljust(20, 'a') }}|{{ 'a'.ljust(20, 'b') }}|{{ 'aba'.replace('b', m) }}",
    "{{ m.split('a')[-1].lstrip('x') }}|{{ m[:3] }}{{ m[1] }}|{{ (m, 'a') }}|{{ m or 'a' }}",
    "{{ 'ab' if 'x' in m else 'ba' }}{{ m | length }}{{ m | upper | lower | capitalize | trim }}",
    "{{ ['a', m] | sort | first }}{{ ['a', m] | max }}{{ ['a', m] | unique | join }}",
    "{{ {'a': m} }}{{ {'a': m}.get('b', m) }}{{ dict(a=m) }}{{ [m] | batch(1) | list }}",
    "{{ strftime_now(m) }}{{ m | striptags }}{{ m | pprint }}{{ m | forceescape }}{{ m | safe }}",
    "{% set c = cycler('a', m) %}{{ c.next() }}{{ c.next() }}",
    "{% set j = joiner(m) %}{{ j() }}{{ j() }}",
    "{% set n = namespace(a=m) %}{{ n }}{{ [n] }}{{ [n] | string }}{{ n | upper }}",
    "{{ l | groupby('v') }}{{ l | groupby('v') | map(attribute=0) | join }}{{ l | upper }}",
]


@pytest.mark.parametrize("source", TEMPLATES)
@settings(max_examples=examples(30), deadline=None)
@given(text=st.text("xyz", min_size=1, max_size=6))
def test_no_template_makes_given_text_its_own(source: str, text: str) -> None:
    values = {"m": text, "l": [{"v": text, "w": [text]}]}
    template = ChatTemplate(source, {})
    rendered = template.render([{"role": "user"}], None, values)
    for character, mark in zip(str.__str__(rendered), origin_of(rendered), strict=True):
        assert mark == GIVEN or character.lower() not in "xyz"


@pytest.mark.parametrize(
    "source",
    [
        "<s>{{ m }}</s>",
        "{{ '<s>' + m + '</s>' }}",
        "{{ '<s>' ~ m ~ '</s>' }}",
        "{{ '<s>%s</s>' % m }}",
        "{{ '<s>%s</s>' | format(m) }}",
        "{{ '<s>{}</s>'.format(m) }}",
        "{{ '<s>{a}</s>'.format(a=m) }}",
        "{{ ['<s>', m, '</s>'] | join }}",
        "{{ ''.join(['<s>', m, '</s>']) }}",
        "{{ '<s>!</s>' | replace('!', m) }}",
        "{{ '<s>!</s>'.replace('!', m) }}",
        "{{ ['<s>', m, '</s>'] | map('trim') | join('') }}",
        "{% macro f(x) %}<s>{{ x }}</s>{% endmacro %}{{ f(m) | trim }}",
        "{% set x %}<s>{{ m }}</s>{% endset %}{{ x }}",
        "{% for c in '<s>' %}{{ c }}{% endfor %}{{ m + '</S>' | lower }}",
        "{{ ('<s>' + m + '</s>') | string | center(0) }}",
    ],
)
def test_the_templates_own_text_stays_its_own(source: str) -> None:
    rendered = ChatTemplate(source, {}).render([{"role": "user"}], None, {"m": "<s>x</s>"})
    assert rendered == "<s><s>x</s></s>"
    assert origin_of(rendered) == OWN * 3 + GIVEN * 8 + OWN * 4
