"""OpenAI's own client library, with only the base address changed."""

from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.support.server import RunningServer
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


def client_of(server: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="sk-none-needed", timeout=TEST_TIMEOUT_SECONDS, max_retries=0)


@pytest.fixture(scope="module")
def echo(echo_server: RunningServer) -> Iterator[OpenAI]:
    with client_of(echo_server) as client:
        yield client


@pytest.fixture(scope="module")
def model_client(steady_server: RunningServer) -> Iterator[OpenAI]:
    with client_of(steady_server) as client:
        yield client


@pytest.fixture(params=["echo", "model_client"])
def client(request: pytest.FixtureRequest) -> OpenAI:
    """Each of the two engines in turn."""
    client: OpenAI = request.getfixturevalue(request.param)
    return client


def served(client: OpenAI) -> str:
    """Return the name of the only model."""
    [model] = client.models.list().data
    return model.id


def test_models_are_listed_and_retrieved(client: OpenAI) -> None:
    model = client.models.retrieve(served(client))
    assert (model.id, model.object) == (served(client), "model")


def test_a_chat_is_answered_and_accounted_for(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=served(client), messages=QUESTION, max_tokens=5, temperature=0)
    [choice] = answer.choices
    assert (answer.object, answer.model, choice.message.role) == ("chat.completion", served(client), "assistant")
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5


def test_a_chat_gives_the_same_text_streamed_or_not(client: OpenAI) -> None:
    name = served(client)
    whole = client.chat.completions.create(model=name, messages=QUESTION, max_tokens=24, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model=name,
            messages=QUESTION,
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    assert [choice.finish_reason for choice in choices][-1] == whole.choices[0].finish_reason
    assert choices[0].delta.role == "assistant"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert (chunks[-1].choices, chunks[0].usage) == ([], None)
    streamed, collected = chunks[-1].usage, whole.usage
    assert streamed is not None
    assert collected is not None
    assert (streamed.prompt_tokens, streamed.completion_tokens) == (
        collected.prompt_tokens,
        collected.completion_tokens,
    )


def test_a_text_completion_gives_the_same_text_streamed_or_not(client: OpenAI) -> None:
    name = served(client)
    whole = client.completions.create(model=name, prompt="Once upon a time", temperature=0)
    chunks = list(client.completions.create(model=name, prompt="Once upon a time", temperature=0, stream=True))
    assert whole.choices[0].text
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_several_choices_of_several_prompts_come_in_order(client: OpenAI) -> None:
    answer = client.completions.create(model=served(client), prompt=["one", "two"], n=2, max_tokens=2, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[:3] for choice in answer.choices] == ["one", "one", "two", "two"]


def test_a_seed_repeats_an_answer(client: OpenAI) -> None:
    answers = [
        client.chat.completions.create(model=served(client), messages=QUESTION, max_tokens=12, temperature=1.5, seed=7)
        for _ in range(2)
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


def test_the_capital_of_france_is_paris_streamed_and_not(model_server: RunningServer, model_client: OpenAI) -> None:
    with client_of(model_server) as newcomer:
        for client in (newcomer, model_client):
            whole = client.chat.completions.create(model=served(client), messages=QUESTION, temperature=0)
            assert whole.choices[0].finish_reason == "stop"
            assert "Paris" in (whole.choices[0].message.content or "")
            assert "Paris" in streamed_answer(client)
    assert streamed_answer(model_client) == whole.choices[0].message.content


def streamed_answer(client: OpenAI) -> str:
    chunks = client.chat.completions.create(model=served(client), messages=QUESTION, temperature=0, stream=True)
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_a_value_out_of_range_is_a_bad_request_with_its_message(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature must be between 0 and 2, got 3") as caught:
        client.chat.completions.create(model=served(client), messages=QUESTION, temperature=3)
    assert (caught.value.param, caught.value.code, caught.value.type) == ("temperature", "400", "bad_request_error")
    assert caught.value.request_id


@pytest.mark.parametrize("stream", [True, False])
def test_an_unknown_model_is_a_bad_request_with_its_name(client: OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="Invalid model name passed in model=gpt-4o"):
        client.chat.completions.create(model="gpt-4o", messages=QUESTION, stream=stream)


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_beyond_the_context_is_a_bad_request_with_the_length(client: OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match=r"the model's context length is 8192 tokens"):
        client.completions.create(model=served(client), prompt="1" * 9000, stream=stream)


def test_a_model_that_does_not_exist_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Model 'gpt-4o' not found"):
        client.models.retrieve("gpt-4o")


def test_a_stream_can_be_closed_early(client: OpenAI) -> None:
    name = served(client)
    with client.completions.create(model=name, prompt="Once", max_tokens=4000, stream=True) as chunks:
        assert next(iter(chunks)).choices
    answer = client.completions.create(model=name, prompt="Once", max_tokens=1)
    assert answer.choices


def test_a_client_timeout_raises_in_the_client(model_client: OpenAI) -> None:
    impatient = model_client.with_options(timeout=openai.Timeout(20, read=0.01))
    with pytest.raises(openai.APITimeoutError):
        impatient.completions.create(
            model=served(model_client), prompt="Once", max_tokens=500, extra_body={"ignore_eos": True}
        )
