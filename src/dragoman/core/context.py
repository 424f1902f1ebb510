"""Who sends a request."""

import msgspec

from dragoman.core.identifiers import key_digest


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The sender of a request, as far as the request shows. Whether the key is valid is not checked yet."""

    request_id: str
    """32 hex digits, never used before: identifies the request in responses, logs and usage."""
    key: str | None = None
    """The API key; None: none was sent."""
    address: str = ""
    """The client's IP address; empty if it is not known."""
    account: str | None = None
    """The account that is to pay, by its number or name; None: the key's own."""
    key_digest: str = ""
    """Computed from the key, once; stands for it everywhere else. Empty without a key."""

    def __post_init__(self) -> None:
        if self.key:
            msgspec.structs.force_setattr(self, "key_digest", key_digest(self.key))

    def __repr__(self) -> str:
        return f"Caller({self.request_id!r})"  # The key must not get into a log.
