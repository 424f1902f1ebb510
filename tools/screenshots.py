"""Pictures of the console for the documents, taken in Chromium.

.venv/bin/python -m tools.screenshots            # all of docs/images/console
.venv/bin/python -m tools.screenshots usage      # only pages whose names begin like this

The records are made up by tests/support/console_data.py; the pictures of the first hour, and of the playground, show a
server with the bundled model.
"""

import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import msgspec
from playwright.sync_api import Browser, Page

from dragoman.accounts.administration.audit_log import Administrator
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.responses import ResponseTable
from dragoman.core.context import account_owner
from dragoman.core.responses import ResponseRecord
from dragoman.engines.echo import EchoEngine
from dragoman.server.console_settings import ConsoleSettings
from tests.support import first_hour
from tests.support.accounting import ADMIN_KEY
from tests.support.browser import open_browser, watched_page
from tests.support.console import console_app, served, upstream_deployment
from tests.support.console_data import MODELS, open_with_clock, record_a_month
from tests.support.server import running_server
from tests.support.sqlite_files import create_sqlite_database
from tests.support.talkative_engines import ProbedEcho, RefusingEngine

FOLDER = Path(__file__).parent.parent / "docs" / "images" / "console"

WIDTHS = {1440: 900, 390: 844}
SCHEMES = ("light", "dark")

OPERATOR_PAGES = {
    "overview": "",
    "requests": "/requests",
    "usage": "/usage",
    "usage-month": "/usage?period=30d&group=account_id",
    "queue": "/queue",
    "responses": "/responses",
    "models": "/models",
    "upstreams": "/upstreams",
    "keys": "/keys",
    "key": "/keys/3",
    "accounts": "/accounts",
    "account": "/accounts/acme",
    "health": "/health",
    "audit": "/audit",
}
HOLDER_PAGES = {"holder-overview": "", "holder-keys": "/keys"}

_MODEL = "smollm2-135m-instruct"


def main(wanted: Sequence[str]) -> None:
    """Take the pictures whose names begin like one of `wanted`; none: all."""
    FOLDER.mkdir(parents=True, exist_ok=True)

    def is_wanted(name: str) -> bool:
        return not wanted or any(name.startswith(each) for each in wanted)

    with open_browser() as browser, tempfile.TemporaryDirectory() as folder:
        if any(map(is_wanted, ("login", "request-detail", "job", *OPERATOR_PAGES, *HOLDER_PAGES))):
            _picture_records(browser, Path(folder), is_wanted)
        if is_wanted("first-hour") or is_wanted("playground"):
            _picture_first_hour(browser, Path(folder))


def _variants() -> Iterator[tuple[str, dict[str, object]]]:
    for width, height in WIDTHS.items():
        for scheme in SCHEMES:
            yield f"{width}-{scheme}", {"viewport": {"width": width, "height": height}, "color_scheme": scheme}


def _picture_records(browser: Browser, folder: Path, is_wanted: Callable[[str], bool]) -> None:
    database, clock = open_with_clock(create_sqlite_database(folder / "records.db"))
    key = record_a_month(database, clock)
    database.close()
    database = Database(database.url)  # From now on with the machine's clock.
    engines = {name: EchoEngine(tokens_per_second=3) for name in MODELS if name != "coder"}
    # The refusing one first: it is tried, and left out after five failures.
    coder = upstream_deployment(
        "coder", RefusingEngine("connection refused"), *(ProbedEcho("qwen3-coder", "qwen3-embed") for _ in range(2))
    )
    console = ConsoleSettings(keep_bodies=True)
    app = console_app(
        database,
        folder / "journals",
        engines=engines,
        deployments=[coder],
        lazy=["small"],
        console=console,
        origins={"deployments": "dragoman.toml", "console.keep_bodies": "environment: DRAGOMAN_CONSOLE_KEEP_BODIES"},
        concurrent_jobs=3,
    )
    with served(app) as url:
        _queue_jobs(url, key)
        _use_upstreams(database, url, key)
        _store_responses(database)
        for suffix, options in _variants():
            for pages, secret in ((OPERATOR_PAGES, ADMIN_KEY), (HOLDER_PAGES, key)):
                with watched_page(browser, url, **options) as page:
                    page.goto("/console/login")
                    if is_wanted("login"):
                        _take(page, f"login-{suffix}")
                    _sign_in(page, secret)
                    for name, path in pages.items():
                        if is_wanted(name):
                            page.goto(f"/console{path}")
                            if name == "overview":
                                _wait_for_first_tokens(page, url, key)
                            _take(page, f"{name}-{suffix}")
                    if pages is OPERATOR_PAGES and is_wanted("job"):
                        page.goto("/console/queue?state=queued")
                        page.locator("tbody th a").first.click()
                        page.wait_for_url("**/queue/job_*")
                        _take(page, f"job-{suffix}")
                    if pages is OPERATOR_PAGES and is_wanted("request-detail"):
                        page.goto("/console/requests?model=coder")
                        page.locator("#live-rows a").first.click()
                        page.wait_for_url("**/requests/*")
                        _take(page, f"request-detail-{suffix}")
                        page.get_by_role("link", name="Body").click()
                        page.wait_for_url("**/body")
                        _take(page, f"request-body-{suffix}")
    database.close()


