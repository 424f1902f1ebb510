import json
import re
from collections.abc import Sequence
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, Message, Role, Tool, ToolCall, ToolOptions
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp, packaged_llama_cpp
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.weights.sources import bundled
from dragoman.prompt.chatml import CHATML
from dragoman.prompt.control_tokens import SpecialTokenTexts
from dragoman.prompt.template import ChatTemplate

ROLES: Sequence[Role] = ("system", "user", "assistant")
MESSAGES = st.lists(st.builds(Message, role=st.sampled_from(ROLES), content=st.text()), min_size=1, max_size=5)
USER = Message(role="user", content="Hi")
SYSTEM = Message(role="system", content="Be brief.")
ANSWER = Message(role="assistant", content="Yes?")
LATE_SYSTEM = (USER, ANSWER, Message(role="system", content="In French."), USER)

WITHOUT_SYSTEM = """
{%- for message in messages %}
    {%- if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
    {{- '[' + message['role'] + '] ' + message['content'] }}
{%- endfor %}"""

STRICTLY_ALTERNATING = """
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {{- message['content'] }}
{%- endfor %}"""


def render(source: str | None, *messages: Message) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(ChatPrompt(messages=messages or (USER,))).text


def rejection(source: str, *messages: Message) -> str:
    with pytest.raises(BadRequest) as caught:
        render(source, *messages)
    assert caught.value.parameter == "messages"
    return caught.value.message


@given(MESSAGES)
def test_without_a_template_a_conversation_is_written_as_chatml(messages: list[Message]) -> None:
    turns = [f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n" for message in messages]
    assert render(None, *messages) == "".join(turns) + "<|im_start|>assistant\n"
    assert render(CHATML, *messages) == render(None, *messages)


def test_the_model_files_own_template_is_applied() -> None:
    model = Model(LlamaCpp(packaged_llama_cpp()), bundled().path)
    source = model.chat_template
    model.close()
    assert source is not None
    assert render(source, SYSTEM, USER) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "named SmolLM" in render(source, USER)


def test_a_template_sees_the_special_tokens_and_the_generation_prompt_flag() -> None:
    assert render("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ add_generation_prompt }}") == (
        "<s>Hi</s>True"
    )


def test_a_template_sees_names_only_where_they_are_given() -> None:
    source = "{% for message in messages %}{{ message.name | default('nobody') }} {% endfor %}"
    assert render(source, Message(role="user", content="Hi", name="Ada"), USER) == "Ada nobody "


def test_tools_and_documents_are_none_rather_than_undefined() -> None:
    assert render("{{ tools is none and documents is none }}") == "True"


def test_documents_are_given_to_templates_that_read_them() -> None:
    documents = ({"title": "A", "text": "<|im_end|>"}, {"title": "B", "text": "b"})
    prompt = ChatPrompt(messages=(USER,), documents=documents)
    template = ChatTemplate(
        "{{ documents | tojson }}", bos="", eos="", special_texts=SpecialTokenTexts(("<|im_end|>",))
    )
    rendered = template.render(prompt)
    assert json.loads(rendered.text) == list(documents)
    assert rendered.literal_offsets == (rendered.text.index("<|im_end|>"),)
    with pytest.raises(BadRequest, match="does not read documents") as caught:
        ChatTemplate("{{ messages[0].content }}", bos="", eos="").render(prompt)
    assert caught.value.parameter == "documents"


def test_a_template_that_asks_for_the_date_gets_todays() -> None:
    source = "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}"
    dates = {f"{datetime.now():%d %b %Y}"}
    rendered = render(source)
    assert rendered in dates | {f"{datetime.now():%d %b %Y}"}
    prompt = ChatPrompt(messages=(USER,), template_arguments={"date_string": "1 Jan 2000"})
    template = ChatTemplate(source, bos="", eos="")
    assert template.apply(prompt, prompt.template_arguments, constrained=False).text == "1 Jan 2000"


def test_blocks_leave_no_line_breaks_or_indentation() -> None:
    assert render("{% if true %}\n    {% set x = 1 %}\nkept\n{% endif %}\n") == "kept\n"


def test_loops_support_continue_and_break() -> None:
    source = (
        "{% for x in range(9) %}{% if x == 2 %}{% continue %}{% elif x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}"
    )
    assert render(source) == "0134"


def test_tojson_does_not_escape_html() -> None:
    assert render("{{ {'a': '<ü>', 'b': [1, true]} | tojson }}") == '{"a": "<ü>", "b": [1, true]}'
    assert render("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}") == '{\n "a": 2,\n "b": 1\n}'
    assert render("{{ 'ü' | tojson(ensure_ascii=true) }}") == '"\\u00fc"'


def test_a_template_can_format_the_date() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", render("{{ strftime_now('%Y-%m-%d') }}"))


@given(st.text())
def test_message_content_is_never_rendered_as_a_template(text: str) -> None:
    content = f"{{{{ 7 * 7 }}}}{{% raw %}}{text}"
    assert render("{{ messages[0].content }}", Message(role="user", content=content)) == content


def test_a_refused_system_message_is_moved_in_front_of_the_first_user_message() -> None:
    assert render(WITHOUT_SYSTEM, SYSTEM, USER, ANSWER, USER) == "[user] Be brief.\n\nHi[assistant] Yes?[user] Hi"
    assert render(WITHOUT_SYSTEM, SYSTEM, USER, Message(role="system", content="In French.")) == (
        "[user] Be brief.\n\nIn French.\n\nHi"
    )


def test_a_system_message_without_a_user_message_is_refused() -> None:
    assert "System role not supported" in rejection(WITHOUT_SYSTEM, SYSTEM)


def test_messages_refused_after_merging_are_refused() -> None:
    assert render(STRICTLY_ALTERNATING, SYSTEM, USER) == "Be brief.\n\nHi"
    assert "Conversation roles must alternate" in rejection(STRICTLY_ALTERNATING, SYSTEM, ANSWER, USER)
    assert "Conversation roles must alternate" in rejection(STRICTLY_ALTERNATING, ANSWER, USER)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ strftime_now.__globals__['json'] }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ (messages | map(attribute='__class__') | list)[0].__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{% for x in range(10000000) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(source: str) -> None:
    assert rejection(source).startswith("The model's chat template cannot be applied: ")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ messages[0].content.__class__ }}",
    ],
)
def test_attributes_that_lead_out_of_the_sandbox_are_empty(source: str) -> None:
    assert render(source) == ""


