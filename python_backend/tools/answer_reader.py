"""An answer, from the text that the policy lets through to what it says.

The thinking is told apart first, then the calls in what follows it. The policy sees arguments once
more as the texts that they mean (`decoded_arguments`).
"""

from __future__ import annotations

from collections.abc import Callable

from python_backend.safety.policy import Policy
from python_backend.safety.scanner import Verdict
from python_backend.tools.answer_reading import Reading
from python_backend.tools.call_parser import CallParser
from python_backend.tools.decoded_arguments import DecodedArguments
from python_backend.tools.events import Arguments, CallBegun, Content, Event, joined
from python_backend.tools.formats import FORMATS
from python_backend.tools.thinking import ThinkingReader
from python_backend.tools.tool_functions import Functions


class AnswerReader:
    """Reads one answer.

    Attributes:
        blocked: Whether the policy ended it.
        verdicts: What the policy found in arguments and nowhere else.
    """

    def __init__(
        self, reading: Reading, policy: Policy, make_id: Callable[[], str] | None = None
    ) -> None:
        self.blocked = False
        self.verdicts: list[Verdict] = []
        self._policy = policy
        self._thinking = ThinkingReader(reading.marks, reading.begun) if reading.marks else None
        form = FORMATS.get(reading.format)
        self._calls: CallParser | None = None
        if form is not None:
            functions = Functions(reading.functions)
            self._calls = form.parser(functions, make_id or form.new_id)
        self._arguments: tuple[int, DecodedArguments] | None = None

    def add(self, text: str, final: bool = False) -> list[Event]:
        """What is certain after some more text; ``final``: no more follows."""
        events: list[Event] = []
        if self._thinking is not None:
            thought, text = self._thinking.add(text, final)
            events += thought
        if self._calls is not None:
            for event in self._calls.add(text, final):
                events += self._check(event)
            if final:
                events += self._end_arguments(is_whole=self.calls_are_whole)
        elif text:
            events.append(Content(text))
        return joined(events)

    @property
    def calls_are_whole(self) -> bool:
        """Whether there are calls, and all of them have all their arguments."""
        calls = self._calls
        return calls is not None and 0 < calls.num_begun == calls.num_whole

    def _check(self, event: Event) -> list[Event]:
        """An event, but for arguments that are not certain yet."""
        if isinstance(event, Arguments):
            assert self._arguments is not None
            return self._argued(event.number, self._arguments[1].add(event.text))
        ended = self._end_arguments(is_whole=True)
        if isinstance(event, CallBegun) and not self.blocked:
            self._arguments = event.number, DecodedArguments(self._policy.output)
        return ended if self.blocked else [*ended, event]

    def _end_arguments(self, is_whole: bool) -> list[Event]:
        """What is left of the last call's."""
        if self._arguments is None or self.blocked:
            return []
        number, arguments = self._arguments
        self._arguments = None
        text = arguments.end() if is_whole else arguments.cut()
        return self._argued(number, text, arguments)

    def _argued(
        self, number: int, text: str, arguments: DecodedArguments | None = None
    ) -> list[Event]:
        arguments = arguments or (self._arguments[1] if self._arguments else None)
        assert arguments is not None
        self.verdicts += arguments.take_verdicts()
        self.blocked = self.blocked or arguments.blocked
        return [Arguments(number, text)] if text else []
