"""Administrators' changes, each in one transaction with its audit log entry."""

import msgspec
from sqlalchemy import Connection, insert, select

from dragoman.accounts.administration import accounts, keys, prices, upstreams
from dragoman.accounts.administration.accounts import DEFAULT_CURRENCY, Account, Deposit
from dragoman.accounts.administration.keys import CreatedKey, Key, KeyRules
from dragoman.accounts.administration.prices import Price
from dragoman.accounts.administration.upstreams import StoredUpstream
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.request_bodies import delete_body, find_body
from dragoman.accounts.database.responses import delete_response
from dragoman.accounts.database.tables import changes
from dragoman.accounts.times import to_datetime
from dragoman.core.bodies import KeptBody
from dragoman.core.money import format_amount, format_price_per_million


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A change and its actor. Entries are never changed or deleted, and contain no secrets."""

    id: int
    at: int
    actor: str
    action: str
    subject: str
    """The changed object, as in "account 7"."""
    details: dict[str, object]


class KeyUpdate(msgspec.Struct, frozen=True):
    """Changes to a key. None: unchanged."""

    label: str | None = None
    rules: KeyRules | None = None
    other_accounts: tuple[int, ...] | None = None
    disabled: bool | None = None


class Administrator:
    """Makes changes and records them in the audit log. Each method raises what the function of its name raises, and
    then changes nothing."""

    def __init__(self, database: Database, actor: str) -> None:
        """`actor` is recorded as the author of the changes."""
        self.database = database
        self._actor = actor

    def create_account(self, name: str, currency: str = DEFAULT_CURRENCY) -> Account:
        """Create an account."""
        with self.database.write() as connection:
            account = accounts.create_account(self.database, name, currency)
            self._record(connection, "create account", f"account {account.id}", name=name, currency=currency)
        return account

    def deposit(
        self, account_id: int, amount: int, *, reference: str | None = None, note: str | None = None
    ) -> Deposit:
        """Pay in, or out. A repetition with the same reference changes nothing and is not recorded."""
        with self.database.write() as connection:
            before = accounts.get_account(connection, account_id, lock=True)
            created = accounts.deposit(self.database, account_id, amount, reference=reference, note=note)
            if accounts.get_account(connection, account_id) != before:
                details = {"deposit": created.id, "amount": format_amount(amount), "reference": reference, "note": note}
                self._record(connection, "deposit", f"account {account_id}", **details)
        return created

    def create_key(
        self, account_id: int, *, label: str = "", rules: KeyRules | None = None, other_accounts: tuple[int, ...] = ()
    ) -> CreatedKey:
        """Create a key; its secret is not recorded. Raises ValueError for one that has expired already."""
        with self.database.write() as connection:
            if rules is not None and rules.expires_at is not None:
                _require_future(rules.expires_at, self.database.now(connection).wall)
            created = keys.create_key(
                self.database, account_id, label=label, rules=rules, other_accounts=other_accounts
            )
            self._record(connection, "create key", f"key {created.key.id}", **_key_details(created.key))
        return created

    def change_key(self, key_id: int, change: KeyUpdate) -> Key:
        """Change the given fields, from the next request on."""
        with self.database.write() as connection:
            key = keys.change_key(
                self.database,
                key_id,
                label=change.label,
                rules=change.rules,
                other_accounts=change.other_accounts,
            )
            if change.disabled is not None:
                switch = keys.disable_key if change.disabled else keys.enable_key
                key = switch(self.database, key_id)
            self._record(connection, "change key", f"key {key_id}", **_key_details(key))
        return key

    def revoke_key(self, key_id: int) -> Key:
        """Refuse the key from now on, in every process."""
        with self.database.write() as connection:
            key = keys.disable_key(self.database, key_id)
            self._record(connection, "revoke key", f"key {key_id}", label=key.label)
        return key

    def set_price(
        self, model: str, prompt: int, completion: int, *, cached: int | None = None, valid_from: int = 0
    ) -> Price:
        """Add a price, in nano-units per token."""
        with self.database.write() as connection:
            price = prices.set_price(self.database, model, prompt, completion, cached=cached, valid_from=valid_from)
            amounts = {
                name: format_price_per_million(getattr(price, name)) for name in ("prompt", "cached", "completion")
            }
            details = {"model": model, "per_million": amounts, "valid_from": price.valid_from}
            self._record(connection, "set price", f"price {price.id}", **details)
        return price

    def add_upstream(self, deployment: str, url: str, settings: str) -> StoredUpstream:
        """Add an upstream to a deployment. `settings` are JSON without secrets."""
        with self.database.write() as connection:
            added = upstreams.add_upstream(self.database, deployment, url, settings)
            self._record(connection, "add upstream", f"upstream {added.name}", url=url)
        return added

    def drain_upstream(self, name: str, deployment: str, url: str, *, is_draining: bool) -> StoredUpstream:
        """Begin no further attempts at an upstream, or do so again."""
        with self.database.write() as connection:
            drained = upstreams.set_draining(self.database, name, deployment, url, is_draining=is_draining)
            self._record(connection, "drain upstream" if is_draining else "undrain upstream", f"upstream {name}")
        return drained

    def read_body(self, request_id: str) -> KeptBody | None:
        """Return what is kept of a request. None: nothing is."""
        with self.database.write() as connection:
            body = find_body(self.database, request_id)
            if body is not None:
                self._record(connection, "read body", f"request {request_id}")
        return body

    def delete_body(self, request_id: str) -> bool:
        """Delete what is kept of a request. False: nothing is."""
        with self.database.write() as connection:
            deleted = delete_body(self.database, request_id)
            if deleted:
                self._record(connection, "delete body", f"request {request_id}")
        return deleted

    def delete_response(self, response_id: str) -> bool:
        """Delete a stored response of any owner. False: it is not stored."""
        with self.database.write() as connection:
            deleted = delete_response(self.database, response_id)
            if deleted:
                self._record(connection, "delete response", f"response {response_id}")
        return deleted

    def remove_upstream(self, name: str) -> StoredUpstream:
        """Remove an upstream that was added."""
        with self.database.write() as connection:
            removed = upstreams.remove_upstream(self.database, name)
            self._record(connection, "remove upstream", f"upstream {name}", url=removed.url)
        return removed

    def _record(self, connection: Connection, action: str, subject: str, **details: object) -> None:
        at = self.database.now(connection).wall
        row = {"at": at, "actor": self._actor, "action": action, "subject": subject}
        connection.execute(insert(changes).values(**row, details=msgspec.json.encode(details).decode()))


def list_audit_entries(database: Database, *, before: int | None = None, limit: int = 100) -> list[AuditEntry]:
    """List up to `limit` changes, newest first; `before` is the id of the last change of the previous page."""
    query = select(changes).order_by(changes.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(changes.c.id < before)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [
        AuditEntry(
            id=row.id,
            at=row.at,
            actor=row.actor,
            action=row.action,
            subject=row.subject,
            details=msgspec.json.decode(row.details),
        )
        for row in rows
    ]


def _require_future(expires_at: int, now: int) -> None:
    if expires_at <= now:
        expired, current = (to_datetime(at).isoformat(timespec="seconds") for at in (expires_at, now))
        raise ValueError(f"expires_at is {expired}, and it is {current} now: no request could use the key")


def _key_details(key: Key) -> dict[str, object]:
    rules = {name: value for name, value in msgspec.structs.asdict(key.rules).items() if value is not None}
    if key.rules.budget is not None:
        rules["budget"] = format_amount(key.rules.budget)
    account_details = {"account": key.account_id, "accounts": key.account_ids}
    return {**account_details, "label": key.label, "ending": key.ending, "rules": rules, "disabled_at": key.disabled_at}