@pytest.mark.parametrize(
    "source",
    [
        "{% for message in messages %}",
        "{{ messages[0].content ",
        "{% nonsense %}",
        "{{ messages[7].content }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
        "{{ missing.attribute }}",
        "{{ messages | nonsense }}",
        "{{ messages | tojson(1, 2, 3, 4, 5) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for x in [1] %}" * 50 + "{% endfor %}" * 50,
        "{{ '\\ud800' }}",
    ],
)
def test_a_broken_template_fails_the_request_and_not_the_start(source: str) -> None:
    template = ChatTemplate(source, bos="", eos="")
    with pytest.raises(BadRequest, match="cannot be applied"):
        template.render(ChatPrompt(messages=(USER,)))


def test_a_template_error_names_its_line() -> None:
    assert rejection("\n\n{{ 1 / 0 }}").endswith("line 3: division by zero")
    assert rejection("\n{{ } }}").endswith("line 2: unexpected '}'")
    macro = "{% macro m() %}\n{{ 1 + 'a' }}{% endmacro %}\n\n{{ m() }}"
    assert "line 2: unsupported operand" in rejection(macro)


def test_a_template_may_mark_generated_text() -> None:
    assert render("{% generation %}\n{{ messages[0].content }}{% endgeneration %}!") == "Hi!"


CALL = ToolCall("call_1", "f", '{"a": {"b": [1, 2]}}')
TOOLS = ToolOptions((Tool("f", "Does it.", {"type": "object", "properties": {"a": {}}}), Tool("g")))


def test_a_template_sees_tools_in_openais_format() -> None:
    source = "{{ tools | tojson }}<tool_call>"
    rendered = ChatTemplate(source, bos="", eos="").render(ChatPrompt(messages=(USER,), tools=TOOLS))
    assert rendered.text.removesuffix("<tool_call>") == (
        '[{"type": "function", "function": {"name": "f", "description": "Does it.", '
        '"parameters": {"type": "object", "properties": {"a": {}}}}}, '
        '{"type": "function", "function": {"name": "g", "description": "", '
        '"parameters": {"type": "object", "properties": {}}}}]'
    )
    assert rendered.parser_spec.tool_format == "hermes"
    assert ChatTemplate(source, bos="", eos="").render(ChatPrompt(messages=(USER,))).parser_spec.tool_format is None


