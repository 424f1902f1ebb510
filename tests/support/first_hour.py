"""The first hour with dragoman, as somebody does it in a browser: docs/first-hour.md tells it with pictures."""

import re
from collections.abc import Callable

import httpx
from playwright.sync_api import Page, expect

SETTINGS = """
[accounts]
database = "sqlite:///{folder}/accounts.db"

[[admin.keys]]
name = "ada"
key = "{key}"
"""

ADMIN_KEY = "sk-admin-at-least-sixteen"

QUESTION = "What is the capital of France?"


def sign_in(page: Page, picture: Callable[[str], None]) -> None:
    """Open the server's address, and sign in as its operator."""
    page.goto("/")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    picture("sign-in")
    page.get_by_label("Key").fill(ADMIN_KEY)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def set_price(page: Page) -> None:
    """Give the model a price."""
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_text("Set the price").click()
    page.get_by_label("Prompt, a million").fill("0.15")
    page.get_by_label("Answer", exact=True).fill("0.60")
    page.get_by_role("button", name="Set from now on").click()
    expect(page.get_by_text("prompt 0.15, shared 0.15, answer 0.60")).to_be_visible()


def create_account_and_key(page: Page, picture: Callable[[str], None]) -> str:
    """Create an account with money and a key for it, and return the key."""
    page.get_by_role("link", name="Accounts", exact=True).click()
    page.get_by_label("Name").fill("acme")
    page.get_by_label("First deposit").fill("25.00")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", name="acme")).to_be_visible()
    page.get_by_label("Label").fill("laptop")
    page.get_by_label(re.compile("^Budget")).fill("10.00")
    picture("account")
    page.get_by_role("button", name="Create key").click()
    return page.locator("#secret").inner_text()


def chat(page: Page, picture: Callable[[str], None]) -> None:
    """Use the new key in the playground."""
    page.get_by_role("button", name="Use it in the playground").click()
    page.get_by_text("Sampling", exact=True).click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Message", exact=True).fill(QUESTION)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".figures a")).to_be_visible()
    picture("playground")


def ask_as_a_client(page: Page, url: str, key: str, model: str, picture: Callable[[str], None]) -> str:
    """Send a request with the key from elsewhere, see it appear, and return the price that its page shows."""
    page.get_by_role("link", name="Requests", exact=True).click()
    expect(page.locator("#live-badge")).to_have_text("live")
    body = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": QUESTION}]}
    headers = {"authorization": f"Bearer {key}"}
    response = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60).raise_for_status()
    row = page.locator(f"#live-rows a[href$='{response.headers['x-request-id']}']")
    expect(row).to_be_visible()
    picture("live")
    row.click()
    price = page.locator("#charge")
    expect(price).to_be_visible()
    picture("request")
    return price.inner_text()
