"""How a checkpoint's model calls functions and thinks, and what a request makes of that.

It follows from the chat template and the tokenizer, unless the settings say otherwise.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from contract.errors import InvalidRequestError
from contract.guides import Guide
from contract.model_settings import PreprocessingParameters
from contract.models import EnsembleInputs
from contract.names import TENSORRT_LLM
from python_backend.guidance.thinking_budget import ThinkingBudget
from python_backend.text.origin import own
from python_backend.text.tokenizer import TextTokenizer
from python_backend.tools import call_grammar
from python_backend.tools.answer_reading import Reading
from python_backend.tools.call_grammar import Wanted
from python_backend.tools.chat_options import ChatOptions, Plan, check_choice
from python_backend.tools.formats import FORMATS, Format, format_of
from python_backend.tools.thinking import KNOWN_MARKS, Marks
from python_backend.tools.told_tools import tell
from python_backend.tools.tool_functions import Functions

Message = dict[str, Any]
Tools = list[dict[str, Any]]

_TOOLS, _CHOICE = EnsembleInputs.TOOLS.name, EnsembleInputs.TOOL_CHOICE.name
_EFFORT = EnsembleInputs.REASONING_EFFORT.name
_SWITCHES = ("enable_thinking", "thinking")
"""Variables with which templates turn thinking on and off."""
_OLDER_TOOLS = "xml_tools"
_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")


class Manner:
    """What a checkpoint's model can do.

    Attributes:
        form: In which format it calls functions; None where it calls none.
        marks: What stands around its thinking; None where it doesn't think.
    """

    def __init__(self, tokenizer: TextTokenizer, settings: PreprocessingParameters) -> None:
        template = tokenizer.chat_template
        source = "" if template is None else template.source
        self._names = frozenset[str]() if template is None else template.names
        self._tokenizer = tokenizer
        self._settings = settings
        self._guides = settings.engine_model == TENSORRT_LLM
        self.form: Format | None = None
        if settings.tool_format == "auto":
            self.form = format_of(source)
        elif settings.tool_format != "none":
            self.form = FORMATS[settings.tool_format]
        added = tokenizer.added_ids.keys()
        self.marks = next(
            (each for each in KNOWN_MARKS if each.end in source or set(each) <= added), None
        )

    @property
    def _takes_tools(self) -> bool:
        """Whether the template itself tells the model of functions."""
        return bool(self._names & {"tools", _OLDER_TOOLS})

    def told(
        self,
        messages: Sequence[Message],
        tools: Tools | None,
        variables: Mapping[str, Any] | None,
        options: ChatOptions,
    ) -> tuple[list[Message], Tools | None, dict[str, Any]]:
        """What the template is given.

        Raises:
            InvalidRequestError: It has no place for what is asked.
        """
        check_choice(tools, options.choice)
        given = {**(variables or {}), **self._effort(variables or {}, options.effort)}
        messages = list(messages)
        if self.form is not None and self.form.name == "mistral":
            messages = [_with_short_ids(message) for message in messages]
        if not tools or options.choice.kind == "none":
            # What was called before is told in words, too, where the template has none for it.
            if self.form and self.form.can_be_told and not self._takes_tools and _calls(messages):
                messages = tell(messages, [], self.form)
            return messages, None, given
        if self._takes_tools:
            if "tools" not in self._names:
                given.setdefault(_OLDER_TOOLS, tools)
            return messages, tools, given
        if self.form is None or not self.form.can_be_told:
            if options.parse or options.choice.is_forced:
                raise InvalidRequestError(
                    f"{_TOOLS}: the checkpoint's chat template has no place for functions", _TOOLS
                )
            return messages, tools, given
        return tell(messages, tools, self.form), None, given

    def plan(self, prompt: str, tools: Tools | None, options: ChatOptions) -> Plan:
        """What is done for the answer to a prompt that was rendered.

        Raises:
            InvalidRequestError: What is asked can't be done with this checkpoint or this engine.
        """
        end = prompt.rstrip()
        marks = self.marks
        begun = marks is not None and end.endswith(marks.begin)
        thinks = marks is not None and not end.endswith(marks.end)
        called = tools if tools and options.choice.kind != "none" else None
        if called and self.form is None and (options.parse or options.choice.is_forced):
            raise InvalidRequestError(
                f"{_TOOLS}: it is not known how this model calls functions; the setting "
                "preprocessing.tool_format says it",
                _TOOLS,
            )
        reading = self._reading(called, begun, thinks) if options.parse else None
        return Plan(
            reading,
            self._guide(called, options, marks if thinks else None, begun),
            self._budget(options, begun) if thinks else None,
        )

    def _reading(self, tools: Tools | None, begun: bool, thinks: bool) -> Reading | None:
        form = self.form if tools else None
        marks = self.marks if thinks else None
        if form is None and marks is None:
            return None
        looked_for = (*(form.kept if form else ()), *(marks or ()))
        special = self._tokenizer.special_ids
        types = Functions.of(tools or ()).types
        return Reading(
            form.name if form else "",
            types if form and form.needs_types else {name: {} for name in types},
            marks,
            begun,
            tuple(special[text] for text in looked_for if text in special),
        )

    def _guide(
        self, tools: Tools | None, options: ChatOptions, marks: Marks | None, begun: bool
    ) -> Guide | None:
        marks = marks if options.parse else None
        if not tools or self.form is None:
            return self._behind_thinking(options.guide, marks, begun)
        if not self._guides:
            return self._unguided(options)
        choice = options.choice
        chosen = [each for each in tools if each["function"]["name"] == choice.name]
        wanted = Wanted(
            tools=chosen or tools,
            forced=choice.is_forced,
            many=options.parallel and choice.kind != "named",
            all_held=self._settings.hold_tool_calls,
            marks=marks,
            begun=begun,
            answer=_schema(options.guide, choice.is_forced),
        )
        if options.parallel and wanted.answer is None and not call_grammar.holds_anything(wanted):
            return None
        looked_for = (*self.form.kept, *(marks or ()))
        special = self._special(looked_for)
        return Guide("calls", call_grammar.write(self.form.shape, wanted, special))

    def _behind_thinking(
        self, guide: Guide | None, marks: Marks | None, begun: bool
    ) -> Guide | None:
        """A guide that holds from the end of thinking on."""
        if guide is None or marks is None or guide.type == "ebnf_grammar" or not self._guides:
            return guide
        grammar = call_grammar.write_answer(guide, marks, begun, self._special(marks))
        return Guide("ebnf_grammar", grammar)

    def _unguided(self, options: ChatOptions) -> Guide | None:
        """Another engine has guides of its own, and none for calls."""
        if options.choice.is_forced:
            raise InvalidRequestError(f"{_CHOICE}: this engine can't force calls", _CHOICE)
        if not options.parallel:
            name = EnsembleInputs.PARALLEL_TOOL_CALLS.name
            raise InvalidRequestError(f"{name}: this engine can't keep to one call", name)
        return options.guide

    def _budget(self, options: ChatOptions, begun: bool) -> ThinkingBudget | None:
        budget = options.budget
        if options.effort == "none" and not self._names & {_EFFORT, *_SWITCHES}:
            budget = 0
        if budget is None or self.marks is None:
            return None
        return ThinkingBudget(
            budget,
            () if begun else self._tokens(self.marks.begin),
            self._tokens(self.marks.end),
            self._tokens(f"\n{self.marks.end}\n\n"),
        )

    def _effort(self, variables: Mapping[str, Any], effort: str) -> dict[str, Any]:
        """The template's variables for how much it is thought."""
        if not effort:
            return {}
        known: dict[str, Any] = dict.fromkeys(_SWITCHES, effort != "none")
        known[_EFFORT] = effort
        found = {name: value for name, value in known.items() if name in self._names}
        if not found and effort != "none" and self.marks is None:
            raise InvalidRequestError(f"{_EFFORT} is {effort!r}; this model doesn't think", _EFFORT)
        return {name: value for name, value in found.items() if name not in variables}

    def _special(self, texts: Sequence[str]) -> dict[str, int]:
        """Those of some texts that are tokens which are special to a grammar, with their ids.

        llguidance takes for such also what looks so, as ``<tool_call>``.
        """
        added, special = self._tokenizer.added_ids, self._tokenizer.special_ids
        return {
            text: added[text]
            for text in texts
            if text in special or (text in added and text[0] == "<" and text[-1] == ">")
        }

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(own(text), add_special_tokens=False).tolist())


