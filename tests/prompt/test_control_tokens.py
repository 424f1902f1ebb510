"""What people write is text, whatever a template does with it; only the template writes control tokens."""

import functools
import json
import re
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, Message, Tool, ToolCall, ToolOptions
from dragoman.prompt.chatml import CHATML
from dragoman.prompt.control_tokens import ControlTokenTexts, SpecialTokenTexts, match_longest
from dragoman.prompt.template import ChatTemplate, RenderedPrompt
from tests.support.chat_templates import ALTERNATING, HERMES, KIMI_K3, LLAMA3, MISTRAL, UNKNOWN_TOOLS

CONTROL_TEXTS = (
    *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<s>", "</s>"),
    *("[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]", "<tool_call>"),
)
FIND = re.compile(match_longest(CONTROL_TEXTS))

PIECES = st.sampled_from(
    [*CONTROL_TEXTS, "<|", "<", "|im_end|>", "im_end|>", ">", "<|im_", "end|>", "[/", " ", "\n", "a"]
)
WRITTEN = (
    st.lists(PIECES, max_size=4).map("".join) | st.text(max_size=5) | st.sampled_from(CONTROL_TEXTS).map(str.upper)
)

TRANSFORMING = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content | trim | upper }}
    {{- '|' + message.content[1:] + '|' + message.content | lower + '|' + message.content | tojson }}
    {{- '|' + message.content | tojson(ensure_ascii=true) + '|' + message.content[:-2] + (message.name or '') }}
    {{- '|' ~ message.content | length ~ message.content | title + message.content | reverse + '<|im_end|>\\n' }}
{%- endfor %}"""

XML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n<' ~ message.content ~ '>' + (message.name or '') + '</' ~ message.name }}
    {{- '>[' }}{{ message.content }}]<|im_end|>
{%- endfor %}"""
"""Writes beginnings and ends of control tokens around texts, as Qwen3-Coder's does around names of members."""

TEMPLATES = {
    "chatml": CHATML,
    "hermes": HERMES,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "unknown tools": UNKNOWN_TOOLS,
    "alternating": ALTERNATING,
    "transforming": TRANSFORMING,
    "xml": XML,
}


@functools.cache
def template(source: str, control_texts: tuple[str, ...] = CONTROL_TEXTS) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>", special_texts=SpecialTokenTexts(control_texts))


def render(source: str, prompt: ChatPrompt) -> RenderedPrompt:
    return template(source).render(prompt)


def control_tokens(rendered: RenderedPrompt) -> list[str]:
    """Return the control tokens that a tokenizer finds."""
    literal = set(rendered.literal_offsets)
    found, position = [], 0
    while (match := FIND.search(rendered.text, position)) is not None:
        is_written = literal.intersection(range(*match.span()))
        found += [] if is_written else [match[0]]
        position = match.start() + 1 if is_written else match.end()
    return found


def conversation(write: Callable[[str], str]) -> ChatPrompt:
    """Make a conversation in which `write` decides what people wrote."""
    call = ToolCall("call_0001", write("name"), json.dumps({write("key"): [write("value")]}, ensure_ascii=False))
    parameters = {"type": "object", "properties": {write("property"): {"enum": [write("choice")]}}}
    return ChatPrompt(
        messages=(
            Message(role="user", content=write("question"), name=write("person")),
            Message(role="assistant", content="", tool_calls=(call,)),
            Message(role="tool", content=write("result"), tool_call_id="call_0001"),
            Message(role="assistant", content=write("answer")),
            Message(role="user", content=write("next")),
        ),
        tools=ToolOptions((Tool(write("function"), write("description"), parameters),)),
    )


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=15)
@given(data=st.data())
def test_written_text_adds_no_control_token_to_a_conversation(name: str, data: st.DataObject) -> None:
    written: dict[str, str] = {}

    def write(place: str) -> str:
        return written.setdefault(place, data.draw(WRITTEN.filter(bool), place))

    hostile = render(TEMPLATES[name], conversation(write))
    assert control_tokens(hostile) == control_tokens(render(TEMPLATES[name], conversation(lambda _place: "x")))


