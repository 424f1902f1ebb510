import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.request import ChatPrompt, Message, Tool, ToolOptions
from dragoman.engines.llama.native.model import Model, ModelError
from dragoman.engines.llama.weights.sources import bundled
from dragoman.prompt.template import ChatTemplate
from tests.support.chat_templates import HERMES
from tests.support.gguf_files import write_tiny_model
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

TURN_BEGIN, TURN_END = "<|im_start|>", "<|im_end|>"

WRITTEN_CHARACTERS = st.characters(min_codepoint=0x20, exclude_categories=("Cs", "Cn", "Co"))
"""Characters people write with; the bundled model has tokens for all of their bytes."""

TEXTS = st.text(WRITTEN_CHARACTERS) | st.lists(st.sampled_from([TURN_BEGIN, TURN_END, " ", "a", "é", "<|"])).map(
    "".join
)

LONG = 200_000
HOSTILE_TEXTS = {
    "letters": "a" * LONG,
    "spaces": " " * LONG,
    "digits": "1234567890" * (LONG // 10),
    "emoji": "😀" * (LONG // 4),
    "newlines": "\n" * LONG,
    "combining characters": "e" + "\u0301" * (LONG // 2),
    "unicode in order": "".join(map(chr, range(0x20, 0xD800))),
    "unicode out of order": "".join(chr(0xE000 + number * 7919 % 0x102000) for number in range(LONG // 4)),
    "special tokens": TURN_BEGIN * (LONG // len(TURN_BEGIN)),
    "beginnings of special tokens": TURN_BEGIN[:-1] * (LONG // len(TURN_BEGIN)),
}

TOKENIZE_STANDARD_INPUT = """
import json, sys, threading, time
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp, packaged_llama_cpp
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.weights.sources import bundled

model = Model(LlamaCpp(packaged_llama_cpp()), bundled().path)
texts = json.load(sys.stdin)

def tokenize(text):
    began = time.monotonic()
    count = len(model.vocabulary.tokenize(text))
    print(count, time.monotonic() - began, flush=True)

threading.stack_size(64 * 2**20)  # as in the engine process
for text in texts:
    thread = threading.Thread(target=tokenize, args=(text,))
    thread.start()
    thread.join()
"""


def detokenized(model: Model, text: str) -> bytes:
    """What the model sees of the text, as bytes."""
    return b"".join(map(model.vocabulary.piece, model.vocabulary.tokenize(text).tolist()))


@given(text=TEXTS)
def test_the_pieces_of_a_text_are_the_text(model: Model, text: str) -> None:
    assert detokenized(model, text) == text.encode()


@given(text=st.text())
def test_only_bytes_without_a_token_are_lost(model: Model, text: str) -> None:
    vocabulary = model.vocabulary
    known_bytes = b"".join(piece for piece in map(vocabulary.piece, range(vocabulary.size)) if len(piece) == 1)
    assert detokenized(model, text) == bytes(byte for byte in text.encode() if byte in known_bytes)


def test_the_bundled_model_has_tokens_for_all_bytes_of_written_text(model: Model) -> None:
    text = "Grüße, 世界! привет مرحبا नमस्ते 👩‍👩‍👧 \t\n\r e\u0301 ∮ 𝔘𝔫𝔦 \u200b\u2028"
    assert detokenized(model, text).decode() == text


def test_special_token_text_becomes_special_tokens(model: Model) -> None:
    vocabulary = model.vocabulary
    tokens = vocabulary.tokenize(f"{TURN_BEGIN}user\nHi{TURN_END}").tolist()
    special = [vocabulary.piece(token).decode() for token in tokens if vocabulary.is_special(token)]
    assert special == [TURN_BEGIN, TURN_END]
    assert not any(map(vocabulary.is_special, vocabulary.tokenize("<|im_start").tolist()))


@given(text=TEXTS)
def test_a_text_has_no_fewer_tokens_than_the_lower_bound(model: Model, text: str) -> None:
    assert model.vocabulary.min_token_count(text) <= len(model.vocabulary.tokenize(text))


def test_the_lower_bound_is_reached_by_the_longest_token(model: Model) -> None:
    vocabulary = model.vocabulary
    longest = max(map(vocabulary.piece, range(vocabulary.size)), key=len).decode()
    assert vocabulary.min_token_count(longest * 9) == 9
    assert len(vocabulary.tokenize(longest * 9)) >= 9


def test_the_empty_text_has_no_tokens(model: Model) -> None:
    assert model.vocabulary.tokenize("").tolist() == []
    assert model.vocabulary.min_token_count("") == 0


def test_the_ends_of_a_turn_and_of_a_text_are_end_tokens(model: Model) -> None:
    vocabulary = model.vocabulary
    ends = {vocabulary.piece(token).decode() for token in vocabulary.end_token_ids}
    assert {TURN_END, "<|endoftext|>"} <= ends
    assert all(map(vocabulary.is_special, vocabulary.end_token_ids))
    assert vocabulary.eos_text == TURN_END


def test_the_model_reports_its_trained_context_and_template(model: Model) -> None:
    assert model.vocabulary.size == 49_152
    assert model.trained_context_length == 8192
    assert model.chat_template is not None
    assert TURN_BEGIN in model.chat_template


def test_long_hostile_texts_are_tokenized_in_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOKENIZE_STANDARD_INPUT],
        input=json.dumps(list(HOSTILE_TEXTS.values())).encode(),
        stdout=subprocess.PIPE,
        timeout=TEST_TIMEOUT_SECONDS,
    )
    counted = dict(zip(HOSTILE_TEXTS, done.stdout.decode().splitlines(), strict=False))
    assert counted.keys() == HOSTILE_TEXTS.keys(), f"the tokenizer died behind {list(counted)}"
    assert done.returncode == 0
    for name, line in counted.items():
        count, seconds = line.split()
        assert int(count) > 1000, name
        assert float(seconds) < 5, name


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"These are the voyages", "invalid magic"),
        (b"", "failed to read magic"),
        (b"GGUF" + b"\xff" * 100, "failed to read header|version"),
    ],
)
def test_a_file_that_is_no_model_is_refused_with_the_reason(
    model: Model, tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "no-model.gguf"
    path.write_bytes(content)
    assert_refused(model, path, reason)


@pytest.mark.parametrize(("megabytes", "reason"), [(1, "failed to read key-value pairs"), (20, "data is not within")])
def test_a_model_file_that_was_cut_off_is_refused_with_the_reason(
    model: Model, tmp_path: Path, megabytes: int, reason: str
) -> None:
    path = tmp_path / "half.gguf"
    with bundled().path.open("rb") as whole:
        path.write_bytes(whole.read(megabytes * 2**20))
    assert_refused(model, path, reason)


def test_a_missing_file_is_refused_with_the_reason(model: Model, tmp_path: Path) -> None:
    assert_refused(model, tmp_path / "nothing-hère.gguf", "No such file")


def assert_refused(model: Model, path: Path, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        Model(model.library, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_files_template_for_tools_is_used_for_requests_with_tools(model: Model, tmp_path: Path) -> None:
    templates = {"tokenizer.chat_template": "{{ messages[0].content }}", "tokenizer.chat_template.tool_use": HERMES}
    path = write_tiny_model(tmp_path / "named.gguf", vocabulary=templates)  # tiny: only its metadata is read
    named = Model(model.library, path)
    template = ChatTemplate(named.chat_template, bos="", eos="")
    named.close()
    messages = (Message(role="user", content="Hi"),)
    assert template.render(ChatPrompt(messages=messages)).text == "Hi"
    with_tools = ChatPrompt(messages=messages, tools=ToolOptions((Tool("get_weather"),)))
    assert template.render(with_tools) == ChatTemplate(HERMES, bos="", eos="").render(with_tools)
    assert template.tool_format == "hermes"
