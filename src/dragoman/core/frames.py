"""Messages between our own processes: four bytes of length, little-endian, and as many of msgpack."""

import asyncio
from typing import BinaryIO

LENGTH_BYTES = 4


class FrameTooLong(Exception):
    """The data is no frame of the other process."""

    def __init__(self, length: int) -> None:
        super().__init__(f"a frame of {length} bytes")
        self.length = length


def encode_frame(body: bytes) -> bytes:
    """Prefix the body with its length."""
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


async def read_frame(reader: asyncio.StreamReader, max_bytes: int) -> bytes | None:
    """Read the next frame's body; None at the end of the connection. Raises FrameTooLong."""
    try:
        length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "little")
        if length > max_bytes:
            raise FrameTooLong(length)
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def read_frame_blocking(stream: BinaryIO) -> bytes | None:
    """Wait for the next frame's body; None at the end of the stream, even in the middle of a frame."""
    header = stream.read(LENGTH_BYTES)
    length = int.from_bytes(header, "little")
    body = stream.read(length)
    return body if (len(header), len(body)) == (LENGTH_BYTES, length) else None
