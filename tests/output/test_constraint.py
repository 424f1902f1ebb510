import json
import time
from typing import Any, SupportsIndex, cast

import pytest

from dragoman.core.errors import BadRequest
from dragoman.engines.echo.engine import END
from dragoman.output.constraint import ConstraintFailed, GrammarCompiler, GrammarConstraint, MaskWorker
from tests.support.byte_vocabulary import ByteGrammarVocabulary

DIGITS = r"start: /[0-9]{2}/"
GREETING = 'start: "Hello, " ("world" | "you") "!"'


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(ByteGrammarVocabulary())


def allowed(constraint: GrammarConstraint) -> bytes:
    return bytes(token for token in constraint.allowed().nonzero()[0].tolist() if token != END)


def accept_all(constraint: GrammarConstraint, text: bytes) -> None:
    for token in text:
        constraint.accept(token)


def test_only_tokens_that_continue_the_grammar_are_allowed(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(DIGITS, "response_format").copy()
    assert allowed(constraint) == b"0123456789"
    accept_all(constraint, b"4")
    assert not constraint.is_complete
    accept_all(constraint, b"2")
    assert constraint.is_complete


def test_forced_tokens_are_reported_and_then_accepted_like_any_token(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(GREETING, "response_format").copy()
    assert bytes(constraint.forced()) == b"Hello, "
    accept_all(constraint, b"Hello, ")
    assert constraint.forced() == []
    assert allowed(constraint) == b"wy"
    accept_all(constraint, b"y")
    assert bytes(constraint.forced()) == b"ou!"
    accept_all(constraint, b"ou!")
    assert constraint.is_complete


def test_nothing_is_forced_where_every_token_must_be_sampled(compiler: GrammarCompiler) -> None:
    assert compiler.compile(GREETING, "response_format").copy(fast_forward=False).forced() == []


class LossyVocabulary(ByteGrammarVocabulary):
    """A vocabulary whose tokenizer drops bytes without a token."""

    def tokenize_plain(self, text: bytes) -> list[int]:
        return [byte for byte in text if byte != ord("x")]


def test_forced_tokens_stop_where_the_tokenizer_drops_bytes() -> None:
    constraint = GrammarCompiler(LossyVocabulary()).compile('start: "abxcd"', "response_format").copy()
    assert bytes(constraint.forced()) == b"ab"


def test_choices_advance_independently(compiler: GrammarCompiler) -> None:
    first = compiler.compile(DIGITS, "response_format").copy()
    second = compiler.compile(DIGITS, "response_format").copy()
    accept_all(first, b"42")
    assert (first.is_complete, second.is_complete) == (True, False)
    assert allowed(second) == b"0123456789"


def test_masks_computed_in_the_background_are_the_same(compiler: GrammarCompiler) -> None:
    worker = MaskWorker()
    constraints = [compiler.compile(grammar, "response_format").copy() for grammar in (DIGITS, GREETING)]
    worker.begin(("a", constraint) for constraint in constraints)
    worker.wait()
    assert [allowed(constraint) for constraint in constraints] == [b"0123456789", b"H"]
    worker.begin(())
    worker.wait()


def test_a_token_that_is_not_allowed_fails_the_constraint(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(DIGITS, "response_format").copy()
    with pytest.raises(ConstraintFailed):
        accept_all(constraint, b"x")
    with pytest.raises(ConstraintFailed):
        constraint.allowed()


def test_a_grammar_that_does_not_compile_is_refused(compiler: GrammarCompiler) -> None:
    with pytest.raises(BadRequest, match="response_format cannot be enforced") as caught:
        compiler.compile("start: nonsense", "response_format")
    assert caught.value.parameter == "response_format"
    assert "\n" not in caught.value.message


def test_only_the_most_recent_grammars_are_cached(compiler: GrammarCompiler) -> None:
    cached = compiler.compile(DIGITS, "response_format")
    assert compiler.compile(DIGITS, "response_format") is cached
    for number in range(100):
        compiler.compile(f'start: "{number}"', "response_format")
    assert compiler.compile(DIGITS, "response_format") is not cached


class RunVocabulary(ByteGrammarVocabulary):
    """A vocabulary with tokens of up to 16 letters, as others have runs of spaces."""

    size = ByteGrammarVocabulary.size + 16

    def piece(self, token: SupportsIndex) -> bytes:
        letters = token.__index__() - super().size + 1
        return super().piece(token) if letters < 1 else b"a" * letters


LONGEST_RUN = RunVocabulary.size - 1


@pytest.mark.parametrize(
    "grammar", ['start: s\ns: s s | "a"', 'start: s\ns: s s s | s s | "a" | ""', 'start: s\ns: x s | "a"\nx: s | s s']
)
def test_an_ambiguous_grammar_fails_before_accepting_a_token_takes_long(grammar: str) -> None:
    constraint = GrammarCompiler(RunVocabulary()).compile(grammar, "response_format").copy()
    with pytest.raises(ConstraintFailed, match="Too many items"):
        accept_runs(constraint)


def accept_runs(constraint: GrammarConstraint) -> None:
    for _ in range(16):
        constraint.allowed()
        constraint.accept(LONGEST_RUN)


def test_a_long_term_and_a_large_object_are_not_too_complex(compiler: GrammarCompiler) -> None:
    term = b"+".join([b"a"] * 300)
    constraint = compiler.compile('start: e\ne: e "+" e | e "*" e | "(" e ")" | /[a-z]+/', "response_format").copy()
    for token in term:
        constraint.allowed()
        constraint.accept(token)
    properties = {f"property_{number}": {"type": "integer"} for number in range(500)}
    schema = json.dumps({"type": "object", "properties": properties, "additionalProperties": False})
    constraint = compiler.compile(f"start: %json {schema}", "response_format").copy()
    for token in b'{"property_0":1,"property_499":2}':
        constraint.allowed()
        constraint.accept(token)


class SlowMatcher:
    """Stands for llguidance's matcher: it allows everything, and takes long for more than two tokens."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def validate_tokens(self, tokens: list[int]) -> int:
        self.asked.append(len(tokens))
        started = time.thread_time()
        while len(tokens) > 2 and time.thread_time() < started + 0.004:
            pass
        return len(tokens)


def test_as_much_of_a_draft_is_looked_at_as_does_not_take_long() -> None:
    matcher = SlowMatcher()
    constraint = GrammarConstraint(cast(Any, matcher), 256)
    assert constraint.count_allowed([1] * 15) == 4
    assert matcher.asked == [1, 2, 4]
    assert constraint.is_slow


@pytest.mark.parametrize("text", [b"", b"H", b"He", b"Hex", b"Hello", b"Hello, world!", b"Hello, wax", b"xHello"])
def test_as_much_of_a_draft_is_allowed_as_the_grammar_has(compiler: GrammarCompiler, text: bytes) -> None:
    constraint = compiler.compile(GREETING, "response_format").copy()
    agreeing = next((n for n in range(len(text)) if not b"Hello, world!".startswith(text[: n + 1])), len(text))
    assert constraint.count_allowed(list(text)) == agreeing
