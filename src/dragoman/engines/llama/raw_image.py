"""Images as the HTTP workers send them to the engine. Without numpy, which the workers do not need."""

import msgspec


class RawImage(msgspec.Struct, frozen=True, array_like=True):
    """A decoded image."""

    width: int
    height: int
    pixels: bytes
    """Red, green and blue of each pixel, row by row."""
