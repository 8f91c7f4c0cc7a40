from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tenants import credentials


def test_a_credential_is_read_back():
    made = credentials.make(credentials.KEY)
    assert credentials.read(credentials.KEY, made.text) == made
    assert made.matches(made.digest)
    assert not made.matches(credentials.NOBODY)


def test_no_two_are_alike_and_none_shows_itself():
    made = [credentials.make(credentials.KEY) for _ in range(100)]
    assert len({each.text for each in made}) == len({each.id for each in made}) == 100
    assert made[0].text not in repr(made[0])


def test_a_key_is_no_admin_token():
    assert credentials.read(credentials.ADMIN, credentials.make(credentials.KEY).text) is None
    assert credentials.read(credentials.KEY, credentials.make(credentials.ADMIN).text) is None


@given(st.text())
def test_whatever_is_sent_is_read_or_refused(text):
    assert credentials.read(credentials.KEY, text) is None


@pytest.mark.parametrize(
    ("header", "credential"),
    [
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic abc", None),
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
    ],
)
def test_the_header_holds_a_bearer_credential(header, credential):
    assert credentials.bearer(header) == credential