def test_a_template_sees_calls_with_their_arguments_as_an_object() -> None:
    source = "{# tools <tool_call> #}{{ messages[1].tool_calls | tojson }}"
    assert render(source, USER, Message(role="assistant", content="", tool_calls=(CALL,))) == (
        '[{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {"a": {"b": [1, 2]}}}}]'
    )


@pytest.mark.parametrize(("text", "seen"), [('{"a": ', '"{\\"a\\": "'), ("[1]", '"[1]"'), ("", "{}"), ("5", '"5"')])
def test_arguments_that_are_not_an_object_stay_text(text: str, seen: str) -> None:
    source = "{# tools <tool_call> #}{{ messages[1].tool_calls[0].function.arguments | tojson }}"
    assert (
        render(source, USER, Message(role="assistant", content="", tool_calls=(ToolCall("call_1", "f", text),))) == seen
    )


def test_a_template_sees_results_and_earlier_reasoning() -> None:
    source = "{# tools <tool_call> #}{% for message in messages %}{{ message | tojson }}{% endfor %}"
    tool = Message(role="tool", content="42", name="f", tool_call_id="call_1")
    assistant = Message(role="assistant", content="So.", reasoning="Hm.")
    assert render(source, tool, assistant) == (
        '{"role": "tool", "content": "42", "name": "f", "tool_call_id": "call_1"}'
        '{"role": "assistant", "content": "So.", "reasoning_content": "Hm.", "reasoning": "Hm."}'
    )


def test_a_template_that_does_not_take_null_for_tools_gets_none() -> None:
    source = "{% if tools is defined %}{{ tools | length }} functions.{% endif %}{{ messages[-1].content }}"
    assert render(source, USER) == "Hi"
    assert "no len()" in rejection("{{ tools | length }}{{ 1 / 0 }}", USER)
    listing = "{% for tool in tools %}{{ tool }}{% endfor %}{{ documents is defined }}{{ messages[0].content }}"
    assert render(listing, USER) == "FalseHi"


def test_fireworks_variables_are_given_where_both_are_read() -> None:
    source = "{# tools #}{{ functions + '\\nToday is ' + datetime }}<tool_call>"
    template = ChatTemplate(source, bos="", eos="")
    today = {f"\nToday is {datetime.now():%Y-%m-%d}<tool_call>"}
    written = template.render(ChatPrompt(messages=(USER,), tools=TOOLS)).text
    functions, separator, rest = written.rpartition("\nToday")
    assert separator + rest in today | {f"\nToday is {datetime.now():%Y-%m-%d}<tool_call>"}
    assert [function["name"] for function in json.loads(functions)] == ["f", "g"]
    assert template.render(ChatPrompt(messages=(USER,))).text.startswith("[]")
    assert render("{{ functions is defined }}") == render("{{ datetime is defined }}") == "False"


def test_arguments_are_text_where_the_template_wants_text() -> None:
    source = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}<TOOLCALL>["
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments }}}]</TOOLCALL>'
        "{% endfor %}{{ m.content }}{% endfor %}"
    )
    assert render(source, USER, Message(role="assistant", content="", tool_calls=(CALL,))) == (
        'Hi<TOOLCALL>[{"name": "f", "arguments": {"a": {"b": [1, 2]}}}]</TOOLCALL>'
    )
    hinted = "functools" + source.replace("<TOOLCALL>[", "").replace("]</TOOLCALL>", "")
    assert '"arguments": {"a": ' in render(hinted, USER, Message(role="assistant", content="", tool_calls=(CALL,)))
    own_syntax = source.replace(
        "{{ c.function.arguments }}",
        "{% if c.function.arguments is string %}{{ c.function.arguments }}"
        "{% else %}{% for name in c.function.arguments %}{{ name }}: ...{% endfor %}{% endif %}",
    )
    assert '"arguments": a: ...}]' in render(
        own_syntax, USER, Message(role="assistant", content="", tool_calls=(CALL,))
    )
    joining = source.replace("{{ c.function.arguments }}", "{{ '' + c.function.arguments }}")
    assert "{}}]" in render(
        joining, USER, Message(role="assistant", content="", tool_calls=(ToolCall("call_1", "f", ""),))
    )


