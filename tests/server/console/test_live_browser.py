"""Live pages and the list of requests in a browser: what arrives, what is missing, and what ends them."""

import re
from concurrent.futures import ThreadPoolExecutor

from playwright.sync_api import Page, expect

from tests.server.console.conftest import ConsoleServer, OpenPage


def hide_and_show(page: Page) -> None:
    """Let the page believe that its tab was hidden and shown again: live data begins anew."""
    for is_hidden in (True, False):
        hide(page, is_hidden=is_hidden)


def hide(page: Page, *, is_hidden: bool) -> None:
    page.evaluate(
        """(isHidden) => {
            Object.defineProperty(document, "hidden", {value: isHidden, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        is_hidden,
    )


def test_a_live_page_says_that_its_session_has_ended_and_leads_back(open_page: OpenPage) -> None:
    for path in ("", "/requests"):
        with open_page() as page:
            page.goto(f"/console{path}")
            expect(page.locator("#live-badge")).to_have_text("live")
            page.context.clear_cookies()
            hide_and_show(page)
            expect(page.locator("#live-badge")).to_have_text("signed out")
            page.get_by_role("link", name="Sign in").click()
            expect(page).to_have_url(re.compile("/console/login"))


def test_a_live_page_goes_on_after_a_proxys_error(open_page: OpenPage) -> None:
    with open_page() as page:
        page.goto("/console/requests")
        expect(page.locator("#live-badge")).to_have_text("live")
        page.route("**/events*", lambda route: route.fulfill(status=404))
        hide_and_show(page)
        expect(page.locator("#live-badge")).to_have_text("reconnecting")
        page.unroute("**/events*")
        expect(page.locator("#live-badge")).to_have_text("live")


def test_a_live_page_says_where_requests_are_missing(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page() as page:
        page.goto("/console/requests")
        expect(page.locator("#live-badge")).to_have_text("live")
        before = server.ask("Before").headers["x-request-id"]
        expect(page.locator(f"#live-rows a[href$='{before}']")).to_be_visible()
        hide(page, is_hidden=True)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: server.ask("x", max_tokens=1), range(60)))
        hide(page, is_hidden=False)
        expect(page.locator("#live-rows .gap")).to_contain_text("Load the page again")
        below = page.locator("#live-rows .gap + tr a[href*='/requests/']")
        expect(below.first).to_have_attribute("href", re.compile(before))


def test_further_rows_for_an_ended_session_lead_to_signing_in(open_page: OpenPage, server: ConsoleServer) -> None:
    for _ in range(51):
        server.ask("More", max_tokens=1)
    with open_page() as page:
        page.goto("/console/requests?account=acme")
        page.context.clear_cookies()
        page.get_by_role("link", name="Older requests").click()
        expect(page).to_have_url(re.compile("/console/login"))


def test_a_request_of_any_client_appears_as_it_ends(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page() as page:
        page.goto("/console/requests")
        expect(page.locator("#live-badge")).to_have_text("live")
        request_id = server.ask("Here I am").headers["x-request-id"]
        row = page.locator(f"#live-rows a[href$='{request_id}']")
        expect(row).to_be_visible()
        page.get_by_role("button", name="Live").click()
        expect(page.locator("#live-badge")).to_have_text("paused")
        row.click()
        expect(page.get_by_role("heading", name="Price")).to_be_visible()


def test_older_requests_are_appended_once_each(open_page: OpenPage, server: ConsoleServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(server.ask, "x", max_tokens=1) for _ in range(60)]
        ids = {each.result().headers["x-request-id"] for each in sent}
    with open_page(server.key) as page:
        page.goto("/console/requests")
        page.get_by_role("button", name="Live").click()
        rows = page.locator("#live-rows tr[data-request]")
        expect(rows).to_have_count(50)
        server.ask("meanwhile")
        while page.get_by_role("link", name="Older requests").count():
            before = rows.count()
            page.get_by_role("link", name="Older requests").click()
            expect(rows).not_to_have_count(before)
        links = page.locator("#live-rows a[title]").evaluate_all("links => links.map((link) => link.title)")
    assert len(links) == len(set(links))
    assert ids <= set(links)


def test_the_keyboard_goes_on_behind_the_rows_that_were_there(open_page: OpenPage, server: ConsoleServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: server.ask("x", max_tokens=1), range(51)))
    with open_page() as page:
        page.goto("/console/requests?account=acme")
        rows = page.locator("#live-rows tr[data-request]")
        page.get_by_role("link", name="Older requests").press("Enter")
        expect(rows.nth(50).get_by_role("link").first).to_be_focused()
