"""Debian's Chromium, and pages in it that report whatever a person would not see: errors, blocked parts, requests to
other places."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, expect, sync_playwright

from tests.support.timeouts import TEST_TIMEOUT_SECONDS

CHROMIUM = shutil.which("chromium")

MISSING = "there is no chromium: apt-get install chromium"

AXE = Path(__file__).parents[1] / "data" / "axe-core-4.14.1.min.js"

_ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")
"""Without a sandbox, which needs rights that containers rarely have: the tests load pages of this machine only."""

_TIMEOUT_MILLISECONDS = TEST_TIMEOUT_SECONDS * 1000

_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start the browser, or skip the test if there is none."""
    if CHROMIUM is None:
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        expect.set_options(timeout=_TIMEOUT_MILLISECONDS)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


class Watch:
    """Collects everything that no page of the console may cause."""

    def __init__(self, page: Page, url: str) -> None:
        self.problems: list[str] = []
        self._host = urlsplit(url).netloc
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", self._on_request)
        page.on("response", self._on_response)
        page.add_init_script(_VIOLATIONS)

    def _on_console(self, message: ConsoleMessage) -> None:
        # The browser reports the status of a refused request, which a test may ask for.
        if message.type in ("error", "warning") and "the server responded with a status of 4" not in message.text:
            self.problems.append(f"console: {message.text}")

    def _on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "about") and parts.netloc != self._host:
            self.problems.append(f"foreign request: {request.url}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 500:
            self.problems.append(f"status {response.status}: {response.url}")


@contextlib.contextmanager
def watched_page(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """Open a page in a browser context of its own, and fail at the end if it caused a problem."""
    context = browser.new_context(base_url=url, **options)
    context.set_default_timeout(_TIMEOUT_MILLISECONDS)
    page = context.new_page()
    watch = Watch(page, url)
    try:
        yield page
        violations: list[str] = page.evaluate("window.violations ?? []")
    finally:
        context.close()
    assert [*watch.problems, *violations] == []


def serious_findings(page: Page, rules: Sequence[str] = ()) -> list[str]:
    """Return what axe-core finds on the page that keeps somebody from using it. `rules`: only these, or else all."""
    if page.evaluate("typeof axe === 'undefined'"):
        page.evaluate(AXE.read_text())
    found: list[str] = page.evaluate(
        """async (rules) => (await axe.run(document, rules.length ? {runOnly: rules} : {})).violations
            .filter((each) => ["serious", "critical"].includes(each.impact))
            .map((each) => `${each.id}: ${each.nodes.map((node) => node.html).slice(0, 3).join(" ")}`)""",
        list(rules),
    )
    return found


def is_scrollable_sideways(page: Page) -> bool:
    """Whether the page is wider than the screen."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
