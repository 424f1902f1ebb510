import contextlib
import json
import re
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dragoman.output.grammar.lark import compile_error, json_text, matching_texts, regex
from dragoman.output.grammar.pattern import (
    UNWRITABLE,
    MalformedPattern,
    UnportablePattern,
    portable_pattern,
    portable_patterns,
)
from tests.support.grammars import allows, generate

ATOMS = st.sampled_from(
    [
        *"abz059 _-/é漢.#~<",
        *(r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\.", r"\\", r"\/", r"\t", r"\x41", r"\u00e9"),
        *("[a-f]", "[^a-f]", r"[\w.-]", r"[^\w]", r"[\D]", r"[^\s,]", "[[&&a]", "[+--]", r"[\]\\]", "&&"),
    ]
)
PARTS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["?", "*", "+", "{2}", "{1,3}", "{2,}", "+?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=5,
)
ASSERTIONS = st.one_of(
    st.sampled_from([r"\b", r"\B", "^", "$"]),
    st.tuples(st.sampled_from(["(?=", "(?!"]), PARTS, st.sampled_from(["", "$"])).map(
        lambda parts: f"{''.join(parts)})"
    ),
)
PATTERNS_WITH_ASSERTIONS = st.lists(
    PARTS | ASSERTIONS | ASSERTIONS.map(lambda part: f"(?:a{part}b?|{part})?"), min_size=1, max_size=4
).map("".join)
PATTERNS = st.one_of(PARTS, PARTS.map(lambda part: f"^{part}"), PARTS.map(lambda part: f"{part}$|^(a|{part})$"))


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@settings(max_examples=150)
@given(pattern=PARTS, seed=st.integers(0, 2**32))
def test_python_matches_whatever_the_portable_form_matches(pattern: str, seed: int) -> None:
    text = generate(f"start: {regex(portable_pattern(pattern))}", Random(seed), 60)
    assert text is None or re.fullmatch(pattern, text)


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@given(
    pattern=PATTERNS,
    text=st.text(st.sampled_from("ab05 _-/é漢.#~<[&,\\٣\u00a0\n\r") | st.characters(codec="utf-8"), max_size=6),
)
def test_the_wide_form_matches_whatever_python_matches(pattern: str, text: str) -> None:
    if re.search(pattern, text) and not UNWRITABLE.search(text):
        assert matching_texts(portable_pattern(pattern, wide=True), [text])


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@settings(max_examples=150)
@given(pattern=PATTERNS_WITH_ASSERTIONS, seed=st.integers(0, 2**32))
def test_python_finds_a_pattern_with_assertions_in_whatever_its_portable_forms_match(pattern: str, seed: int) -> None:
    try:
        first, *others = portable_patterns(pattern)
    except UnportablePattern:
        return
    grammar = f"start: {json_text({'type': 'string', 'pattern': first, 'allOf': [{'pattern': p} for p in others]})}"
    if not compile_error(grammar):
        text = generate(grammar, Random(seed), 60)
        assert text is None or re.search(pattern, json.loads(text))


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@settings(max_examples=150)
@example(pattern=r"^(?!\W)", text="a")  # whose letters end where the surrogates begin
@example(pattern=r"^(?=\w)", text="é")
@given(pattern=PATTERNS_WITH_ASSERTIONS, text=st.text(st.sampled_from("ab05 _-/é漢.\n"), max_size=5))
def test_the_wide_form_of_a_pattern_with_assertions_matches_whatever_python_matches(pattern: str, text: str) -> None:
    if re.search(pattern, text):
        with contextlib.suppress(UnportablePattern):
            assert matching_texts(portable_pattern(pattern, wide=True), [text])


def test_a_pattern_that_does_not_compile_is_refused_instead_of_matching_nothing() -> None:
    with pytest.raises(UnportablePattern):
        matching_texts(r"[\u{D800}]", ["a"])
    assert matching_texts("[^a]*b", ["a", "cb"]) == ["cb"]


@pytest.mark.parametrize(
    ("pattern", "texts", "others"),
    [
        (
            r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
            ["a@b.cd", "a.b+c@d-e.fg.hi"],
            [".a@b.cd", "a..b@c.de", "a.@b.cd", "a@b"],
        ),
        (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$", ["1", "-0.5", "+7.", ".5"], ["", "-", "+.", "1e5", "1.2.3"]),
        (
            r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,3}|(?=[\d.]{1,6}0*$)\d{0,3}\.\d{0,2}0*$)$",
            ["123.45", "-1.5", "007"],
            ["-", "1234.5", "1.234"],
        ),
        (
            r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$",
            ["P1W", "P1Y2M", "PT1H", "P1DT2M3.5S"],
            ["P", "PT", "P1W2D", "P1DT"],
        ),
        (r"^(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{8,}$", ["Abcdefg1"], ["abcdefg1", "Abcdefgh", "Abc1"]),
        (r"^(?!(?:admin|root)$).+$", ["adminx", "x"], ["admin", "root", ""]),
        (r"\bfoo\b", ["foo", "a foo b", "foo-"], ["afoo", "foo_", "éfoo"]),
        (r"\Bfoo", ["afoo"], ["foo", " foo"]),
        (r"a(?=b)bc|^x(?!$)", ["zabc", "xy"], ["x", "ac"]),
        (r"^\p{Lu}\p{L}*[\p{Nd}-]?$", ["Éa", "A-", "A7"], ["éa", "A--"]),
        (r"^\P{L}$", ["1"], ["a"]),
    ],
)
def test_a_pattern_with_assertions_matches_what_it_says(pattern: str, texts: list[str], others: list[str]) -> None:
    forms = portable_patterns(pattern)
    assert [text for text in texts if not all(matching_texts(form, [text]) for form in forms)] == []
    assert [text for text in others if all(matching_texts(form, [text]) for form in forms)] == []


