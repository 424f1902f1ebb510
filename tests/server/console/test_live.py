"""Live data without a browser: who gets which requests, and when streams end.

A served app, since the client of the others collects a stream before it returns.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import create_key, disable_key, list_keys
from dragoman.accounts.database.connections import Database
from dragoman.server.app import App
from tests.support.accounting import ADMIN_KEY
from tests.support.console import TOKEN, console_app, served
from tests.support.metered import AccountFixture
from tests.support.sqlite_files import create_sqlite_database
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


class LiveServer:
    """A served console whose app a test may drain."""

    def __init__(self, app: App, url: str, account: AccountFixture) -> None:
        self.app = app
        self.url = url
        self.account = account

    @contextlib.contextmanager
    def signed_in(self, key: str) -> Iterator[httpx.Client]:
        """Open a client with a session."""
        with httpx.Client(base_url=self.url, timeout=TEST_TIMEOUT_SECONDS) as client:
            match = TOKEN.search(client.get("/console/login").text)
            assert match is not None
            fields = {"form_token": match[1] or match[2], "key": key}
            assert client.post("/console/login", data=fields).status_code == 303
            yield client

    def ask(self, key: str) -> str:
        """Send a chat and return its id."""
        body = {"model": "echo", "messages": [{"role": "user", "content": "hey"}]}
        headers = {"authorization": f"Bearer {key}"}
        response = httpx.post(
            f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=TEST_TIMEOUT_SECONDS
        ).raise_for_status()
        return response.headers["x-request-id"]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    database = Database(create_sqlite_database(tmp_path / "accounts.db"))
    app = console_app(database, tmp_path / "journals")
    with served(app) as url:
        yield LiveServer(app, url, AccountFixture(database))
    database.close()


def ticks(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield the data of each event of a stream."""
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def rows_until(stream: Iterator[dict[str, Any]], request_id: str) -> str:
    """Read until a row of this request comes, and return all rows until then."""
    rows = ""
    for tick in stream:
        rows += "".join(tick["rows"])
        if request_id in rows:
            return rows
    raise AssertionError("the stream ended without the request")


def test_a_holder_gets_only_its_own_requests_and_no_gauges(live: LiveServer) -> None:
    database = live.account.database
    other = create_account(database, "owl").id
    deposit(database, other, 10**9)
    own, foreign = live.account.new_key(), create_key(database, other).secret
    with live.signed_in(own) as holder, holder.stream("GET", "/console/events?after=0") as response:
        stream = ticks(response.iter_lines())
        assert next(stream)["gauges"] is None
        hidden = live.ask(foreign)
        rows = rows_until(stream, live.ask(own))
    assert hidden not in rows
    with live.signed_in(ADMIN_KEY) as operator, operator.stream("GET", "/console/events?after=0") as response:
        first = next(ticks(response.iter_lines()))
    assert hidden in "".join(first["rows"])
    assert first["gauges"]["models"][0]["name"] == "echo"


def test_a_stream_continues_after_the_last_request_that_the_page_has(live: LiveServer) -> None:
    key = live.account.new_key()
    with live.signed_in(key) as holder:
        with holder.stream("GET", "/console/events?after=0") as response:
            stream = ticks(response.iter_lines())
            first = live.ask(key)
            rows_until(stream, first)
        missed = live.ask(key)
        with holder.stream("GET", "/console/events", headers={"last-event-id": "1"}) as response:
            rows = rows_until(ticks(response.iter_lines()), missed)
    assert first not in rows


def test_requests_that_a_page_has_missed_are_those_of_its_account_or_it_says_that_some_are_missing(
    live: LiveServer,
) -> None:
    database = live.account.database
    other = create_account(database, "owl").id
    deposit(database, other, 10**9)
    own, foreign = live.account.new_key(), create_key(database, other).secret
    missed = live.ask(own)
    for _ in range(51):
        live.ask(foreign)
    for key, is_there, is_cut in ((own, True, False), (foreign, False, True), (ADMIN_KEY, False, True)):
        with live.signed_in(key) as client, client.stream("GET", "/console/events?after=0") as response:
            first = next(ticks(response.iter_lines()))
        assert (missed in "".join(first["rows"]), first["is_cut"]) == (is_there, is_cut)


def test_a_page_that_has_the_newest_requests_gets_none_again(live: LiveServer) -> None:
    key = live.account.new_key()
    for _ in range(60):
        live.ask(key)
    for _ in range(2):  # Nobody listens in between.
        with live.signed_in(ADMIN_KEY) as operator, operator.stream("GET", "/console/events?after=60") as response:
            stream = ticks(response.iter_lines())
            found = [next(stream) for _ in range(3)]
        assert [(tick["rows"], tick["is_cut"]) for tick in found] == [([], False)] * 3


def test_first_tokens_are_those_of_the_requests_since_somebody_looks(live: LiveServer) -> None:
    key = live.account.new_key()
    live.ask(key)
    with live.signed_in(ADMIN_KEY) as operator, operator.stream("GET", "/console/events?after=0") as response:
        stream = (tick["gauges"] for tick in ticks(response.iter_lines()))
        assert next(stream)["first_token_p50"] is None, "nothing began since"
        live.ask(key)
        begun = next(gauges for gauges in stream if gauges["first_token_p50"] is not None)
    assert 0 < begun["first_token_p50"] <= begun["first_token_p95"]


def test_a_stream_ends_with_its_key(live: LiveServer) -> None:
    with live.signed_in(live.account.new_key()) as holder, holder.stream("GET", "/console/events") as response:
        stream = ticks(response.iter_lines())
        next(stream)
        disable_key(live.account.database, list_keys(live.account.database)[-1].id)
        assert len(list(stream)) <= 20


def test_a_stream_ends_when_the_server_drains(live: LiveServer) -> None:
    with live.signed_in(ADMIN_KEY) as operator, operator.stream("GET", "/console/events") as response:
        stream = ticks(response.iter_lines())
        next(stream)
        live.app.drain()
        assert len(list(stream)) <= 2


def test_one_key_does_not_take_the_live_data_of_all(live: LiveServer) -> None:
    holder_key = live.account.new_key()
    with (
        live.signed_in(holder_key) as holder,
        live.signed_in(ADMIN_KEY) as operator,
        contextlib.ExitStack() as open_pages,
    ):
        statuses = []
        lines = []  # A response ends with the iterator over its lines.
        for _ in range(17):
            response = open_pages.enter_context(holder.stream("GET", "/console/events"))
            statuses.append(response.status_code)
            if response.is_success:
                lines.append(response.iter_lines())
                assert next(lines[-1]) == "retry: 2000"
        assert statuses == [*[200] * 16, 503]
        assert open_pages.enter_context(operator.stream("GET", "/console/events")).status_code == 200
