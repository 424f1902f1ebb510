"""Fetch the images at http(s) addresses of a request, so that engines and upstreams get them as data: addresses.

Whoever answers the request connects to none of its addresses, and the same bytes are counted, stored and answered.
"""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver
from yarl import URL

from dragoman.core import logs
from dragoman.core.egress.addresses import AddressRefused
from dragoman.core.egress.session import EgressOptions, failure_reason, open_session
from dragoman.core.egress.urls import UrlRefused, UrlRules, origin
from dragoman.core.errors import BadRequest
from dragoman.core.http_client import ResponseHeadTooLarge
from dragoman.core.request import GenerationRequest, Prompt
from dragoman.core.tasks import Task
from dragoman.gateway.remote_images import remote_urls, urls_of, with_images

MAX_CONCURRENT_FETCHES = 64
"""Images that a process fetches concurrently."""

MAX_CONCURRENT_FETCHES_OF_REQUEST = 4

MAX_REDIRECTS = 3

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_CHUNK_BYTES = 65_536

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)
"""How files of each type begin. _media_type recognizes WebP."""

_HIDDEN_HOST = "its host has no public address"
"""For a name that does not exist and for one of the server's own network: clients cannot find out its names."""

_log = logs.get_logger(__name__)


class ImageFetchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What may be fetched."""

    rules: UrlRules = UrlRules(settings="images.fetch")
    max_count: int = 16
    """Images of a request that are fetched."""
    max_bytes: int = 8 * 1024 * 1024
    """Of one image."""
    max_total_bytes: int = 10 * 1024 * 1024
    """Of all fetched images of a request."""
    timeout_seconds: float = 10.0
    """For all images of a request together, from the name look-up to the last byte."""


class ImageNotFetched(BadRequest):
    """An image at an address could not be fetched."""

    is_final = False

    def __init__(self, message: str) -> None:
        super().__init__(message, "messages")


class _FetchRefused(Exception):
    """An image is not used. The message says why to its client."""


class HttpImageFetcher:
    """Implements gateway.remote_images.ImageFetcher."""

    def __init__(
        self,
        options: ImageFetchOptions,
        *,
        resolver: AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`resolver` None: the system's resolver. `tls` None: trust the system's certificates."""
        self._options = options
        self._egress = EgressOptions(options.rules, MAX_CONCURRENT_FETCHES, resolver, tls)
        self._session: aiohttp.ClientSession | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with open_session(self._egress) as self._session:
            yield

    async def with_images(self, requests: Sequence[Task]) -> Sequence[Task]:
        images = await self._fetch_all([url for request in requests for url in urls_of(request)])
        return [
            msgspec.structs.replace(request, prompt=with_images(request.prompt, images))
            if isinstance(request, GenerationRequest)
            else request
            for request in requests
        ]

    async def with_images_of(self, prompt: Prompt) -> Prompt:
        urls = remote_urls(prompt)
        return with_images(prompt, await self._fetch_all(urls)) if urls else prompt

    async def _fetch_all(self, urls: Sequence[str]) -> Mapping[str, str]:
        """Return the image at each URL as a data: address. Equal URLs are fetched once. Raises BadRequest."""
        options = self._options
        if len(urls) > options.max_count:
            raise BadRequest(f"{len(urls)} images were sent; a request may have {options.max_count}", "messages")
        distinct = list(dict.fromkeys(urls))
        budget = _ByteBudget(options)
        places = asyncio.Semaphore(MAX_CONCURRENT_FETCHES_OF_REQUEST)
        tasks = [asyncio.create_task(self._fetch_in_turn(url, budget, places)) for url in distinct]
        try:
            async with asyncio.timeout(options.timeout_seconds):
                return dict(zip(distinct, await asyncio.gather(*tasks), strict=True))
        except TimeoutError:
            _log.info("image_fetch_timed_out", hosts=sorted({origin(url) for url in distinct}))
            reason = f"it was not there within {options.timeout_seconds:g} seconds"
            raise ImageNotFetched(f"An image could not be fetched: {reason}") from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch_in_turn(self, url: str, budget: "_ByteBudget", places: asyncio.Semaphore) -> str:
        """Fetch one image. Raises ImageNotFetched."""
        try:
            async with places:
                return await self._fetch(url, budget)
        except _FetchRefused as error:
            message = detail = str(error)
        except UrlRefused as error:
            message = detail = str(error)
        except (AddressRefused, aiohttp.ClientConnectorDNSError) as error:
            message, detail = _HIDDEN_HOST, str(error) if isinstance(error, AddressRefused) else failure_reason(error)
        except ResponseHeadTooLarge as error:
            message = detail = str(error)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            message = detail = failure_reason(error)
        _log.info("image_fetch_failed", server=origin(url), reason=detail)
        raise ImageNotFetched(f"An image could not be fetched: {message}")

    async def _fetch(self, url: str, budget: "_ByteBudget") -> str:
        """Request the URL and what it redirects to, each checked before."""
        assert self._session is not None, "opened"
        for _ in range(MAX_REDIRECTS + 1):
            target = self._options.rules.check(url)
            async with self._session.get(
                target, allow_redirects=False, headers={"accept": "image/*", "accept-encoding": "identity"}
            ) as response:
                location = response.headers.get("location")
                if response.status in _REDIRECTS and location is not None:
                    url = str(target.join(URL(location)))
                    continue
                return await _read_image(response, budget)
        raise _FetchRefused(f"it redirects more than {MAX_REDIRECTS} times")


class _ByteBudget:
    """Counts the bytes of a request's images."""

    def __init__(self, options: ImageFetchOptions) -> None:
        self._options = options
        self._total = 0

    def check_size(self, size: int) -> None:
        """Check the size of one image. Raises _FetchRefused."""
        if size > self._options.max_bytes:
            raise _FetchRefused(f"it has more than {self._options.max_bytes} bytes")

    def add(self, size: int) -> None:
        """Count received bytes. Raises _FetchRefused if all images have too many."""
        self._total += size
        if self._total > self._options.max_total_bytes:
            raise _FetchRefused(f"the request's images have more than {self._options.max_total_bytes} bytes together")


async def _read_image(response: aiohttp.ClientResponse, budget: _ByteBudget) -> str:
    """Return a response's body as a data: address, if it is an image. Raises _FetchRefused."""
    if response.status != 200:
        raise _FetchRefused(f"its server answered with status {response.status}")
    if not response.content_type.startswith("image/") and response.content_type != "application/octet-stream":
        raise _FetchRefused(f"its server says that it is {response.content_type[:60]}, which is no image")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _FetchRefused("its server compressed it, although it was asked not to")
    budget.check_size(response.content_length or 0)
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        budget.check_size(len(body))
        budget.add(len(chunk))
    media_type = _media_type(body)
    if media_type is None:
        raise _FetchRefused("it is no PNG, JPEG, WebP, GIF or BMP")
    return f"data:{media_type};base64,{base64.b64encode(body).decode()}"


def _media_type(body: bytearray) -> str | None:
    """Return the type by the first bytes, since servers often name another one. None: it is no known image."""
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for signature, media_type in _SIGNATURES if body.startswith(signature)), None)
