"""The console in a browser: signing in, forms, keys, themes, narrow screens, and hostile texts.

A browser, since scripts, the policy against foreign ones, layout and focus exist nowhere else.
"""

import re
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Page, expect

from dragoman.accounts.administration.audit_log import Administrator
from dragoman.accounts.administration.keys import KeyRules, list_keys
from tests.server.console.conftest import HOSTILE_NAME, LONG_NAME, ConsoleServer, OpenPage
from tests.support.accounting import ADMIN_KEY
from tests.support.browser import is_scrollable_sideways, serious_findings

OPERATOR_PAGES = (
    *("", "/playground", "/requests", "/usage", "/queue", "/responses", "/models", "/upstreams", "/keys", "/accounts"),
    *("/accounts/acme",),
    *("/keys/1", "/health", "/audit", "/nothing"),
)
HOLDER_PAGES = ("", "/playground", "/requests", "/usage", "/queue", "/responses", "/models", "/keys", "/accounts")

HOSTILE = (
    "<script>window.pwned=1</script>",
    "<img src=x onerror='window.pwned=1'>",
    "<svg onload=window.pwned=1>",
    "[click](javascript:window.pwned=1)",
    "[click](JaVaScRiPt:window.pwned=1)",
    "[click](data:text/html,<script>window.pwned=1</script>)",
    "![image](https://evil.example/track.png)",
    "<a href='javascript:window.pwned=1'>x</a>",
    "**<iframe srcdoc='<script>parent.pwned=1</script>'>**",
    "```html\n</code></pre><script>window.pwned=1</script>\n```",
    "| a | <b onmouseover=window.pwned=1>b</b> |\n|---|---|\n| <script>window.pwned=1</script> | x |",
    "</textarea></script><script>window.pwned=1</script><!--",
    "{{ 7 * 7 }} {% raw %} ${7*7} <%= 7*7 %>",
)


def test_a_wrong_key_is_refused_and_signing_out_ends_the_session(open_page: OpenPage) -> None:
    with open_page(None) as page:
        page.goto("/console/requests?errors=1")
        page.get_by_label("Key").fill("sk-wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_have_text("No such key")
        page.get_by_label("Key").fill(ADMIN_KEY)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/console/requests?errors=1")
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/console/login")
        page.goto("/console/accounts")
        expect(page).to_have_url(re.compile("/console/login"))


def assert_fits(page: Page, path: str) -> None:
    """Check that neither the page nor a table is wider than a large screen and a small one."""
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 740})
        assert not is_scrollable_sideways(page), (path, width)
        tables = page.locator(".table-wrap")
        is_cut = tables.evaluate_all("all => all.some((one) => one.scrollWidth > one.clientWidth)")
        assert not is_cut, f"a table of {path} is cut where the screen has {width} pixels"


def assert_menu_opens(page: Page) -> None:
    """Check that the menu of a small screen leads to another page."""
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Usage").click()
    expect(page).to_have_url(re.compile("/usage"))


def test_every_page_is_usable_by_everybody_in_light_and_in_dark_on_every_screen(
    open_page: OpenPage, server: ConsoleServer
) -> None:
    request = "/requests/" + server.ask("Good morning", model="pool").headers["x-request-id"]
    with open_page(color_scheme="light") as page:
        for path in (*OPERATOR_PAGES, request):
            page.emulate_media(color_scheme="light")
            page.set_viewport_size({"width": 1280, "height": 740})
            page.goto(f"/console{path}")
            if path == request:
                expect(page.get_by_role("heading", name="Attempts")).to_be_visible()
            assert serious_findings(page) == [], path
            page.emulate_media(color_scheme="dark")  # which changes colours only
            assert serious_findings(page, ["color-contrast"]) == [], path
            assert_fits(page, path)
        assert_menu_opens(page)


def test_names_without_spaces_and_large_sums_cut_no_page(open_page: OpenPage, server: ConsoleServer) -> None:
    administrator = Administrator(server.account.database, LONG_NAME)
    account = administrator.create_account(LONG_NAME)
    administrator.deposit(account.id, 9 * 10**18, reference=LONG_NAME, note=LONG_NAME)
    key = administrator.create_key(account.id, label=LONG_NAME, rules=KeyRules(models=(LONG_NAME,)))
    administrator.set_price(LONG_NAME, 1, 1)
    request_id = server.ask("Good morning", model=LONG_NAME, key=key.secret).headers["x-request-id"]
    paths = (f"/accounts/{account.id}", f"/keys/{key.key.id}", f"/requests/{request_id}", "/usage?group=key_id")
    with open_page() as page:
        for path in (*OPERATOR_PAGES, *paths):
            page.goto(f"/console{path}")
            assert_fits(page, path)


