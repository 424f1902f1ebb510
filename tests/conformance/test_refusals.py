"""Status, headers and exact body of every dialect for a request that an account or a key does not allow."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import KeyRules, create_key, disable_key
from dragoman.accounts.process.handle import LedgerProcessHandle
from tests.support.apps import client_of
from tests.support.database_faults import deleted_files
from tests.support.dialects.clients import DialectClient
from tests.support.metered import AMPLE_BALANCE, AccountFixture, metered_app, sqlite_account

UNKNOWN_KEY = "sk-unknown-0123456789abcdef-unknown"


class RefusalHarness:
    """The app, its account and a client."""

    def __init__(self, account_fixture: AccountFixture, client: httpx.AsyncClient, dialect: DialectClient) -> None:
        self.account_fixture = account_fixture
        self.dialect = dialect
        self._client = client

    async def send_chat(self, key: str, model: str = "echo", body: Any = None, **options: Any) -> httpx.Response:
        """Send a chat, or `body` instead."""
        path = self.dialect.path(model)
        sent = self.dialect.body(model, "Hello", **options) if body is None else body
        return await self._client.post(path, json=sent, headers={"authorization": f"Bearer {key}"})

    async def assert_refused(self, key: str, status: int, document: Any, **request_options: Any) -> httpx.Response:
        """Check that a request is rejected alike, streamed or not."""
        for stream in (False, True):
            response = await self.send_chat(key, stream=stream, **request_options)
            assert (response.status_code, response.json()) == (status, document)
        return response


@pytest.fixture
async def harness(dialect: DialectClient, tmp_path: Path) -> AsyncIterator[RefusalHarness]:
    with sqlite_account(tmp_path) as account_fixture:
        async with metered_app(account_fixture, tmp_path / "journals") as app, client_of(app) as client:
            yield RefusalHarness(account_fixture, client, dialect)
        account_fixture.assert_settled()


def infermatic(message: str, kind: str, code: int, parameter: str | None = "None") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": parameter, "code": str(code)}}


def empower(message: str, kind: str, code: str | None, parameter: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}


def openai(message: str, kind: str, code: str) -> dict[str, Any]:
    return empower(message, kind, code)


OPENAI_DIALECTS = ("openai", "responses")
"""Dialects with OpenAI's errors."""


def anthropic(message: str, kind: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


INVALID_KEY = {
    "anthropic": anthropic("invalid x-api-key", "authentication_error"),
    "infermatic": infermatic("Authentication Error, Invalid proxy server token passed", "auth_error", 401),
    "float16": {"detail": "Invalid API key"},
    "empower": empower("Invalid API key", "authentication_error", "invalid_api_key"),
    "arcee": {"detail": "Authentication failed due to invalid or missing API key"},
    "scale": {"detail": "Invalid API key"},
}

BLOCKED_KEY = infermatic(
    "Authentication Error, Key is blocked. Update via `/key/unblock` if you're admin.", "auth_error", 401
)
"""infermatic's; the others say the same as of an unknown key."""

OUT_OF_BALANCE = {
    "anthropic": anthropic("Your credit balance is too low to access the API", "billing_error"),
    "float16": {"detail": "Insufficient balance"},
    "empower": empower("Insufficient balance", "insufficient_balance", "insufficient_balance"),
    "arcee": {"detail": "Insufficient balance. Add credits to continue"},
    "scale": {"detail": "Insufficient balance"},
}

RATE_LIMITED = "Rate limit reached, retry in {} seconds"


def refused_key(dialect: str, key: str) -> dict[str, Any]:
    """Return the body for a key that is not accepted."""
    if dialect in OPENAI_DIALECTS:
        return openai(f"Incorrect API key provided: ****{key[-4:]}.", "invalid_request_error", "invalid_api_key")
    return INVALID_KEY[dialect]


async def test_an_unknown_key_is_rejected(harness: RefusalHarness) -> None:
    response = await harness.assert_refused(UNKNOWN_KEY, 401, refused_key(harness.dialect.name, UNKNOWN_KEY))
    if harness.dialect.name != "infermatic":
        assert response.headers["www-authenticate"] == "Bearer"


async def test_a_disabled_key_is_rejected_immediately(harness: RefusalHarness) -> None:
    created = create_key(harness.account_fixture.database, harness.account_fixture.account_id)
    assert (await harness.send_chat(created.secret)).status_code == 200
    disable_key(harness.account_fixture.database, created.key.id)
    name = harness.dialect.name
    expected = BLOCKED_KEY if name == "infermatic" else refused_key(name, created.secret)
    await harness.assert_refused(created.secret, 401, expected)


async def test_an_expired_key_is_rejected(harness: RefusalHarness) -> None:
    expired_at = time.time_ns() // 1_000_000 - 60_000
    key = harness.account_fixture.new_key(KeyRules(expires_at=expired_at))
    if harness.dialect.name != "infermatic":
        await harness.assert_refused(key, 401, refused_key(harness.dialect.name, key))
        return
    response = await harness.send_chat(key)
    error = response.json()["error"]
    expected = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expired_at / 1000))
    assert (response.status_code, error["type"], error["param"], error["code"]) == (400, "expired_key", "None", "400")
    assert error["message"].startswith(
        f"Authentication Error - Expired Key. Key Expiry time {expected} and current time {expected[:11]}"
    )


