"""Prompts: what a request asks, to tokens that the policy lets through.

A prompt is measured before it is worked on: by its bytes before anything reads it, by its tokens
before the policy's rules go over it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from contract.bounds import JSON_BYTES_PER_TOKEN, JSON_GROWTH, Bound
from contract.codes import ErrorCode
from contract.errors import InvalidRequestError
from contract.model_settings import PreprocessingParameters
from contract.models import EnsembleInputs
from contract.names import CHAT_TEMPLATE
from python_backend.safety.policy import Policy
from python_backend.safety.scanner import Verdict, scan_text
from python_backend.serving.chats import Chat, CheckedChat
from python_backend.text.chat_template import ChatTemplate
from python_backend.text.detokenizer import Detokenizer
from python_backend.text.origin import GIVEN, Traced, given, origin_of
from python_backend.text.tokenizer import TextTokenizer
from python_backend.tools.chat_options import NO_PLAN, Plan
from python_backend.tools.manner import Manner

_MESSAGES, _TEXT = EnsembleInputs.MESSAGES.name, EnsembleInputs.TEXT_INPUT.name
_IDS = EnsembleInputs.PROMPT_TOKEN_IDS.name
_TOO_LONG: ErrorCode = "context_length_exceeded"
CHAT_TEMPLATE_CHOICES = ("auto", "on", "off")

_END_CHARACTERS = 2048
"""Of a prompt's text that the answer goes on with: few matches are longer, such as large private
keys with all but their ends in the prompt."""


@dataclass(frozen=True)
class Prompt:
    """One row of a request.

    Attributes:
        ids: Its tokens, int32 ``[tokens]``.
        verdicts: What was found in its text.
        goes_on: The answer goes on with the prompt's own text: its first word keeps its space.
        end: The end of that text, for the policy: what it takes out of the answer may begin there.
        plan: What is done for the answer.
    """

    ids: NDArray[np.int32]
    verdicts: list[Verdict]
    goes_on: bool = False
    end: str = ""
    plan: Plan = NO_PLAN


class PromptReader:
    """Makes prompts with one tokenizer.

    Attributes:
        text_bound: What a text may be: of more bytes than this it has more tokens than the engine
            takes.
        json_bound: The same of a chat, its tools and its variables, each as JSON.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        settings: PreprocessingParameters,
        on_verdicts: Callable[[Policy, list[Verdict]], None],
    ) -> None:
        self._tokenizer = tokenizer
        self._settings = settings
        self._on_verdicts = on_verdicts
        self._manner = Manner(tokenizer, settings)
        most = tokenizer.max_prompt_bytes
        around = JSON_BYTES_PER_TOKEN * (tokenizer.context_length or 0)
        self.text_bound = Bound(1, most, _TOO_LONG)
        self.json_bound = Bound(1, JSON_GROWTH * most + around, _TOO_LONG)

    def read_chat(self, chat: Chat, policy: Policy) -> Prompt:
        """A prompt of a conversation.

        Raises:
            InvalidRequestError: The checkpoint has no template, the template or the policy refuses
                the conversation, or it is too long.
        """
        template = self._tokenizer.chat_template
        if template is None:
            raise InvalidRequestError(
                f"{_MESSAGES}: the checkpoint has no chat template", _MESSAGES
            )
        prompt = self._render(template, chat)
        self._measure(_MESSAGES, prompt)
        checked = CheckedChat(chat, partial(self._check, policy=policy))
        if checked.chat != chat:
            chat = checked.chat
            prompt = self._render(template, chat)
        if not prompt:
            raise InvalidRequestError(
                f"{_MESSAGES}: the chat template makes an empty prompt of them", _MESSAGES
            )
        ids = self._tokenizer.encode(prompt, add_special_tokens=False)
        plan = self._manner.plan(prompt, chat.tools, chat.options)
        return self._gone_on_with(ids, checked.verdicts, _last_given(prompt), plan)

    def _render(self, template: ChatTemplate, chat: Chat) -> Traced:
        """The prompt of a conversation, up to where the answer begins."""
        told = self._manner.told(chat.messages, chat.tools, chat.variables, chat.options)
        return template.render(*told)

    def read_text(
        self, text: str, policy: Policy, choice: str, add_special_tokens: bool | None = None
    ) -> Prompt:
        """A prompt of a plain text.

        Args:
            text: The text.
            policy: What it is held to.
            choice: Whether it becomes a user's message: one of `CHAT_TEMPLATE_CHOICES`.
            add_special_tokens: Whether one that doesn't gets what the tokenizer begins or ends a
                text with; None is the setting's word.

        Raises:
            InvalidRequestError: It is empty or too long, the policy refuses it, or there is no
                template that must be there.
        """
        if not text:
            raise InvalidRequestError(f"{_TEXT} is empty; it needs at least 1 character", _TEXT)
        template = self._tokenizer.chat_template
        if choice == "on" and template is None:
            raise InvalidRequestError(
                f"{CHAT_TEMPLATE} is 'on'; the checkpoint has no chat template", CHAT_TEMPLATE
            )
        self._measure(_TEXT, text)
        text, verdicts = self._check(text, policy)
        if choice != "off" and template is not None:
            prompt = template.render([{"role": "user", "content": text}])
            return Prompt(self._tokenizer.encode(prompt, add_special_tokens=False), verdicts)
        # Taken as it is, its control tokens count only where the client says that it means them.
        if add_special_tokens is None:
            add_special_tokens = self._settings.add_special_tokens
        ids = self._tokenizer.encode(text if choice == "off" else given(text), add_special_tokens)
        return self._gone_on_with(ids, verdicts, text)

    def _gone_on_with(
        self, ids: NDArray[np.int32], verdicts: list[Verdict], text: str, plan: Plan = NO_PLAN
    ) -> Prompt:
        """A prompt whose end is a text that the answer goes on with; none where that is empty."""
        goes_on = bool(text) and self._tokenizer.vocabulary.are_followed(ids.tolist())
        return Prompt(ids, verdicts, goes_on, text[-_END_CHARACTERS:], plan)

    def read_ids(self, ids: NDArray[np.int32], policy: Policy) -> Prompt:
        """A prompt of tokens, int32 ``[tokens]``: as it is, but for what the policy takes out.

        Raises:
            InvalidRequestError: There are none or too many, one is not of the vocabulary, or the
                policy refuses their text.
        """
        size, most = self._tokenizer.vocab_size, self._tokenizer.context_length
        if not ids.size:
            raise InvalidRequestError(f"{_IDS} is empty; it needs at least 1 token", _IDS)
        if most is not None and ids.size > most:
            raise InvalidRequestError(
                f"{_IDS} has {ids.size} tokens; the context has room for {most}",
                _IDS,
                code=_TOO_LONG,
            )
        if not 0 <= ids.min() <= ids.max() < size:
            raise InvalidRequestError(f"{_IDS} must be between 0 and {size - 1}", _IDS)
        detokenizer = Detokenizer(self._tokenizer.vocabulary, skip_special_tokens=False)
        text = detokenizer.add(ids.tolist(), final=True)
        checked, verdicts = self._check(text, policy)
        if checked != text:
            ids = self._tokenizer.encode(checked, add_special_tokens=False)
        return self._gone_on_with(ids, verdicts, checked)

    def _measure(self, name: str, text: str) -> None:
        """Refuse what the engine can't take, before the policy's rules go over it."""
        if self._tokenizer.is_too_long(text):
            raise InvalidRequestError(
                f"{name} has more tokens than the context of {self._tokenizer.context_length} "
                "tokens has room for",
                name,
                code=_TOO_LONG,
            )

    def _check(self, text: str, policy: Policy) -> tuple[str, list[Verdict]]:
        """A prompt's text as the policy leaves it, and what was found in it.

        Raises:
            InvalidRequestError: The policy blocks it.
        """
        scanned = scan_text(policy.input, text)
        self._on_verdicts(policy, scanned.verdicts)
        if scanned.blocked:
            rule = scanned.verdicts[-1].rule
            raise InvalidRequestError(
                f"the policy {policy.name} blocks the prompt by its rule {rule}",
                code="content_filter",
            )
        return scanned.text, scanned.verdicts


def _last_given(prompt: Traced) -> str:
    """What a client gave at the end of a rendered prompt: a message that the answer goes on with,
    where the template doesn't begin another one.
    """
    length = len(prompt) - len(origin_of(prompt).rstrip(GIVEN))
    return str.__getitem__(prompt, slice(len(prompt) - length, None))