def test_no_page_of_a_keys_holder_is_wider_than_its_screen_and_the_menu_opens_on_a_small_one(
    open_page: OpenPage, server: ConsoleServer
) -> None:
    server.ask("Good morning").raise_for_status()
    with open_page(server.key) as page:
        for path in HOLDER_PAGES:
            page.goto(f"/console{path}")
            assert_fits(page, path)
        assert_menu_opens(page)


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Pacific/Kiritimati"])
def test_days_of_charts_are_those_of_the_table_wherever_somebody_looks(
    zone: str, open_page: OpenPage, server: ConsoleServer
) -> None:
    server.ask("Good morning").raise_for_status()
    with open_page(timezone_id=zone, locale="sv-SE") as page:
        page.goto("/console/usage?period=30d")
        page.locator("[data-chart=requests]").focus()
        page.keyboard.press("End")
        today = datetime.now(UTC)
        note = page.locator("[data-chart=requests] + .chart-note")
        expect(note).to_have_text(re.compile(f"^{today.day} .*{today.year}: "))


def test_without_scripts_the_menu_is_open_and_nothing_says_that_it_is_live(open_page: OpenPage) -> None:
    with open_page(java_script_enabled=False, viewport={"width": 390, "height": 844}) as page:
        page.goto("/console/requests")
        expect(page.locator("#live-badge")).to_be_hidden()
        expect(page.get_by_role("button", name="Menu")).to_be_hidden()
        page.get_by_role("link", name="Accounts").click()
        expect(page).to_have_url(re.compile("/accounts"))


def test_a_form_is_sent_once_however_often_its_button_is_pressed(open_page: OpenPage) -> None:
    with open_page() as page:
        page.goto("/console/accounts/acme")
        page.get_by_label("Amount").fill("25")
        is_stopped = page.get_by_role("button", name="Book").evaluate(
            """(button) => {
                const found = [];
                addEventListener("submit", (event) => {
                    found.push(event.defaultPrevented);
                    event.preventDefault();
                });
                for (const _ of [1, 2, 3]) button.click();
                return found;
            }"""
        )
        assert is_stopped == [False, True, True]


CONTRAST = """
(input) => {
    const luminance = (colour) => {
        const [red, green, blue] = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
            const share = part / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05;
    };
    const border = luminance(getComputedStyle(input).borderTopColor);
    const behind = luminance(getComputedStyle(input.closest(".card")).backgroundColor);
    return Math.max(border, behind) / Math.min(border, behind);
}
"""
"""The contrast of a field's border, which axe-core does not check (WCAG 2.2, criterion 1.4.11)."""


def test_the_borders_of_fields_stand_out_in_light_and_in_dark(open_page: OpenPage) -> None:
    with open_page() as page:
        page.goto("/console/accounts/acme")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.get_by_label("Amount").evaluate(CONTRAST) >= 3, scheme


def test_the_theme_stays_as_it_was_chosen(open_page: OpenPage) -> None:
    with open_page(color_scheme="light") as page:
        background = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(background)
        page.get_by_role("button", name="Theme").click()
        dark = page.evaluate(background)
        assert dark != light
        page.goto("/console/usage")
        assert page.evaluate(background) == dark


