"""Checks of forms: that a page of this server sent them, in this browser; and their fields."""

import hmac
from collections.abc import Mapping

import msgspec
from starlette.requests import Request

from dragoman.server.console.sessions import form_token
from dragoman.server.origins import is_same_origin, parse_host

TOKEN_HEADER = "x-form-token"
TOKEN_FIELD = "form_token"

MAX_FORM_BYTES = 64 * 1024

_MAX_NUMBER = 2.0**53
"""The largest number of a form. A thousand times as many, milliseconds, still fit into 64 bits."""


class PageError(Exception):
    """A request cannot be served; the page that says so has this status, message and advice."""

    def __init__(self, status: int, message: str, advice: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.advice = advice


def check_origin(request: Request) -> None:
    """Raise PageError for a request that a page of another origin sent. Browsers say which page sends a request."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin", "")
    host = parse_host(request.scope.get("dragoman.host") or request.headers.get("host", ""))
    if site not in ("same-origin", "none") or host is None or (origin and not is_same_origin(origin, host)):
        raise PageError(403, "Another web page sent this", "Nothing was changed.")


def check_form_token(sent: str, secret: str) -> None:
    """Raise PageError unless the token is that of the browser with this secret."""
    if not hmac.compare_digest(sent.encode(), form_token(secret).encode()):
        raise PageError(403, "This form has expired", "Load the page again and repeat what you did.")


class Fields:
    """The fields of a form or of a query, by name. Empty ones count as absent."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {name: text.strip() for name, text in values.items() if text.strip()}

    def text(self, name: str) -> str | None:
        """Return the field's text; None if it is absent. Raises ValueError for control characters."""
        value = self._values.get(name)
        if value is not None and any(ord(character) < 32 for character in value):
            raise ValueError(f"{_label(name)} has a line break or another control character")
        return value

    def required(self, name: str) -> str:
        """Return the field's text. Raises ValueError if it is absent."""
        value = self.text(name)
        if value is None:
            raise ValueError(f"{_label(name)} is missing")
        return value

    def integer(self, name: str, *, lowest: int = 1) -> int | None:
        """Return the field as a whole number from `lowest` on; None if it is absent. Raises ValueError."""
        value = self.text(name)
        if value is None:
            return None
        try:
            number = int(value) if len(value) < 20 else None
        except ValueError:
            number = None
        if number is None or not lowest <= number < 2**63:
            raise ValueError(f"{_label(name)} must be a whole number from {lowest} on")
        return number

    def number(self, name: str) -> float | None:
        """Return the field as a number from 0 to 2^53; None if it is absent. Raises ValueError."""
        value = self.text(name)
        try:
            number = None if value is None else msgspec.convert(value, float, strict=False)
        except msgspec.ValidationError:
            number = -1.0
        if number is not None and not 0 <= number <= _MAX_NUMBER:
            raise ValueError(f"{_label(name)} must be a number from 0 on")
        return number

    def names(self, name: str) -> tuple[str, ...] | None:
        """Return the names in the field, which commas separate; None if there is none."""
        value = self.text(name)
        found = [] if value is None else [each.strip() for each in value.split(",") if each.strip()]
        return tuple(found) or None

    def values(self) -> dict[str, str]:
        """Return all fields that are not empty."""
        return dict(self._values)


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()