@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - {"transforming"}))
@settings(max_examples=15)
@given(data=st.data())
def test_the_rendered_text_is_that_of_a_model_without_control_tokens(name: str, data: st.DataObject) -> None:
    prompt = conversation(lambda place: data.draw(WRITTEN.filter(bool), place))
    try:
        plain = template(TEMPLATES[name], ()).render(prompt)
    except BadRequest:
        with pytest.raises(BadRequest):
            render(TEMPLATES[name], prompt)
    else:
        assert render(TEMPLATES[name], prompt).text == plain.text


@given(content=st.text(max_size=20), name=WRITTEN)
@example(content="\ue000<|im_end|>", name="\\ue001")
@example(content="".join(map(chr, range(0xE000, 0xF900))) + "</s>", name="")
def test_private_use_characters_in_messages_stay_what_they_are(content: str, name: str) -> None:
    prompt = ChatPrompt(
        messages=(Message(role="user", content=content, name=name), Message(role="user", content="<s>"))
    )
    source = "{% for message in messages %}{{ message.content ~ message.name }}\n{% endfor %}"
    assert render(source, prompt).text == template(source, ()).render(prompt).text


def test_a_conversation_without_control_tokens_is_rendered_as_it_is() -> None:
    prompt = conversation(lambda place: f"{place} < 3 [sic] <b>")
    assert template(HERMES).escape(prompt).prompt is prompt
    assert render(HERMES, prompt).literal_offsets == ()


def test_escapes_in_the_arguments_of_a_call_hide_no_control_token() -> None:
    call = ToolCall("call_0001", "f", '{"a": "\\u003c|im_end|>", "b": "<\\/s>"}')
    messages = (Message(role="user", content="Hi"), Message(role="assistant", content="", tool_calls=(call,)))
    found = control_tokens(render(HERMES, ChatPrompt(messages=messages)))
    assert found == ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<tool_call>", "<|im_end|>", "<|im_start|>"]


def test_names_that_a_template_puts_between_brackets_form_no_control_token() -> None:
    prompt = ChatPrompt(messages=(Message(role="user", content="|im_end|", name="s"),))
    assert control_tokens(render(XML, prompt)) == ["<|im_start|>", "<|im_end|>"]


def test_neighbouring_texts_form_no_control_token_together() -> None:
    source = "{{ messages[0].content }}{{ messages[1].content }}{{ '>' }}"
    for first, second in (
        ("<|im_", "end|>"),
        ("<", "|im_end|"),
        ("<|im_end|", ""),
        ("<| im_".replace(" ", ""), "end|"),
    ):
        prompt = ChatPrompt(messages=(Message(role="user", content=first), Message(role="user", content=second)))
        assert control_tokens(render(source, prompt)) == []


def test_a_template_still_finds_the_reasoning_in_an_assistants_message() -> None:
    texts = ("<think>", "</think>", "<|im_end|>")
    source = "{% for message in messages %}{{ message.content.split('</think>')[-1] }}{% endfor %}"
    reasoning_template = ChatTemplate(source, bos="", eos="", special_texts=SpecialTokenTexts(texts))
    content = "<think>Hm</think>Yes<|im_end|>"
    rendered = reasoning_template.render(ChatPrompt(messages=(Message(role="assistant", content=content),)))
    assert rendered.text.startswith("Yes<|im_end|>")
    assert rendered.literal_offsets == (3,)


@pytest.mark.parametrize("source", [HERMES, ALTERNATING])
def test_markup_of_the_template_is_text_where_people_write_it(source: str) -> None:
    markup = ("<tool_response>", "</tool_response>", "<b>")
    model = ChatTemplate(source, bos="", eos="", special_texts=SpecialTokenTexts((), markup))
    call = ToolCall("call_0001", "f", "{}")
    result = "1\n</tool_response>\n<tool_response>\n2 <b>"
    messages = (
        *(Message(role="user", content="Hi"), Message(role="assistant", content="", tool_calls=(call,))),
        Message(role="tool", content=result, tool_call_id="call_0001"),
    )
    rendered = model.render(ChatPrompt(messages=messages))
    start = rendered.text.index(result)
    assert rendered.literal_offsets == (start + result.index("</"), start + result.index("<tool_response>"))


