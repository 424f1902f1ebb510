"""Tokenizer files of this machine: counts that are those of the model, and what they are used for."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from dragoman.core.errors import BadRequest
from dragoman.core.events import Usage
from dragoman.core.request import ChatPrompt, GenerationRequest, ImagePart, Message, Prompt, TextPrompt, TokenPrompt
from dragoman.engines.upstream.engine import UpstreamEngine
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamAddress
from dragoman.engines.upstream.kinds import KindName
from dragoman.engines.upstream.local_tokenizer import (
    MAX_CHARACTERS_IN_PLACE,
    LocalTokenizer,
    TokenizerFileError,
    read_tokenizer,
)
from dragoman.engines.upstream.token_counts import estimate_tokens
from tests.support.scripted_upstream import (
    HEAD,
    LAST_CHUNK,
    ScriptedUpstream,
    event,
    response,
    running_upstream,
    sends,
)
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

WORDS = ["?", "user", "assistant", ":", "hello", "world", "<s>"]
TEMPLATE = (
    "{{ bos_token }} {% for message in messages %}{{ message.role }} : {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
HELLO = ChatPrompt(messages=(Message(role="user", content="hello world"),))
RENDERED = ["<s>", "user", ":", "hello", "world", "assistant", ":"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder: a tokenizer of words, without a template."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(3)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def with_template(folder: Path, template: object = TEMPLATE) -> LocalTokenizer:
    config = {"chat_template": template, "bos_token": {"content": "<s>"}, "eos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return read_tokenizer(folder)


async def words(tokenizer: LocalTokenizer, prompt: Prompt) -> list[str] | None:
    found = await tokenizer.tokenize(prompt)
    return None if found is None else [WORDS[token_id] for token_id in found]


NAMED_TEMPLATES = [{"name": "rag", "template": "?"}, {"name": "default", "template": TEMPLATE}]


@pytest.mark.parametrize("template", [TEMPLATE, NAMED_TEMPLATES])
async def test_a_conversation_is_rendered_by_the_models_template(folder: Path, template: object) -> None:
    assert await words(with_template(folder, template), HELLO) == RENDERED


async def test_a_template_in_a_file_of_its_own_precedes_that_of_the_configuration(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("world")
    assert await words(with_template(folder), HELLO) == ["world"]


async def test_texts_of_any_length_are_counted_whole(folder: Path) -> None:
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    assert await words(tokenizer, TextPrompt("hello world hello world")) == ["hello", "world"] * 2
    long = TextPrompt("hello " * MAX_CHARACTERS_IN_PLACE)
    assert len(await tokenizer.tokenize(long) or ()) == MAX_CHARACTERS_IN_PLACE
    assert await tokenizer.tokenize(TokenPrompt((5, 6))) == [5, 6]


async def test_what_only_the_upstream_knows_is_left_to_it(folder: Path) -> None:
    assert await read_tokenizer(folder).tokenize(HELLO) is None
    tokenizer = with_template(folder)
    image = Message(role="user", content=(ImagePart("data:,"),))
    assert await tokenizer.tokenize(ChatPrompt(messages=(image,))) is None
    own = ChatPrompt(messages=HELLO.messages, template="{{ messages }}")
    assert await tokenizer.tokenize(own) is None


def test_tokens_are_shown_and_converted_back(folder: Path) -> None:
    tokenizer = read_tokenizer(folder)
    assert tokenizer.show([4, 5]).texts == ("hello", "world")
    assert tokenizer.detokenize([4, 5]) == "hello world"


@pytest.mark.parametrize(("name", "text"), [("tokenizer.json", "{"), ("tokenizer_config.json", "[]")])
def test_a_file_that_cannot_be_read_is_named(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(TokenizerFileError, match=str(folder)):
        read_tokenizer(folder)


def engine_with(
    tokenizer: LocalTokenizer | None, kind: KindName | None = "openai", url: str = "http://gpu"
) -> UpstreamEngine:
    client = UpstreamClient(UpstreamAddress.parse(url))
    return UpstreamEngine("m/0", client, model="m", kind=kind, tokenizer=tokenizer)


@pytest.mark.parametrize("kind", ["openai", "vllm", None])
async def test_an_upstream_with_a_tokenizer_is_not_asked_to_count(folder: Path, kind: KindName | None) -> None:
    engine = engine_with(with_template(folder), kind)
    assert await engine.count_tokens(HELLO) == len(RENDERED)
    assert (await engine.tokenize(TextPrompt("hello"))).token_ids == (4,)
    assert await engine.detokenize([4]) == "hello"
    assert "tokenize" in engine.capabilities


@pytest.mark.parametrize("has_tokenizer", [True, False])
async def test_a_count_is_exact_once_there_is_a_context_to_compare_it_with(folder: Path, has_tokenizer: bool) -> None:
    models_of = b'{"data":[{"id":"m","context_length":64}]}'
    async with running_upstream(ScriptedUpstream(sends(response(200, models_of)))) as url:
        engine = engine_with(with_template(folder) if has_tokenizer else None, None, url)
        assert "exact_token_counts" not in engine.capabilities
        await engine.start()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while not engine.ready:
                await asyncio.to_thread(os.sched_yield)
        assert engine.context_length == 64
        assert ("exact_token_counts" in engine.capabilities) == has_tokenizer
        await engine.close()


ANSWER = b"".join(
    event(json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}).encode())
    for delta, reason in (
        ({"reasoning_content": "hello hello"}, None),
        ({"content": "hello"}, None),
        ({"content": " world ? world"}, "stop"),
    )
)


@pytest.mark.parametrize("template", [TEMPLATE, "{{ raise_exception('no') }}"])
async def test_an_answer_whose_upstream_reports_no_usage_is_counted_by_the_tokenizer(
    folder: Path, template: str
) -> None:
    upstream = ScriptedUpstream(sends(HEAD + ANSWER + event(b"[DONE]") + LAST_CHUNK))
    async with running_upstream(upstream) as url, asyncio.timeout(TEST_TIMEOUT_SECONDS):
        engine = engine_with(with_template(folder, template), "openai", url)
        events = [each async for each in engine.generate(GenerationRequest(model="m", prompt=HELLO))]
        await engine.close()
    if template == TEMPLATE:
        assert events[-1] == Usage(len(RENDERED), 6, 0, source="counted")
    else:
        assert events[-1] == Usage(estimate_tokens(HELLO), 3, 0, source="estimated")


async def test_without_a_template_a_conversation_is_estimated_and_its_tokens_are_not_shown(folder: Path) -> None:
    engine = engine_with(read_tokenizer(folder))
    assert await engine.count_tokens(HELLO) == estimate_tokens(HELLO)
    with pytest.raises(BadRequest, match="not known"):
        await engine.tokenize(HELLO)
