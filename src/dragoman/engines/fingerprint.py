"""A short name for everything that decides what a model answers."""

import hashlib

import msgspec

_DIGITS = 12


def fingerprint(*parts: object) -> str:
    """`fp_` and 12 hexadecimal digits, the same for equal parts and no others. Parts are what msgspec can encode.

    What changes an answer besides belongs in it: a LoRA adapter's is made of its model's and of its own content.
    """
    return f"fp_{hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:_DIGITS]}"
