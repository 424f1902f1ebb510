"""The console's page of stored responses, without a browser."""

import re

import pytest

from dragoman.accounts.administration.audit_log import list_audit_entries
from dragoman.accounts.database.responses import ResponseTable
from dragoman.core.context import account_owner
from dragoman.core.responses import ResponseNotFound, ResponseRecord
from dragoman.server.app import App
from tests.support.accounting import ADMIN_KEY
from tests.support.console import another_client, console_client
from tests.support.metered import AccountFixture

ROW = re.compile(r'scope="row" class="mono" title="(\w+)"')


async def test_stored_responses_are_listed_and_deleted_by_their_owner(account: AccountFixture, app: App) -> None:
    table = ResponseTable(account.database, retention_days=30, max_bytes=2**30)
    key = account.new_key()
    own, foreign = account_owner(account.account.id), account_owner(account.account.id + 1)
    names = [f"resp_{number:032}" for number in range(61)]
    for number, name in enumerate(names):
        previous = names[number - 1] if number else None
        record = ResponseRecord(id=name, previous_id=previous, input=b"[]", response=b"{}")
        table.store(record, foreign if number == 60 else own)
    async with console_client(app, key=key) as holder, another_client(app, key=ADMIN_KEY) as operator:
        first = (await holder.get("/responses")).text
        match = re.search(r"before=([^\"]+)", first)
        assert match is not None
        second = (await holder.get("/responses", before=match[1])).text
        shown = [ROW.findall(page) for page in (first, second)]
        assert (len(shown[0]), sorted(shown[0] + shown[1])) == (50, names[:60])
        assert (await holder.submit("/responses", f"/responses/{names[60]}/delete")).status_code == 404
        assert (await holder.submit("/responses", f"/responses/{names[59]}/delete")).status_code == 303
        assert names[59] not in ROW.findall((await holder.get("/responses")).text)
        assert (await operator.submit("/responses", f"/responses/{names[60]}/delete")).status_code == 303
        assert (await holder.get("/responses", before="x")).status_code == 400
    assert table.find(names[58], own) is not None
    with pytest.raises(ResponseNotFound):
        table.find(names[60], foreign)
    assert [entry.subject for entry in list_audit_entries(account.database)] == [f"response {names[60]}"]
