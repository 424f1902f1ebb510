"""The dialect over HTTP, in front of the echo engine: it answers with the last message, or the prompt, byte by byte."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.server import RunningServer
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

CHAT_PATHS = [
    "/v1/chat/completions",
    "/chat/completions",
    "/engines/echo/chat/completions",
    "/openai/deployments/echo/chat/completions",
]
TEXT_PATHS = [path.replace("/chat", "") for path in CHAT_PATHS]
POST_PATHS = [*CHAT_PATHS, *TEXT_PATHS]

CHAT_BODY: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
TEXT_BODY: dict[str, Any] = {"model": "echo", "prompt": "Once"}
BOTH = {**CHAT_BODY, **TEXT_BODY}


@pytest.fixture(scope="module")
def client(echo_server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=echo_server.url, timeout=TEST_TIMEOUT_SECONDS) as client:
        yield client


@pytest.fixture(scope="module")
def slow_client(keep_alive_server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=keep_alive_server.url, timeout=TEST_TIMEOUT_SECONDS) as client:
        yield client


def response_text(response: httpx.Response) -> str:
    """Return the text of the only choice, of either route."""
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text


def texts(client: httpx.Client, **fields: object) -> list[str]:
    """Return the texts of all choices of a text completion, in order."""
    response = client.post("/v1/completions", json=TEXT_BODY | fields)
    assert response.status_code == 200, response.text
    choices = response.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    return [choice["text"] for choice in choices]


def error(response: httpx.Response) -> dict[str, str]:
    detail: dict[str, str] = response.json()["error"]
    assert detail["code"] == str(response.status_code)
    return detail


def data_lines(body: str) -> list[str]:
    """Return the events of a stream, each of which is one line and an empty one."""
    assert re.fullmatch(r"(data: [^\n]+\n\n)+", body)
    return re.findall(r"data: ([^\n]+)\n\n", body)


@pytest.mark.parametrize("path", CHAT_PATHS)
def test_a_chat_is_answered_under_all_four_paths(client: httpx.Client, path: str) -> None:
    response = client.post(path, json=CHAT_BODY)
    assert (response_text(response), response.json()["model"]) == ("Hello", "echo")
    assert response.json()["usage"]["total_tokens"] == len("user: Hello") + len("Hello") + 1


@pytest.mark.parametrize("path", TEXT_PATHS)
def test_a_text_is_completed_under_all_four_paths(client: httpx.Client, path: str) -> None:
    response = client.post(path, json=TEXT_BODY)
    assert (response_text(response), response.json()["object"]) == ("Once", "text_completion")


@pytest.mark.parametrize("path", POST_PATHS)
def test_a_trailing_slash_is_accepted_without_a_redirect(client: httpx.Client, path: str) -> None:
    assert response_text(client.post(f"{path}/", json=BOTH)) in ("Hello", "Once")


@pytest.mark.parametrize("path", POST_PATHS)
def test_the_api_version_of_azure_is_ignored(client: httpx.Client, path: str) -> None:
    assert response_text(client.post(path, params={"api-version": "2024-06-01"}, json=BOTH)) in ("Hello", "Once")


@pytest.mark.parametrize("path", ["/engines/echo", "/openai/deployments/echo"])
def test_the_model_in_the_path_overrides_the_body(client: httpx.Client, path: str) -> None:
    for body in (CHAT_BODY | {"model": "other"}, {"messages": CHAT_BODY["messages"]}):
        response = client.post(f"{path}/chat/completions", json=body)
        assert (response_text(response), response.json()["model"]) == ("Hello", "echo")


@pytest.mark.parametrize("name", ["owner/name", "owner%2Fname", "a/b/c", "chat"])
@pytest.mark.parametrize("prefix", ["/engines", "/openai/deployments"])
def test_the_model_of_the_path_may_contain_slashes(client: httpx.Client, prefix: str, name: str) -> None:
    for route in ("/chat/completions", "/completions"):
        response = client.post(f"{prefix}/{name}{route}", json=BOTH)
        assert f"passed in model={name.replace('%2F', '/')}. " in error(response)["message"]


def test_the_longest_known_route_ends_the_name_of_the_model(client: httpx.Client) -> None:
    message = error(client.post("/engines/owner/chat/chat/completions", json=BOTH))["message"]
    assert message.startswith("/chat/completions: Invalid model name passed in model=owner/chat. ")
    message = error(client.post("/engines/owner/chat/completions", json=BOTH))["message"]
    assert message.startswith("/chat/completions: Invalid model name passed in model=owner. ")


@pytest.mark.parametrize(
    ("path", "route"), [("/v1/chat/completions", "/chat/completions"), ("/v1/completions", "/completions")]
)
def test_an_unknown_model_returns_litellms_message(client: httpx.Client, path: str, route: str) -> None:
    response = client.post(path, json=BOTH | {"model": "foo"})
    assert response.status_code == 400
    assert response.json() == {
        "error": {
            "message": f"{route}: Invalid model name passed in model=foo. "
            "Call `/v1/models` to view available models for your key.",
            "type": "None",
            "param": "None",
            "code": "400",
        }
    }


def test_names_of_models_are_compared_exactly(client: httpx.Client) -> None:
    for name in ("Echo", "echo ", "ech"):
        assert error(client.post("/v1/completions", json=TEXT_BODY | {"model": name}))["type"] == "None"


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models/", "/models/"])
def test_the_models_are_listed(client: httpx.Client, path: str) -> None:
    card = {"id": "echo", "object": "model", "created": 1677610602, "owned_by": "openai"}
    card |= {"tool_format": "generic", "supports_reasoning": False, "max_model_len": 8192}
    assert client.get(path).json() == {"data": [card], "object": "list"}
    assert client.get(path).text.startswith('{"data":[{"id":"echo","object":"model"')


@pytest.mark.parametrize("path", ["/v1/models/echo", "/models/echo", "/models/echo/"])
def test_one_model_is_shown(client: httpx.Client, path: str) -> None:
    assert client.get(path).json()["id"] == "echo"


@pytest.mark.parametrize("prefix", ["/v1/models", "/models"])
def test_a_model_is_listed_under_each_of_its_names(model_server: RunningServer, prefix: str) -> None:
    for name in (
        "smollm2-135m-instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "HuggingFaceTB%2FSmolLM2-135M-Instruct",
    ):
        card = httpx.get(f"{model_server.url}{prefix}/{name}", timeout=TEST_TIMEOUT_SECONDS).json()
        assert (card["id"], card["object"]) == (name.replace("%2F", "/"), "model")


@pytest.mark.parametrize("path", ["/v1/models/foo", "/models/foo/bar"])
def test_a_model_that_does_not_exist_is_not_found(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    name = path.partition("models/")[2]
    assert response.status_code == 404
    assert response.json() == {
        "error": {"message": f"Model '{name}' not found", "type": "not_found_error", "param": "model", "code": "404"}
    }


@pytest.mark.parametrize("path", ["/v1", "/v2/models", "/v1/echo/completions", "/v1/chat", "/openai/completions"])
def test_an_unknown_path_is_not_found(client: httpx.Client, path: str) -> None:
    response = client.post(path, json=CHAT_BODY)
    assert (response.status_code, response.json()) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("path", POST_PATHS)
def test_another_method_is_not_allowed_and_the_right_one_is_named(client: httpx.Client, method: str, path: str) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()) == (405, {"detail": "Method Not Allowed"})
    assert response.headers["allow"] == "POST"


def test_models_are_only_read(client: httpx.Client) -> None:
    response = client.post("/v1/models", json={})
    assert (response.status_code, response.json()) == (405, {"detail": "Method Not Allowed"})
    assert "GET" in response.headers["allow"]


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "", "application/xml"])
def test_the_body_is_json_with_any_content_type(client: httpx.Client, content_type: str) -> None:
    body = json.dumps(TEXT_BODY).encode()
    assert response_text(client.post("/v1/completions", content=body, headers={"content-type": content_type})) == "Once"


@pytest.mark.parametrize("body", [b"", b"model=echo&prompt=Once", b"{'model': 'echo'}", b'{"model":"echo"', b"<a/>"])
def test_a_body_that_is_not_json_is_rejected(client: httpx.Client, body: bytes) -> None:
    detail = error(client.post("/v1/completions", content=body))
    assert detail == {
        "message": "Invalid JSON in request body",
        "type": "bad_request_error",
        "param": "None",
        "code": "400",
    }


def test_an_out_of_range_value_names_its_field(client: httpx.Client) -> None:
    detail = error(client.post("/v1/chat/completions", json=CHAT_BODY | {"temperature": 3}))
    assert detail["message"] == "litellm.BadRequestError: temperature must be between 0 and 2, got 3"
    assert detail["param"] == "temperature"


@pytest.mark.parametrize(("path", "parameter"), [("/v1/chat/completions", "messages"), ("/v1/completions", "prompt")])
def test_a_context_overflow_names_both_lengths(client: httpx.Client, path: str, parameter: str) -> None:
    long = "x" * 8192
    body = {"model": "echo", "prompt": long, "messages": [{"role": "user", "content": long}]}
    detail = error(client.post(path, json=body))
    assert re.match(
        r"litellm.ContextWindowExceededError: This model's .* 8192 tokens. The prompt has 8\d\d\d tokens",
        detail["message"],
    )
    assert (detail["param"], detail["type"]) == (parameter, "bad_request_error")


def test_an_error_has_its_status_in_a_stream_too_as_long_as_nothing_was_sent(client: httpx.Client) -> None:
    response = client.post("/v1/completions", json=TEXT_BODY | {"stream": True, "prompt": ""})
    assert error(response)["message"].startswith("litellm.BadRequestError: The prompt is empty")
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_above_the_limit_is_too_large(client: httpx.Client, declared: bool) -> None:
    block = b" " * 2**20
    body = block * 10 + b"{}"
    blocks = iter([*[block] * 10, b"{}"])
    response = client.post("/v1/completions", content=body if declared else blocks)
    assert response.status_code == 413
    assert error(response)["message"] == "Request body is larger than 10485760 bytes"


def test_a_body_at_the_limit_is_read(client: httpx.Client) -> None:
    body = json.dumps(TEXT_BODY).encode()
    assert response_text(client.post("/v1/completions", content=body + b" " * (10 * 2**20 - len(body)))) == "Once"


def test_echo_puts_the_prompt_before_the_answer_and_counts_it_once(client: httpx.Client) -> None:
    response = client.post("/v1/completions", json=TEXT_BODY | {"echo": True})
    assert response_text(response) == "OnceOnce"
    usage = response.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (4, 5)


def test_choices_come_prompt_by_prompt(client: httpx.Client) -> None:
    assert texts(client, prompt=["one", "two", "three"], n=2) == ["one", "one", "two", "two", "three", "three"]
    assert texts(client, prompt=["one", "two"], echo=True) == ["oneone", "twotwo"]


def test_prompts_may_be_token_ids(client: httpx.Client) -> None:
    assert texts(client, prompt=list(b"Once")) == ["Once"]
    assert texts(client, prompt=[list(b"one"), list(b"two")]) == ["one", "two"]
    assert error(client.post("/v1/completions", json=TEXT_BODY | {"prompt": [1, 999]}))["param"] == "prompt"


def test_the_usage_of_several_prompts_is_their_sum(client: httpx.Client) -> None:
    usage = client.post("/v1/completions", json=TEXT_BODY | {"prompt": ["one", "three"], "n": 2}).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3 + 5, 2 * (4 + 6))


def test_one_bad_prompt_fails_the_request(client: httpx.Client) -> None:
    response = client.post("/v1/completions", json=TEXT_BODY | {"prompt": ["one", "", "three"]})
    assert error(response)["message"].startswith("litellm.BadRequestError: The prompt is empty")


def test_a_text_completion_has_16_tokens_by_default(client: httpx.Client) -> None:
    long = {"prompt": "x" * 40}
    assert texts(client, **long) == ["x" * 16]
    assert texts(client, **long, max_tokens=20) == ["x" * 20]
    assert texts(client, **long, max_tokens=20, max_completion_tokens=3) == ["xxx"]


def test_stop_strings_of_any_characters_end_a_choice(client: httpx.Client) -> None:
    response = client.post("/v1/completions", json=TEXT_BODY | {"prompt": "日本語です", "stop": ["語"]})
    assert response_text(response) == "日本"
    assert response.json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_is_sent_as_events(client: httpx.Client, path: str) -> None:
    response = client.post(path, json=BOTH | {"stream": True})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    *chunks, done = data_lines(response.text)
    assert done == "[DONE]"
    documents = [json.loads(chunk) for chunk in chunks]
    assert [document["choices"][0].get("finish_reason") for document in documents][-1] == "stop"
    assert len({(document["id"], document["created"], document["model"]) for document in documents}) == 1
    assert chunks == [json.dumps(document, separators=(",", ":")) for document in documents]


def test_a_stream_reports_usage_last_on_request(client: httpx.Client) -> None:
    body = CHAT_BODY | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, _ = data_lines(client.post("/v1/chat/completions", json=body).text)
    assert json.loads(usage)["choices"] == []
    assert json.loads(usage)["usage"] == client.post("/v1/chat/completions", json=CHAT_BODY).json()["usage"]
    assert not any("usage" in json.loads(chunk) for chunk in chunks)


def test_the_streams_of_several_prompts_carry_their_indices(client: httpx.Client) -> None:
    body = {"model": "echo", "prompt": ["one", "two"], "n": 2, "stream": True}
    *chunks, _ = data_lines(client.post("/v1/completions", json=body).text)
    streamed = dict.fromkeys(range(4), "")
    for choice in (json.loads(chunk)["choices"][0] for chunk in chunks):
        streamed[choice["index"]] += choice["text"]
    assert streamed == {0: "one", 1: "one", 2: "two", 3: "two"}


def test_a_character_is_never_split_between_chunks(client: httpx.Client) -> None:
    body = TEXT_BODY | {"prompt": "aé日😀", "stream": True}
    *chunks, _ = data_lines(client.post("/v1/completions", json=body).text)
    assert [json.loads(chunk)["choices"][0]["text"] for chunk in chunks] == ["a", "é", "日", "😀", ""]


def test_the_id_of_an_answer_is_the_id_of_its_request(client: httpx.Client) -> None:
    for path, prefix in (("/v1/chat/completions", "chatcmpl-"), ("/v1/completions", "cmpl-")):
        response = client.post(path, json=BOTH)
        request_id = response.headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", request_id)
        assert response.json()["id"] == prefix + request_id
        streamed = client.post(path, json=BOTH | {"stream": True})
        assert f'"{prefix}{streamed.headers["x-request-id"]}"' in streamed.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/foo"),
        ("GET", "/nowhere"),
        ("GET", "/v1/completions"),
        ("POST", "/v1/completions"),
        ("GET", "/health"),
    ],
)
def test_every_response_has_its_own_id(client: httpx.Client, method: str, path: str) -> None:
    first, second = (client.request(method, path).headers["x-request-id"] for _ in range(2))
    assert first != second


def test_a_silent_stream_is_kept_alive_by_comments(slow_client: httpx.Client) -> None:
    body = {"model": "echo", "prompt": "ab", "stream": True}
    response = slow_client.post("/v1/completions", json=body)
    blocks = response.text.split("\n\n")
    assert blocks[0] == ": keep-alive"
    assert re.sub(r"(: keep-alive\n\n)+", "~", response.text).count("~") == 3
    assert blocks[-2:] == ["data: [DONE]", ""]
    events = [block for block in blocks if block != ": keep-alive"]
    assert [json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events[:-2]] == ["a", "b", ""]


def test_an_answer_that_is_not_streamed_has_no_comments(slow_client: httpx.Client) -> None:
    assert response_text(slow_client.post("/v1/completions", json={"model": "echo", "prompt": "a"})) == "a"


@pytest.mark.parametrize("path", [*POST_PATHS, "/v1/models"])
def test_an_azure_api_version_is_taken_and_ignored(client: httpx.Client, path: str) -> None:
    method = "GET" if path.endswith("models") else "POST"
    response = client.request(
        method, path, params={"api-version": "2024-02-01"}, json=BOTH if method == "POST" else None
    )
    assert response.status_code == 200


@pytest.mark.parametrize("body", [CHAT_BODY, {}])
def test_the_call_id_is_the_request_id(client: httpx.Client, body: dict[str, Any]) -> None:
    headers = client.post("/v1/chat/completions", json=body).headers
    assert headers["x-litellm-call-id"] == headers["x-request-id"]
