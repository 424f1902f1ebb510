"""Reasoning that clients keep for us: encrypted and authenticated under a key of the server.

A client without stored responses sends it back with its next request. What another server encrypted is dropped.
"""

import base64
import binascii
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

_PREFIX = "dr1."
"""Names the format, so that a later one can be told apart."""

KEY_BYTES = 64
"""Of AES-SIV (RFC 5297). Equal texts have equal ciphertexts, so that a replayed stream has equal bytes."""


class ReasoningCipher:
    """Encrypts and decrypts reasoning. Without a key it does neither."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @property
    def has_key(self) -> bool:
        """Whether reasoning can be encrypted."""
        return bool(self._key)

    def seal(self, text: str) -> str:
        """Encrypt a text."""
        return _PREFIX + base64.b64encode(self._aead().encrypt(text.encode(errors="replace"), [])).decode()

    def unseal(self, sealed: str) -> str | None:
        """Decrypt a text; None: it was not encrypted with this key."""
        from cryptography.exceptions import InvalidTag

        if not self._key or not sealed.startswith(_PREFIX):
            return None
        try:
            return self._aead().decrypt(base64.b64decode(sealed.removeprefix(_PREFIX), validate=True), []).decode()
        except (InvalidTag, binascii.Error, UnicodeDecodeError):
            return None

    def _aead(self) -> "AESSIV":
        # Imported lazily: few requests carry encrypted reasoning.
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        return AESSIV(self._key)
