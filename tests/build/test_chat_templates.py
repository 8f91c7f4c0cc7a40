"""Chats become the tokens that transformers makes of them, in the templates of ten families.

The templates are our own, each in the manner of its family: its marks, its ways with the system
prompt, with tools and with reasoning, and the Jinja that its own template relies on.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("transformers")

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from contract.errors import InvalidRequestError
from python_backend.text.chat import ChatTemplate
from python_backend.text.messages import read_messages, read_tools
from python_backend.text.tokenizer import TextTokenizer
from tests.python_backend.text.samples import byte_level, sentencepiece

pytestmark = pytest.mark.torch

TEMPLATES = {
    "chatml": """{% for message in messages %}{% if loop.first and message.role != 'system' %}
<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "llama-2": """{% if messages[0]['role'] == 'system' %}
{% set system = '<<SYS>>\\n' + messages[0]['content'].strip() + '\\n<</SYS>>\\n\\n' %}
{% set chat = messages[1:] %}{% else %}{% set system = '' %}{% set chat = messages %}{% endif %}
{% for message in chat %}{% set text = (system if loop.index0 == 0 else '') + message['content'] %}
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}
{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "llama-3": """{{- bos_token }}
{%- set date_string = date_string | default('26 Jul 2024') %}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}
{%- set messages = messages[1:] %}{%- else %}{% set system = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + date_string + '\\n\\n' + system }}
{%- if tools is not none %}{% for tool in tools %}{{ tool | tojson(indent=4) }}
{{- '\\n\\n' }}{% endfor %}{% endif %}{{- '<|eot_id|>' }}
{%- for message in messages %}{% if message.tool_calls %}
{%- for call in message.tool_calls %}{% set call = call.function %}
{{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- '}' }}
{%- endfor %}{{- '<|eom_id|>' }}
{%- else %}{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
{{- message.content | trim + '<|eot_id|>' }}{% endif %}{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
{%- set system = messages[0]["content"] %}
{%- set chat = messages[1:] %}{%- else %}{%- set chat = messages %}{%- endif %}
{%- set ns = namespace() %}{%- set ns.index = 0 %}
{%- for message in chat if message.role in ('user', 'assistant') %}
{%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
{{- raise_exception("roles must alternate") }}{%- endif %}{%- set ns.index = ns.index + 1 %}
{%- endfor %}{{- bos_token }}
{%- for message in chat %}{%- if message["role"] == "user" %}
{%- if loop.last and system is defined %}{{- "[INST] " + system + "\\n\\n" + message["content"] }}
{{- "[/INST]" }}{%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
{%- else %}{{- " " + message["content"] | trim + eos_token }}{%- endif %}{%- endfor %}""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}
{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    "phi": """{% for message in messages %}
{% if message['role'] == 'system' %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}
{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}
{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}
{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}""",
    "qwen-3": """{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n<tools>' }}
{%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
{{- "\\n</tools><|im_end|>\\n" }}{%- endif %}
{%- set ns = namespace(last=messages | length - 1) %}
{%- for message in messages[::-1] %}{%- set index = (messages | length - 1) - loop.index0 %}
{%- if message.role == "user" %}{%- set ns.last = index %}{%- break %}{%- endif %}{%- endfor %}
{%- for message in messages %}
{%- if message.content is string %}{%- set content = message.content %}
{%- else %}{%- set content = '' %}{%- endif %}
{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and loop.index0 > ns.last and message.reasoning_content %}
{{- '<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}
{{- content }}{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n' }}{{ call.function | tojson }}{{- '\\n</tool_call>' }}{%- endfor %}
{{- '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "command-r": """{{ bos_token }}{% macro turn(role, text) %}
<|START_OF_TURN_TOKEN|><|{{ role | upper }}_TOKEN|>{{ text | trim }}<|END_OF_TURN_TOKEN|>
{%- endmacro %}{% for message in messages %}
{{- turn({'assistant': 'chatbot'}.get(message.role, message.role), message.content or '') }}
{%- endfor %}{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}""",
    "deepseek": """{% if not add_generation_prompt is defined %}
{% set add_generation_prompt = false %}
{% endif %}{% set ns = namespace(system='', is_first=true) %}
{%- for message in messages %}{%- if message['role'] == 'system' %}
{%- if ns.is_first %}{% set ns.system = ns.system + message['content'] %}
{% set ns.is_first = false %}{%- else %}
{% set ns.system = ns.system + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}
{{- bos_token }}{{ ns.system }}{%- for message in messages %}
{%- if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{%- endif %}
{%- if message['role'] == 'assistant' and message['content'] is not none %}
{%- generation %}{{ '<｜Assistant｜>' + message['content'].split('</think>')[-1] }}
{{- '<｜end▁of▁sentence｜>' }}{%- endgeneration %}{%- endif %}{%- endfor -%}
{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}""",
}
TOKENS = {
    "byte-level": {"bos_token": "<|im start|>", "eos_token": "<|end|>"},
    "sentencepiece": {"bos_token": "<s>", "eos_token": "</s>"},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'Says what the weather is <now> & "here", é',
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]

TEXT = st.text(max_size=20) | st.sampled_from(
    ["  a\n", "<|im_end|>", "é 🐱", "x</think>\ny", "'{{ a }}'"]
)


@st.composite
def chats(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Chats that begin, maybe, with a system prompt, and in which roles alternate."""
    chat = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    for turn in range(draw(st.integers(1, 4))):
        chat.append({"role": "assistant" if turn % 2 else "user", "content": draw(TEXT)})
    if chat[-1]["role"] == "assistant" and draw(st.booleans()):
        chat[-1]["reasoning_content"] = draw(TEXT)
    return chat


def theirs(source: str, kind: str, tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    copy = Tokenizer.from_str(tokenizer.to_str())
    reference = PreTrainedTokenizerFast(tokenizer_object=copy, **TOKENS[kind])
    reference.chat_template = source
    return reference


@pytest.mark.parametrize("family", TEMPLATES)
@settings(max_examples=40, deadline=None)
@given(
    chat=chats(),
    tools=st.sampled_from([None, TOOLS]),
    variables=st.sampled_from([{}, {"enable_thinking": False}, {"add_generation_prompt": False}]),
    kind=st.sampled_from(["byte-level", "sentencepiece"]),
)
def test_tokens_are_transformers(
    family: str, chat: list[dict[str, Any]], tools: Any, variables: dict[str, Any], kind: str
) -> None:
    tokenizer = TOKENIZERS[kind]
    source = TEMPLATES[family]
    ours = TextTokenizer(tokenizer, TOKENS[kind], source)
    assert ours.chat_template is not None
    messages = read_messages(json.dumps(chat))
    given_tools = read_tools(json.dumps(tools or []))
    options = {"add_generation_prompt": True, **variables}
    if family == "gemma" and chat[0]["role"] == "system":
        with pytest.raises(InvalidRequestError, match="System role not supported"):
            ours.chat_template.render(messages, given_tools, variables)
        return
    expected = REFERENCES[family, kind].apply_chat_template(
        chat, tools=tools, tokenize=True, return_dict=False, **options
    )
    prompt = ours.chat_template.render(messages, given_tools, variables)
    assert ours.encode(prompt, add_special_tokens=False).tolist() == list(expected)


def test_calls_of_tools_are_rendered_as_transformers_does() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"é": [1]}}}
    chat = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    for family in ("llama-3", "qwen-3"):
        reference = REFERENCES[family, "byte-level"]
        expected = reference.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        template = ChatTemplate(TEMPLATES[family], TOKENS["byte-level"])
        assert template.render(read_messages(json.dumps(chat))) == expected


TOKENIZERS = {"byte-level": byte_level(), "sentencepiece": sentencepiece()}
REFERENCES = {
    (family, kind): theirs(source, kind, tokenizer)
    for family, source in TEMPLATES.items()
    for kind, tokenizer in TOKENIZERS.items()
}
