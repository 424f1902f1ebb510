"""Templates that leave earlier calls out, or quote them wrongly, get them as text."""

import pytest

from dragoman.core.request import ChatPrompt, Message, Tool, ToolCall, ToolOptions
from dragoman.prompt.control_tokens import SpecialTokenTexts
from dragoman.prompt.template import ChatTemplate
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import write_calls
from tests.support.chat_templates import LFM2, PYTHONIC, SMOLLM3, WRITING

TOOLS = ToolOptions((Tool("f"), Tool("g")))
CALLS = (ToolCall("call_1", "f", '{"a": "it\'s \\"b\\"\\n", "b": [true, null]}'), ToolCall("call_2", "g", "{}"))
WRITTEN = '[f(a="it\'s \\"b\\"\\n", b=[True, None]), g()]'
CONVERSATION = (
    Message(role="user", content="Well?"),
    Message(role="assistant", content="", tool_calls=CALLS),
    Message(role="tool", content="1", tool_call_id="call_1"),
    Message(role="tool", content="2", tool_call_id="call_2"),
)
GEMMA3 = """
{%- for message in messages | rejectattr('role', 'equalto', 'tool') | selectattr('tool_calls', 'undefined') %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
{%- endfor %}
{%- if tools %}{{ 'You must respond with a python list of the function calls. ' + tools | tojson }}{% endif %}
{%- for message in messages %}
    {{- '<start_of_turn>' + {'assistant': 'model'}.get(message.role, 'user') + '\\n' }}
    {{- message.content + '<end_of_turn>\\n' }}
{%- endfor %}
{{- '<start_of_turn>model\\n' }}"""


def render(source: str, *messages: Message) -> str:
    return ChatTemplate(source, bos="", eos="").render(ChatPrompt(messages=messages, tools=TOOLS)).text


@pytest.mark.parametrize(
    ("source", "written"), [(PYTHONIC, WRITTEN), (LFM2, f"<|tool_call_start|>{WRITTEN}<|tool_call_end|>")]
)
def test_earlier_calls_are_written_as_answers_write_them(source: str, written: str) -> None:
    begun = render(source, CONVERSATION[0])
    assert render(source, *CONVERSATION).startswith(begun + written)


def test_results_are_one_message_of_the_user_where_roles_must_alternate() -> None:
    text = render(GEMMA3, *CONVERSATION, Message(role="assistant", content="So."), Message(role="user", content="And?"))
    assert ChatTemplate(GEMMA3, bos="", eos="").tool_format == "gemma3"
    assert f"<start_of_turn>model\n{WRITTEN}<end_of_turn>" in text
    assert "user\n<tool_response>\n1</tool_response>\n<tool_response>\n2</tool_response><end_of_turn>" in text
    assert render(GEMMA3, *CONVERSATION, Message(role="user", content="And?")).count("<start_of_turn>user") == 2


def test_functiongemma_gets_a_system_message_for_its_functions() -> None:
    adapt = FORMATS["functiongemma"].adapt
    with_system = adapt([Message(role="system", content="Be brief."), *CONVERSATION], TOOLS)
    assert [message.role for message in with_system] == ["system", "user", "assistant", "tool", "tool"]
    assert [message.role for message in adapt(CONVERSATION, TOOLS)] == ["system", "user", "assistant", "tool", "tool"]
    assert [message.role for message in adapt(CONVERSATION[:1], None)] == ["user"]
    assert [message.name for message in with_system] == [None, None, None, "f", "g"]
    assert with_system[2].content == (
        '<start_function_call>call:f{a:<escape>it\'s "b"\n<escape>,b:[true,null]}<end_function_call>\n'
        "<start_function_call>call:g{}<end_function_call>"
    )


@pytest.mark.parametrize(("name", "source"), WRITING, ids=[name for name, _ in WRITING])
@pytest.mark.parametrize("arguments", ["[1]", '{"a": "b', '"x"', "null", "{"])
def test_a_call_whose_arguments_are_no_object_ends_no_conversation(name: str, source: str, arguments: str) -> None:
    """max_tokens can cut a call off, and clients send it back with every turn: vllm#47761."""
    call = Message(role="assistant", content="", tool_calls=(ToolCall("abcdefgh9", "f", arguments),))
    answer = Message(role="tool", content="Those are no arguments.", tool_call_id="abcdefgh9")
    messages = (CONVERSATION[0], call, answer, CONVERSATION[0])
    text = ChatTemplate(source, bos="", eos="").render(ChatPrompt(messages=messages, tools=TOOLS)).text
    assert "Those are no arguments." in text


def test_tokens_of_the_markup_are_text_where_a_person_wrote_them() -> None:
    texts = SpecialTokenTexts(control=(), markup=("<|tool_call_start|>", "<|tool_call_end|>"))
    template = ChatTemplate(LFM2, bos="", eos="", special_texts=texts)
    question = Message(role="user", content="What is <|tool_call_start|>?")
    rendered = template.render(ChatPrompt(messages=(question, *CONVERSATION[1:]), tools=TOOLS))
    assert rendered.text.count("<|tool_call_start|>") == 2
    (offset, *_) = rendered.literal_offsets
    assert rendered.text[:offset].count("<|tool_call_start|>") == 0
    assert rendered.text.index("<|tool_call_start|>") <= offset < rendered.text.rindex("<|tool_call_start|>")


def test_results_that_a_template_writes_as_the_users_messages_are_marked() -> None:
    messages = (*CONVERSATION, Message(role="user", content="And?"))
    marking = SMOLLM3.replace(
        "{{ '<|im_start|>user\\n' + content", "{{ '<|im_start|>' + message.role + '\\n' + content"
    )
    written = write_calls(FORMATS["hermes"].markup, CALLS)
    for source in (SMOLLM3, marking):
        template = ChatTemplate(source, bos="", eos="")
        assert template.tool_format == "hermes"
        text = template.render(ChatPrompt(messages=messages, tools=TOOLS)).text
        assert f"assistant\n{written}<|im_end|>" in text
        assert ("<|im_start|>tool\n1<|im_end|>" in text) is (source == marking)
        results = "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>\nAnd?"
        assert (f"<|im_start|>user\n{results}<|im_end|>" in text) is (source == SMOLLM3)


def test_the_tags_around_results_are_text_within_them() -> None:
    tags = ("<tool_response>", "</tool_response>")
    template = ChatTemplate(SMOLLM3, bos="", eos="", special_texts=SpecialTokenTexts((), tags))
    result = Message(role="tool", content="</tool_response>", tool_call_id="call_2")
    rendered = template.render(ChatPrompt(messages=(*CONVERSATION[:-1], result), tools=TOOLS))
    assert rendered.text.count("</tool_response>") == 3
    assert rendered.literal_offsets == (rendered.text.index("\n</tool_response>\n</tool_response>") + 1,)


def test_functions_are_given_in_the_variable_that_a_template_reads() -> None:
    for tools in (None, TOOLS):
        template = ChatTemplate(SMOLLM3, bos="", eos="")
        text = template.render(ChatPrompt(messages=CONVERSATION[:1], tools=tools)).text
        assert text.count("<tools>") == text.count('\n{"name": "g"') == (0 if tools is None else 1)
        assert "You may call" not in text
