"""Fetching images from a real server on this machine: what is taken, and what is refused with which words."""

import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from dragoman.core.egress.addresses import AddressRefused
from dragoman.core.egress.urls import UrlRules
from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, GenerationRequest, ImagePart, Message, Part, TextPart
from dragoman.gateway.image_fetching import HttpImageFetcher, ImageFetchOptions
from tests.support.captured_logs import capture_logs
from tests.support.image_servers import PNG, ImageServer
from tests.support.jobs.webhook_receivers import CERTIFICATE, CERTIFICATE_HOST, StaticResolver

IMAGE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
ALLOW_ALL = UrlRules(allow_http=True, allow_private=True, settings="images.fetch")
PUBLIC_ONLY = UrlRules(allow_http=True, settings="images.fetch")
OPTIONS = ImageFetchOptions(rules=ALLOW_ALL, max_count=4, max_bytes=500, max_total_bytes=60, timeout_seconds=10)

OPTIONS_PUBLIC = msgspec.structs.replace(OPTIONS, rules=PUBLIC_ONLY)


@contextlib.asynccontextmanager
async def open_fetcher(
    options: ImageFetchOptions = OPTIONS,
    *,
    resolver: AbstractResolver | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[HttpImageFetcher]:
    fetcher = HttpImageFetcher(options, resolver=resolver, tls=tls)
    async with fetcher.opened():
        yield fetcher


def request_with(urls: Sequence[str]) -> GenerationRequest:
    content: tuple[Part, ...] = (TextPart("What is this?"), *(ImagePart(url, "low") for url in urls))
    return GenerationRequest(model="m", prompt=ChatPrompt(messages=(Message(role="user", content=content),)))


async def fetched(fetcher: HttpImageFetcher, *urls: str) -> list[str]:
    """Return the addresses that the images have after they were fetched. Raises BadRequest."""
    [request] = await fetcher.with_images([request_with(urls)])
    assert isinstance(request, GenerationRequest)
    assert isinstance(request.prompt, ChatPrompt)
    [message] = request.prompt.messages
    assert (message.text, [image.detail for image in message.images]) == ("What is this?", ["low"] * len(urls))
    return [image.url for image in message.images]


async def refusal(fetcher: HttpImageFetcher, *urls: str) -> str:
    with pytest.raises(BadRequest) as caught:
        await fetched(fetcher, *urls)
    assert caught.value.parameter == "messages"
    return caught.value.message


async def test_an_image_takes_the_place_of_its_address() -> None:
    async with ImageServer().running() as server, open_fetcher() as fetcher:
        other = "data:image/png;base64,AAAA"
        assert await fetched(fetcher, server.url(), other, server.url("untyped")) == [IMAGE, other, IMAGE]
        assert await fetched(fetcher, other) == [other]
    assert sorted(server.paths) == ["/image", "/untyped"]


async def test_equal_addresses_of_a_request_are_fetched_once() -> None:
    async with ImageServer().running() as server, open_fetcher() as fetcher:
        assert await fetched(fetcher, *[server.url()] * 4) == [IMAGE] * 4
        assert await fetcher.with_images_of(request_with([server.url()]).prompt) == request_with([IMAGE]).prompt
    assert server.paths == ["/image"] * 2


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "its server answered with status 404"),
        ("page", "its server says that it is text/html, which is no image"),
        ("text", "it is no PNG, JPEG, WebP, GIF or BMP"),
        ("compressed", "its server compressed it"),
        ("large", "it has more than 500 bytes"),
        ("endless", "it has more than 500 bytes"),
        ("4", "it redirects more than 3 times"),
    ],
)
async def test_what_is_no_image_or_too_large_is_refused_with_the_reason(path: str, reason: str) -> None:
    async with ImageServer().running() as server, open_fetcher() as fetcher:
        assert reason in await refusal(fetcher, server.url(path))


async def test_all_images_of_a_request_share_one_bound() -> None:
    async with ImageServer().running() as server, open_fetcher() as fetcher:
        assert len(await fetched(fetcher, *(server.url(str(path)) for path in "abc"))) == 3
        assert "the request's images have more than 60 bytes together" in await refusal(
            fetcher, *(server.url(str(path)) for path in "abcd")
        )
        assert await refusal(fetcher, *[server.url()] * 5) == "5 images were sent; a request may have 4"
    assert len(server.paths) <= 7


