"""Images in every dialect that has them, through a real server: its engine process is what must survive them."""

import base64
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support.server import ENGINE_PROCESS, RunningServer, running_server
from tests.support.special_token_model import load_special_token_model
from tests.support.timeouts import TEST_TIMEOUT_SECONDS
from tests.support.tiny_projector import data_url, random_image, write_projector

MODEL = "seeing"
TEXT = "Hi"
IMAGE_TOKENS = 16
IMAGE = data_url(random_image(0))
IMAGES = "[images]\nmax_count = 2\nfetch = true\nfetch_allow_http = true\nfetch_allow_private_addresses = true\n"
BROKEN = "data:image/png;base64," + base64.b64encode(b"\x89PNG and nothing else").decode()


class Dialect(NamedTuple):
    """A dialect with images."""

    path: str
    body: Callable[..., dict[str, Any]]
    """Returns the body of a request with these parts, of which an image is its data: address."""
    prompt_tokens: Callable[[dict[str, Any]], int]
    """Returns the prompt tokens that a response reports."""


def _openai(*parts: str) -> dict[str, Any]:
    content = [
        {"type": "image_url", "image_url": {"url": part}}
        if part.startswith(("data:", "http:"))
        else {"type": "text", "text": part}
        for part in parts
    ]
    return {"model": MODEL, "max_tokens": 2, "messages": [{"role": "user", "content": content}]}


def _responses(*parts: str) -> dict[str, Any]:
    content = [
        {"type": "input_image", "image_url": part} if part.startswith("data:") else {"type": "input_text", "text": part}
        for part in parts
    ]
    return {"model": MODEL, "max_output_tokens": 16, "input": [{"role": "user", "content": content}]}


def _anthropic(*parts: str) -> dict[str, Any]:
    content = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": part.partition(",")[2]}}
        if part.startswith("data:")
        else {"type": "text", "text": part}
        for part in parts
    ]
    return {"model": MODEL, "max_tokens": 2, "messages": [{"role": "user", "content": content}]}


