"""The console's page of upstreams, and the attempts and movements of a request, without a browser."""

from pathlib import Path

from dragoman.accounts.administration.audit_log import list_audit_entries
from dragoman.accounts.administration.movements import movements_of
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.administration.usage import list_usage
from dragoman.core.money import format_amount
from dragoman.engines.echo import EchoEngine
from tests.support.accounting import ADMIN_KEY
from tests.support.console import another_client, ask, console_app, console_client, plain, upstream_deployment
from tests.support.metered import AccountFixture
from tests.support.talkative_engines import ProbedEcho, RefusingEngine


async def test_upstreams_are_shown_added_drained_and_removed(account: AccountFixture, tmp_path: Path) -> None:
    refusing = RefusingEngine("connection refused")
    pool = upstream_deployment("pool", refusing, ProbedEcho("llama", "qwen"))
    app = console_app(account.database, tmp_path / "journals", deployments=[pool])
    async with console_client(app, key=ADMIN_KEY) as operator, another_client(app, key=account.new_key()) as holder:
        await ask(holder, model="pool")
        page = (await operator.get("/upstreams")).text
        row = plain(page[page.index("pool/0") : page.index("pool/1")])
        assert ("not well" in row, "1 refused 1" in row, "connection refused" in row) == (True, True, True)
        row = plain(page[page.index("pool/1") :])
        assert ("ready" in row, "0 of 64; 1 by others, KV 25 % 1 none" in row, "vllm 2 models llama qwen" in row) == (
            True,
            True,
            True,
        )
        assert (await operator.submit("/upstreams", "/upstreams/probe", upstream="pool/0")).status_code == 303
        assert refusing.probes == 1
        assert (await operator.submit("/upstreams", "/upstreams/probe", upstream="pool/7")).status_code == 404
        assert (await operator.submit("/upstreams", "/upstreams/drain", upstream="pool/1")).status_code == 303
        assert "Undrain" in (await operator.get("/upstreams")).text
        assert (await operator.submit("/upstreams", "/upstreams/undrain", upstream="pool/1")).status_code == 303
        added = await operator.submit("/upstreams", "/upstreams", deployment="echo", url="http://gpu9:1", priority="2")
        assert added.status_code == 303
        assert "http://gpu9:1" in (await operator.get("/upstreams")).text
        wrong = await operator.submit("/upstreams", "/upstreams", deployment="echo", url="ftp://gpu9")
        assert wrong.status_code == 400
        assert (await operator.submit("/upstreams", "/upstreams/remove", upstream="pool/1")).status_code == 404
        assert (await operator.submit("/upstreams", "/upstreams/remove", upstream="echo/a1")).status_code == 303
        assert "echo/a1" not in (await operator.get("/upstreams")).text
    actions = {entry.action for entry in list_audit_entries(account.database) if entry.actor == "ada"}
    assert actions == {"add upstream", "drain upstream", "undrain upstream", "remove upstream"}


async def test_a_server_without_upstreams_says_how_to_have_one(tmp_path: Path) -> None:
    async with console_client(console_app(None, tmp_path, has_accounts=False)) as client:
        page = (await client.get("/upstreams")).text
        assert ("No other server answers here" in page, "deployments.upstreams" in page) == (True, True)
        assert (await client.submit("/upstreams", "/upstreams/drain", upstream="echo/0")).status_code == 404


async def test_a_request_shows_its_attempts_and_its_movements(account: AccountFixture, tmp_path: Path) -> None:
    set_price(account.database, "pool", 1000, 2000)
    pool = upstream_deployment("pool", RefusingEngine("connection refused"), ProbedEcho("llama"))
    engines = {"free": EchoEngine()}
    app = console_app(account.database, tmp_path / "journals", engines=engines, deployments=[pool])
    async with console_client(app, key=account.new_key()) as client:
        request_id = await ask(client, model="pool")
        page = plain((await client.get(f"/requests/{request_id}")).text)
        (used,) = list_usage(account.database)
        assert [(each.replica, each.outcome) for each in used.recorded_attempts] == [
            ("pool/0", "refused"),
            ("pool/1", "finished"),
        ]
        assert ("pool/0 refused" in page, "pool/1 finished" in page) == (True, True)
        hold, charge = movements_of(account.database, used)
        assert (hold.kind, charge.kind, charge.charges, -charge.holds) == ("hold", "charge", used.charge, hold.holds)
        for amount in (hold.balance, hold.holds, charge.balance, charge.charges):
            assert format_amount(amount) in page
        listed = plain((await client.get("/requests")).text)
        assert "pool/1, attempt 2" in listed
        free = plain((await client.get(f"/requests/{await ask(client, model='free')}")).text)
        assert ("Attempts" in free, "It moved no money" in free) == (False, True)
