"""The menu, in the order of use."""

from typing import NamedTuple

from dragoman.server.console.viewers import BOTH, OPERATOR_ONLY, Role


class MenuEntry(NamedTuple):
    """A page in the menu."""

    title: str
    path: str
    icon: str
    roles: frozenset[Role] = BOTH
    needs_accounts: bool = False


MENU = (
    MenuEntry("Overview", "/", "gauge"),
    MenuEntry("Playground", "/playground", "spark"),
    MenuEntry("Requests", "/requests", "list"),
    MenuEntry("Usage", "/usage", "bars"),
    MenuEntry("Queue", "/queue", "stack"),
    MenuEntry("Responses", "/responses", "reply"),
    MenuEntry("Models", "/models", "cube"),
    MenuEntry("Upstreams", "/upstreams", "nodes", OPERATOR_ONLY),
    MenuEntry("Keys", "/keys", "key"),
    MenuEntry("Accounts", "/accounts", "people", OPERATOR_ONLY),
    MenuEntry("Health", "/health", "pulse", OPERATOR_ONLY),
    MenuEntry("Audit", "/audit", "book", OPERATOR_ONLY),
)
