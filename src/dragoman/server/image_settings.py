"""The settings of images."""

from typing import Annotated

import msgspec
from msgspec import Meta


class ImageSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the images that embedded models with `mmproj` take, and of those that are fetched for all models. A
    request beyond them is refused as invalid."""

    max_count: Annotated[int, Meta(ge=1, le=1024)] = 16
    """Images in a request."""
    max_bytes: Annotated[int, Meta(ge=1, le=2**30)] = 8 * 1024 * 1024
    """Size of one image, as its file. `max_body_bytes` bounds all of them together."""
    max_pixels: Annotated[int, Meta(ge=1, le=2**26)] = 16 * 1024 * 1024
    """Pixels of one image. Each takes three bytes of memory while the request is prepared."""
    fetch: bool = False
    """Fetch images at `https://` addresses. Off: images must be in the request, as `data:` URLs."""
    fetch_allow_http: bool = False
    """Fetch images without TLS too."""
    fetch_allow_private_addresses: bool = False
    """Fetch images from addresses too that only this machine or its network can reach."""
    fetch_max_bytes: Annotated[int, Meta(ge=1, le=2**30)] = 10 * 1024 * 1024
    """Size of all images together that are fetched for a request."""
    fetch_timeout_seconds: Annotated[float, Meta(gt=0)] = 10.0
    """Time in which all images of a request must be fetched."""
