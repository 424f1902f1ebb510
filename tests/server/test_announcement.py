"""What a server prints when it is ready."""

import pytest

from dragoman.server.announcement import announcement
from dragoman.server.console_settings import ConsoleSettings
from dragoman.server.engine_plans import EchoPlan
from dragoman.server.planning import DeploymentPlan
from dragoman.server.settings import AccountsSettings, EchoSettings, KeySettings, Settings

ENGINES = (EchoPlan(echo=EchoSettings()),)
PARROT = DeploymentPlan(name="parrot", aliases=("polly", "pretty"), engines=ENGINES)
OTHERS = tuple(DeploymentPlan(name=name, aliases=(), engines=ENGINES) for name in ("owl", "jay"))


def lines(settings: Settings, *plans: DeploymentPlan) -> list[str]:
    return announcement(settings, plans, "127.0.0.1", 8000).splitlines()


def test_models_addresses_and_a_request_are_printed() -> None:
    served, place, console, _, heading, request = lines(Settings(), PARROT, *OTHERS)
    assert served == "dragoman serves parrot (also called polly, pretty), owl and jay"
    assert place == "  at http://127.0.0.1:8000"
    assert console == "  for browsers: http://127.0.0.1:8000/console"
    assert heading == "Try:"
    assert request.startswith('  curl http://127.0.0.1:8000/v1/chat/completions -d \'{"model": "parrot", ')


def test_the_request_has_a_key_if_one_is_needed_and_accounts_say_where_it_comes_from() -> None:
    *_, heading, request = lines(Settings(keys=(KeySettings("a", "sk-0123456789abcdef"),)), *OTHERS)
    assert (heading, "-H 'Authorization: Bearer KEY'" in request) == ("Try:", True)
    *_, heading, request = lines(Settings(accounts=AccountsSettings(database="sqlite")), *OTHERS)
    assert heading == "Try, with a KEY that `dragoman keys create` makes:"
    assert "-H 'Authorization: Bearer KEY'" in request


@pytest.mark.parametrize(
    "settings",
    [
        Settings(console=ConsoleSettings(enabled=False)),
        Settings(console=ConsoleSettings(hosts=("console.example.com",))),
        Settings(uds="/run/dragoman.sock"),
    ],
)
def test_no_console_is_named_where_none_can_be_opened_there(settings: Settings) -> None:
    assert not any("browsers" in line for line in lines(settings, PARROT))


def test_the_place_may_be_a_unix_socket_an_address_of_ipv6_or_https() -> None:
    _, place, *_, request = lines(Settings(uds="/run/dragoman.sock"), PARROT)
    assert place == "  at unix:/run/dragoman.sock"
    assert request.startswith("  curl --unix-socket /run/dragoman.sock http://localhost/v1/")
    text = announcement(Settings(ssl_certfile="a.pem"), [PARROT], "::1", 8000)
    assert "  at https://[::1]:8000\n" in text
