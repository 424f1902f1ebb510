"""Images at http(s) addresses in every dialect that has images, over an engine that repeats the address it gets."""

import base64
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

import httpx
import pytest

from dragoman.core.egress.urls import UrlRules
from dragoman.core.errors import EngineFailed
from dragoman.gateway.image_fetching import HttpImageFetcher, ImageFetchOptions
from tests.support.apps import client_of, echo_app, running_app
from tests.support.echo_engines import GatedEcho
from tests.support.image_servers import PNG, ImageServer, SeeingEcho
from tests.support.jobs.http_queue_harness import RESPOND_ASYNC, job_when_ended, open_queue_harness

IMAGE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
RULES = UrlRules(allow_http=True, allow_private=True, settings="images.fetch")


def fetcher() -> HttpImageFetcher:
    return HttpImageFetcher(ImageFetchOptions(rules=RULES))


class Dialect(NamedTuple):
    """A dialect with images."""

    path: str
    body: Callable[[str], dict[str, Any]]
    """Returns the body of a request with the image at this address."""
    refused: tuple[int, str]
    """The status and the words for an address, if nothing is fetched."""
    unpaid: int
    """The status for an account without a balance."""


def _openai(url: str) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    return {"model": "echo", "max_tokens": 200, "messages": [{"role": "user", "content": content}]}


def _responses(url: str) -> dict[str, Any]:
    return {"model": "echo", "input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}


def _anthropic(url: str) -> dict[str, Any]:
    content = [{"type": "image", "source": {"type": "url", "url": url}}]
    return {"model": "echo", "max_tokens": 200, "messages": [{"role": "user", "content": content}]}


DIALECTS: Mapping[str, Dialect] = {
    "openai": Dialect("/openai/v1/chat/completions", _openai, (400, "this server fetches none"), 429),
    "infermatic": Dialect("/v1/chat/completions", _openai, (400, "this server fetches none"), 400),
    "responses": Dialect("/v1/responses", _responses, (400, "this server fetches and reads no input_image"), 429),
    "anthropic": Dialect("/v1/messages", _anthropic, (400, "this server fetches no URLs"), 402),
}


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return DIALECTS[request.param]


@contextlib.asynccontextmanager
async def serving(images: HttpImageFetcher | None) -> AsyncIterator[httpx.AsyncClient]:
    app = echo_app(engine=SeeingEcho(), images=images)
    async with running_app(app), client_of(app) as client:
        yield client


async def test_an_engine_gets_the_image_instead_of_its_address(dialect: Dialect) -> None:
    async with ImageServer().running() as server, serving(fetcher()) as client:
        response = await client.post(dialect.path, json=dialect.body(server.url()))
        assert (response.status_code, IMAGE in response.text) == (200, True), response.text
    assert server.paths == ["/image"]


async def test_an_image_that_cannot_be_fetched_is_an_invalid_request(dialect: Dialect) -> None:
    async with ImageServer().running() as server, serving(fetcher()) as client:
        response = await client.post(dialect.path, json=dialect.body(server.url("missing")))
        assert (response.status_code, "with status 404" in response.text) == (400, True), response.text
        other = await client.post(dialect.path, json=dialect.body("ftp://127.0.0.1/image"))
        assert (other.status_code, "http(s) URLs" in other.text) == (400, True), other.text


async def test_nothing_is_fetched_by_default(dialect: Dialect) -> None:
    status, words = dialect.refused
    async with ImageServer().running() as server, serving(None) as client:
        response = await client.post(dialect.path, json=dialect.body(server.url()))
        assert (response.status_code, words in response.text) == (status, True), response.text
    assert server.paths == []


COUNTING = (
    ("/v1/messages/count_tokens", "anthropic", "input_tokens"),
    ("/v1/responses/input_tokens", "responses", "input_tokens"),
    ("/utils/token_counter", "infermatic", "total_tokens"),
)
"""Routes that count tokens: path, dialect and the field of the answer."""


@pytest.mark.parametrize(("path", "name", "field"), COUNTING)
async def test_counted_tokens_include_fetched_images(path: str, name: str, field: str) -> None:
    async with ImageServer().running() as server, serving(fetcher()) as client:
        counts = []
        for url in (IMAGE, server.url()):
            body = _base64_body() if name == "anthropic" and url == IMAGE else DIALECTS[name].body(url)
            body.pop("max_tokens", None)
            response = await client.post(path, json=body)
            assert response.status_code == 200, response.text
            counts.append(response.json()[field])
    assert counts[0] == counts[1]


@pytest.mark.parametrize(("path", "name", "field"), COUNTING)
async def test_no_image_is_counted_or_fetched_for_a_model_without_them(path: str, name: str, field: str) -> None:
    app = echo_app(images=fetcher())
    async with ImageServer().running() as server, running_app(app), client_of(app) as client:
        body = DIALECTS[name].body(server.url())
        body.pop("max_tokens", None)
        response = await client.post(path, json=body)
        assert (response.status_code // 100, "image" in response.text) == (4, True), response.text
    assert server.paths == []


def _base64_body() -> dict[str, Any]:
    body = _anthropic("")
    source = {"type": "base64", "media_type": "image/png", "data": IMAGE.partition(",")[2]}
    body["messages"][0]["content"][0]["source"] = source
    return body


async def test_nothing_is_fetched_for_an_account_that_cannot_pay(dialect: Dialect) -> None:
    with open_queue_harness(balance=0) as harness:
        async with ImageServer().running() as image_server, harness.server(SeeingEcho(), images=fetcher()) as server:
            for headers in ({}, RESPOND_ASYNC):
                body = dialect.body(image_server.url())
                response = await server.client.post(dialect.path, json=body, headers=headers)
                assert response.status_code == dialect.unpaid, response.text
        assert image_server.paths == []


class FailingSeeingEcho(SeeingEcho, GatedEcho):
    """Fails once after the first token."""


async def test_a_queued_request_keeps_the_image_that_was_fetched_when_it_was_accepted() -> None:
    dialect = DIALECTS["openai"]  # What is stored is the same in all of them.
    with open_queue_harness() as harness:
        engine = FailingSeeingEcho(EngineFailed("once"))
        async with ImageServer().running() as image_server, harness.server(engine, images=fetcher()) as server:
            body = dialect.body(image_server.url())
            response = await server.client.post(dialect.path, json=body, headers=RESPOND_ASYNC)
            assert response.status_code == 202, response.text
            job = await job_when_ended(server.client, response.headers["location"])
        assert IMAGE in str(job)
        assert (image_server.paths, engine.runs) == (["/image"], 2)


async def test_a_continued_response_has_the_images_of_earlier_turns_and_drops_them_if_they_are_too_large() -> None:
    with open_queue_harness() as harness:
        engine = SeeingEcho(context_length=3500)
        async with ImageServer().running() as image_server, harness.server(engine, images=fetcher()) as server:
            first = (await server.client.post("/v1/responses", json=_responses(image_server.url("large")))).json()
            tokens = []
            for text in ("Again", "x" * 800):
                body = {"model": "echo", "input": text, "previous_response_id": first["id"], "truncation": "auto"}
                response = await server.client.post("/v1/responses", json=body)
                assert response.status_code == 200, response.text
                tokens.append(response.json()["usage"]["input_tokens"])
    assert tokens[0] > first["usage"]["input_tokens"] > 1000
    assert tokens[1] < tokens[0], "the first turn was dropped, although its address is short"
    assert image_server.paths == ["/large"] * 3