async def test_an_exhausted_balance_is_reported(harness: RefusalHarness) -> None:
    # Hello: at most 5 tokens of at least 5 prompt tokens.
    key = harness.account_fixture.new_key(KeyRules(budget=1))
    if harness.dialect.name in OPENAI_DIALECTS:
        message = "You exceeded your current quota, please check your plan and billing details."
        document = openai(message, "insufficient_quota", "insufficient_quota")
        response = await harness.assert_refused(key, 429, document, max_tokens=5)
        assert response.headers["x-should-retry"] == "false"
        return
    if harness.dialect.name != "infermatic":
        await harness.assert_refused(key, 402, OUT_OF_BALANCE[harness.dialect.name], max_tokens=5)
        return
    prompt_tokens = len("user: Hello")
    needed = f"0.{prompt_tokens * 10 + 5 * 30:09}"
    message = f"Budget has been exceeded! Current cost: {needed.rstrip('0')}, Max budget: 0.000000001"
    await harness.assert_refused(key, 400, infermatic(message, "budget_exceeded", 400, None), max_tokens=5)


async def test_a_key_for_other_dialects_is_rejected(harness: RefusalHarness) -> None:
    other = "arcee" if harness.dialect.name != "arcee" else "scale"
    message = f"The API key may not be used for the {harness.dialect.name} API"
    document = {
        "infermatic": infermatic(f"Authentication Error, {message}", "auth_error", 403),
        "empower": empower(message, "permission_error", "permission_denied"),
        **dict.fromkeys(OPENAI_DIALECTS, openai(message, "invalid_request_error", "permission_denied")),
        "anthropic": anthropic(message, "permission_error"),
    }.get(harness.dialect.name, {"detail": message})
    await harness.assert_refused(harness.account_fixture.new_key(KeyRules(dialects=(other,))), 403, document)


async def test_a_model_forbidden_to_the_key_looks_unknown(harness: RefusalHarness) -> None:
    key = harness.account_fixture.new_key(KeyRules(models=("other",)))
    refused = await harness.send_chat(key)
    unknown = await harness.send_chat(harness.account_fixture.new_key(), model="nowhere")
    assert refused.status_code == unknown.status_code == harness.dialect.unknown_model_status
    assert refused.text == unknown.text.replace("nowhere", "echo")


