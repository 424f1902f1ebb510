"""API keys: what each may do, what it has spent, and changes."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from dragoman.accounts.administration.audit_log import Administrator, KeyUpdate
from dragoman.accounts.administration.key_activity import KeyActivity, read_activity
from dragoman.accounts.administration.keys import CreatedKey, Key, get_key, list_keys
from dragoman.accounts.database.connections import Database
from dragoman.accounts.identifiers import MAX_ID_DIGITS
from dragoman.server.console.key_form import read_rules, shown_rules
from dragoman.server.console.names import Names, names_of
from dragoman.server.console.page import PageError, PageRequest

_SHOWN = 100


async def show(page: PageRequest) -> Response:
    """Show a page of keys: all, or the viewer's own."""
    viewer = page.viewer
    if not page.services.has_accounts:
        return page.render("keys.html", keys=[], activity={}, names=None, account=None, more=None)
    if not viewer.is_operator and viewer.account_id is None:
        raise PageError(404, "Your key has no account", "")
    after = page.query.integer("after") or 0
    account = page.query.integer("account") if viewer.is_operator else viewer.account_id
    keys, activity, names = await page.read(_read, account, after)
    more = page.renderer.url("/keys", after=keys[-1].id, account=account) if len(keys) == _SHOWN else None
    return page.render("keys.html", keys=keys, activity=activity, names=names, account=account, more=more)


async def show_key(page: PageRequest) -> Response:
    """Show one key with the form of its limits."""
    return await _show_one(page, await page.read(get_key, _number(page)))


async def create(page: PageRequest) -> Response:
    """Create a key and show its secret, this once."""
    fields = await page.fields()
    account = fields.integer("account")
    if account is None:
        raise ValueError("Choose the account that the key belongs to")
    created: CreatedKey = await page.change(
        Administrator.create_key, account, label=fields.text("label") or "", rules=read_rules(fields)
    )
    return page.render("key_created.html", secret=created.secret, key=created.key, replaced=None, model=_model(page))


async def change(page: PageRequest) -> Response:
    """Change a key's label and limits. An empty field removes its limit."""
    fields = await page.fields()
    rules = read_rules(fields, await page.read(get_key, _number(page)))
    await page.change(Administrator.change_key, _number(page), KeyUpdate(fields.text("label") or "", rules))
    return page.redirect(f"/keys/{_number(page)}")


async def rotate(page: PageRequest) -> Response:
    """Create a key with the same rules and disable the old one."""
    old, created = await page.change(_rotate, _number(page))
    return page.render("key_created.html", secret=created.secret, key=created.key, replaced=old, model=_model(page))


async def disable(page: PageRequest) -> Response:
    """Refuse the key from now on."""
    await page.change(Administrator.change_key, _number(page), KeyUpdate(disabled=True))
    return page.redirect(f"/keys/{_number(page)}")


async def enable(page: PageRequest) -> Response:
    """Accept the key again."""
    await page.change(Administrator.change_key, _number(page), KeyUpdate(disabled=False))
    return page.redirect(f"/keys/{_number(page)}")


async def _show_one(page: PageRequest, key: Key) -> Response:
    names = await page.read(names_of, key.account_ids, [key.id])
    return page.render("key.html", key=key, names=names, shown=shown_rules(key))


def _read(database: Database, account: int | None, after: int) -> tuple[list[Key], Mapping[int, KeyActivity], Names]:
    keys = list_keys(database, account_id=account, after=after, limit=_SHOWN)
    return keys, read_activity(database, keys), names_of(database, {key.account_id for key in keys}, ())


def _rotate(administrator: Administrator, key_id: int) -> tuple[Key, CreatedKey]:
    with administrator.database.write():
        old = get_key(administrator.database, key_id, lock=True)
        others = tuple(each for each in old.account_ids if each != old.account_id)
        created = administrator.create_key(old.account_id, label=old.label, rules=old.rules, other_accounts=others)
        return administrator.revoke_key(key_id), created


def _number(page: PageRequest) -> int:
    text = page.path["key"]
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_ID_DIGITS):
        raise PageError(404, f"There is no key {text}", "")
    return int(text)


def _model(page: PageRequest) -> str:
    models: list[Any] = page.services.gateway.models()
    return str(models[0].id) if models else "MODEL"