def _queue_jobs(url: str, key: str) -> None:
    headers = {"authorization": f"Bearer {key}", "prefer": "respond-async"}
    for number in range(9):
        # Long enough that some still wait at the last picture.
        text = f"Summarize report {number}: revenue, costs and what changed since the last quarter. " * 6
        body = {"model": "assistant", "messages": [{"role": "user", "content": text}]}
        response = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers).raise_for_status()
        if number == 5:
            httpx.delete(f"{url}{response.headers['location']}", headers=headers)


def _wait_for_first_tokens(page: Page, url: str, key: str) -> None:
    """Send requests while somebody looks, and wait until the page has counted them."""
    for number in range(3):
        body = {"model": "assistant", "max_tokens": 2, "messages": [{"role": "user", "content": f"Report {number}"}]}
        headers = {"authorization": f"Bearer {key}"}
        httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers).raise_for_status()
    page.wait_for_function("document.getElementById('gauge-first').textContent.includes('p95')")


def _use_upstreams(database: Database, url: str, key: str) -> None:
    for number in range(12):
        body = {
            "model": "coder",
            "messages": [{"role": "user", "content": f"Reverse list {number} in Rust, in place."}],
        }
        headers = {"authorization": f"Bearer {key}"}
        httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers).raise_for_status()
    Administrator(database, "ada").drain_upstream("coder/2", "coder", "http://gpu2:8000", is_draining=True)


def _store_responses(database: Database) -> None:
    table = ResponseTable(database, retention_days=30, max_bytes=2**30)
    names = [f"resp_{secrets.token_hex(16)}" for _ in range(9)]
    for number, name in enumerate(names):
        previous = names[number - 1] if number % 4 else None
        sent = msgspec.json.encode(secrets.token_hex(600 * (number + 1)))
        record = ResponseRecord(id=name, previous_id=previous, input=sent, response=b"{}")
        table.store(record, account_owner(1 + number % 3))


def _picture_first_hour(browser: Browser, folder: Path) -> None:
    settings = folder / "dragoman.toml"
    settings.write_text(first_hour.SETTINGS.format(folder=folder, key=first_hour.ADMIN_KEY))
    with (
        running_server("--config", str(settings)) as server,
        watched_page(browser, server.url, viewport={"width": 1440, "height": 900}) as page,
    ):

        def picture(name: str) -> None:
            _take(page, f"first-hour-{name}")
            if name == "playground":
                for suffix, options in _variants():
                    page.emulate_media(color_scheme=str(options["color_scheme"]))  # type: ignore[arg-type]
                    page.set_viewport_size(options["viewport"])  # type: ignore[arg-type]
                    _take(page, f"playground-{suffix}")
                page.emulate_media(color_scheme="light")
                page.set_viewport_size({"width": 1440, "height": 900})

        first_hour.sign_in(page, picture)
        first_hour.set_price(page)
        key = first_hour.create_account_and_key(page, picture)
        first_hour.chat(page, picture)
        first_hour.ask_as_a_client(page, server.url, key, _MODEL, picture)


def _sign_in(page: Page, key: str) -> None:
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/console")


def _take(page: Page, name: str) -> None:
    """Take a picture of the whole page, but not of more than two screens: long lists repeat themselves."""
    page.wait_for_load_state("load")
    page.mouse.move(0, 0)
    badge = page.locator("#live-badge")
    if badge.count():
        page.wait_for_function("document.getElementById('live-badge').textContent === 'live'")
    page.wait_for_timeout(400)  # Charts, and the pause of animations.
    size = page.viewport_size or {"width": 1440, "height": 900}
    height = int(page.evaluate("document.documentElement.scrollHeight"))
    clip = {"x": 0, "y": 0, "width": size["width"], "height": min(height, 2 * size["height"])}
    page.screenshot(path=FOLDER / f"{name}.png", full_page=True, clip=clip, animations="disabled")  # type: ignore[arg-type]
    print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
