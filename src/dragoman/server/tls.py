"""TLS with the certificate and key of the settings."""

import ssl

from dragoman.core.user_paths import user_path
from dragoman.server.settings import Settings

_HANDSHAKE_TURNS = 4
"""More than TLS 1.3 and 1.2 take."""

_EXPIRED = 10
"""X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL."""


class CertificateError(Exception):
    """The certificate, the key or the authorities cannot be used. The message is one line for people."""


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context for connections of clients, from TLS 1.2 on; None without a certificate.

    With `ssl_ca_certs`, clients must have a certificate of one of these authorities. Raises CertificateError.
    """
    if settings.ssl_certfile is None:
        if settings.ssl_keyfile is not None or settings.ssl_ca_certs is not None:
            raise CertificateError("ssl_keyfile and ssl_ca_certs need ssl_certfile, the server's certificate")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, settings.ssl_certfile, settings.ssl_keyfile)
    if settings.ssl_ca_certs is not None:
        try:
            context.load_verify_locations(_existing(settings.ssl_ca_certs))
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(f"ssl_ca_certs: {settings.ssl_ca_certs}: {_reason(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def load_certificate(context: ssl.SSLContext, certfile: str, keyfile: str | None) -> None:
    """Use the certificate for new connections of the context. Without `keyfile`, the key is in the same file.

    Raises CertificateError, and the context then keeps what it has.
    """
    try:
        files = _existing(certfile), None if keyfile is None else _existing(keyfile)
        for each in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
            each.load_cert_chain(*files, password=_refuse_passphrase)
    except (OSError, ssl.SSLError) as error:
        names = certfile if keyfile is None else f"{certfile} with {keyfile}"
        raise CertificateError(f"ssl_certfile: {names}: {_reason(error)}") from None


def _existing(path: str) -> str:
    """Return the path without `~`. Raises OSError: OpenSSL's own error does not name the file."""
    expanded = user_path(path)
    expanded.open("rb").close()
    return str(expanded)


def _refuse_passphrase() -> str:
    """Stand for the passphrase of an encrypted key: OpenSSL would ask for it at the terminal."""
    return ""


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason in (None, "BAD_DECRYPT", "BAD_PASSWORD_READ"):
            return "the key cannot be read; it must be in PEM and without a passphrase"
        return (error.reason or "").replace("_", " ").lower()
    return error.strerror or str(error)


def certificate_expiry(settings: Settings) -> float:
    """Return when the certificate expires, in seconds since 1970; 0 for one that has expired.

    Two ends in this process shake hands, since Python parses no certificate but a verified one. Raises
    CertificateError.
    """
    server = server_context(settings)
    assert server is not None, "there is a certificate"
    assert settings.ssl_certfile is not None, "as before"
    server.verify_mode = ssl.CERT_NONE
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # The certificate itself is trusted, whoever signed it.
    client.load_verify_locations(_existing(settings.ssl_certfile))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(_HANDSHAKE_TURNS):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                if error.verify_code == _EXPIRED:
                    return 0.0
                raise CertificateError(f"ssl_certfile: {error.verify_message}") from None
    certificate = ends[0].getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))
