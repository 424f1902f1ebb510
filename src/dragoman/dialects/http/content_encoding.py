"""Decompresses request bodies that a client sent with a Content-Encoding, never beyond the limit of a body's size."""

import zlib

from dragoman.core.errors import UnsupportedEncoding
from dragoman.dialects.http.validation import MalformedJson

ACCEPTED_ENCODINGS = ("gzip", "deflate")

_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS

_ZLIB_METHOD = 8
_ZLIB_HEADER_DIVISOR = 31
"""RFC 1950, section 2.2: the low bits of the first byte, and what the first two bytes are a multiple of."""


class BodyDecompressor:
    """Decompresses one body in the order in which its parts arrive."""

    def __init__(self, encoding: str) -> None:
        """`encoding` is the value of Content-Encoding. Raises UnsupportedEncoding unless it is one of ours."""
        name = encoding.strip().lower().removeprefix("x-")
        if name not in ACCEPTED_ENCODINGS:
            raise UnsupportedEncoding(encoding[:40], ACCEPTED_ENCODINGS)
        self._name = name
        self._head = b""
        self._decompressor = zlib.decompressobj(_GZIP_BITS) if name == "gzip" else None

    def decompress(self, part: bytes, max_bytes: int) -> bytes:
        """Return the next bytes of the body, at most `max_bytes` and one more. Raises MalformedJson."""
        if self._decompressor is None:
            self._head += part
            if len(self._head) < 2:
                return b""
            part, self._head = self._head, b""
            self._decompressor = zlib.decompressobj(_ZLIB_BITS if _is_zlib(part) else _RAW_BITS)
        if self._decompressor.eof and part:
            # Members without end would each cost a new decompressor.
            raise self._malformed()
        try:
            data = self._decompressor.decompress(part, max_bytes + 1)
        except zlib.error as error:
            raise self._malformed() from error
        if self._decompressor.unused_data:
            raise self._malformed()
        return data

    def finish(self) -> None:
        """Check that the body is complete. Raises MalformedJson."""
        if self._decompressor is None or not self._decompressor.eof:
            raise self._malformed()

    def _malformed(self) -> MalformedJson:
        return MalformedJson(f"Request body is not valid {self._name} data, or not a single stream of it")


def _is_zlib(head: bytes) -> bool:
    """Whether deflated data has the header that RFC 9110 requires. Some clients leave it out."""
    return head[0] & 0x0F == _ZLIB_METHOD and int.from_bytes(head[:2]) % _ZLIB_HEADER_DIVISOR == 0
