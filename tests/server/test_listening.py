"""The socket on which a server listens."""

import os
import socket
import stat
from collections.abc import MutableMapping
from pathlib import Path

import pytest

from dragoman.server.listening import listen, take_activated_socket, with_address_of
from dragoman.server.settings import Settings
from dragoman.server.start_checks import StartupError


def test_a_unix_socket_is_for_its_user_and_group_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with listen(Settings(uds=str(path))):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_the_socket_of_a_killed_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    with listen(Settings(uds=str(path))), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_socket_of_a_running_server_and_other_files_are_left_alone(tmp_path: Path) -> None:
    path, file = tmp_path / "api.sock", tmp_path / "file"
    file.write_text("mine")
    with listen(Settings(uds=str(path))):
        with pytest.raises(StartupError, match="another server listens there"), listen(Settings(uds=str(path))):
            pass
        assert path.exists()
    with pytest.raises(StartupError, match="it exists and is no socket"), listen(Settings(uds=str(file))):
        pass
    assert file.read_text() == "mine"


def test_a_socket_that_another_server_has_replaced_stays(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as other:
        with listen(Settings(uds=str(path))):
            path.unlink()
            other.bind(str(path))
        assert path.exists()


def test_a_path_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "absent" / "s", "No such file or directory"),
        (tmp_path / ("s" * 200), "too long"),
    ):
        with pytest.raises(StartupError, match=reason), listen(Settings(uds=str(path))):
            pass


@pytest.mark.parametrize(
    "environment", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}]
)
def test_sockets_of_other_processes_are_not_taken(environment: dict[str, str]) -> None:
    given: MutableMapping[str, str] = {**environment, "HOME": "/"}
    assert take_activated_socket(given) is None
    assert given == {"HOME": "/"}


def test_one_socket_is_served() -> None:
    with pytest.raises(StartupError, match="systemd has passed 2 sockets"):
        take_activated_socket({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})


def test_the_settings_get_the_address_of_an_activated_socket(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = with_address_of(listener, Settings(host="::1", uds="/unused"))
        assert (settings.host, settings.port, settings.uds) == (*listener.getsockname(), None)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert with_address_of(listener, Settings()).uds == str(tmp_path / "s")


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example"])
def test_a_name_that_no_host_can_have_is_refused_in_one_line(host: str) -> None:
    with (
        pytest.raises(StartupError, match=f"cannot listen on {host}:0: the host's name has an empty or too long part"),
        listen(Settings(host=host, port=0)),
    ):
        pass
