import pytest

from dragoman.server.settings import Settings
from dragoman.server.start_checks import StartupError, check_settings


@pytest.mark.parametrize("proxy", ["10.0.0.1/8", "nginx", "*", "10.0.0.1:80"])
def test_a_trusted_proxy_that_would_never_match_is_refused(proxy: str) -> None:
    with pytest.raises(StartupError, match=f"^trusted_proxies: '{proxy.replace('*', '.')}' is neither an IP address"):
        check_settings(Settings(trusted_proxies=("10.0.0.0/8", proxy)))
