"""The certificate and key of the settings."""

import re
import socket
import ssl
import threading
from pathlib import Path

import pytest

from dragoman.server.settings import Settings
from dragoman.server.start_checks import StartupError, check_settings
from dragoman.server.tls import CertificateError, load_certificate, server_context
from tests.support.certificates import Certificate, make_certificate
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


def settings_of(certificate: Certificate, ca_certs: str | None = None) -> Settings:
    return Settings(ssl_certfile=certificate.certfile, ssl_keyfile=certificate.keyfile, ssl_ca_certs=ca_certs)


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Return the common name of the certificate that the server presents. Raises ssl.SSLError of either side."""
    ours, theirs = socket.socketpair()
    failures: list[ssl.SSLError] = []

    def accept() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as connection:
                connection.sendall(b"x")
        except ssl.SSLError as error:
            failures.append(error)

    serving = threading.Thread(target=accept)
    serving.start()
    try:
        with client.wrap_socket(ours, server_hostname="localhost") as connection:
            connection.recv(1)
            names = str((connection.getpeercert() or {})["subject"])
    finally:
        serving.join(TEST_TIMEOUT_SECONDS)
        theirs.close()
    if failures:
        raise failures[0]
    [name] = re.findall(r"'commonName', '(.*?)'", names)
    return str(name)


def client_of(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate.certfile)


def test_without_a_certificate_there_is_no_tls() -> None:
    assert server_context(Settings()) is None


def test_clients_get_the_certificate_and_old_protocols_are_refused(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "first")
    server = server_context(settings_of(certificate))
    assert server is not None
    assert shake_hands(server, client_of(certificate)) == "first"
    assert server.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_new_certificate_is_used_for_new_connections_of_the_same_context(tmp_path: Path) -> None:
    first, second = make_certificate(tmp_path, "first"), make_certificate(tmp_path, "second")
    server = server_context(settings_of(first))
    assert server is not None
    load_certificate(server, second.certfile, second.keyfile)
    assert shake_hands(server, client_of(second)) == "second"


def test_a_certificate_that_cannot_be_used_leaves_the_context_as_it_is(tmp_path: Path) -> None:
    first, second = make_certificate(tmp_path, "first"), make_certificate(tmp_path, "second")
    server = server_context(settings_of(first))
    assert server is not None
    with pytest.raises(CertificateError, match="key values mismatch"):
        load_certificate(server, second.certfile, first.keyfile)
    assert shake_hands(server, client_of(first)) == "first"


def test_with_authorities_clients_need_a_certificate_of_one_of_them(tmp_path: Path) -> None:
    ours, theirs = make_certificate(tmp_path, "ours"), make_certificate(tmp_path, "theirs")
    server = server_context(settings_of(ours, ca_certs=theirs.certfile))
    assert server is not None
    stranger, friend = client_of(ours), client_of(ours)
    friend.load_cert_chain(theirs.certfile, theirs.keyfile)
    assert shake_hands(server, friend) == "ours"
    with pytest.raises(ssl.SSLError):
        shake_hands(server, stranger)


def test_settings_that_cannot_be_served_stop_the_start_with_the_reason(tmp_path: Path) -> None:
    plain, locked = make_certificate(tmp_path, "plain"), make_certificate(tmp_path, "locked", passphrase="secret")
    empty = tmp_path / "empty"
    empty.touch()
    for settings, reason in (
        (Settings(ssl_keyfile=plain.keyfile), "ssl_keyfile and ssl_ca_certs need ssl_certfile"),
        (Settings(ssl_certfile=str(tmp_path / "absent")), "absent: No such file or directory"),
        (Settings(ssl_certfile=plain.certfile), "the key cannot be read; it must be in PEM"),
        (settings_of(locked), "the key cannot be read; it must be in PEM and without a passphrase"),
        (settings_of(plain, ca_certs=str(empty)), "ssl_ca_certs"),
    ):
        with pytest.raises(StartupError, match=reason):
            check_settings(settings)


def test_a_certificate_below_the_home_of_nobody_is_no_such_file() -> None:
    with pytest.raises(CertificateError, match=r"^ssl_certfile: ~no-such-user/cert.pem: No such file or directory$"):
        server_context(Settings(ssl_certfile="~no-such-user/cert.pem"))
