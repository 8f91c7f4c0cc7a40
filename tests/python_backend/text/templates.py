"""Chat templates in the manner of ten families, and the tokens that each marks its turns with.

They are our own, each in the manner of its family: its marks, its ways with the system prompt, with
tools and with reasoning, and the Jinja that its own template relies on.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer

from tests.python_backend.text.samples import byte_level, sentencepiece

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

KINDS = ("byte-level", "sentencepiece")

TOKENS = {
    "byte-level": {"bos_token": "<|im start|>", "eos_token": "<|end|>"},
    "sentencepiece": {"bos_token": "<s>", "eos_token": "</s>"},
}
"""The special tokens that the samples are given as variables."""

_IM = ["<|im_start|>", "<|im_end|>"]
_SPECIAL: dict[str, list[str]] = {
    "chatml": _IM,
    "llama-2": [],
    "llama-3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"],
    "mistral": ["[INST]", "[/INST]", "[TOOL_CALLS]"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "phi": ["<|system|>", "<|user|>", "<|assistant|>"],
    "qwen-3": _IM,
    "zephyr": ["<|user|>", "<|system|>", "<|assistant|>"],
    "command-r": [
        *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        *("<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    ],
    "deepseek": ["<｜end▁of▁sentence｜>"],
}
_ADDED: dict[str, list[str]] = {
    "qwen-3": ["<think>", "</think>", "<tool_call>", "</tool_call>"],
    "deepseek": ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"],
}
"""Tokens that their families add, and don't call special."""


def tokenizer_of(family: str, kind: str) -> Tokenizer:
    """A tokenizer that has the tokens of a family's template, as its family adds them."""
    tokenizer = byte_level() if kind == "byte-level" else sentencepiece()
    swallows = family == "phi"
    tokenizer.add_special_tokens(
        [AddedToken(each, rstrip=swallows, normalized=False) for each in _SPECIAL[family]]
    )
    tokenizer.add_tokens([AddedToken(each, normalized=False) for each in _ADDED.get(family, [])])
    return tokenizer


def control_tokens(family: str, kind: str) -> list[str]:
    """The texts that must be no more than texts in what a client writes."""
    own = [*_SPECIAL[family], *_ADDED.get(family, []), *TOKENS[kind].values()]
    return [*own, "<|é|>", "<unk>"]
