"""The vendors' own client libraries, with only the base address changed.

The tests of Scale's import it: each process of a run collects this module, and one needs the time that it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.support.server import RunningServer
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from scale_gp import SGPClient
    from scale_gp.types import CompletionResponse

QUESTION = "What is the capital of France?"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
MODEL = "smollm2-135m-instruct"
KEY = "sk-none-needed"


@pytest.fixture(scope="module", params=["v1", "openai/v1", f"{MODEL}/v1", "empower/api/v1", "api/v1", "queue"])
def client(request: pytest.FixtureRequest, steady_server: RunningServer) -> Iterator[OpenAI]:
    """OpenAI's library before infermatic, openai, float16, empower, arcee and infermatic's queue."""
    base = f"{steady_server.url}/{request.param}"
    with OpenAI(base_url=base, api_key=KEY, timeout=TEST_TIMEOUT_SECONDS, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def scale(steady_server: RunningServer) -> Iterator[SGPClient]:
    from scale_gp import SGPClient

    with SGPClient(
        base_url=steady_server.url, api_key=KEY, account_id="my-account", timeout=TEST_TIMEOUT_SECONDS, max_retries=0
    ) as client:
        yield client


def test_openais_library_gets_an_answer_and_its_usage(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=24, temperature=0)
    [choice] = answer.choices
    assert (answer.object, answer.model, choice.message.role) == ("chat.completion", MODEL, "assistant")
    assert "Paris" in (choice.message.content or "")
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_openais_library_gives_the_same_text_streamed_or_not(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=24, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    assert choices[-1].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_openais_library_reads_a_stream_with_ids_and_comments_between_them(keep_alive_server: RunningServer) -> None:
    base = f"{keep_alive_server.url}/queue"
    with OpenAI(base_url=base, api_key=KEY, timeout=TEST_TIMEOUT_SECONDS, max_retries=0) as client:
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
        chunks = client.chat.completions.create(model="echo", messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"


def test_openais_library_raises_on_a_wrong_request(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, top_p=7)
    assert raised.value.status_code in (400, 422)
    assert "top_p" in raised.value.response.text


def test_a_stream_can_be_closed_and_the_next_request_succeeds(client: OpenAI) -> None:
    with client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=500, stream=True) as stream:
        next(iter(stream))
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=2, temperature=0)
    assert answer.choices


def pairs(answer: CompletionResponse) -> list[tuple[str, list[str]]]:
    """Return the prompt and its texts, which the library leaves untyped."""
    return cast("list[tuple[str, list[str]]]", answer.completions)


def test_scales_library_gets_an_answer_and_its_usage(scale: SGPClient) -> None:
    answer = scale.models.chat_completions.create(MODEL, chat_history=[], prompt=QUESTION, max_tokens=24, temperature=0)
    [[prompt, [text]]] = pairs(answer)
    assert (prompt, answer.finish_reason) == (QUESTION, "stop")
    assert "Paris" in text
    assert answer.response_tokens


def test_scales_library_gives_the_same_text_streamed_or_not(scale: SGPClient) -> None:
    whole = scale.models.chat_completions.create(
        MODEL, chat_history=[{"role": "system", "content": "Be brief."}], prompt=QUESTION, max_tokens=24, temperature=0
    )
    events = list(
        scale.models.chat_completions.create(
            MODEL,
            chat_history=[{"role": "system", "content": "Be brief."}],
            prompt=QUESTION,
            max_tokens=24,
            temperature=0,
            stream=True,
        )
    )
    assert "".join(pairs(event)[0][1][0] for event in events) == pairs(whole)[0][1][0]
    assert events[-1].response_tokens == whole.response_tokens


def test_scales_library_lists_and_retrieves_models(scale: SGPClient) -> None:
    [model] = scale.models.list()
    assert scale.models.retrieve(model.id).id == model.id


def test_scales_library_completes_a_raw_prompt(scale: SGPClient) -> None:
    answer = scale.models.completions.create(MODEL, prompt="Once upon a time", max_tokens=8, temperature=0)
    assert answer.response_tokens == 8


def test_scales_library_raises_on_a_wrong_request_and_an_unknown_deployment(scale: SGPClient) -> None:
    import scale_gp

    with pytest.raises(scale_gp.UnprocessableEntityError, match="stop_sequences"):
        scale.models.chat_completions.create(MODEL, chat_history=[], prompt=QUESTION, stop_sequences=["a"] * 5)
    with pytest.raises(scale_gp.NotFoundError, match="nobody"):
        scale.models.chat_completions.create("nobody", chat_history=[], prompt=QUESTION)
