"""Variables of the environment that look like settings, and are Kubernetes' own."""

from pathlib import Path

import pytest

from dragoman.server.settings import Settings
from dragoman.server.settings_loading import SettingsError, load_settings

EMPTY = Path("/dev/null")
"""A settings file without settings, instead of one in the working directory."""

KUBERNETES_SERVICE_LINKS = {
    "DRAGOMAN_SERVICE_HOST": "10.0.0.7",
    "DRAGOMAN_SERVICE_PORT": "8000",
    "DRAGOMAN_SERVICE_PORT_HTTP": "8000",
    "DRAGOMAN_PORT": "tcp://10.0.0.7:8000",
    "DRAGOMAN_PORT_8000_TCP": "tcp://10.0.0.7:8000",
    "DRAGOMAN_PORT_8000_TCP_PROTO": "tcp",
    "DRAGOMAN_PORT_8000_TCP_PORT": "8000",
    "DRAGOMAN_PORT_8000_TCP_ADDR": "10.0.0.7",
    "DRAGOMAN_METRICS_SERVICE_HOST": "fd00::7",
    "DRAGOMAN_METRICS_PORT": "udp://[fd00::7]:9090",
    "DRAGOMAN_METRICS_PORT_9090_UDP_ADDR": "fd00::7",
}
"""What Kubernetes sets in every container beside the Services `dragoman` and `dragoman-metrics`."""


@pytest.mark.parametrize(("variable", "text"), KUBERNETES_SERVICE_LINKS.items())
def test_a_variable_of_a_kubernetes_service_is_no_setting(variable: str, text: str) -> None:
    assert load_settings(EMPTY, {variable: text}, {}) == Settings()


@pytest.mark.parametrize(("variable", "text"), [("DRAGOMAN_PORT", "tcp"), ("DRAGOMAN_PORTS", "tcp://10.0.0.7:8000")])
def test_a_mistyped_variable_is_not_taken_for_one_of_kubernetes(variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=r"^environment: "):
        load_settings(EMPTY, {variable: text}, {})
