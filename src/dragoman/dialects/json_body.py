"""Decoding a request's JSON body, with errors that name the field."""

import re
from typing import TypeVar

import msgspec

from dragoman.core.errors import BadRequest

Wire = TypeVar("Wire", bound=msgspec.Struct)

_AT_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


class MalformedJson(BadRequest):
    """The body is no JSON at all, or no object."""


def decode(decoder: msgspec.json.Decoder[Wire], body: bytes) -> Wire:
    """The body as a wire struct. Raises MalformedJson, or BadRequest naming the field of the wrong type."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJson("Invalid JSON in request body") from error


def whole(parameter: str, value: float) -> int:
    """An integer that JSON may have spelt 40 or 40.0. Raises BadRequest for any other number or more than 64 bits."""
    if isinstance(value, float) and not value.is_integer():
        raise BadRequest(f"{parameter} must be an integer, got {value:g}", parameter)
    if not -(2**63) <= value < 2**64:
        raise BadRequest(f"{parameter} must be an integer of at most 64 bits, got {_beginning(value)}", parameter)
    return int(value)


def real(parameter: str, value: float) -> float:
    """A number that JSON may have spelt 1 or 1.0. Raises BadRequest for an integer that is too large for a float."""
    try:
        return float(value)
    except OverflowError:
        raise BadRequest(f"{parameter} is too large a number: {_beginning(value)}", parameter) from None


def _beginning(number: float) -> str:
    digits = str(number)
    return digits if len(digits) <= 40 else f"{digits[:40]}..."


def _wrong_type(message: str) -> BadRequest:
    match = _AT_PATH.search(message)
    if match is None or not match["path"]:
        return MalformedJson("Request body must be a JSON object")
    path = match["path"]
    expected = message[: match.start()].replace("`", "").replace(" | null", "")
    return BadRequest(f"{path}: {expected[0].lower()}{expected[1:]}", re.split(r"[.\[]", path)[0])
