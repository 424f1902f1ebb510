"""Certificates for tests, made by the openssl program."""

import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificate(NamedTuple):
    """A certificate for localhost that signs itself, and its key."""

    certfile: str
    keyfile: str


def make_certificate(folder: Path, name: str, *, passphrase: str | None = None, days: int = 30) -> Certificate:
    """Make a certificate whose common name is `name`."""
    made = Certificate(str(folder / f"{name}.crt"), str(folder / f"{name}.key"))
    key = ["-noenc"] if passphrase is None else ["-passout", f"pass:{passphrase}"]
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command = ["openssl", "req", "-x509", *curve, *key, *subject, "-days", str(days)]
    subprocess.run([*command, "-out", made.certfile, "-keyout", made.keyfile], check=True, capture_output=True)
    return made
