"""What clients send and receive is kept only if the settings say so, and shown to whom it concerns."""

import asyncio
from pathlib import Path

import pytest

from dragoman.accounts.administration.accounts import create_account
from dragoman.accounts.administration.audit_log import list_audit_entries
from dragoman.accounts.administration.keys import create_key
from dragoman.accounts.database.request_bodies import find_body
from dragoman.server.app import App
from dragoman.server.console_settings import ConsoleSettings
from tests.support.accounting import ADMIN_KEY
from tests.support.console import ConsoleClient, another_client, ask, console_app, console_client, plain
from tests.support.metered import AccountFixture
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


def keeping(account: AccountFixture, folder: Path, *excepted: str) -> App:
    settings = ConsoleSettings(keep_bodies=True, keep_bodies_except=excepted)
    return console_app(account.database, folder / "journals", console=settings)


async def kept_page(client: ConsoleClient, request_id: str) -> str:
    """Return the page of the bodies as soon as they are stored."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while (response := await client.get(f"/requests/{request_id}/body")).status_code == 404:
            pass
    return response.text


async def test_kept_bodies_are_shown_to_their_account_and_to_operators_who_leave_a_trace(
    account: AccountFixture, tmp_path: Path
) -> None:
    app = keeping(account, tmp_path)
    foreign = create_key(account.database, create_account(account.database, "other").id).secret
    async with (
        console_client(app, key=account.new_key()) as client,
        another_client(app, key=ADMIN_KEY) as operator,
        another_client(app, key=foreign) as stranger,
    ):
        text = "<script>window.pwned=1</script>"
        request_id = await ask(client, messages=[{"role": "user", "content": text}])
        page = await kept_page(client, request_id)
        assert page.count("&lt;script&gt;window.pwned=1&lt;/script&gt;") == 2, "sent and received"
        assert "authorization" not in page.lower()
        assert "Body" in plain((await client.get(f"/requests/{request_id}")).text)
        streamed = await ask(client, stream=True)
        assert "data: [DONE]" in await kept_page(client, streamed)
        path = f"/requests/{request_id}/body"
        assert (await stranger.get(path)).status_code == 404
        assert (await stranger.submit("/requests", f"{path}/delete")).status_code == 404
        assert list_audit_entries(account.database) == []
        assert (await operator.get(path)).status_code == 200
        assert (await client.submit("/requests", f"{path}/delete")).status_code == 303
        assert (await operator.get(path)).status_code == 404
        assert (await operator.submit("/requests", f"/requests/{streamed}/body/delete")).status_code == 303
    subjects = [(entry.action, entry.subject) for entry in list_audit_entries(account.database)]
    assert subjects == [("delete body", f"request {streamed}"), ("read body", f"request {request_id}")]


@pytest.mark.parametrize("excepted", [True, False], ids=["excepted", "off"])
async def test_bodies_of_others_are_not_kept(account: AccountFixture, tmp_path: Path, excepted: bool) -> None:
    app = keeping(account, tmp_path, "acme") if excepted else console_app(account.database, tmp_path)
    async with console_client(app, key=account.new_key()) as client:
        request_id = await ask(client)
        assert '/body"' not in (await client.get(f"/requests/{request_id}")).text
    assert find_body(account.database, request_id) is None, "not even when the server has stopped"


async def test_turning_it_off_deletes_what_was_kept(account: AccountFixture, tmp_path: Path) -> None:
    async with console_client(keeping(account, tmp_path), key=account.new_key()) as client:
        request_id = await ask(client)
        await kept_page(client, request_id)
    async with console_client(console_app(account.database, tmp_path), key=ADMIN_KEY) as operator:
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while (await operator.get(f"/requests/{request_id}/body")).status_code != 404:
                pass
    assert find_body(account.database, request_id) is None
