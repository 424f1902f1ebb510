"""The console's pages without a browser: who may see what, forms, and figures."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dragoman.accounts.administration.keys import KeyRules, disable_key
from dragoman.accounts.administration.usage import list_usage
from dragoman.accounts.database.connections import Database
from dragoman.core.money import format_amount
from dragoman.engines.echo import EchoEngine
from dragoman.server.app import App
from dragoman.server.console.rendering import short_amount
from dragoman.server.console.route_table import CONSOLE_ROUTES
from dragoman.server.console.sessions import seal, unseal
from dragoman.server.console.viewers import Role
from dragoman.server.console_settings import ConsoleSettings
from tests.support.accounting import ADMIN_KEY
from tests.support.console import CHAT, another_client, ask, console_app, console_client, plain
from tests.support.metered import AccountFixture
from tests.support.sqlite_files import create_sqlite_database


def url_of(path: str) -> str:
    return re.sub(r"\{\w+\}", "1", path)


async def test_every_route_is_for_those_roles_that_the_table_names(account: AccountFixture, app: App) -> None:
    keys = {Role.OPERATOR: ADMIN_KEY, Role.HOLDER: account.new_key()}
    async with console_client(app) as stranger:
        for role, key in keys.items():
            async with another_client(app, key=key) as client:
                token = {"form_token": await client.token("/playground" if role is Role.HOLDER else "/accounts")}
                for route in CONSOLE_ROUTES:
                    if route.path in ("/events", "/logout"):
                        continue
                    response = await client.http.request(route.method, f"/console{url_of(route.path)}", data=token)
                    is_allowed = route.roles is None or role in route.roles
                    assert (response.status_code != 403) is is_allowed, f"{route.method} {route.path} as {role}"
        for route in CONSOLE_ROUTES:
            response = await stranger.http.request(route.method, f"/console{url_of(route.path)}")
            if route.roles is not None:
                assert response.status_code in (303, 401), route.path
                assert response.headers.get("location", "/console/login").startswith("/console/login")


async def test_a_session_ends_with_its_key_and_with_signing_out(
    account: AccountFixture, app: App, tmp_path: Path
) -> None:
    key = account.new_key()
    async with console_client(app, key=key) as client:
        assert (await client.get("/")).status_code == 200
        disable_key(account.database, account.keys[0].id)
        assert (await client.get("/")).status_code == 303
    async with console_client(console_app(account.database, tmp_path), key=ADMIN_KEY) as client:
        assert (await client.submit("/accounts", "/logout")).headers["location"] == "/console/login"
        assert (await client.get("/")).status_code == 303


async def test_signing_in_ends_the_session_that_the_browser_had(account: AccountFixture, app: App) -> None:
    async with console_client(app, key=ADMIN_KEY) as client:
        before = dict(client.http.cookies)
        token = await client.token("/accounts")
        fields = {"form_token": token, "key": account.new_key()}
        assert (await client.http.post("/console/login", data=fields)).status_code == 303
        assert (await client.get("/accounts")).status_code == 403
        client.http.cookies.clear()
        client.http.cookies.update(before)
        assert (await client.get("/accounts")).status_code == 303


async def test_wrong_keys_are_counted_with_those_of_the_api(app: App) -> None:
    async with console_client(app) as client:
        statuses = {(await client.sign_in(f"sk-wrong-{number}")).status_code for number in range(20)}
        assert statuses == {401}
        assert (await client.sign_in("sk-wrong")).status_code == 429
        response = await client.http.get("/v1/models", headers={"authorization": "Bearer sk-wrong"})
        assert response.status_code == 429


async def test_a_key_crosses_the_network_over_https_only(account: AccountFixture, tmp_path: Path) -> None:
    app = console_app(account.database, tmp_path, proxies=("127.0.0.1",))
    async with console_client(app, url="http://console.example") as client:
        refused = await client.sign_in(ADMIN_KEY)
        assert (refused.status_code, "HTTPS" in refused.text) == (400, True)
        client.http.headers["x-forwarded-proto"] = "https"
        client.http.cookies.clear()
        accepted = await client.sign_in(ADMIN_KEY)
    assert accepted.headers["set-cookie"].startswith("__Host-dragoman=")
    assert {"Secure", "HttpOnly", "SameSite=strict", "Path=/"} <= set(accepted.headers["set-cookie"].split("; "))


async def test_every_response_has_a_policy_without_inline_scripts(app: App) -> None:
    async with console_client(app, key=ADMIN_KEY) as client:
        for path in ("/", "/playground", "/nothing", "/static/x/console.js", "/static/x/nothing.js"):
            response = await client.get(path)
            policy = response.headers["content-security-policy"]
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
            assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_holder_sees_its_own_account_only(account: AccountFixture, app: App) -> None:
    key = account.new_key()
    async with console_client(app, key=key) as client, another_client(app, key=ADMIN_KEY) as operator:
        request_id = await ask(client)
        await operator.submit("/accounts", "/accounts", name="owl", amount="5")
        created = await operator.submit("/accounts/owl", "/keys", account="2", label="nest")
        other_key = re.search(r'id="secret">([^<]+)<', created.text)
        assert other_key is not None
        assert request_id in (await client.get("/requests")).text
        assert request_id in (await client.get("/requests", account="owl")).text, "a holder chooses no account"
        for account_name, is_listed in (("acme", True), ("1", True), ("owl", False), ("2", False)):
            for page, text in (("/requests", request_id), ("/usage.csv", "echo")):
                listed = (await operator.get(page, account=account_name)).text
                assert (text in listed) is is_listed, (page, account_name)
        assert (await operator.get("/requests", account="nobody")).status_code == 404
        async with another_client(app, key=other_key[1]) as other:
            assert request_id not in (await other.get("/requests")).text
            assert (await other.get(f"/requests/{request_id}")).status_code == 404
            assert (await other.get(f"/requests/{request_id}/charge")).status_code == 404
            assert "acme" not in (await other.get("/keys")).text


async def test_a_holder_sees_no_models_that_its_key_may_not_use(account: AccountFixture, tmp_path: Path) -> None:
    app = console_app(account.database, tmp_path, engines={"echo": EchoEngine(), "secret-project": EchoEngine()})
    key = account.new_key(KeyRules(models=("echo",)))
    async with console_client(app, key=key) as client, another_client(app, key=ADMIN_KEY) as operator:
        for path in ("/", "/playground", "/requests", "/queue", "/models", "/usage", "/keys"):
            assert "secret-project" not in (await client.get(path)).text, path
        for path in ("/requests", "/queue", "/models"):
            assert "secret-project" in (await operator.get(path)).text, path


async def test_the_playgrounds_requests_are_those_of_the_key(account: AccountFixture, app: App) -> None:
    async with console_client(app, key=account.new_key()) as client:
        request_id = await ask(client)
        used = list_usage(account.database)[0]
        charge = (await client.get(f"/requests/{request_id}/charge")).json()
        page = (await client.get(f"/requests/{request_id}")).text
        headers = {"x-form-token": await client.token("/playground")}
        admin = await client.http.get("/console/api/admin/accounts", headers=headers)
    assert (used.request_id, used.key_id) == (request_id, account.keys[0].id)
    assert charge["charge"] == format_amount(used.charge) != "0.00"
    assert f'id="charge">{charge["charge"]}<' in page
    assert admin.status_code == 404


async def test_pages_of_requests_show_each_once_whatever_ends_meanwhile(account: AccountFixture, app: App) -> None:
    async with console_client(app, key=account.new_key()) as client:
        ids = [await ask(client, max_tokens=1) for _ in range(120)]
        found: list[str] = []
        link: str | None = "/console/requests"
        while link is not None:
            page = (await client.http.get(link)).text
            found += re.findall(r'href="/console/requests/(\w{32})"', page)
            more = re.search(r'id="more-row">.*?href="([^"]+)"', page)
            link = None if more is None else more[1].replace("&amp;", "&")
            await ask(client, max_tokens=1)
        fragment = await client.http.get("/console/requests?cursor=AAAAAAAAAGQ", headers={"hx-request": "true"})
        damaged = await client.get("/requests", cursor="x")
    assert found == ids[::-1]
    assert "<html" not in fragment.text
    assert damaged.status_code == 400


async def test_what_does_not_exist_is_not_found_and_says_nothing_of_changes(app: App) -> None:
    async with console_client(app, key=ADMIN_KEY) as client:
        for path in ("/queue/job_0", "/keys/99", "/accounts/99", "/requests/0", "/nothing"):
            page = await client.get(path)
            assert (page.status_code, "changed" in page.text) == (404, False), path


async def test_an_account_is_found_by_its_name_and_shows_where_all_its_keys_and_requests_are(
    account: AccountFixture, app: App
) -> None:
    for _ in range(101):
        account.new_key()
    async with console_client(app, key=ADMIN_KEY) as client:
        assert (await client.get("/accounts", account="acme")).headers["location"] == "/console/accounts/1"
        missing = await client.get("/accounts", account="nobody")
        assert (missing.status_code, 'value="nobody"' in missing.text) == (404, True)
        page = (await client.get("/accounts/acme")).text
        assert 'href="/console/keys?account=1&amp;after=100"' in page, "its 101st key"
        assert "key 101" in (await client.get("/keys", account=1, after=100)).text


async def test_keys_show_when_they_were_used_and_what_they_spent(account: AccountFixture, app: App) -> None:
    key = account.new_key()
    async with console_client(app, key=key) as client:
        assert "0.00 this month" in (page := plain((await client.get("/keys")).text))
        assert "never" in page
        await ask(client)
        page = plain((await client.get("/keys")).text)
    (used,) = list_usage(account.database)
    today = datetime.fromtimestamp(used.settled_at / 1000, UTC).date().isoformat()
    assert (used.charge > 0, f"{today} created" in page) == (True, True)
    assert f"{short_amount(used.charge)} this month" in page


async def test_settings_show_where_they_were_set(account: AccountFixture, tmp_path: Path) -> None:
    console = ConsoleSettings(keep_bodies=True, keep_bodies_days=3)
    origins = {"console.keep_bodies": "dragoman.toml"}
    app = console_app(account.database, tmp_path / "journals", console=console, origins=origins)
    async with console_client(app, key=ADMIN_KEY) as client:
        given, _, defaults = (await client.get("/health")).text.partition("have their defaults")
    assert "console.keep_bodies true dragoman.toml" in plain(given)
    assert "console.keep_bodies_days 3 reloaded" in plain(given), "it is in no file that was read at the start"
    assert ("max_waiting_requests" in given, "max_waiting_requests" in defaults) == (False, True)


async def test_without_keys_everybody_on_the_machine_is_an_operator(tmp_path: Path) -> None:
    database = Database(create_sqlite_database(tmp_path / "usage.db"))
    app = console_app(database, tmp_path / "journals", has_accounts=False)
    async with console_client(app) as client:
        assert (await client.http.get("/")).headers["location"] == "/console"
        request_id = await ask(client)
        assert request_id in (await client.get("/requests")).text
        for route in CONSOLE_ROUTES:
            if route.method == "GET" and "{" not in route.path and route.path not in ("/events", "/login"):
                assert (await client.get(route.path)).status_code == 200, route.path
        foreign = await client.http.get("/console", headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
    database.close()


async def test_without_keys_the_network_sees_models_but_no_records(tmp_path: Path) -> None:
    database = Database(create_sqlite_database(tmp_path / "usage.db"))
    async with console_client(console_app(database, tmp_path, has_accounts=False, host="0.0.0.0")) as client:
        await ask(client, is_shown=False)
        for path, status in (("/", 200), ("/models", 200), ("/requests", 404), ("/usage", 404), ("/health", 403)):
            assert (await client.get(path)).status_code == status, path
    database.close()


@pytest.mark.parametrize(
    "sent_by_proxy",
    [
        {"host": "llm.example.com"},
        {"x-forwarded-for": "203.0.113.9"},
        {"x-forwarded-for": "203.0.113.9", "host": "127.0.0.1:8000"},
        {"x-forwarded-host": "llm.example.com"},
        {"forwarded": "for=203.0.113.9"},
        {"via": "1.1 proxy"},
    ],
)
@pytest.mark.parametrize("proxies", [(), ("127.0.0.1",)])
async def test_without_keys_whoever_a_proxy_on_the_machine_lets_in_is_no_operator(
    sent_by_proxy: dict[str, str], proxies: tuple[str, ...], tmp_path: Path
) -> None:
    app = console_app(None, tmp_path, has_accounts=False, allowed_hosts=("llm.example.com",), proxies=proxies)
    async with console_client(app) as client:
        assert (await client.get("/health")).status_code == 200
        for path, status in (("/models", 200), ("/health", 403), ("/audit", 403)):
            response = await client.http.get(f"/console{path}", headers=sent_by_proxy)
            assert response.status_code == status, path


async def test_cookies_of_others_do_not_end_a_session(account: AccountFixture, app: App) -> None:
    async with console_client(app, key=account.new_key()) as client:
        own = "; ".join(f"{name}={value}" for name, value in client.http.cookies.items())
        client.http.cookies.clear()
        for other in ('{"not": "a cookie"}', 'quoted="' + r"\\" * 1000, "nothing", "=", "a=b=c"):
            response = await client.http.get("/console/keys", headers={"cookie": f"{other}; {own}"})
            assert response.status_code == 200, other


async def test_without_its_database_the_playground_says_like_any_page_that_the_server_is_busy(
    account: AccountFixture, app: App
) -> None:
    async with console_client(app, key=account.new_key()) as client:
        headers = {"x-form-token": await client.token("/playground")}
        with account.database.write() as connection:
            connection.exec_driver_sql("ALTER TABLE console_sessions RENAME TO gone")
        page = await client.get("/playground")
        answer = await client.http.post("/console/api/v1/chat/completions", json=CHAT, headers=headers)
    assert (page.status_code, "The server is busy" in page.text) == (503, True)
    assert (answer.status_code, answer.text) == (503, "The server is busy")


async def test_keys_of_the_settings_open_the_playground_but_no_records(tmp_path: Path) -> None:
    database = Database(create_sqlite_database(tmp_path / "usage.db"))
    app = console_app(database, tmp_path / "journals", has_accounts=False, keys={"sk-of-the-settings": "lab"})
    async with console_client(app, key="sk-of-the-settings") as client:
        await ask(client, is_shown=False)
        for path, status in (("/", 200), ("/models", 200), ("/requests", 404), ("/usage", 404), ("/audit", 403)):
            assert (await client.get(path)).status_code == status, path
    database.close()


async def test_a_server_that_records_nothing_says_how_to_change_that(tmp_path: Path) -> None:
    async with console_client(console_app(None, tmp_path, has_accounts=False)) as client:
        for path in ("/", "/playground", "/models", "/health", "/audit", "/keys", "/accounts"):
            assert (await client.get(path)).status_code == 200, path
        for path in ("/requests", "/usage", "/queue", "/responses"):
            response = await client.get(path)
            assert (response.status_code, "record_usage" in response.text) == (404, True), path


async def test_the_path_and_the_hosts_of_the_console_are_settings(tmp_path: Path) -> None:
    console = ConsoleSettings(base_path="/ui", hosts=("console.localhost",))
    app = console_app(None, tmp_path, has_accounts=False, console=console, root_path="/llm")
    async with console_client(app, url="http://console.localhost") as client:
        page = await client.http.get("/ui/models")
        assert (page.status_code, 'href="/llm/ui/playground"' in page.text) == (200, True)
        assert (await client.http.get("/llm/ui/models")).status_code == 200
        assert (await client.http.get("/ui/models", headers={"host": "localhost"})).status_code == 404


async def test_models_that_come_and_go_are_unloaded_by_operators(account: AccountFixture, tmp_path: Path) -> None:
    app = console_app(account.database, tmp_path, engines={"echo": EchoEngine(), "fixed": EchoEngine()}, lazy=["echo"])
    async with console_client(app, key=ADMIN_KEY) as operator, another_client(app, key=account.new_key()) as holder:
        await ask(holder)
        page = (await operator.get("/models")).text
        assert page.count("/models/unload") == 1
        assert ("Source echo" in plain(page), "prompt tokens since the start" in plain(page)) == (True, True)
        assert "/models/unload" not in (await holder.get("/models")).text
        alone = await operator.submit("/models", "/models/unload", model="echo")
        assert (alone.status_code, "no process for engines" in alone.text) == (409, True)


async def test_jobs_are_listed_cancelled_and_run_again(account: AccountFixture, tmp_path: Path) -> None:
    slow = console_app(account.database, tmp_path / "journals", engines={"echo": EchoEngine(tokens_per_second=0.5)})
    async with console_client(slow, key=account.new_key()) as client, another_client(slow, key=ADMIN_KEY) as operator:
        headers = {"x-form-token": await client.token("/playground"), "prefer": "respond-async"}
        queued = await client.http.post("/console/api/v1/chat/completions", json=CHAT, headers=headers)
        assert queued.status_code == 202
        page = (await client.get("/queue")).text
        match = re.search(r"/queue/(job_\w+)/cancel", page)
        assert match is not None
        assert (await client.submit("/queue", f"/queue/{match[1]}/cancel")).status_code == 303
        assert "cancelled" in (await client.get("/queue", state="cancelled")).text
        assert (await client.submit("/queue", f"/queue/{match[1]}/retry")).status_code == 403
        assert (await operator.submit("/queue", f"/queue/{match[1]}/retry")).status_code == 303
        assert f"/queue/{match[1]}/cancel" in (await operator.get("/queue")).text


def test_a_sealed_key_is_opened_by_its_secret_only() -> None:
    sealed = seal("sk-0123456789", "secret")
    assert unseal(sealed, "secret") == "sk-0123456789"
    assert unseal(sealed, "another") != "sk-0123456789"
    assert b"sk-0123456789" not in sealed
    assert seal("sk-0123456789", "secret") != sealed