@pytest.mark.parametrize(
    ("pattern", "texts", "others"),
    [
        (r"\d+", ["0", "12"], ["٣", "a", ""]),
        (r"\w", ["a", "_", "7"], ["é", "-"]),
        (r"\W", ["-", " ", "€"], ["é", "a", "_"]),
        (r"[^\W]", ["a", "_"], ["-"]),
        (r"\s", [" ", "\t", "\n"], ["\u00a0", "\ufeff", "a"]),
        (r"\S", ["a", "é"], ["\u00a0", "\ufeff", "\x1c"]),
        (".", ["a", "é"], ["\n", "\r", "\u2028"]),
        ("[[&&a]", ["[", "&", "a"], ["]", "&&"]),
        ("a|bc?", ["a", "b", "bc"], ["ac", "c"]),
        ("(?:ab){2}", ["abab"], ["ab", "ababab"]),
        ("a}]", ["a}]"], ["a"]),
    ],
)
def test_a_portable_pattern_matches_what_all_dialects_agree_on(
    pattern: str, texts: list[str], others: list[str]
) -> None:
    grammar = f"start: {regex(portable_pattern(pattern))}"
    assert [text for text in texts if not allows(grammar, text)] == []
    assert [text for text in others if allows(grammar, text)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "(?<=a)b",
            "(?<name>a)",
            "(?i)a",
            r"(a)\1",
            r"\pL",
            r"\A",
            "(?=a)*",
            "(?:(?=a)b){9}",
            "[]a]",
            "[^]",
            r"[\d-z]",
            r"\ud83d",
        ),
        *(
            "\x00",
            r"[\x00-\x07]",
            "((a{100}){100}){100}",
            "(" * 60 + ")" * 60,
            r"\cA",
            r"\0",
            "a^",
            "$a",
            "x{",
            "{2}",
            "(?",
        ),
    ],
)
def test_a_pattern_that_dialects_read_differently_is_not_portable(pattern: str) -> None:
    with pytest.raises(UnportablePattern):
        portable_pattern(pattern)


@pytest.mark.parametrize("pattern", ["(", ")", "a)", "[a", "*", "a**", "a{2}{3}", "a{3,2}", "a|*", "[z-a]", "\\"])
def test_a_pattern_that_is_invalid_in_every_dialect_is_malformed(pattern: str) -> None:
    with pytest.raises(MalformedPattern):
        portable_pattern(pattern)


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@given(st.text(st.sampled_from(r"ab(){}[]|*+?^$.\-,:=<>!dwsbnux0129é") | st.characters(codec="utf-8"), max_size=12))
def test_any_text_is_either_portable_or_refused(text: str) -> None:
    try:
        pattern = portable_pattern(text)
    except (MalformedPattern, UnportablePattern):
        return
    re.compile(text)
    problem = compile_error(f"start: {json_text({'type': 'string', 'pattern': pattern})}")
    assert problem == "" or "nothing fits" in problem
