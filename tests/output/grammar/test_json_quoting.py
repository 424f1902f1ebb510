"""A grammar inside of a JSON string allows exactly the texts that it allows outside."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher

from dragoman.core.errors import BadRequest
from dragoman.core.request import GrammarFormat, RegexFormat, Tool, ToolOptions
from dragoman.output.grammar.build import build_grammar
from dragoman.output.grammar.json_quoting import json_quoted_grammar, json_quoted_regex
from dragoman.prompt.tool_formats import hermes
from tests.support.grammars import END, matcher

APPLY_PATCH = r"""
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""
"""Codex's grammar of patches."""

PATCH = '*** Begin Patch\n*** Add File: a "b".py\n+print("\\n")\n+\té\n*** End Patch\n'


def allows(grammar: str, text: str) -> bool:
    tokens = [*text.encode(), END]
    checker: LLMatcher = matcher(grammar)
    return checker.validate_tokens(tokens) == len(tokens)


def inside(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


@pytest.mark.parametrize(
    "text", [PATCH, PATCH.rstrip(), "*** Begin Patch\n*** Delete File: x\n*** End Patch", "*** Begin Patch\n", "", "x"]
)
def test_codexs_patches_are_the_same_inside_of_a_string(text: str) -> None:
    quoted = json_quoted_grammar(APPLY_PATCH, "tools")
    assert allows(quoted, inside(text)) == allows(APPLY_PATCH, text)


@pytest.mark.parametrize("pattern", [r'[a-c"\\\n]*', r"[^a\n]*", r"(?:a|\\|\n){0,4}", r"\w*\s?", r"\x22?.*"])
@given(text=st.text('ab"\\\n\t\r é', max_size=4))
def test_an_expression_allows_the_same_texts_inside_of_a_string(pattern: str, text: str) -> None:
    assert allows(json_quoted_regex(pattern, "tools"), inside(text)) == bool(re.fullmatch(pattern, text))


def test_a_recursive_grammar_is_kept_as_one() -> None:
    grammar = 'start: expr\nexpr: "(" expr ")" | /"[a-z]"/'
    assert allows(json_quoted_grammar(grammar, "tools"), inside('(("a"))'))
    assert not allows(json_quoted_grammar(grammar, "tools"), inside('(("a")'))


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ("start: nowhere", "nowhere"),
        ("start: FLOAT\n%import common.FLOAT", "common terminals"),
        ('start: "a\\""i', "flag i"),
        ("start: /a/i", "flags"),
        ("start: /(?i:a)/", "groups"),
        ("start: /^a$/", "not supported there"),
    ],
)
def test_what_cannot_be_bound_is_refused(grammar: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        json_quoted_grammar(grammar, "tools")


@pytest.mark.parametrize("binding", [RegexFormat("[0-9]+"), GrammarFormat('start: /[0-9]/ "!"')])
def test_a_call_can_have_no_other_input(binding: RegexFormat | GrammarFormat) -> None:
    schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    tools = ToolOptions((Tool("count", parameters=schema, text_format=binding),), "required")
    built = build_grammar(None, tools, hermes.FORMAT.markup, lambda _: None)
    assert built.text is not None
    text = "12" if isinstance(binding, RegexFormat) else "1!"
    call = '<tool_call>\n{{"name": "count", "arguments": {{"input": "{}"}}}}\n</tool_call>'
    assert allows(built.text, call.format(text))
    assert not allows(built.text, call.format("x"))