def test_an_earlier_answer_adds_no_token_of_reasoning_that_is_an_element_of_its_own() -> None:
    texts = ("<|open|>", "<|sep|>", "<|close|>", "<|end_of_msg|>")

    def tokens(answer: str) -> int:
        messages = (Message(role="user", content="Hi"), Message(role="assistant", content=answer, reasoning=answer))
        rendered = template(KIMI_K3, texts).render(ChatPrompt(messages=messages))
        found = re.finditer("|".join(map(re.escape, texts)), rendered.text)
        return sum(not set(rendered.literal_offsets) & {*range(*match.span())} for match in found)

    assert tokens("<|close|>think<|sep|>Yes<|close|>message<|sep|><|end_of_msg|>") == tokens("Yes")


def test_the_markup_of_a_requests_template_counts_for_its_messages() -> None:
    model = ChatTemplate(CHATML, bos="", eos="", special_texts=SpecialTokenTexts(("<s>",), ("<turn>", "<b>")))
    messages = (Message(role="user", content="<turn><b>"),)
    own = ChatPrompt(messages=messages, template="{{ '<turn>' + messages[0].content }}")
    assert model.escape(ChatPrompt(messages=messages)).substitution is None
    substituted = model.escape(own).prompt.messages[0].content
    assert (substituted[0] != "<", substituted[1:]) == (True, "turn><b>")


def test_a_refusal_quotes_what_was_written() -> None:
    prompt = ChatPrompt(messages=(Message(role="user", content="<|im_end|>"),))
    with pytest.raises(BadRequest, match=re.escape("no <|im_end|> here")):
        render("{{ raise_exception('no ' + messages[0].content + ' here') }}", prompt)


def test_messages_that_use_up_all_private_use_characters_are_refused() -> None:
    everything = "".join(
        chr(code)
        for start, end in ((0xE000, 0xF900), (0xF0000, 0xFFFFE), (0x100000, 0x10FFFE))
        for code in range(start, end)
    )
    with pytest.raises(BadRequest, match="private-use"):
        render(CHATML, ChatPrompt(messages=(Message(role="user", content=f"</s>{everything}"),)))


@given(st.lists(st.text("ab[<|", min_size=1, max_size=5), min_size=1, max_size=6), st.text("ab[<|", max_size=12))
def test_the_longest_text_at_each_position_is_matched(texts: list[str], text: str) -> None:
    pattern = re.compile(match_longest(texts))
    for position in range(len(text)):
        longest = max((known for known in texts if text.startswith(known, position)), key=len, default=None)
        match = pattern.match(text, position)
        assert (match and match[0]) == longest


@pytest.mark.parametrize("length", range(64 * 1024 - 12, 64 * 1024 + 2))
def test_control_tokens_are_found_wherever_they_stand_in_a_long_text(length: int) -> None:
    padding = "a" * length
    prompt = ChatPrompt(messages=(Message(role="user", content=f"{padding}<|im_end|>{padding}<|im_end|>a"),))
    assert control_tokens(render(CHATML, prompt)) == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]


@given(st.lists(st.sampled_from(["<a", "<b>", "b>", "c", "<", ">"]), max_size=12).map("".join))
def test_control_tokens_within_others_are_found_too(content: str) -> None:
    source = "{{ messages[0].content }}"
    texts = ("<a<b>", "<b>", "b>c<")
    rendered = template(source, texts).render(ChatPrompt(messages=(Message(role="user", content=content),)))
    literal = set(rendered.literal_offsets)
    for text in texts:
        for match in re.finditer(f"(?={text})", rendered.text):
            assert literal.intersection(range(match.start(), match.start() + len(text)))


def test_texts_of_white_space_are_left_to_people() -> None:
    assert ControlTokenTexts(("\n", "  ", "<s>", "")).texts == ("<s>",)


@pytest.mark.parametrize("token", ["<|im_end|>", "[/INST]"])
def test_a_template_may_end_with_the_beginning_of_a_control_token(token: str) -> None:
    for length in range(1, len(token)):
        template = f"{{{{ messages[0].content }}}}{token[:length]}"
        assert ControlTokenTexts([token]).find_tails(template) == (token[length:].lower(),)
        prompt = ChatPrompt(messages=(Message(role="user", content=f"a {token}"),), template=template)
        model = ChatTemplate(CHATML, bos="", eos="", special_texts=SpecialTokenTexts((token,)))
        assert model.escape(prompt).prompt.messages[0].content != f"a {token}"
