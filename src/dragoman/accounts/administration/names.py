"""What names of accounts, keys and models may hold: they stand in lines of terminals, logs and lists."""

import re

MAX_NAME_LENGTH = 255

_CURRENCY = re.compile(r"[A-Z]{3}")
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and bytes of an argument that are no UTF-8."""


def check_name(what: str, name: str) -> str:
    """Return the name. Raises ValueError for one that is too long or does not fit into a line."""
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"{what} has {len(name)} characters; it may have {MAX_NAME_LENGTH}")
    if _NOT_IN_NAMES.search(name):
        raise ValueError(f"{what} {name!a} has control characters or bytes that are no UTF-8")
    return name


def check_model(name: str) -> str:
    """Return the name of a model. Raises ValueError for an empty one, as for other names."""
    if not name:
        raise ValueError("A model's name is not empty")
    return check_name("The model", name)


def check_currency(code: str) -> str:
    """Return the code of a currency. Raises ValueError."""
    if not _CURRENCY.fullmatch(code):
        raise ValueError(f"The currency {code!a} has not three capital letters, as USD has")
    return code
