"""The playground in a browser: a stream that grows and stops, thoughts, calls, formats, figures and code."""

import json
import re

from playwright.sync_api import Page, expect

from tests.server.console.conftest import ConsoleServer, OpenPage
from tests.support.accounting import ADMIN_KEY

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "<img src=x>"}}\n</tool_call>'


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def test_an_answer_grows_and_can_be_stopped(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page(server.key) as page:
        page.goto("/console/playground")
        page.locator("select[name=model]").select_option("slow")
        say(page, "word " * 200)
        bubble = page.locator(".message.assistant .bubble")
        expect(bubble).to_contain_text("word")
        first = len(bubble.inner_text())
        page.wait_for_function(
            "(before) => document.querySelector('.message.assistant .bubble').innerText.length > before", arg=first
        )
        assert server.running_sequences() == 1
        for change in ("Edit", "Retry"):
            expect(page.get_by_role("button", name=change)).to_be_disabled()
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".message.assistant .badge")).to_have_text("stopped")
        for change in ("Send", "Edit", "Retry"):
            expect(page.get_by_role("button", name=change)).to_be_enabled()
        page.wait_for_function("() => document.querySelector('.bubble.pending') === null")
        assert server.running_sequences() == 0


def test_thoughts_are_folded_and_figures_are_the_ledgers(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page(server.key) as page:
        page.goto("/console/playground")
        say(page, "Is **this** bold?")
        expect(page.locator(".message.assistant strong")).to_have_text("this")
        thoughts = page.locator(".thoughts p")
        expect(thoughts).to_be_hidden()
        page.locator(".thoughts summary").click()
        expect(thoughts).to_have_text("I should repeat <b>this</b>.")
        price = page.get_by_role("link", name="price")
        expect(price).to_be_visible()
        shown = price.inner_text().split()[-1]
        price.click()
        expect(page.locator("#charge")).to_have_text(shown)


def test_a_conversation_goes_on_with_what_was_said(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page(server.key) as page:
        page.goto("/console/playground")
        say(page, "one")
        expect(page.locator(".message.assistant .figures")).to_contain_text("answer")
        with page.expect_request("**/chat/completions") as sent:
            say(page, "two")
        messages = json.loads(sent.value.post_data or "")["messages"]
        assert [(each["role"], each["content"]) for each in messages] == [
            ("user", "one"),
            ("assistant", "one"),
            ("user", "two"),
        ]
        expect(page.locator(".message.assistant")).to_have_count(2)
        page.locator(".message.user").first.get_by_role("button", name="Edit").click()
        expect(page.get_by_label("Message", exact=True)).to_have_value("one")
        expect(page.locator(".message")).to_have_count(0)


def test_a_call_is_shown_with_its_arguments_and_answered(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page(server.key) as page:
        page.goto("/console/playground")
        page.locator("summary", has_text="Tools").click()
        page.get_by_label(re.compile("^Tools")).fill("[not JSON")
        say(page, CALL)
        expect(page.locator("[data-problem=tools]")).not_to_be_empty()
        page.get_by_label(re.compile("^Tools")).fill(json.dumps([TOOL]))
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".call summary")).to_have_text("calls weather")
        expect(page.locator(".call pre")).to_contain_text('"city": "<img src=x>"')
        page.get_by_label("Result of weather").fill("sunny")
        with page.expect_request("**/chat/completions") as sent:
            page.get_by_role("button", name="Return it").click()
        messages = json.loads(sent.value.post_data or "")["messages"]
        assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"]
        expect(page.locator(".message.tool")).to_contain_text("sunny")


def test_a_schema_that_cannot_be_enforced_is_refused_by_name(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page(server.key) as page:
        page.goto("/console/playground")
        page.locator("summary", has_text="Format").click()
        page.get_by_label("JSON Schema of the answer").fill('{"type": "object"}')
        say(page, "{}")
        expect(page.locator(".message.assistant [role=alert]")).to_contain_text("JSON schema")


def test_two_models_answer_side_by_side_with_heat(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page(server.key) as page:
        page.goto("/console/playground")
        page.get_by_label("Compare with").select_option("slow")
        page.locator("summary", has_text="Log-probabilities").click()
        page.get_by_label("Show them as heat").check()
        say(page, "hey")
        expect(page.locator(".message.assistant")).to_have_count(2)
        expect(page.locator(".heat")).to_have_count(2)
        assert page.locator(".heat span").first.get_attribute("title") == '"h" 100.0 %\n"h" 100.0 %'


def test_every_dialect_answers_and_is_shown_as_code(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page(server.key) as page:
        for dialect in ("infermatic", "openai", "arcee", "empower", "float16", "scale"):
            page.goto("/console/playground")
            page.get_by_label("Dialect").select_option(dialect)
            page.locator("summary", has_text="Sampling").click()
            page.get_by_label("Max tokens").fill("60")
            say(page, "don't")
            expect(page.locator(".message.assistant .bubble")).to_contain_text("don't")
            expect(page.locator(".message.assistant .figures")).to_contain_text("answer")
            page.locator("summary", has_text="As code").click()
            code = page.locator("#code")
            expect(code).to_contain_text("$DRAGOMAN_API_KEY")
            page.get_by_role("button", name="Python").click()
            compile(code.inner_text(), dialect, "exec")
            page.get_by_role("button", name="JSON").click()
            assert json.loads(code.inner_text())["messages"][0]["content"] == "don't"
            assert server.key not in page.content()


def test_an_operator_lends_the_playground_a_key(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page(ADMIN_KEY) as page:
        page.goto("/console/playground")
        page.get_by_role("textbox", name="API key").fill(server.key)
        page.get_by_role("button", name="Use this key").click()
        say(page, "Good morning")
        expect(page.locator(".message.assistant .bubble")).to_contain_text("Good morning")
        page.get_by_role("button", name="Use another key").click()
        expect(page.get_by_role("textbox", name="API key")).to_be_visible()


def test_a_setting_that_is_no_number_is_refused_where_it_stands(open_page: OpenPage, server: ConsoleServer) -> None:
    with open_page(server.key) as page:
        page.goto("/console/playground")
        page.get_by_text("Sampling", exact=True).click()
        page.get_by_label("Temperature").fill("warm")
        say(page, "Good morning")
        expect(page.locator("[data-problem=sampling]")).to_have_text("Temperature must be a number")
        expect(page.get_by_label("Message", exact=True)).to_have_value("Good morning")
        page.get_by_label("Temperature").fill("0,5")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".message.assistant .figures")).to_contain_text("price")
        expect(page.locator("[data-problem=sampling]")).to_be_empty()
        page.get_by_label("Temperature").fill("warm")
        page.get_by_role("button", name="Retry").click()
        expect(page.locator("[data-problem=sampling]")).not_to_be_empty()
        expect(page.locator(".message.user .bubble")).to_have_text("Good morning")


def test_what_came_before_a_failure_stays_to_be_read(open_page: OpenPage, server: ConsoleServer) -> None:
    events = ({"choices": [{"index": 0, "delta": {"content": "Half an"}}]}, {"error": {"message": "The engine died"}})
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    with open_page(server.key) as page:
        page.goto("/console/playground")
        page.route("**/console/api/**", lambda route: route.fulfill(content_type="text/event-stream", body=body))
        say(page, "Good morning")
        bubble = page.locator(".message.assistant .bubble")
        expect(bubble.get_by_role("alert")).to_have_text("The engine died")
        expect(bubble).to_contain_text("Half an")
