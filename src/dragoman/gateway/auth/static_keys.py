"""API keys of the settings, which open the server and cost nothing."""

import hmac
from collections.abc import Iterable, Mapping

from dragoman.core.context import Caller, key_digest
from dragoman.core.errors import KeyUnknown, Unauthenticated
from dragoman.gateway.auth.authenticator import Principal, owner_of_removed_key

NO_GROUPS: Mapping[str, str] = {}


class StaticKeyAuthenticator:
    """Implements Authenticator with keys known by their digests. Without any, every caller is accepted."""

    def __init__(
        self,
        digests: Iterable[str] | Mapping[str, str],
        groups: Mapping[str, str] = NO_GROUPS,
        numbers: Mapping[str, int] | None = None,
    ) -> None:
        """A mapping gives the keys' labels for people. `groups` has the groups of keys that are not alone.

        `numbers` distinguish the owners of keys: after a reload, a new key is not the owner that a removed one was.
        """
        self._digests = tuple(digests)
        self.needs_key = bool(self._digests)
        self._labels = digests if isinstance(digests, Mapping) else {}
        self._owners = {
            digest: f"key group {groups[digest]}" if digest in groups else f"key {number}"
            for digest, number in (numbers or {digest: n for n, digest in enumerate(self._digests, 1)}).items()
        }

    def owner_of_key(self, digest: str) -> str:
        if not self.needs_key:
            return ""
        return self._owners.get(digest) or owner_of_removed_key(digest)

    def turn_owner(self, caller: Caller) -> str:
        return self.owner_of_key(caller.key_digest) or caller.address

    def label(self, key: str | None) -> str:
        """Return the key's label; empty if it has none."""
        return self._labels.get(key_digest(key), "") if key else ""

    def knows_digest(self, digest: str) -> bool:
        """Whether the digest is that of one of the keys."""
        return digest in self._digests

    def label_of_digest(self, digest: str) -> str:
        """Return the label of the key with this digest; empty if it has none."""
        return self._labels.get(digest, "")

    def require(self, key: str | None) -> None:
        """Raise Unauthenticated unless the key is one of them."""
        if not key:
            raise Unauthenticated("missing")
        if not self.is_known(key):
            raise KeyUnknown().with_key(key)

    def is_known(self, key: str | None) -> bool:
        """Whether the key is one of them. The time that it takes reveals nothing about them."""
        if not key:
            return False
        digest = key_digest(key)
        # Compare all: stopping at the right one would reveal its position.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0

    async def reject_unknown_key(self, caller: Caller, dialect: str | None) -> None:  # noqa: ARG002
        if self.needs_key:
            self.require(caller.key)

    async def authenticate(self, caller: Caller, dialect: str | None) -> Principal:
        await self.reject_unknown_key(caller, dialect)
        return Principal(self.label(caller.key), owner=self.owner_of_key(caller.key_digest))

    async def check_access(self, caller: Caller, dialect: str) -> Principal:
        return await self.authenticate(caller, dialect)

    async def count_request(self, caller: Caller, dialect: str) -> None:
        await self.authenticate(caller, dialect)


NO_KEYS = StaticKeyAuthenticator(())
