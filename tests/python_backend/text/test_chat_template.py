"""Chat templates: what they are given, and what they can't do."""

from __future__ import annotations

import pytest

from contract.errors import EngineError, InvalidRequestError
from python_backend.text import chat_template
from python_backend.text.chat_template import ChatTemplate

HELLO = [{"role": "user", "content": "Hello"}]


def render(source: str, messages: list[dict[str, object]] | None = None, **tokens: str) -> str:
    return ChatTemplate(source, tokens).render(messages or HELLO)


def test_a_template_sees_messages_special_tokens_and_the_generation_prompt() -> None:
    source = (
        "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert render(source, bos_token="<s>", eos_token="</s>") == "<s>[user] Hello</s>[assistant]"


def test_a_special_token_that_the_tokenizer_lacks_is_nothing() -> None:
    assert render("{{ bos_token }}x") == "x"


def test_a_block_leaves_no_line_behind() -> None:
    source = "{% for message in messages %}\n  {% if message %}\n{{ message.content }}\n"
    assert render(source + "  {% endif %}\n{% endfor %}\n.") == "Hello\n."


def test_tools_and_documents_are_none() -> None:
    source = "{% if tools is not none or documents is not none %}use them{% endif %}answer"
    assert render(source) == "answer"


def test_loops_can_be_left() -> None:
    source = "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    assert render(source) == "01"


def test_json_keeps_other_scripts_and_takes_every_option() -> None:
    messages: list[dict[str, object]] = [{"b": "猫 <é>", "a": 1}]
    assert render("{{ messages[0] | tojson }}", messages) == '{"b": "猫 <é>", "a": 1}'
    options = "ensure_ascii=True, indent=1, separators=(',', ':'), sort_keys=True"
    assert render(f"{{{{ messages[0] | tojson({options}) }}}}", messages) == (
        '{\n "a":1,\n "b":"\\u732b <\\u00e9>"\n}'
    )


def test_a_template_may_refuse_the_messages() -> None:
    with pytest.raises(InvalidRequestError, match="refuses the messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}{{ messages.__class__.__base__ }}",
        "{{ cycler.__init__.__globals__.os.getcwd() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
    ],
)
def test_a_template_reaches_neither_python_nor_the_messages(source: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"unsafe|not safe|access"):
        render(source)


def test_whatever_goes_wrong_in_a_template_is_an_error_of_the_request() -> None:
    with pytest.raises(InvalidRequestError, match="refuses the messages: division by zero"):
        render("{{ 1 / 0 }}")


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            "{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}",
            "it loops more than 9999 times",
        ),
        ("{% for i in range(10**9) %}{% endfor %}", "[Rr]ange"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ 'a' * 10**9 }}", "makes too much"),
        ("{{ 10 ** 10 ** 3 }}", "makes too much"),
        ("{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}", "more than 16000000 characters"),
    ],
)
def test_a_template_that_does_not_end_is_an_error_of_the_request(
    source: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "MAX_STEPS", 9999)
    with pytest.raises(InvalidRequestError, match=error):
        render(source)


def test_a_template_is_given_tools_and_the_variables_of_the_request() -> None:
    template = ChatTemplate("{{ tools[0].name }} {{ mode }} {{ add_generation_prompt }}", {})
    variables = {"mode": "fast", "add_generation_prompt": False}
    assert template.render(HELLO, [{"name": "now"}], variables) == "now fast False"


def test_the_generation_block_of_training_is_just_text() -> None:
    assert render("a{% generation %}{{ messages[0].content }}{% endgeneration %}b") == "aHellob"


def test_a_broken_template_is_named_when_the_engine_loads() -> None:
    with pytest.raises(EngineError, match=r"chat template is not valid: .*endfor"):
        ChatTemplate("{% for message in messages %}", {})


def test_the_date_is_at_hand() -> None:
    assert render("{{ strftime_now('%%') }}") == "%"


TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def continued(source: str, content: str) -> str:
    last = {"role": "assistant", "content": content}
    return ChatTemplate(source, {}).render([*HELLO, last], None, {"continue_final_message": True})


@pytest.mark.parametrize(
    ("source", "content", "end"),
    [
        (TURNS, "Yes, and", "<assistant>Yes, and"),
        (TURNS, " Yes, and ", "<assistant> Yes, and "),
        (TURNS.replace("m.content", "m.content | trim"), " Yes, and ", "<assistant>Yes, and"),
        (TURNS, "end", "<assistant>end"),  # a word of the template's, too
        (TURNS, "Hello", "<assistant>Hello"),
    ],
)
def test_an_answer_goes_on_with_the_last_message(source: str, content: str, end: str) -> None:
    assert continued(source, content) == f"<user>Hello<end>\n{end}"


@pytest.mark.parametrize(
    ("content", "said"), [("", "no text to go on with"), (" ", "no text"), ("Yes", "doesn't write")]
)
def test_what_can_not_be_gone_on_with_is_refused(content: str, said: str) -> None:
    source = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(InvalidRequestError, match=said):
        continued(source, content)
