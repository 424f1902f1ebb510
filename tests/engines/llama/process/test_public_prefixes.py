"""Which beginnings of prompts are public, with the bundled model's vocabulary: its tokens merge across texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import ChatPrompt, Message, TextPrompt
from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.process.preprocessor import RequestPreprocessor
from dragoman.engines.llama.process.public_prefixes import PublicPrefixes
from dragoman.prompt.template import ChatTemplate
from tests.engines.llama.process.test_preprocessor import command

SYSTEM = "You are the assistant of a library. You answer in English"
HEAD = "<|im_start|>system\n"
TEMPLATE = ChatTemplate(None, bos="", eos="")


@pytest.fixture(scope="session")
def prefixes(model: Model) -> PublicPrefixes:
    return PublicPrefixes((SYSTEM, f"{SYSTEM}, briefly"), model.vocabulary, TEMPLATE)


def conversation(model: Model, system: str, user: str) -> TokenArray:
    messages = (Message(role="system", content=system), Message(role="user", content=user))
    return model.vocabulary.tokenize(TEMPLATE.render(ChatPrompt(messages=messages)).text)


def public_text(model: Model, prefixes: PublicPrefixes, tokens: TokenArray) -> str:
    return b"".join(map(model.vocabulary.piece, tokens[: prefixes.match(tokens)].tolist())).decode(errors="replace")


def test_a_named_system_message_is_public_whatever_follows_it(model: Model, prefixes: PublicPrefixes) -> None:
    for system in (SYSTEM, f"{SYSTEM}.", f"{SYSTEM}\nToday is Monday."):
        for user in ("What do you have?", "\n\nHello"):
            found = public_text(model, prefixes, conversation(model, system, user))
            assert found == HEAD + SYSTEM[: len(found) - len(HEAD)]
            assert len(found) >= len(HEAD) + len(SYSTEM) - len(" English")


def test_the_longest_of_several_texts_counts(model: Model, prefixes: PublicPrefixes) -> None:
    tokens = conversation(model, f"{SYSTEM}, briefly", "Hello")
    assert prefixes.match(tokens) > prefixes.match(conversation(model, SYSTEM, "Hello"))


def test_a_named_text_is_public_at_the_beginning_of_a_plain_prompt_too(model: Model, prefixes: PublicPrefixes) -> None:
    found = public_text(model, prefixes, model.vocabulary.tokenize(f"{SYSTEM}. Which books"))
    assert SYSTEM.startswith(found)
    assert len(found) >= len(SYSTEM) - len(" English")


def test_a_part_of_a_named_text_is_not_public(model: Model, prefixes: PublicPrefixes) -> None:
    assert prefixes.match(conversation(model, SYSTEM[:30], "Hello")) == 0
    assert prefixes.match(conversation(model, SYSTEM.replace("library", "bank"), "Hello")) == 0
    assert prefixes.match(conversation(model, "Be kind.", SYSTEM)) == 0


@settings(max_examples=100, deadline=None)
@given(after=st.text(max_size=20), user=st.text(max_size=20))
def test_nothing_but_what_the_operator_named_is_ever_public(
    model: Model, prefixes: PublicPrefixes, after: str, user: str
) -> None:
    for tokens in (conversation(model, SYSTEM + after, user), model.vocabulary.tokenize(SYSTEM + after)):
        found = public_text(model, prefixes, tokens)
        assert any(named.startswith(found) for named in (f"{HEAD}{SYSTEM}, briefly", f"{SYSTEM}, briefly"))


def test_a_request_is_told_how_much_of_its_prompt_is_public(model: Model, prefixes: PublicPrefixes) -> None:
    prompt = TextPrompt(f"{SYSTEM}. Which books")
    request = RequestPreprocessor(model, 256, prefixes).preprocess((0, 0), command(prompt))
    assert request.public_tokens == prefixes.match(request.prompt) > 0
    assert RequestPreprocessor(model, 256).preprocess((0, 0), command(prompt)).public_tokens == 0
