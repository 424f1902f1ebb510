"""No deployment can hide a route."""

from pathlib import Path

from starlette.routing import Mount, Route

from dragoman.server.reserved_names import KEPT_FREE, RESERVED_NAMES
from tests.support.accounting import ADMIN_KEY, accounting_at, open_ledger_harness
from tests.support.apps import echo_app


def test_the_first_part_of_every_path_is_reserved(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/accounts.db"
    with open_ledger_harness(url), accounting_at(url, tmp_path) as accounting:
        routes = echo_app(accounting=accounting, admin_keys={ADMIN_KEY: "ada"}).routes
    paths = {route.path for route in routes if isinstance(route, Route | Mount)}
    assert {
        path.split("/")[1] for path in paths if path != "/" and not path.startswith("/{")
    } == RESERVED_NAMES - KEPT_FREE
