"""The requests, newest first and live, and one request with its price."""

import base64
import binascii
from typing import Any

import msgspec
from starlette.responses import Response

from dragoman.accounts.administration.movements import movements_of
from dragoman.accounts.administration.prices import Price, get_price
from dragoman.accounts.administration.usage import UsageRecord
from dragoman.accounts.administration.usage_reports import RequestFilter, RequestPage, find_request, list_requests
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.request_bodies import has_body
from dragoman.core.money import format_amount
from dragoman.server.console.forms import Fields
from dragoman.server.console.names import Names, read_names
from dragoman.server.console.page import NO_DATABASE, NO_OWN_RECORDS, PageError, PageRequest
from dragoman.server.console.viewers import ConsoleViewer
from dragoman.server.dialects import DIALECTS

_PAGE = 50


class ChargedTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one kind and what they cost. Amounts are in nano-units."""

    title: str
    tokens: int
    price: int
    """Of one token."""

    @property
    def amount(self) -> int:
        """What all of them cost."""
        return self.tokens * self.price


async def show(page: PageRequest) -> Response:
    """Show a page of requests. A script gets the rows behind a cursor alone."""
    query = page.query
    shown = _filter(query, await page.wanted_account())
    if query.text("id") is not None:
        return page.redirect(f"/requests/{query.required('id')}")
    cursor = query.text("cursor")
    before = None if cursor is None else decode_cursor(cursor)
    if not page.viewer.sees_usage:
        raise NO_OWN_RECORDS
    found, names = await page.read(_read_page, shown, before)
    conditions = {name: value for name, value in query.values().items() if name != "cursor"}
    values: dict[str, Any] = {
        "rows": found.rows,
        "names": names,
        "more": None,
    }
    if found.next is not None:
        values["more"] = page.renderer.url("/requests", **conditions, cursor=encode_cursor(found.next))
    if page.is_fragment and cursor is not None:
        return page.render("parts/request_rows.html", **values)
    return page.render(
        "requests.html",
        **values,
        conditions=conditions,
        newest=found.rows[0].id if found.rows else 0,
        is_first=before is None,
        models=[model.id for model in await page.visible_models()],
        dialects=list(DIALECTS),
        keeps_bodies=page.services.settings.console.keep_bodies,
    )


async def show_request(page: PageRequest) -> Response:
    """Show one request: its times, tokens and price."""
    row, names, price = await page.read(_read_request, page.path["request_id"], page.viewer)
    if row is None:
        raise PageError(404, "There is no such request", "It may still run: requests are listed once they have ended.")
    movements = await page.read(movements_of, row) if page.services.has_accounts else []
    has_kept_body = await page.read(has_body, row.request_id)
    return page.render(
        "request.html",
        row=row,
        names=names,
        charged=[] if price is None else _charged(row, price),
        movements=movements,
        has_body=has_kept_body,
    )


async def show_charge(page: PageRequest) -> Response:
    """Return what a request of the playground cost, as JSON; 404 until it is settled."""
    if page.services.thread is None:
        raise NO_DATABASE
    row, _, _ = await page.read(_read_request, page.path["request_id"], page.viewer)
    if row is None:
        return Response(b"{}", 404, media_type="application/json")
    body = {
        "charge": format_amount(row.charge),
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.completion_tokens,
        "result": row.result,
    }
    return Response(msgspec.json.encode(body), media_type="application/json")


def encode_cursor(before: int) -> str:
    """Return the opaque text for a place in the list."""
    return base64.urlsafe_b64encode(before.to_bytes(8, "big")).decode().rstrip("=")


def decode_cursor(text: str) -> int:
    """Return the place in the list. Raises ValueError for a text that `encode_cursor` did not make."""
    try:
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) != 8 or decoded[0] >= 128:
        raise ValueError("The link to this page is damaged")
    return int.from_bytes(decoded, "big")


def _charged(row: UsageRecord, price: Price) -> list[ChargedTokens]:
    computed = row.prompt_tokens - row.cached_tokens
    return [
        ChargedTokens(title="Prompt, computed", tokens=computed, price=price.prompt),
        ChargedTokens(title="Prompt, shared", tokens=row.cached_tokens, price=price.cached),
        ChargedTokens(title="Answer", tokens=row.completion_tokens, price=price.completion),
    ]


def _filter(query: Fields, account: int | None) -> RequestFilter:
    return RequestFilter(
        account_id=account,
        key_id=query.integer("key"),
        model=query.text("model"),
        dialect=query.text("dialect"),
        errors=query.text("errors") is not None,
        min_seconds=query.number("min_seconds"),
    )


def _read_page(database: Database, shown: RequestFilter, before: int | None) -> tuple[RequestPage, Names]:
    found = list_requests(database, shown, before=before, limit=_PAGE)
    return found, read_names(database, found.rows)


def _read_request(
    database: Database, request_id: str, viewer: ConsoleViewer
) -> tuple[UsageRecord | None, Names, Price | None]:
    if not viewer.sees_usage:
        return None, read_names(database, ()), None
    row = find_request(database, request_id, viewer.account_id)
    price = None if row is None or row.price_id is None else get_price(database, row.price_id)
    return row, read_names(database, [] if row is None else [row]), price
