"""The headers of the API key, in their order, and the messages for a key that is not accepted."""

import pytest

from tests.support.apps import KEY, client_of, echo_app

WRONG = "sk-somebody-elses-key"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer {KEY}"},
        {"Authorization": f"Basic {KEY}"},
        {"API-Key": KEY},
        {"x-api-key": KEY},
        {"x-goog-api-key": KEY},
        {"Authorization": f"Bearer {KEY}", "x-api-key": WRONG},
        {"API-Key": KEY, "x-goog-api-key": WRONG},
    ],
)
async def test_the_first_header_that_is_there_decides(headers: dict[str, str]) -> None:
    async with client_of(echo_app(keys=[KEY])) as client:
        assert (await client.get("/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "No api key passed in."),
        (
            {"Authorization": KEY},
            "Malformed API Key passed in. Ensure Key has `Bearer ` prefix. Passed in: ****cdef",
        ),
        (
            {"x-api-key": "not-a-key-of-this-service"},
            "LiteLLM Virtual Key expected. Received=****vice, expected to start with 'sk-'.",
        ),
        ({"x-api-key": WRONG}, "Invalid proxy server token passed"),
        ({"Authorization": f"Bearer {WRONG}", "x-api-key": KEY}, "Invalid proxy server token passed"),
    ],
)
async def test_an_invalid_key_returns_litellms_message(headers: dict[str, str], message: str) -> None:
    async with client_of(echo_app(keys=[KEY])) as client:
        response = await client.post("/utils/token_counter", content=b"{", headers=headers)
    assert response.status_code == 401
    assert response.json() == {
        "error": {
            "message": f"Authentication Error, {message}",
            "type": "auth_error",
            "param": "None",
            "code": "401",
        }
    }
