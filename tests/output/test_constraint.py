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