def test_a_button_says_whether_it_has_copied_and_is_itself_again(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page(server.key) as page:
        page.add_init_script("delete Navigator.prototype.clipboard")  # As without HTTPS on another machine.
        page.goto("/console/playground")
        page.get_by_text("As code").click()
        button = page.locator("#copy-code")
        button.dblclick()
        expect(button).to_have_text("Not allowed")
        expect(button).to_have_text("Copy")
        page.clock.install()
        page.evaluate("Navigator.prototype.clipboard = {writeText: () => Promise.resolve()}")
        for _ in range(2):
            button.click()
            expect(button).to_have_text("Copied")
        page.clock.run_for(10_000)
        expect(button).to_have_text("Copy")


def test_a_keys_secret_is_shown_once(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page() as page:
        page.goto("/console/accounts/acme")
        page.get_by_label("Label").fill("<b>laptop</b>")
        page.get_by_role("button", name="Create key").click()
        secret = page.locator("#secret").inner_text()
        assert server.ask("Hello", key=secret).status_code == 200
        newest = list_keys(server.account.database)[-1].id
        page.goto(f"/console/keys/{newest}")
        expect(page.get_by_role("heading", name="<b>laptop</b>")).to_be_visible()
        assert secret not in page.content()
        expect(page.get_by_role("button", name="Disable this key")).to_be_hidden()
        page.get_by_text("Disable", exact=True).click()
        page.get_by_role("button", name="Disable this key").click()
        expect(page.locator(".badge.bad")).to_have_text("disabled")
    assert server.ask("Hello", key=secret).status_code == 401


def test_an_upstream_is_removed_after_a_second_click(open_page: OpenPage) -> None:
    with open_page() as page:
        page.goto("/console/upstreams")
        page.get_by_label("Answers for").select_option("echo")
        page.get_by_label("URL").fill("http://gpu9:8000")
        page.get_by_role("button", name="Add").click()
        row = page.get_by_role("row", name="echo/a1")
        row.get_by_role("button", name="Drain").click()
        row.get_by_role("button", name="Undrain").click()
        row.get_by_text("Remove", exact=True).click()
        row.get_by_role("button", name="Remove echo/a1").click()
        expect(row).to_have_count(0)


def test_charts_have_the_figures_of_the_table(open_page: OpenPage, server: ConsoleServer) -> None:
    server.ask("Good morning").raise_for_status()
    with open_page() as page:
        page.goto("/console/usage?group=account_id")
        expect(page.locator("[data-chart] canvas")).to_have_count(4)
        data = page.evaluate("JSON.parse(document.getElementById('chart-data').textContent)")
        cells = page.locator("#usage-table tfoot td").all_inner_texts()
        drawn = sum(sum(values) for values in data["requests"])
        page.locator("[data-chart=tokens]").hover(position={"x": 300, "y": 100})
        expect(page.locator("[data-chart=tokens] ~ .chart-note")).to_contain_text(":")
        page.mouse.move(0, 0)
        note = page.locator("[data-chart=requests] ~ .chart-note")
        expect(note).to_have_text("")
        page.locator("[data-chart=requests]").focus()
        page.keyboard.press("ArrowLeft")
        expect(note).to_contain_text("acme")
        page.keyboard.press("Home")
        expect(note).to_contain_text("none")
        with page.expect_download() as download:
            page.get_by_role("link", name="CSV").click()
    assert int(cells[0].replace("\u202f", "")) == drawn > 0
    assert download.value.suggested_filename == "usage-24h.csv"


def test_hostile_texts_stay_texts(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page(server.key) as page:
        page.goto("/console/playground")
        for number, text in enumerate(HOSTILE, 1):
            page.get_by_label("Message", exact=True).fill(text)
            page.get_by_role("button", name="Send").click()
            expect(page.locator(".message.assistant .figures a")).to_have_count(number)
        answers = page.locator(".bubble")
        assert answers.locator("script, iframe, img, svg, [onerror], [onload], [onmouseover]").count() == 0
        links = answers.locator("a").evaluate_all("links => links.map((link) => link.href)")
        assert {link.partition(":")[0] for link in links} == {"https"}
        assert page.evaluate("window.pwned") is None


def test_hostile_names_stay_texts_on_every_page(open_page: OpenPage, server: ConsoleServer) -> None:
    name = HOSTILE_NAME
    with open_page() as page:
        page.goto("/console/accounts")
        page.get_by_label("Name").fill(name)
        page.get_by_label("First deposit").fill("1")
        page.get_by_role("button", name="Create").click()
        page.get_by_label("Label").fill(name)
        page.get_by_label("Models").fill(name)
        page.get_by_role("button", name="Create key").click()
        secret = page.locator("#secret").inner_text()
        refused = server.ask("Hello", model=name, key=secret)
        assert refused.status_code == 400
        for path in (
            "",
            "/keys",
            "/accounts",
            "/audit",
            "/usage?group=key_id",
            "/upstreams",
            "/requests?model=<script>",
            "/x<script>",
        ):
            page.goto(f"/console{path}")
            assert page.evaluate("window.pwned") is None, path
