"""Stop texts: where in a growing text the first of them is complete.

They are matched on the text, so that the borders of tokens don't matter.
"""

from __future__ import annotations

from collections.abc import Iterable


class StopTexts:
    """The text of one stream up to its first stop text.

    Owns the end of the text that may be the beginning of a stop text: less than the longest.

    Attributes:
        found: Whether one was found; nothing follows then.
        text: Which.
        cut_off: What of the stop text is not part of the text.
    """

    def __init__(self, stops: Iterable[str], include: bool) -> None:
        """Take the stop texts.

        Args:
            stops: The texts; empty ones are left out.
            include: Whether the stop text itself is part of the text.
        """
        self._stops = tuple(filter(None, stops))
        self._include = include
        self._held = ""
        self._early = 0
        self.found = False
        self.text = ""
        self.cut_off = ""

    def add(self, text: str, final: bool = False, early: bool = False) -> str:
        """Text that is certain after some more text.

        Args:
            text: What follows.
            final: No more text follows it.
            early: A stop text that is complete within it doesn't end the text yet.
        """
        if not self._stops:
            return text
        if self.found:
            return ""
        text = self._held + text
        too_early = len(text) if early else self._early
        places = [
            (place + len(stop), place)
            for stop in self._stops
            if (place := text.find(stop, max(too_early + 1 - len(stop), 0))) >= 0
        ]
        if places:
            # The one that is complete first; of two that end together, the longer.
            end, start = min(places)
            self.found = True
            self.text = text[start:end]
            self._held = ""
            kept = end if self._include else start
            self.cut_off = text[kept:end]
            return text[:kept]
        keep = 0 if final else self._open(text)
        self._held = text[len(text) - keep :]
        self._early = max(too_early - (len(text) - keep), 0)
        return text[: len(text) - keep]

    def _open(self, text: str) -> int:
        """Length of the longest end of the text that a stop text begins with."""
        longest = max(len(stop) for stop in self._stops) - 1
        for length in range(min(longest, len(text)), 0, -1):
            end = text[len(text) - length :]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
