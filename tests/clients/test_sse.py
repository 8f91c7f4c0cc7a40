"""Server-sent events, cut into chunks anywhere."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from clients.sse import EventParser

# What may stand in a line: anything but a line end.
_LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8)


def parse(*chunks: bytes) -> list[str]:
    parser = EventParser()
    return list(itertools.chain.from_iterable(map(parser.feed, chunks)))


def test_triton_s_stream() -> None:
    stream = b'data: {"text_output":"a"}\n\ndata: {"text_output":"b"}\n\n\n'
    assert parse(stream) == ['{"text_output":"a"}', '{"text_output":"b"}']


def test_the_standard_s_examples() -> None:
    assert parse(b"data: YHOO\ndata: +2\ndata: 10\n\n") == ["YHOO\n+2\n10"]
    assert parse(b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n") == [
        "first event",
        "second event",
    ]
    assert parse(b"data\n\ndata\ndata\n\ndata:") == ["", "\n"]
    assert parse(b"data:test\n\ndata: test\n\ndata:  test\n\n") == ["test", "test", " test"]


def test_byte_order_mark_is_not_text() -> None:
    assert parse(b"\xef\xbb\xbfdata: a\n\ndata: \xef\xbb\xbfb\n\n") == ["a", "\ufeffb"]


def test_unfinished_event_is_dropped() -> None:
    assert parse(b"data: a\n\ndata: b\n") == ["a"]


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """A byte stream and the events in it."""
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    events = draw(st.lists(st.lists(_LINES, min_size=1, max_size=3), max_size=4))
    text = ""
    for lines in events:
        text += draw(st.sampled_from(["", f": comment{end}", f"event: x{end}"]))
        text += "".join(f"data: {line}{end}" for line in lines) + end
    return text.encode(), ["\n".join(lines) for lines in events]


@given(streams(), st.data())
def test_chunks_do_not_matter(stream: tuple[bytes, list[str]], data: st.DataObject) -> None:
    body, events = stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    chunks = [body[a:b] for a, b in itertools.pairwise([0, *cuts, len(body)])]
    assert parse(*chunks) == events


@given(streams())
def test_byte_by_byte(stream: tuple[bytes, list[str]]) -> None:
    body, events = stream
    assert parse(*(bytes([byte]) for byte in body)) == events
