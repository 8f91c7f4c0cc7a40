"""Guides as llguidance reads them, compiled for an engine's vocabulary.

What the library can bound of a guide's cost is bounded here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from contract.errors import EngineError, InvalidRequestError
from contract.guides import Guide, refused_guide

_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,24}"
"""Between the parts of JSON: a model that goes on with spaces for ever is stopped there."""
_SHORTENED = "<non-verbose/>"
"""What the library ends some messages with."""
_MOST_SAID = 300
"""Characters of what the library says of a guide."""

LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=25_000,
    max_items_in_row=2_000,
    max_lexer_states=20_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
"""What a guide may cost in a step and in memory, as far as the library bounds it: 40 MB."""


class Compiler:
    """Compiles guides for one vocabulary. Any thread may call it."""

    def __init__(self, tokenizer: Path, vocab_size: int, end_ids: Sequence[int]) -> None:
        """Take a vocabulary; it is read when the first guide comes.

        Args:
            tokenizer: The ``tokenizer.json`` of the engine.
            vocab_size: Tokens of a row of logits.
            end_ids: The tokens that end a text.
        """
        self._path = tokenizer
        self._vocab_size = vocab_size
        self._end_ids = list(end_ids)
        self._tokenizer: LLTokenizer | None = None
        self._loading = Lock()

    def compile(self, guide: Guide) -> LLMatcher:
        """A way through a guide, at its beginning.

        Raises:
            InvalidRequestError: The guide is none, asks for what isn't supported, can't be kept
                to, or is too large.
            EngineError: The engine has no tokenizer that the library reads.
        """
        try:
            grammar = _grammar(guide)
        except ValueError as error:  # the library's own; ours are of this kind as well
            if isinstance(error, InvalidRequestError):
                raise
            raise _refused(str(error)) from None
        matcher = LLMatcher(self.load(), grammar, log_level=0, limits=LIMITS)
        if not matcher.is_error():
            matcher.compute_bitmask()  # finds out what can't even begin
        if matcher.is_error():
            raise _refused(matcher.get_error())
        return matcher

    def load(self) -> LLTokenizer:
        """Read the vocabulary, if that wasn't done.

        Raises:
            EngineError: It can't be read.
        """
        with self._loading:
            if self._tokenizer is None:
                try:
                    self._tokenizer = LLTokenizer(
                        self._path.read_text(encoding="utf-8"),
                        n_vocab=self._vocab_size,
                        eos_token=self._end_ids,
                        slices=LLTokenizer.json_slices(),
                    )
                except (OSError, ValueError) as error:
                    raise EngineError(
                        f"{self._path} is no tokenizer that texts can be guided with: {error}"
                    ) from None
            return self._tokenizer


def _grammar(guide: Guide) -> str:
    """A guide in the library's own words.

    Raises:
        InvalidRequestError: It is none.
    """
    if guide.type == "json":
        return _of_schema({"type": "object"})
    if guide.type == "json_schema":
        try:
            schema = json.loads(guide.text)
        except (ValueError, RecursionError):
            raise _refused("the schema is not valid JSON") from None
        if not isinstance(schema, dict | bool):
            raise _refused("a schema is an object or a boolean")
        return _of_schema(schema)
    if guide.type == "calls":
        return LLMatcher.grammar_from_lark(guide.text)
    if guide.type == "regex":
        return LLMatcher.grammar_from_regex(guide.text)
    try:
        return LLMatcher.grammar_from_lark(any_to_lark(guide.text))
    except Exception as error:  # the converter's own; it has no class for them
        raise _refused(f"the grammar can't be read: {error}") from None


def _of_schema(schema: dict[str, object] | bool) -> str:
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    # What a schema asks of the library itself is nobody's to ask.
    schema = {name: value for name, value in schema.items() if name != "x-guidance"}
    return LLMatcher.grammar_from_json_schema(
        json.dumps(schema, ensure_ascii=False), overrides={"whitespace_pattern": _WHITESPACE}
    )


def _refused(reason: str) -> InvalidRequestError:
    said = " ".join(reason.removesuffix(_SHORTENED).split())[:_MOST_SAID]
    if said.startswith("NoExtension"):
        said = "no text keeps to it"
    return refused_guide(said)
