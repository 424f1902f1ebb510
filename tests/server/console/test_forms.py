"""Forms of the console without a browser: who may send them, what they change, and what is refused."""

import re

import pytest

from dragoman.accounts.administration.audit_log import list_audit_entries
from dragoman.accounts.administration.keys import KeyRules, get_key, list_keys
from dragoman.server.app import App
from tests.support.accounting import ADMIN_KEY
from tests.support.console import CHAT, another_client, console_client, plain
from tests.support.metered import AccountFixture


async def test_a_form_of_an_ended_session_leads_to_signing_in_and_back_to_its_page(app: App) -> None:
    async with console_client(app, key=ADMIN_KEY) as client:
        token = await client.token("/accounts")
        client.http.cookies.clear()
        headers = {"referer": "http://localhost/console/accounts?after=1"}
        refused = await client.http.post(
            "/console/accounts", data={"form_token": token, "name": "owl"}, headers=headers
        )
        assert (refused.status_code, "Your session has ended" in refused.text) == (401, True)
        assert 'name="next" value="/accounts?after=1"' in refused.text
        for headers in ({"x-form-token": token}, {"hx-request": "true"}):
            refused = await client.http.post("/console/accounts", headers=headers)
            assert (refused.status_code, refused.text) == (401, "Sign in again")


async def test_a_form_needs_the_token_of_its_browser_and_its_own_origin(app: App) -> None:
    async with console_client(app, key=ADMIN_KEY) as client, another_client(app, key=ADMIN_KEY) as other:
        name = {"name": "owl"}
        refused = await client.http.post("/console/accounts", data=name)
        assert refused.status_code == 403
        refused = await client.http.post(
            "/console/accounts", data={**name, "form_token": await other.token("/accounts")}
        )
        assert refused.status_code == 403
        token = await client.token("/accounts")
        for header in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
            refused = await client.http.post("/console/accounts", data={**name, "form_token": token}, headers=header)
            assert refused.status_code == 403
        refused = await client.http.post("/console/api/v1/chat/completions", json=CHAT)
        assert refused.status_code == 403
        assert (await client.submit("/accounts", "/accounts", name="owl")).status_code == 303


@pytest.mark.parametrize("number", ["inf", "nan", "-1", "1e300", "x"])
async def test_a_number_that_no_request_can_take_is_refused_by_name(number: str, app: App) -> None:
    async with console_client(app, key=ADMIN_KEY) as client:
        refused = await client.get("/requests", min_seconds=number)
        assert (refused.status_code, "Min seconds must be a number" in refused.text) == (400, True)
        assert (await client.get("/requests", min_seconds="0.5")).status_code == 200


@pytest.mark.parametrize("name", ["path", "url", "self", "template", "status", "caller", "query"])
async def test_a_parameter_that_no_page_knows_is_ignored_whatever_its_name(name: str, app: App) -> None:
    async with console_client(app, key=ADMIN_KEY) as client:
        for page in ("/requests", "/usage", "/usage.csv", "/queue", "/audit", "/keys", "/accounts", "/responses"):
            response = await client.http.get(f"/console{page}", params={"model": "echo", name: "1"})
            assert response.status_code == 200, page


async def test_a_key_is_made_limited_rotated_and_disabled(account: AccountFixture, app: App) -> None:
    async with console_client(app, key=ADMIN_KEY) as client:
        created = await client.submit(
            "/accounts/acme", "/keys", account="1", label="laptop", budget="2.50", models="echo"
        )
        match = re.search(r'id="secret">(sk-[^<]+)<', created.text)
        assert match is not None
        key = account.keys[0]
        assert (key.label, key.rules) == ("laptop", KeyRules(budget=2_500_000_000, models=("echo",)))
        page = f"/keys/{key.id}"
        assert match[1] not in (await client.get(page)).text
        await client.submit(page, page, label="laptop", requests_per_minute="7", models="echo")
        assert get_key(account.database, key.id).rules == KeyRules(requests_per_minute=7, models=("echo",))
        rotated = await client.submit(page, f"{page}/rotate")
        assert match[1] not in rotated.text
        old, new = list_keys(account.database)
        assert (old.disabled_at is None, new.label) == (False, "laptop")
        assert new.rules == KeyRules(requests_per_minute=7, models=("echo",))
        wrong = await client.submit(page, page, requests_per_minute="many")
        assert (wrong.status_code, "whole number" in wrong.text) == (400, True)
    assert {entry.actor for entry in list_audit_entries(account.database)} == {"ada"}


