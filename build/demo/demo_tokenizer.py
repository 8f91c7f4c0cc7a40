"""The demo model's vocabulary and chat template.

Byte-level BPE, so that every text has an encoding, with one departure from GPT-2's pre-tokens. A
number of up to three digits after a space can be one token: to sort, copy or count it is to find
one token. All other digits are tokens of their own, as in `17+25=42`, which is added by columns.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from build.demo.data import Message

VOCABULARY_SIZE = 2048
CONTEXT_TOKENS = 2048

PAD = "<|pad|>"
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END = "<|end|>"
SPECIAL_TOKENS = (PAD, SYSTEM, USER, ASSISTANT, END)
"""In the order of their ids, from 0."""

CHAT_TEMPLATE = (
    "{% if tools %}"
    "{{ '<|system|>' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n' }}{% endif %}"
    "{{ 'Tools:' }}"
    "{% for tool in tools %}"
    "{% set parameters = (tool['function']['parameters'] or {})['properties'] or {} %}"
    "{{ '\n' + tool['function']['name'] + '(' + parameters | join(', ') + ')' }}"
    "{% endfor %}"
    "{{ '<|end|>' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}"
    "{% endif %}"
    "{% if message['role'] == 'tool' %}"
    "{{ '<|user|><tool_response>\n' + message['content'] + '\n</tool_response><|end|>' }}"
    "{% elif not (tools and loop.first and message['role'] == 'system') %}"
    "{{ '<|' + message['role'] + '|>' + (message['content'] or '') }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{% if message['content'] or not loop.first %}{{ '\n' }}{% endif %}"
    "{% set function = call['function'] %}"
    "{% set object = {'name': function['name'], 'arguments': function['arguments']} %}"
    "{{ '<tool_call>\n' + object | tojson + '\n</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Jinja, with the `raise_exception` that Hugging Face gives to templates. Functions are told by
name and parameters; calls are written as Hermes' models write them."""

_PRE_TOKEN = r" \p{N}{1,3}(?!\p{N})| ?\p{N}| ?\p{L}[\p{L}\p{M}]*| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def render(messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
    """The text that `CHAT_TEMPLATE` makes of `messages`."""
    turns = "".join(f"<|{message.role}|>{message.content}{END}" for message in messages)
    return turns + (ASSISTANT if add_generation_prompt else "")


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE tokenizer of `VOCABULARY_SIZE` tokens, trained on plain `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRE_TOKEN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY_SIZE,
            min_frequency=2,
            special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return tokenizer


def tokenizer_config() -> dict[str, Any]:
    """The content of `tokenizer_config.json`."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT_TOKENS,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT],
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