def _anthropic_tokens(body: dict[str, Any]) -> int:
    usage = body["usage"]
    return int(usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"])


DIALECTS: Mapping[str, Dialect] = {
    "openai": Dialect("/openai/v1/chat/completions", _openai, lambda body: body["usage"]["prompt_tokens"]),
    "infermatic": Dialect("/v1/chat/completions", _openai, lambda body: body["usage"]["prompt_tokens"]),
    "responses": Dialect("/v1/responses", _responses, lambda body: body["usage"]["input_tokens"]),
    "anthropic": Dialect("/v1/messages", _anthropic, _anthropic_tokens),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("model")
    path = folder / f"{MODEL}.gguf"
    load_special_token_model(path, ()).close()
    settings = folder / "dragoman.toml"
    projector = write_projector(folder / "mmproj.gguf")
    settings.write_text(f'model = "{path}"\n[engine]\nmmproj = "{projector}"\n{IMAGES}')
    with running_server("--config", str(settings), records_usage=False) as server:
        yield server


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return DIALECTS[request.param]


def send(server: RunningServer, dialect: Dialect, *parts: str) -> httpx.Response:
    return httpx.post(f"{server.url}{dialect.path}", json=dialect.body(*parts), timeout=TEST_TIMEOUT_SECONDS)


def test_an_image_is_answered_and_counted(server: RunningServer, dialect: Dialect) -> None:
    counts = []
    for parts in ((TEXT, TEXT), (TEXT, IMAGE, TEXT), (TEXT, IMAGE, IMAGE, TEXT)):
        response = send(server, dialect, *parts)
        assert response.status_code == 200, response.text
        counts.append(dialect.prompt_tokens(response.json()))
    assert [after - before for before, after in itertools.pairwise(counts)] == [IMAGE_TOKENS] * 2


@pytest.mark.parametrize("name", DIALECTS)
def test_a_model_sees_the_images_of_system_messages(server: RunningServer, name: str) -> None:
    dialect, counts = DIALECTS[name], []
    for parts in ((TEXT, TEXT), (TEXT, IMAGE, TEXT)):
        body = dialect.body(*parts)
        field = "input" if name == "responses" else "messages"
        [asked] = body[field]
        body[field] = [{**asked, "role": "system"}, {"role": "user", "content": TEXT}]
        response = httpx.post(f"{server.url}{dialect.path}", json=body, timeout=TEST_TIMEOUT_SECONDS)
        assert response.status_code == 200, response.text
        counts.append(dialect.prompt_tokens(response.json()))
    assert counts[1] - counts[0] == IMAGE_TOKENS


def _tool_image(name: str, *images: str) -> dict[str, Any]:
    """Return a request in which a tool returns images."""
    call = {"id": "1", "name": "look", "call_id": "1"}
    if name == "responses":
        output = [{"type": "input_text", "text": TEXT}, *({"type": "input_image", "image_url": url} for url in images)]
        called = {"type": "function_call", **call, "arguments": "{}"}
        result: dict[str, Any] = {"type": "function_call_output", "call_id": "1", "output": output}
        return {"model": MODEL, "max_output_tokens": 16, "input": [{"role": "user", "content": TEXT}, called, result]}
    content = _anthropic(TEXT, *images)["messages"][0]["content"]
    asked = {"role": "assistant", "content": [{"type": "tool_use", **call, "input": {}}]}
    answered = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": content}]}
    return {"model": MODEL, "max_tokens": 2, "messages": [{"role": "user", "content": TEXT}, asked, answered]}


@pytest.mark.parametrize("name", ["anthropic", "responses"])
def test_a_model_sees_the_images_that_tools_return(server: RunningServer, name: str) -> None:
    address, counts = f"{server.url}{DIALECTS[name].path}", []
    for images in ((), (IMAGE,), (IMAGE, IMAGE)):
        response = httpx.post(address, json=_tool_image(name, *images), timeout=TEST_TIMEOUT_SECONDS)
        assert response.status_code == 200, response.text
        counts.append(DIALECTS[name].prompt_tokens(response.json()))
    assert [after - before for before, after in itertools.pairwise(counts)] == [IMAGE_TOKENS] * 2


def test_a_wrong_image_is_refused_and_the_engine_lives_on(server: RunningServer, dialect: Dialect) -> None:
    engine = server.children(ENGINE_PROCESS)
    for parts, reason in (
        ((TEXT, BROKEN), "cannot be decoded"),
        ((TEXT, data_url(random_image(0, 1, 60))), "50 times the other"),
        ((IMAGE, IMAGE, IMAGE), "a request may have 2"),
    ):
        response = send(server, dialect, *parts)
        assert (response.status_code // 100, reason in response.text) == (4, True), response.text
        assert response.status_code in (400, 422)
    assert server.children(ENGINE_PROCESS) == engine


class _ImageHandler(BaseHTTPRequestHandler):
    """Serves the image at every path."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "image/png")
        self.end_headers()
        self.wfile.write(base64.b64decode(IMAGE.partition(",")[2]))

    def log_message(self, *arguments: object) -> None:
        """Write nothing."""


def test_an_image_is_fetched_if_the_settings_allow_it(server: RunningServer) -> None:
    dialect = DIALECTS["openai"]
    with HTTPServer(("127.0.0.1", 0), _ImageHandler) as images, ThreadPoolExecutor(1) as thread:
        thread.submit(images.serve_forever)
        try:
            url = f"http://127.0.0.1:{images.server_port}/image"
            answers = [send(server, dialect, TEXT, each, TEXT) for each in (IMAGE, url)]
        finally:
            images.shutdown()
    assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
    assert len({dialect.prompt_tokens(answer.json()) for answer in answers}) == 1


def test_counted_tokens_include_images(server: RunningServer) -> None:
    address = f"{server.url}/v1/messages/count_tokens"
    counts = [
        httpx.post(address, json=_anthropic(*parts), timeout=TEST_TIMEOUT_SECONDS).json()["input_tokens"]
        for parts in ((TEXT,), (TEXT, IMAGE))
    ]
    assert counts[1] - counts[0] == IMAGE_TOKENS
