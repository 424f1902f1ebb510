"""The settings of images for embedded models."""

from typing import Annotated

import msgspec
from msgspec import Meta


class ImageSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the images that embedded models with `mmproj` take. A request beyond them is refused as invalid."""

    max_count: Annotated[int, Meta(ge=1, le=1024)] = 16
    """Images in a request."""
    max_bytes: Annotated[int, Meta(ge=1, le=2**30)] = 8 * 1024 * 1024
    """Size of one image, as its file. `max_body_bytes` bounds all of them together."""
    max_pixels: Annotated[int, Meta(ge=1, le=2**26)] = 16 * 1024 * 1024
    """Pixels of one image. Each takes three bytes of memory while the request is prepared."""
