"""docs/first-hour.md, done by a browser with a server that its command started: every part has to work together."""

from pathlib import Path

from playwright.sync_api import Browser

from dragoman.accounts.administration.accounts import find_account
from dragoman.accounts.administration.usage import list_usage
from dragoman.accounts.database.connections import Database
from dragoman.core.money import format_amount
from tests.support import first_hour
from tests.support.browser import watched_page
from tests.support.server import running_server


def no_picture(_name: str) -> None:
    """Take no picture; tools/screenshots.py does."""


def test_the_first_hour_ends_with_a_price(browser: Browser, tmp_path: Path) -> None:
    settings = tmp_path / "dragoman.toml"
    settings.write_text(first_hour.SETTINGS.format(folder=tmp_path, key=first_hour.ADMIN_KEY))
    with running_server("echo", "--config", str(settings)) as server, watched_page(browser, server.url) as page:
        first_hour.sign_in(page, no_picture)
        first_hour.set_price(page)
        key = first_hour.create_account_and_key(page, no_picture)
        first_hour.chat(page, no_picture)
        price = first_hour.ask_as_a_client(page, server.url, key, "echo", no_picture)
        database = Database(f"sqlite:///{tmp_path}/accounts.db")
        newest, chat = list_usage(database)
        assert price == format_amount(newest.charge) != "0.00"
        assert find_account(database, "acme").charges == newest.charge + chat.charge
        database.close()