async def test_a_slow_image_is_given_up() -> None:
    options = msgspec.structs.replace(OPTIONS, timeout_seconds=0.2)
    async with ImageServer().running() as server, open_fetcher(options) as fetcher:
        assert "it was not there within 0.2 seconds" in await refusal(fetcher, server.url(), server.url("slow"))


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"])
async def test_private_addresses_are_refused(host: str) -> None:
    async with open_fetcher(OPTIONS_PUBLIC) as fetcher:
        expected = "its address is not public; images.fetch_allow_private_addresses = true would allow that"
        assert await refusal(fetcher, f"http://{host}:9/") == f"An image could not be fetched: {expected}"


async def test_unencrypted_addresses_are_refused_by_default() -> None:
    async with open_fetcher(ImageFetchOptions()) as fetcher:
        reason = await refusal(fetcher, "http://example.com/image.png")
    assert reason.endswith("it does not begin with https://; images.fetch_allow_http = true would allow that")


async def test_names_of_the_own_network_look_like_names_that_do_not_exist() -> None:
    names = StaticResolver(inside_test=["127.0.0.1"])
    async with ImageServer().running() as server, open_fetcher(OPTIONS_PUBLIC, resolver=names) as fetcher:
        with capture_logs() as logged:
            reasons = {await refusal(fetcher, server.url("secret", f"{name}.test")) for name in ("inside", "outside")}
    assert reasons == {"An image could not be fetched: its host has no public address"}
    assert server.paths == []
    assert [(each["server"], each["reason"]) for each in logged] == [
        (f"http://inside.test:{server.port}", "the name stands for an address that is not public"),
        (f"http://outside.test:{server.port}", "no such name"),
    ]


async def test_a_name_with_several_private_addresses_is_refused() -> None:
    class TwoAddresses(StaticResolver):
        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
            return [
                ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
                for address in ("127.0.0.1", "192.168.0.1")
            ]

    async with ImageServer().running() as server, open_fetcher(OPTIONS_PUBLIC, resolver=TwoAddresses()) as fetcher:
        assert "no public address" in await refusal(fetcher, server.url(host="both.test"))
    assert server.paths == []


async def test_a_name_is_resolved_once_for_a_request_to_it() -> None:
    names = StaticResolver(receiver_test=["127.0.0.1", "127.0.0.1"])  # There is no third result.
    async with ImageServer().running() as server, open_fetcher(resolver=names) as fetcher:
        assert await fetched(fetcher, server.url("1", "receiver.test")) == [IMAGE]
    assert server.paths == ["/1", "/image"]


async def test_redirects_are_followed_within_the_rules_only() -> None:
    tls = ssl.create_default_context(cafile=str(CERTIFICATE))
    rules = UrlRules(allow_private=True, settings="images.fetch")
    async with ImageServer().running() as inside, ImageServer(inside.url()).running(tls=True) as server:
        names = StaticResolver(receiver_test=["127.0.0.1"] * 9)
        options = msgspec.structs.replace(OPTIONS, rules=rules)
        async with open_fetcher(options, resolver=names, tls=tls) as fetcher:
            assert await fetched(fetcher, server.url("3", CERTIFICATE_HOST, "https")) == [IMAGE]
            reason = await refusal(fetcher, server.url("elsewhere", CERTIFICATE_HOST, "https"))
            assert "does not begin with https://" in reason
    assert inside.paths == []


async def test_a_redirect_to_a_private_address_is_refused() -> None:
    class PublicServer(UrlRules):
        """Treats one name as that of a public server; all other addresses must be public."""

        def check(self, url: str) -> URL:
            return URL(url) if URL(url).host == "outside.test" else PUBLIC_ONLY.check(url)

    class Names(StaticResolver):
        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
            if host != "outside.test":
                raise AddressRefused("the name stands for an address that is not public")
            return await super().resolve(host, port, family)

    options = msgspec.structs.replace(OPTIONS, rules=PublicServer(allow_http=True, allow_private=True))
    async with ImageServer().running() as inside:
        for target in (inside.url(), inside.url(host="inside.test"), "file:///etc/passwd", "http://[::1/"):
            async with (
                ImageServer(target).running() as server,
                open_fetcher(options, resolver=Names(outside_test=["127.0.0.1"])) as fetcher,
            ):
                await refusal(fetcher, server.url("elsewhere", "outside.test"))
                assert server.paths == ["/elsewhere"]
    assert inside.paths == []


async def test_errors_and_logs_contain_neither_password_nor_path() -> None:
    async with ImageServer().running() as server, open_fetcher() as fetcher:
        with capture_logs() as logged:
            reason = await refusal(fetcher, f"http://user:password@127.0.0.1:{server.port}/missing?key=secret")
    assert logged[0]["server"] == f"http://127.0.0.1:{server.port}"
    assert not any(word in f"{logged}{reason}" for word in ("password", "missing", "secret"))
