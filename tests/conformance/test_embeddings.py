"""Embeddings of a real model through a real server, with OpenAI's own client: the SDK takes no app of this process."""

from collections.abc import Iterator

import numpy as np
import openai
import pytest
from openai import OpenAI

from tests.support import minilm
from tests.support.embedding_texts import TEXTS
from tests.support.server import RunningServer, running_server
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

MODEL = "shallow-minilm"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    path = minilm.write_gguf(tmp_path_factory.mktemp("model") / f"{MODEL}.gguf", layers=1)
    with running_server(str(path), records_usage=False) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{server.url}/v1", api_key="sk-none-needed", timeout=TEST_TIMEOUT_SECONDS, max_retries=0
    ) as client:
        yield client


def test_openais_client_gets_the_vectors_of_the_reference_in_order_in_both_formats(client: OpenAI) -> None:
    reference = minilm.Reference(layers=1)
    texts = [*TEXTS, "word " * 400]
    default = client.embeddings.create(model=MODEL, input=texts)
    numbers = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    assert [each.index for each in default.data] == list(range(len(texts)))
    for one, other, text in zip(default.data, numbers.data, texts, strict=True):
        assert np.dot(one.embedding, reference.embed(text)) >= 0.999
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-3)
    tokens = [reference.tokenize(text) for text in texts]
    assert default.usage.prompt_tokens == sum(map(len, tokens))
    by_tokens = client.embeddings.create(model=MODEL, input=tokens)
    for one, other in zip(default.data, by_tokens.data, strict=True):
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-3)


def test_an_input_that_is_too_long_is_named(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"input\[1\] has 602 tokens, the model takes 512"):
        client.embeddings.create(model=MODEL, input=["fine", "word " * 600])


def test_a_model_for_embeddings_generates_nothing(client: OpenAI) -> None:
    [model] = client.models.list().data
    assert model.model_extra is not None
    assert model.model_extra["capabilities"] == ["embeddings"]
    with pytest.raises(openai.BadRequestError, match="generates no text; it is for embeddings"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello"}])
