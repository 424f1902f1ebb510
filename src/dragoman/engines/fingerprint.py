"""Fingerprints identify everything that determines a model's answers."""

import hashlib

import msgspec

_DIGITS = 12


def fingerprint(*parts: object) -> str:
    """Return `fp_` and 12 hexadecimal digits, equal exactly if the parts are. msgspec must be able to encode the parts.

    Pass everything that can change an answer: an adapter's fingerprint has its model's fingerprint and its own content.
    """
    return f"fp_{hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:_DIGITS]}"
