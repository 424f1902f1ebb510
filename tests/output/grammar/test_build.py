import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.request import AnswerFormat, GrammarFormat, JsonObjectFormat, JsonSchemaFormat, RegexFormat
from dragoman.output.constraint import GrammarCompiler
from dragoman.output.grammar import build_grammar
from tests.support.byte_vocabulary import ByteGrammarVocabulary
from tests.support.grammars import allows


def built(response_format: AnswerFormat) -> str:
    grammar = build_grammar(response_format, None, None, lambda _: None).text
    assert grammar is not None
    return grammar


def test_a_request_without_format_or_tools_has_no_grammar() -> None:
    assert build_grammar(None, None, None, lambda _: None).text is None


def test_a_json_object_is_any_object() -> None:
    grammar = built(JsonObjectFormat())
    assert allows(grammar, '{"a": [1, {"b": null}]}')
    assert not any(allows(grammar, text) for text in ("", "[]", "null", '{"a":1}', ' {"a": 1}', '{"a": 1} '))


@pytest.mark.parametrize(
    ("pattern", "texts", "others"),
    [
        ("a|b/c", ["a", "b/c"], ["", "ab", "a/c"]),
        ("(?i)yes|no", ["YES", "nO"], ["y"]),
        (r"\d{3}\/[^/]", ["123/x", "123/é"], ["12/x", "123//"]),
        ("a\nb", ["a\nb"], ["a b"]),
        ("", [""], ["a"]),
    ],
)
def test_a_regular_expression_matches_the_whole_answer(pattern: str, texts: list[str], others: list[str]) -> None:
    grammar = built(RegexFormat(pattern))
    assert [text for text in texts if not allows(grammar, text)] == []
    assert [text for text in others if allows(grammar, text)] == []


@pytest.mark.parametrize(
    ("grammar", "texts", "others"),
    [
        ('start: "a" b+\nb: "b" | "c"', ["ab", "abcb"], ["a", "b"]),
        ('start: WORD ("," WORD)*\nWORD: /[a-z]+/\n%ignore / +/', ["a, b", "a"], [",", "A"]),
        (
            'root ::= greeting " " name\ngreeting ::= "Hi" | "Hello"\nname ::= [A-Z] [a-z]*',
            ["Hi Ada"],
            ["Hi", "hi Ada"],
        ),
        (r'root ::= "\u00e9\x41" [^"\\]{2}', ["éAxy"], ["eAxy", 'éA""']),
    ],
)
def test_a_grammar_derives_the_whole_answer(grammar: str, texts: list[str], others: list[str]) -> None:
    built_grammar = built(GrammarFormat(grammar))
    assert [text for text in texts if not allows(built_grammar, text)] == []
    assert [text for text in others if allows(built_grammar, text)] == []


@pytest.mark.parametrize(
    ("response_format", "message"),
    [
        (RegexFormat("("), "The regular expression cannot be enforced: unclosed group"),
        (RegexFormat("a(?=b)"), "look-around"),
        (RegexFormat(r"(a)\1"), "backreferences are not supported"),
        (RegexFormat(r"[^\s\S]"), "it allows nothing"),
        (RegexFormat("(a{1000}){1000}"), "too complex"),
        (RegexFormat("\ud800"), "half a surrogate pair"),
        (GrammarFormat("start: word"), 'The grammar cannot be enforced: unknown name: "word"'),
        (GrammarFormat('start: "a'), "The grammar cannot be enforced"),
        (GrammarFormat("A: /a/ & /b/\nstart: A"), "it allows nothing"),
        (GrammarFormat("root ::= word"), "The grammar is no GBNF: Rule 'word' not found"),
        (GrammarFormat('word ::= "a"'), "No 'root' rule found"),
        (GrammarFormat("start: %json {}"), "may not have %json"),
        (GrammarFormat('start: "a" <|im_end|>'), "may not ask for tokens"),
        (GrammarFormat("start: <[17]>"), "may not ask for tokens"),
        (GrammarFormat('"\ud800"'), "half a surrogate pair"),
        (GrammarFormat("start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(5000))), "too large"),
        (GrammarFormat("start: " + '"a" ' * 20_000), "too large"),
        (
            GrammarFormat("start: T0\n" + "".join(f"T{i}: T{i + 1} T{i + 1}\n" for i in range(900)) + 'T900: "b"'),
            "may have 300 terminals",
        ),
        (GrammarFormat("start: " + "(" * 9000 + '"a"' + ")" * 9000), "too large or too complex"),
        (GrammarFormat("root ::= " + "(" * 9000 + '"a"' + ")" * 9000), "The grammar is no GBNF"),
        (
            GrammarFormat("start: A0\n" + "".join(f"A{i}: A{i + 1} A{i + 1}\n" for i in range(40)) + 'A40: "a"'),
            "too large",
        ),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_the_reason(response_format: AnswerFormat, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        built(response_format)
    assert message in refused.value.message
    assert "\n" not in refused.value.message
    assert refused.value.parameter == "response_format"


@given(
    st.text(st.sampled_from('start:root=|"/()[]{}*+?%<>@&~.ab1 \n\\') | st.characters(), max_size=30),
    st.sampled_from(["", "start: ", "root ::= "]),
)
def test_any_text_is_a_grammar_or_refused(text: str, beginning: str) -> None:
    for response_format in (GrammarFormat(beginning + text), RegexFormat(text)):
        with contextlib.suppress(BadRequest):
            built(response_format)


def test_keywords_that_are_not_enforced_are_named() -> None:
    schema = {"properties": {"a": {"contains": {}}}, "oneOf": [{"minimum": 2}, {"type": "integer"}]}
    grammar = build_grammar(JsonSchemaFormat(schema, strict=False), None, None, lambda _: None)
    assert grammar.unenforced == ("'contains' at #/properties/a", "'oneOf' at #")
    enforced = {"oneOf": [{"type": "string"}, {"type": "null"}]}
    assert build_grammar(JsonSchemaFormat(enforced, strict=False), None, None, lambda _: None).unenforced == ()


@pytest.mark.parametrize(
    "response_format", [GrammarFormat(r"start: /((é|\w)|\w)/"), RegexFormat(r"((é|\w)|\w)")], ids=["grammar", "regex"]
)
def test_what_llguidance_panics_at_is_refused(response_format: AnswerFormat) -> None:
    with pytest.raises(BadRequest, match="cannot be enforced: it cannot be compiled"):
        build_grammar(response_format, None, None, lambda _: None)


@pytest.mark.parametrize(
    "grammar",
    ["start: r\nr: /a+/ r", 'start: "b" r\nr: /a+/ r{2,9} # no line break', "root ::= r\nr ::= [a]+ r"],
    ids=["forced at once", "forced later", "GBNF"],
)
def test_a_grammar_whose_texts_never_end_keeps_nobody_waiting(grammar: str) -> None:
    built = build_grammar(GrammarFormat(grammar), None, None, lambda _: None).text
    assert built is not None
    constraint = GrammarCompiler(ByteGrammarVocabulary()).compile(built, "response_format").copy()
    for _ in range(20):
        [token] = constraint.allowed().nonzero()[0].tolist()
        constraint.accept(token)