async def test_the_request_rate_limit_returns_retry_after(harness: RefusalHarness) -> None:
    key = harness.account_fixture.new_key(KeyRules(requests_per_minute=1))
    admitted = await harness.send_chat(key)
    assert admitted.status_code == 200
    assert limits_of(admitted) == {"limit-requests": "1", "remaining-requests": "0", "reset-requests": "61s"}
    response = await harness.send_chat(key)
    limits = limits_of(response)
    wait = int(limits.pop("reset-requests").removesuffix("s"))
    assert 1 <= wait <= 61
    assert limits == {"limit-requests": "1", "remaining-requests": "0"}
    assert response.headers["retry-after"] == str(min(wait, 59))
    crossed = (
        "LiteLLM Rate Limit Handler for rate limit type = key. Crossed TPM, RPM Limit. "
        f"current rpm: 1, rpm limit: 1, current tpm: 0, tpm limit: {2**63 - 1}"
    )
    expected = {
        "infermatic": infermatic(crossed, "None", 429),
        "empower": empower(RATE_LIMITED.format(wait), "rate_limit_error", "rate_limit_exceeded"),
        **dict.fromkeys(
            OPENAI_DIALECTS,
            openai(
                f"Limit of 1 requests per minute reached, retry in {wait} seconds", "requests", "rate_limit_exceeded"
            ),
        ),
        "anthropic": anthropic(f"Limit of 1 requests per minute reached, retry in {wait} seconds", "rate_limit_error"),
    }.get(harness.dialect.name, {"detail": RATE_LIMITED.format(wait)})
    assert (response.status_code, response.json()) == (429, expected)


async def test_a_stream_reports_the_remaining_token_allowance(harness: RefusalHarness) -> None:
    key = harness.account_fixture.new_key(KeyRules(tokens_per_minute=1000))
    response = await harness.send_chat(key, stream=True, max_tokens=5)
    held = len("user: Hello") + 5
    assert limits_of(response) == {
        "limit-tokens": "1000",
        "remaining-tokens": str(1000 - held),
        "reset-tokens": "61s",
    }


async def test_a_request_above_the_token_rate_limit_is_a_bad_request(harness: RefusalHarness) -> None:
    key = harness.account_fixture.new_key(KeyRules(tokens_per_minute=10))
    response = await harness.send_chat(key, max_tokens=100)
    assert response.status_code in (400, 422)
    assert harness.dialect.is_error(response.json())
    assert "tokens" in response.text


async def test_an_unavailable_ledger_is_a_server_error(dialect: DialectClient, tmp_path: Path) -> None:
    with sqlite_account(tmp_path, busy_seconds=0.01) as account_fixture:
        key = account_fixture.new_key()
        async with (
            metered_app(account_fixture, tmp_path / "journals", timeout_seconds=0.1) as app,
            client_of(app) as client,
        ):
            harness = RefusalHarness(account_fixture, client, dialect)
            with account_fixture.database.write():  # Other writers are locked out.
                response = await harness.send_chat(key)
            assert response.status_code == dialect.overloaded_status
            assert dialect.is_error(response.json())
            assert int(response.headers["retry-after"]) >= 1


