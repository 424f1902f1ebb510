import hashlib

import pytest

from dragoman.server.console_settings import ConsoleSettings
from dragoman.server.settings import (
    AccountsSettings,
    AdminKeySettings,
    AdminSettings,
    DeploymentSettings,
    KeySettings,
    Settings,
)
from dragoman.server.start_checks import StartupError, check_settings
from dragoman.server.upstream_settings import UpstreamSettings


def test_a_database_that_no_server_can_use_is_refused() -> None:
    with pytest.raises(StartupError, match=r"^accounts.database: .* mysql; write sqlite"):
        check_settings(Settings(accounts=AccountsSettings(database="mysql://h/a")))
    check_settings(Settings(accounts=AccountsSettings(database="postgresql://u@h/a?sslmode=require&host=/run/pg")))


@pytest.mark.parametrize("proxy", ["10.0.0.1/8", "nginx", "*", "10.0.0.1:80"])
def test_a_trusted_proxy_that_would_never_match_is_refused(proxy: str) -> None:
    with pytest.raises(StartupError, match=f"^trusted_proxies: '{proxy.replace('*', '.')}' is neither an IP address"):
        check_settings(Settings(trusted_proxies=("10.0.0.0/8", proxy)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(dialect_hosts={"https://a.example": "scale"}), "dialect_hosts: 'https://a.example' is no host name"),
        (Settings(allowed_hosts=("a.example:80",)), "allowed_hosts: 'a.example:80' is no host name"),
        (Settings(allowed_origins=("a.example",)), "allowed_origins: 'a.example' is no origin"),
        (Settings(allowed_origins=("*",)), "allowed_origins: with .* every web page could use the server"),
    ],
)
def test_hosts_and_origins_that_cannot_be_meant_are_refused(settings: Settings, message: str) -> None:
    with pytest.raises(StartupError, match=f"^{message}"):
        check_settings(settings)


def test_a_server_with_keys_may_allow_every_origin() -> None:
    check_settings(Settings(allowed_origins=("*",), keys=(KeySettings(name="a", key="sk-0123456789abcdef"),)))


@pytest.mark.parametrize("path", ["/v1", "/admin/x", "/assistant"])
def test_a_path_of_the_console_that_hides_routes_is_refused(path: str) -> None:
    deployments = (DeploymentSettings(name="assistant", model="echo"),)
    with pytest.raises(StartupError, match=r"^console.base_path"):
        check_settings(Settings(console=ConsoleSettings(base_path=path), deployments=deployments))
    with pytest.raises(StartupError, match=r"^console.hosts"):
        check_settings(Settings(console=ConsoleSettings(hosts=("http://a",))))
    check_settings(Settings(console=ConsoleSettings(base_path="/console/x", hosts=("a.example",))))


@pytest.mark.parametrize("path", ["llm", "/llm/", "/", "//llm", "/a b", "/v1", "/queue/x", "/assistant", "http://a"])
def test_a_root_path_that_is_none_or_hides_routes_is_refused(path: str) -> None:
    deployments = (DeploymentSettings(name="assistant", model="echo"),)
    with pytest.raises(StartupError, match=r"^root_path"):
        check_settings(Settings(root_path=path, deployments=deployments))
    check_settings(Settings(root_path="/llm/x", deployments=deployments))


SECRET, OTHER = "sk-0123456789abcdef", "sk-fedcba9876543210"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(keys=(KeySettings("a", SECRET), KeySettings("b", SECRET))), "the keys a and b are equal"),
        (Settings(keys=(KeySettings("a", SECRET),), api_key=SECRET), "the keys a and api_key are equal"),
        (
            Settings(
                accounts=AccountsSettings(database="sqlite"),
                admin=AdminSettings(
                    keys=(
                        AdminKeySettings("ada", key=SECRET),
                        AdminKeySettings("bob", sha256=hashlib.sha256(SECRET.encode()).hexdigest()),
                    )
                ),
            ),
            r"the keys ada and bob of \[admin\] are equal",
        ),
    ],
)
def test_equal_keys_of_two_owners_are_refused(settings: Settings, message: str) -> None:
    with pytest.raises(StartupError, match=f"^{message}; give each owner a key of its own$"):
        check_settings(settings)
    check_settings(Settings(keys=(KeySettings("a", SECRET), KeySettings("b", OTHER))))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(model="echo", deployments=(DeploymentSettings(name="a"),)), "a model and .* are both set"),
        (Settings(deployments=(DeploymentSettings(name="a"),) * 2), "two deployments are called a"),
        (Settings(deployments=(DeploymentSettings(name="a", fallbacks=("b",)),)), "the deployment a falls back to b"),
        (Settings(deployments=(DeploymentSettings(name="v1"),)), "a deployment called v1 would stand in the way"),
        (
            Settings(deployments=(DeploymentSettings(name="a", upstreams=(UpstreamSettings(url="http://a:99999"),)),)),
            "an upstream of a cannot be used",
        ),
    ],
)
def test_deployments_that_contradict_each_other_are_refused_without_their_models(
    settings: Settings, message: str
) -> None:
    with pytest.raises(StartupError, match=f"^{message}"):
        check_settings(settings)
