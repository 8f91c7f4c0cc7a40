"""Chat templates in the manner of families that call functions: how each tells, writes and answers.

Our own, as those of `templates`: the marks and the Jinja are the families', the words are not.
"""

from __future__ import annotations

TOOL_TEMPLATES = {
    "qwen-2.5": """{%- if tools %}{{- '<|im_start|>system\\n' }}
{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{%- endif %}
{{- "\\n\\n# Tools\\n\\nWithin <tools></tools> XML tags:\\n<tools>" }}
{%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
{{- "\\n</tools>\\n\\n<tool_call>\\n{\\"name\\": <function-name>}\\n</tool_call><|im_end|>\\n" }}
{%- elif messages[0]['role'] == 'system' %}
{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == "user" or (message.role == "system" and not loop.first)
 or (message.role == "assistant" and not message.tool_calls) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- elif message.role == "assistant" %}{{- '<|im_start|>' + message.role }}
{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
{%- for tool_call in message.tool_calls %}
{%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
{{- '\\n<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
{{- tool_call.arguments | tojson }}{{- '}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}
{%- elif message.role == "tool" %}
{%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
{%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
    "qwen-3-coder": """{%- if tools is iterable and tools | length > 0 %}
{{- '<|im_start|>system\\n<tools>' }}{%- for tool in tools %}
{%- if tool.function is defined %}{%- set tool = tool.function %}{%- endif %}
{{- '\\n<function>\\n<name>' ~ tool.name ~ '</name>' }}
{%- if tool.description is defined %}
{{- '\\n<description>' ~ (tool.description | trim) ~ '</description>' }}{%- endif %}
{{- '\\n<parameters>' }}
{%- if tool.parameters is defined and tool.parameters is mapping
 and tool.parameters.properties is defined %}
{%- for name, fields in tool.parameters.properties | items %}
{{- '\\n<parameter>\\n<name>' ~ name ~ '</name>' }}
{%- if fields.type is defined %}{{- '\\n<type>' ~ (fields.type | string) ~ '</type>' }}{%- endif %}
{{- '\\n</parameter>' }}{%- endfor %}{%- endif %}
{{- '\\n</parameters>\\n</function>' }}{%- endfor %}
{{- '\\n</tools>\\n<tool_call>\\n<function=example>\\n</function>\\n</tool_call><|im_end|>\\n' }}
{%- endif %}{%- for message in messages %}
{%- if message.role == "assistant" and message.tool_calls is defined
 and message.tool_calls is iterable and message.tool_calls | length > 0 %}
{{- '<|im_start|>' + message.role }}
{%- if message.content is defined and message.content is string
 and message.content | trim | length > 0 %}
{{- '\\n' + message.content | trim + '\\n' }}{%- endif %}
{%- for tool_call in message.tool_calls %}
{%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
{{- '\\n<tool_call>\\n<function=' + tool_call.name + '>\\n' }}
{%- if tool_call.arguments is defined %}
{%- for name, value in tool_call.arguments | items %}{{- '<parameter=' + name + '>\\n' }}
{%- set value = value if value is string else value | tojson | safe %}
{{- value }}{{- '\\n</parameter>\\n' }}{%- endfor %}{%- endif %}
{{- '</function>\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}
{%- elif message.role == "tool" %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
{{- '\\n</tool_response><|im_end|>\\n' }}
{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
    "llama-3.1": """{{- bos_token }}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}
{%- set messages = messages[1:] %}{%- else %}{%- set system = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- system }}{{- "<|eot_id|>" }}
{%- if tools is not none %}{%- set first = messages[0]['content'] | trim %}
{%- set messages = messages[1:] %}{{- '<|start_header_id|>user<|end_header_id|>\\n\\n' }}
{{- 'Respond in the format {"name": function name, "parameters": dictionary}.\\n\\n' }}
{%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{{- first + "<|eot_id|>" }}{%- endif %}
{%- for message in messages %}
{%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{{- message['content'] | trim + '<|eot_id|>' }}
{%- elif 'tool_calls' in message %}
{%- if not message.tool_calls | length == 1 %}
{{- raise_exception("This model only supports single tool-calls at once!") }}{%- endif %}
{%- set tool_call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{{- '{"name": "' + tool_call.name + '", ' }}{{- '"parameters": ' }}
{{- tool_call.arguments | tojson }}{{- "}" }}{{- "<|eot_id|>" }}
{%- elif message.role == "tool" or message.role == "ipython" %}
{{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
{%- if message.content is mapping or message.content is iterable %}
{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}{{- "<|eot_id|>" }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}""",
    "mistral-tools": """{%- if messages[0]["role"] == "system" %}
{%- set system = messages[0]["content"] %}{%- set chat = messages[1:] %}
{%- else %}{%- set chat = messages %}{%- endif %}{{- bos_token }}
{%- for message in chat %}{%- if message["role"] == "user" %}
{%- if tools is not none and (message == (chat | selectattr("role", "equalto", "user")
 | list)[-1]) %}{{- "[AVAILABLE_TOOLS] [" }}
{%- for tool in tools %}{{- '{"type": "function", "function": ' + tool.function | tojson + "}" }}
{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}{%- endfor %}
{{- "[/AVAILABLE_TOOLS]" }}{%- endif %}
{%- if loop.last and system is defined %}{{- "[INST] " + system + "\\n\\n" }}
{%- else %}{{- "[INST] " }}{%- endif %}{{- message["content"] + "[/INST]" }}
{%- elif message.tool_calls is defined and message.tool_calls is not none %}
{{- "[TOOL_CALLS] [" }}{%- for tool_call in message.tool_calls %}
{%- set out = tool_call.function | tojson %}{{- out[:-1] }}
{%- if not tool_call.id is defined or tool_call.id | length != 9 %}
{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{%- endif %}
{{- ', "id": "' + tool_call.id + '"}' }}
{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}{%- endfor %}
{%- elif message["role"] == "assistant" %}{{- " " + message["content"] + eos_token }}
{%- elif message["role"] == "tool" %}
{{- '[TOOL_RESULTS] {"content": ' + message.content | string + ", " }}
{{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}{%- endif %}{%- endfor %}""",
    "phi-4-mini": """{% for message in messages %}{% if message['role'] == 'system' and tools %}
{{- '<|system|>' + message['content'] + '<|tool|>' + tools | tojson + '<|/tool|><|end|>' }}
{%- elif message.tool_calls %}
{{- '<|assistant|><|tool_call|>[' }}{% for call in message.tool_calls %}
{{- {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
{%- if not loop.last %}{{- ', ' }}{% endif %}{% endfor %}{{- ']<|/tool_call|><|end|>' }}
{%- else %}{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}{{- '<|assistant|>' }}{% endif %}""",
    "smollm-3": """{%- if enable_thinking is not defined %}{%- set enable_thinking = true %}
{%- endif %}
{%- set mode = "/think" if enable_thinking else "/no_think" %}
{{- "<|im_start|>system\\n" }}
{%- if messages[0].role == "system" %}{{- messages[0].content.rstrip() + "\\n" }}{%- endif %}
{{- "Reasoning Mode: " + mode + "\\n" }}
{%- if xml_tools %}{{- "### Tools\\n<tools>\\n" }}
{%- for tool in xml_tools %}{{- (tool | string) + "\\n" }}{%- endfor %}
{{- "</tools>\\n<tool_call>\\n{'name': <function-name>}\\n</tool_call>\\n" }}{%- endif %}
{{- "<|im_end|>\\n" }}
{%- for message in messages %}
{%- set content = message.content if message.content is string else "" %}
{%- if message.role == "user" %}{{ "<|im_start|>user\\n" + content + "<|im_end|>\\n" }}
{%- elif message.role == "assistant" %}
{% generation %}{{ "<|im_start|>assistant\\n" + ("<think>\\n\\n</think>\\n" if mode == "/no_think"
 else "") + content.lstrip("\\n") }}
{%- for call in message.tool_calls or [] %}
{{- "<tool_call>\\n" + call.function | tojson + "\\n</tool_call>\\n" }}{%- endfor %}
{{- "<|im_end|>\\n" }}{% endgeneration %}
{%- elif message.role == "tool" %}{{ "<|im_start|>user\\n" + content + "<|im_end|>\\n" }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\\n" }}
{%- if mode == "/no_think" %}{{ "<think>\\n\\n</think>\\n" }}{%- endif %}{%- endif %}""",
}

FORMATS_OF = {
    "qwen-2.5": "hermes",
    "qwen-3-coder": "qwen_xml",
    "llama-3.1": "llama",
    "mistral-tools": "mistral",
    "phi-4-mini": "phi",
    "smollm-3": "hermes",
}

SPECIAL_OF = {
    "qwen-2.5": ["<|im_start|>", "<|im_end|>"],
    "qwen-3-coder": ["<|im_start|>", "<|im_end|>"],
    "llama-3.1": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"],
    "mistral-tools": [
        *("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
        *("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    ],
    "phi-4-mini": ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|/tool|>"],
    "smollm-3": ["<|im_start|>", "<|im_end|>"],
}
ADDED_OF = {
    "qwen-2.5": ["<tool_call>", "</tool_call>"],
    "qwen-3-coder": ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"],
    "phi-4-mini": ["<|tool_call|>", "<|/tool_call|>"],
    "smollm-3": ["<tool_call>", "</tool_call>", "<think>", "</think>"],
}
