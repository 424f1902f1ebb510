"""A server and a browser for all tests of a module: both take a second to start."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page

from dragoman.accounts.database.connections import Database
from dragoman.server.app import App
from tests.support.accounting import ADMIN_KEY
from tests.support.browser import open_browser, watched_page
from tests.support.console import console_app, served, upstream_deployment
from tests.support.metered import AccountFixture
from tests.support.sqlite_files import create_sqlite_database
from tests.support.talkative_engines import ProbedEcho, RefusingEngine, SlowEcho, ThinkingEcho
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

HOSTILE_NAME = "<script>window.pwned=1</script>"

LONG_NAME = "owls-" + "o" * 100

OpenPage = Callable[..., AbstractContextManager[Page]]


class ConsoleServer:
    """A served console with one account and its key."""

    def __init__(self, url: str, account: AccountFixture) -> None:
        self.url = url
        self.account = account
        self.key = account.new_key()

    def ask(self, text: str, *, model: str = "echo", key: str | None = None, **fields: Any) -> httpx.Response:
        """Send a chat with the account's key, as a client of the API."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=TEST_TIMEOUT_SECONDS)

    def running_sequences(self) -> float:
        """Return how many sequences run, according to the metrics."""
        headers = {"authorization": f"Bearer {self.key}"}
        text = httpx.get(f"{self.url}/metrics", headers=headers, timeout=TEST_TIMEOUT_SECONDS).text
        lines = [line for line in text.splitlines() if line.startswith("dragoman_running_sequences{")]
        return sum(float(line.split()[1]) for line in lines)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a browser for the module: while it is open, no other event loop can run in this thread."""
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleServer]:
    folder = tmp_path_factory.mktemp("console")
    database = Database(create_sqlite_database(Path(folder) / "accounts.db"))
    engines = {"echo": ThinkingEcho(), "slow": SlowEcho(), LONG_NAME: ThinkingEcho()}
    pool = upstream_deployment("pool", RefusingEngine(HOSTILE_NAME), ProbedEcho(HOSTILE_NAME, "m" * 90))
    app = console_app(database, folder / "journals", engines=engines, deployments=[pool])
    account = AccountFixture(database)
    with served(app) as url:
        yield ConsoleServer(url, account)
    database.close()


@pytest.fixture
def open_page(browser: Browser, server: ConsoleServer) -> OpenPage:
    """Open a watched page, signed in with a key unless it is None."""

    @contextlib.contextmanager
    def opened(key: str | None = ADMIN_KEY, **options: Any) -> Iterator[Page]:
        with watched_page(browser, server.url, **options) as page:
            if key is not None:
                page.goto("/console/login")
                page.get_by_label("Key").fill(key)
                page.get_by_role("button", name="Sign in").click()
                page.wait_for_url("**/console")
            yield page

    return opened


@pytest.fixture
def account(tmp_path: Path) -> Iterator[AccountFixture]:
    database = Database(create_sqlite_database(tmp_path / "accounts.db"))
    yield AccountFixture(database)
    database.close()


@pytest.fixture
def app(account: AccountFixture, tmp_path: Path) -> App:
    return console_app(account.database, tmp_path / "journals")