def _calls(messages: Sequence[Message]) -> bool:
    """Whether functions were called."""
    return any(message.get("tool_calls") for message in messages)


def _schema(guide: Guide | None, forced: bool) -> str | None:
    """What an answer without calls keeps to beside them.

    Raises:
        InvalidRequestError: It can't be had beside them.
    """
    if guide is None:
        return None
    name = EnsembleInputs.GUIDED_DECODING_GUIDE_TYPE.name
    if forced:
        raise InvalidRequestError(f"{name}: a forced call leaves no room for another guide", name)
    if guide.type == "json":
        return '{"type": "object"}'
    if guide.type == "json_schema":
        try:
            json.loads(guide.text)
        except (ValueError, RecursionError):
            raise InvalidRequestError(f"{name}: the schema is not valid JSON", name) from None
        return guide.text
    raise InvalidRequestError(f"{name}: beside tools it must be json or json_schema", name)


def _with_short_ids(message: Message) -> Message:
    """The message with the ids that Mistral's templates take: nine letters and digits."""
    if message.get("tool_call_id"):
        message = {**message, "tool_call_id": _short(message["tool_call_id"])}
    if message.get("tool_calls"):
        calls = [
            {**call, "id": _short(call["id"])} if call.get("id") else call
            for call in message["tool_calls"]
        ]
        message = {**message, "tool_calls": calls}
    return message


def _short(name: str) -> str:
    if _SHORT_ID.fullmatch(str(name)):
        return str(name)
    return hashlib.sha256(str(name).encode()).hexdigest()[:9]