async def test_a_deleted_database_is_a_server_error_and_nothing_is_lost(dialect: DialectClient, tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        key = account_fixture.new_key()
        async with (
            metered_app(account_fixture, tmp_path / "journals", timeout_seconds=1) as app,
            client_of(app) as client,
        ):
            harness = RefusalHarness(account_fixture, client, dialect)
            assert await is_answered(harness, key)
            with deleted_files(account_fixture.url):
                response = await harness.send_chat(key)
            assert response.status_code == dialect.overloaded_status
            assert dialect.is_error(response.json())
            assert await is_answered(harness, key)
        account_fixture.assert_settled()


async def is_answered(harness: RefusalHarness, key: str) -> bool:
    """Ask up to three times: a busy machine may need longer than the second that the accounts have."""
    for _ in range(3):
        response = await harness.send_chat(key)
        if response.status_code != harness.dialect.overloaded_status:
            break
    return response.status_code == 200


async def test_a_ledger_process_causes_the_same_responses(dialect: DialectClient, tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        async with (
            metered_app(account_fixture, tmp_path / "journals", transport=LedgerProcessHandle) as app,
            client_of(app) as client,
        ):
            harness = RefusalHarness(account_fixture, client, dialect)
            await test_an_unknown_key_is_rejected(harness)
            await test_an_exhausted_balance_is_reported(harness)
            await test_the_request_rate_limit_returns_retry_after(harness)
        account_fixture.assert_settled()


@pytest.mark.parametrize("body", [[], {"model": "echo"}, {"model": "echo", "top_p": 7}])
async def test_caller_errors_precede_body_errors(harness: RefusalHarness, body: Any) -> None:
    limited = harness.account_fixture.new_key(KeyRules(requests_per_minute=1))
    wrong = await harness.send_chat(limited, body=body)
    assert wrong.status_code in (400, 422)
    assert (await harness.send_chat(limited)).status_code == 200, "a request that is refused is not counted"
    assert (await harness.send_chat(limited, body=body)).status_code == 429
    assert (await harness.send_chat(UNKNOWN_KEY, body=body)).status_code == 401


async def test_scale_charges_the_account_that_is_selected_if_the_key_may_use_it(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        async with metered_app(account_fixture, tmp_path / "journals") as app, client_of(app) as client:
            headers = {"x-api-key": account_fixture.new_key()}
            body = {"chat_history": [], "prompt": "Hello"}
            for selected, status in (("acme", 200), (str(account_fixture.account_id), 200), ("", 200), ("nobody", 403)):
                response = await client.post(
                    "/v4/models/echo/chat-completions", json=body, headers=headers | {"x-selected-account-id": selected}
                )
                assert response.status_code == status
            assert response.json() == {"detail": "The API key has no access to account 'nobody'"}
            listed = await client.get("/v4/models", headers=headers | {"x-selected-account-id": "nobody"})
            assert listed.status_code == 403


async def test_scale_finds_an_account_by_its_name_in_either_encoding_that_clients_use(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        zoe = create_account(account_fixture.database, "Zoë à").id
        deposit(account_fixture.database, zoe, AMPLE_BALANCE)
        key = create_key(account_fixture.database, account_fixture.account_id, other_accounts=[zoe]).secret
        body = {"chat_history": [], "prompt": "Hello"}
        async with metered_app(account_fixture, tmp_path / "journals") as app, client_of(app) as client:
            for encoding in ("utf-8", "latin-1"):
                headers = [(b"x-api-key", key.encode()), (b"x-selected-account-id", "Zoë à".encode(encoding))]
                response = await client.post("/v4/models/echo/chat-completions", json=body, headers=headers)
                assert response.status_code == 200
        assert [used.account_id for used in account_fixture.usage] == [zoe] * 2


async def test_lists_and_the_token_counter_show_only_the_keys_models(tmp_path: Path) -> None:
    paths = ("/v1/models", "/empower/api/v1/models", "/api/v1/models", "/v4/models", "/v4/model-deployments")
    with sqlite_account(tmp_path) as account_fixture:
        some, none = (
            account_fixture.new_key(KeyRules(models=("echo",))),
            account_fixture.new_key(KeyRules(models=("other",))),
        )
        async with metered_app(account_fixture, tmp_path / "journals") as app, client_of(app) as client:
            for key, length in ((some, 1), (none, 0)):
                headers = {"authorization": f"Bearer {key}"}
                for path in paths:
                    document = (await client.get(path, headers=headers)).json()
                    assert len(document.get("data", document.get("items"))) == length
                for path in ("/v1/models/echo", "/v4/models/echo", "/empower/api/v1/base-model/echo"):
                    assert (await client.get(path, headers=headers)).status_code == (200 if length else 404)
                counted = await client.post(
                    "/utils/token_counter", json={"model": "acme/parrot", "prompt": "Hi"}, headers=headers
                )
                assert counted.status_code == (200 if length else 404)


def limits_of(response: httpx.Response) -> dict[str, str]:
    prefix = "x-ratelimit-"
    return {name.removeprefix(prefix): value for name, value in response.headers.items() if name.startswith(prefix)}