async def test_saving_a_key_changes_only_what_was_changed(account: AccountFixture, app: App) -> None:
    rules = KeyRules(models=(), dialects=(), expires_at=4_102_444_799_999)
    account.new_key(rules)
    async with console_client(app, key=ADMIN_KEY) as client:
        page = (await client.get("/keys/1")).text
        shown = dict(re.findall(r'<input name="(\w+)"[^>]* value="([^"]*)"', page))
        await client.submit("/keys/1", "/keys/1", **{**shown, "label": "renamed"})
        assert (account.keys[0].label, account.keys[0].rules) == ("renamed", rules), "no model must not become all"
        assert "none" in plain((await client.get("/keys")).text)
        await client.submit("/keys/1", "/keys/1", **{**shown, "models": "", "dialects": "", "expires_at": ""})
        assert account.keys[0].rules == KeyRules()


@pytest.mark.parametrize(
    ("page", "action", "fields"),
    [
        ("/accounts", "/accounts", {"name": "owl", "amount": "twelve", "currency": "EUR"}),
        ("/accounts/acme", "/accounts/1/deposit", {"amount": "1,5", "reference": "invoice-9", "note": "thanks"}),
        ("/accounts/acme", "/keys", {"account": "1", "label": "nest", "budget": "much", "models": "owl"}),
        ("/keys/1", "/keys/1", {"label": "nest", "tokens_per_minute": "-3", "expires_at": "tomorrow"}),
        ("/models", "/models/prices", {"model": "echo", "prompt": "0.00001", "completion": "7.25"}),
        ("/upstreams", "/upstreams", {"deployment": "echo", "url": "gpu3", "weight": "heavy", "model": "owl"}),
    ],
)
async def test_a_refused_form_is_shown_again_with_what_was_typed(
    page: str, action: str, fields: dict[str, str], account: AccountFixture, app: App
) -> None:
    account.new_key()
    async with console_client(app, key=ADMIN_KEY) as client:
        refused = await client.submit(page, action, **fields)
        foreign = await client.http.post(f"/console{action}", data={**fields, "form_token": "0"})
    assert (refused.status_code, 'role="alert"' in refused.text) == (400, True)
    for name, value in fields.items():
        assert re.search(f'name="{name}"[^>]* value="{re.escape(value)}"|<option selected>{value}<', refused.text), name
    assert (foreign.status_code, fields.get("name", "invoice-9") in foreign.text) == (403, False)


async def test_money_and_prices_are_changed_through_the_audit_log(account: AccountFixture, app: App) -> None:
    async with console_client(app, key=ADMIN_KEY) as client:
        before = account.account.balance
        await client.submit("/accounts/acme", "/accounts/acme/deposit", amount="1.5", reference="invoice-1")
        await client.submit("/accounts/acme", "/accounts/acme/deposit", amount="1.5", reference="invoice-1")
        assert account.account.balance == before + 1_500_000_000
        await client.submit("/models", "/models/prices", model="echo", prompt="0.5", completion="2")
        assert "prompt 0.50, shared 0.50, answer 2.00" in (await client.get("/models")).text
        audit = (await client.get("/audit")).text
    assert ("set price" in audit, "invoice-1" in audit) == (True, True)
    assert "completion 2.00 valid from" in plain(audit)
    assert re.search(r"valid from <b><time datetime=", audit)
