"""Who looks at the console: an operator, or the holder of an API key."""

from enum import StrEnum

import msgspec


class Role(StrEnum):
    """What somebody may see and do in the console."""

    OPERATOR = "operator"
    """Everything: holders of an admin key, and everybody on a server without keys."""
    HOLDER = "holder"
    """The own account only: holders of an API key."""


BOTH = frozenset(Role)
OPERATOR_ONLY = frozenset({Role.OPERATOR})


class ConsoleViewer(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who may look at pages."""

    role: Role
    name: str
    """For the audit log and the menu."""
    account_id: int | None = None
    """The account that a holder sees. None: an operator, or the holder of a key of the settings."""
    key_id: int | None = None
    api_key: str | None = None
    """The key that the playground sends."""
    session: str | None = None
    """The digest of the session. None: nobody has to sign in."""

    def __repr__(self) -> str:
        return f"ConsoleViewer({self.role}, {self.name!r})"  # The key must not get into a log.

    @property
    def is_operator(self) -> bool:
        """Whether the viewer may see everything."""
        return self.role is Role.OPERATOR

    @property
    def sees_usage(self) -> bool:
        """Whether there are requests that are the viewer's. Those of keys of the settings are not told apart."""
        return self.is_operator or self.account_id is not None
