"""Server-sent events, as Triton's ``generate_stream`` endpoint sends them.

The parser follows the HTML standard, section 9.2.6 «Interpreting an event stream», for events of
one type: it returns their data, and passes over comments and the fields ``event``, ``id`` and
``retry``.
"""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\r|\n")


class EventParser:
    """Turns the chunks of a byte stream into the data of its events, wherever the chunks are cut.

        parser = EventParser()
        for chunk in response.iter_bytes():
            for data in parser.feed(chunk):
                print(json.loads(data))

    An event that the stream leaves unfinished is dropped, as the standard demands.
    """

    def __init__(self) -> None:
        self._line = b""
        self._data: list[str] = []
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[str]:
        """Return the data of the events that end in this chunk."""
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # the second half of a line end that was cut in two
            self._after_cr = False
        *lines, self._line = _LINE_END.split(self._line + chunk)
        self._after_cr = chunk.endswith(b"\r")
        return [event for event in map(self._take, lines) if event is not None]

    def _take(self, line: bytes) -> str | None:
        """Take one line; return the event that it ends."""
        text = line.decode("utf-8", errors="replace")
        if self._at_start:
            text = text.removeprefix("\ufeff")
            self._at_start = False
        if not text:
            data, self._data = self._data, []
            return "\n".join(data) if data else None
        name, _, value = text.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        return None