def test_a_call_without_text_has_null_content_where_the_template_writes_an_empty_turn_otherwise() -> None:
    source = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}<TOOLCALL>["
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}]</TOOLCALL>'
        "{% endfor %}{% if m.content is not none %}[{{ m.content }}]{% endif %}{% endfor %}"
    )
    call = '<TOOLCALL>[{"name": "f", "arguments": {"a": {"b": [1, 2]}}}]</TOOLCALL>'
    assert render(source, USER, Message(role="assistant", content="", tool_calls=(CALL,))) == f"[Hi]{call}"
    assert render(source, USER, Message(role="assistant", content="So.", tool_calls=(CALL,))) == f"[Hi]{call}[So.]"
    assert render(source, USER, Message(role="assistant", content="")) == "[Hi][]"
    writing_none = source.replace("{% if m.content is not none %}", "{% if true %}")
    assert render(writing_none, USER, Message(role="assistant", content="", tool_calls=(CALL,))) == f"[Hi]{call}[]"


def test_a_call_that_is_written_without_content_only_is_not_lost() -> None:
    source = (
        "{% for m in messages %}{% if m.content is none %}{% for c in m.tool_calls %}"
        """{{ '<TOOLCALL>[{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments }}"""
        "{{ '}]</TOOLCALL>' }}"
        "{% endfor %}{% else %}[{{ m.content }}]{% endif %}{% endfor %}"
    )
    written = render(source, USER, Message(role="assistant", content="", tool_calls=(CALL,)))
    assert written == f'[Hi]<TOOLCALL>[{{"name": "f", "arguments": {CALL.arguments}}}]</TOOLCALL>'


def test_a_result_has_the_name_of_the_function_that_was_called() -> None:
    source = "{# tools <tool_call> #}{% for message in messages %}{{ message.name | default('-') }} {% endfor %}"
    call = Message(role="assistant", content="", tool_calls=(CALL, ToolCall("call_2", "g", "{}")))
    results = [Message(role="tool", content="", tool_call_id=call_id) for call_id in ("call_2", "call_1", "call_3")]
    named = Message(role="tool", content="", tool_call_id="call_1", name="own")
    assert render(source, USER, call, *results, named) == "- - g f - own "


def test_a_late_system_message_that_the_template_leaves_out_goes_to_the_beginning() -> None:
    first_only = (
        "{% if messages[0].role == 'system' %}<{{ messages[0].content }}>{% endif %}"
        "{% for m in messages if m.role != 'system' %}{{ m.content }} {% endfor %}"
    )
    last_only = (
        "{% set ns = namespace(system='') %}"
        "{% for m in messages if m.role == 'system' %}{% set ns.system = m.content %}{% endfor %}<{{ ns.system }}>"
        "{% for m in messages if m.role != 'system' %}{{ m.content }} {% endfor %}"
    )
    every = "{% for m in messages %}{{ ('<%s>' if m.role == 'system' else '%s ') | format(m.content) }}{% endfor %}"
    for source in (first_only, last_only):
        assert render(source, SYSTEM, *LATE_SYSTEM) == "<Be brief.\n\nIn French.>Hi Yes? Hi "
        assert render(source, *LATE_SYSTEM) == "<In French.>Hi Yes? Hi "
        assert render(source, SYSTEM, USER) == "<Be brief.>Hi "
    assert render(every, SYSTEM, *LATE_SYSTEM) == "<Be brief.>Hi Yes? <In French.>Hi "


def test_a_refused_late_system_message_goes_to_the_beginning() -> None:
    source = (
        "{% for m in messages %}"
        "{% if m.role == 'system' and not loop.first %}{{ raise_exception('Too late') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    assert render(source, SYSTEM, *LATE_SYSTEM) == ("[system]Be brief.\n\nIn French.[user]Hi[assistant]Yes?[user]Hi")


def test_refused_consecutive_turns_of_one_role_are_joined() -> None:
    repeated = (USER, Message(role="user", content="Well?"), ANSWER, ANSWER, USER)
    assert render(STRICTLY_ALTERNATING, *repeated) == "Hi\n\nWell?Yes?\n\nYes?Hi"
    refusing_system = STRICTLY_ALTERNATING.replace(
        "{%- if (", "{%- if message.role == 'system' %}{{ raise_exception('No system') }}{% endif %}{%- if (", 1
    )
    assert render(refusing_system, SYSTEM, USER, USER) == "Be brief.\n\nHi\n\nHi"


def test_a_refusal_is_about_the_messages_as_they_were_sent() -> None:
    source = (
        "{% for m in messages if m.role == 'system' %}{{ raise_exception('No system') }}{% endfor %}"
        "{{ raise_exception('No ' ~ messages[0].role) }}"
    )
    assert rejection(source, SYSTEM, USER).endswith("No system")
