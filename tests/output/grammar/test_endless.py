"""Which grammars surely have a text for each rule."""

import pytest

from dragoman.output.grammar.endless import surely_ends


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "a"',
        'start: e\ne: e "+" e | "(" e ")" | NUMBER\nNUMBER: /[0-9]+/',
        'start: (pair ("," pair)*)?\npair: KEY ":" /a|b/ // start: start\nKEY: "k"{2,3}',
    ],
)
def test_rules_with_texts_are_found(grammar: str) -> None:
    assert surely_ends(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        "start: r\nr: /a+/ r",
        'start: "x" | r\nr: /a+/ (r | "b") r',
        "start: r\nr: s\ns: /a+/ r",
        "start: r r: /a+/ r",
        'start: r\nr[lazy]: /a+/ r | "a"',
        'start: r # "\nr: /a+/ r # "',
        "start: x\n%import common.NUMBER -> x",
    ],
)
def test_rules_without_a_text_and_unknown_syntax_are_not_sure_to_end(grammar: str) -> None:
    assert not surely_ends(grammar)
