"""Sessions of people who signed in with a key, stored by the digest of the secret in their browser's cookie.

A session belongs to the key that opened it and ends with it. The API key that the playground sends is stored too, but
encrypted with the secret of the cookie, so that the database alone opens nothing.
"""

import hashlib
import hmac
import secrets
from typing import Literal

import msgspec
from sqlalchemy import delete, insert, select, update

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import console_sessions, keys
from dragoman.core.context import key_digest
from dragoman.gateway.auth.static_keys import StaticKeyAuthenticator
from dragoman.server.console.viewers import ConsoleViewer, Role

SESSION_HOURS = 12
"""A session ends after this time without a request."""

_HOUR = 3_600_000
_RENEWED_AFTER = _HOUR // 2
"""The end of a session is written again at most this often."""

_NONCE_BYTES = 16

SessionKind = Literal["administrator", "account", "settings"]


class WrongKey(Exception):
    """The key opens nothing here. The message says why."""


class StoredSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session and its key, as the database has them."""

    digest: str
    kind: SessionKind
    key_digest: str
    sealed_key: bytes | None
    expires_at: int
    key_id: int | None
    account_id: int | None
    label: str | None
    key_expires_at: int | None
    disabled_at: int | None


class SessionStore:
    """Opens, finds and ends sessions. All methods block, and raise DatabaseUnavailable."""

    def __init__(self, database: Database, admin_keys: StaticKeyAuthenticator, keys: StaticKeyAuthenticator) -> None:
        self._database = database
        self._admin_keys = admin_keys
        self._keys = keys

    def open(self, key: str) -> str:
        """Open a session for a key and return the secret of its cookie. Raises WrongKey."""
        secret = secrets.token_urlsafe(32)
        digest = key_digest(key)
        with self._database.write() as connection:
            now = self._database.now(connection).wall
            kind = self._kind(key)
            if kind == "account":
                query = select(keys.c.disabled_at, keys.c.expires_at).where(keys.c.digest == digest)
                row = connection.execute(query).one_or_none()
                if row is None:
                    raise WrongKey("No such key")
                if row.disabled_at is not None or (row.expires_at is not None and row.expires_at <= now):
                    raise WrongKey("This key is disabled or has expired")
            values = {
                "digest": key_digest(secret),
                "kind": kind,
                "key_digest": digest,
                "sealed_key": None if kind == "administrator" else seal(key, secret),
            }
            times = {"created_at": now, "expires_at": now + SESSION_HOURS * _HOUR}
            connection.execute(delete(console_sessions).where(console_sessions.c.expires_at <= now))
            connection.execute(insert(console_sessions).values(**values, **times))
        return secret

    def find(self, secret: str) -> ConsoleViewer | None:
        """Return whose session the secret opens, and prolong it. None: it has ended, or its key has."""
        with self._database.read() as connection:
            now = self._database.now(connection).wall
            row = connection.execute(_SESSION.where(console_sessions.c.digest == key_digest(secret))).one_or_none()
        if row is None:
            return None
        session = msgspec.convert(row, StoredSession, from_attributes=True)
        if session.expires_at <= now or not self._is_key_valid(session, now):
            return None
        if session.expires_at - now < SESSION_HOURS * _HOUR - _RENEWED_AFTER:
            self._change(session.digest, expires_at=now + SESSION_HOURS * _HOUR)
        sealed = session.sealed_key
        return ConsoleViewer(
            role=Role.OPERATOR if session.kind == "administrator" else Role.HOLDER,
            name=self._name(session),
            account_id=session.account_id,
            key_id=session.key_id,
            api_key=None if sealed is None else unseal(sealed, secret),
            session=session.digest,
        )

    def use_api_key(self, secret: str, api_key: str | None) -> None:
        """Let the playground of this session send another API key, or none."""
        self._change(key_digest(secret), sealed_key=None if api_key is None else seal(api_key, secret))

    def end(self, secret: str) -> None:
        """End the session."""
        with self._database.write() as connection:
            connection.execute(delete(console_sessions).where(console_sessions.c.digest == key_digest(secret)))

    def _kind(self, key: str) -> SessionKind:
        if self._admin_keys.is_known(key):
            return "administrator"
        if self._keys.needs_key:
            if not self._keys.is_known(key):
                raise WrongKey("No such key")
            return "settings"
        return "account"

    def _is_key_valid(self, session: StoredSession, now: int) -> bool:
        if session.kind != "account":
            known = self._admin_keys if session.kind == "administrator" else self._keys
            return known.knows_digest(session.key_digest)
        expires_at = session.key_expires_at
        return session.key_id is not None and session.disabled_at is None and (expires_at is None or expires_at > now)

    def _name(self, session: StoredSession) -> str:
        if session.kind == "account":
            return session.label or f"key {session.key_id}"
        known = self._admin_keys if session.kind == "administrator" else self._keys
        return known.label_of_digest(session.key_digest) or session.kind

    def _change(self, digest: str, **values: object) -> None:
        with self._database.write() as connection:
            connection.execute(update(console_sessions).where(console_sessions.c.digest == digest).values(**values))


_COLUMNS = (
    *(console_sessions.c[name] for name in ("digest", "kind", "key_digest", "sealed_key", "expires_at")),
    *(keys.c.id.label("key_id"), keys.c.account_id, keys.c.label),
    *(keys.c.expires_at.label("key_expires_at"), keys.c.disabled_at),
)

_SESSION = select(*_COLUMNS).select_from(
    console_sessions.outerjoin(keys, keys.c.digest == console_sessions.c.key_digest)
)


def form_token(secret: str) -> str:
    """Return the token that forms of this browser must send: other pages can neither read nor guess it."""
    return hmac.digest(secret.encode(), b"dragoman console form", "sha256").hex()


def seal(key: str, secret: str) -> bytes:
    """Encrypt a key with a secret of 256 random bits: a nonce, then the key XOR SHAKE-256(secret, nonce)."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _xor(key.encode(), _stream(secret, nonce, len(key.encode())))


def unseal(sealed: bytes, secret: str) -> str:
    """Decrypt what `seal` returned. With another secret the result is no key."""
    nonce, encrypted = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    return _xor(encrypted, _stream(secret, nonce, len(encrypted))).decode(errors="replace")


def _stream(secret: str, nonce: bytes, length: int) -> bytes:
    return hashlib.shake_256(b"dragoman console key" + nonce + secret.encode()).digest(length)


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
