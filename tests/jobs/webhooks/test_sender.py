"""Sending messages to a real server on this machine."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest
from aiohttp.abc import AbstractResolver

from dragoman.core.egress.urls import UrlRules
from dragoman.jobs.webhooks.message import ended_message, parse_secret
from dragoman.jobs.webhooks.sender import DeliveryAttempt, WebhookSender
from tests.support.captured_logs import capture_logs
from tests.support.jobs.webhook_receivers import (
    CERTIFICATE,
    CERTIFICATE_HOST,
    SECRET,
    StaticResolver,
    WebhookReceiver,
    running_receiver,
)
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

MESSAGE = ended_message("job_1", "1", "finished", 1_800_000_000_000)
ALLOW_ALL = UrlRules(allow_http=True, allow_private=True)


@contextlib.asynccontextmanager
async def open_sender(
    rules: UrlRules = ALLOW_ALL,
    *,
    resolver: AbstractResolver | None = None,
    tls: ssl.SSLContext | None = None,
    timeout_seconds: float = 10,
) -> AsyncIterator[WebhookSender]:
    webhook_sender = WebhookSender(
        parse_secret(SECRET), rules, resolver=resolver, tls=tls, timeout_seconds=timeout_seconds
    )
    async with webhook_sender.opened():
        yield webhook_sender


async def test_a_message_is_posted_signed_as_json() -> None:
    async with running_receiver(WebhookReceiver(204)) as receiver, open_sender() as sender:
        assert await sender.send(receiver.url(), MESSAGE) == DeliveryAttempt("delivered")
    [received] = receiver.received
    received.assert_signed()
    assert (received.id, received.path, received.body) == (MESSAGE.id, "/hooks?token=secret", MESSAGE.body)
    assert received.headers["content-type"] == "application/json"
    assert received.headers["user-agent"].startswith("dragoman/")


@pytest.mark.parametrize(
    ("status", "result"),
    [(200, "delivered"), (299, "delivered"), (410, "gone"), (304, "failed"), (404, "failed"), (503, "failed")],
)
async def test_the_status_says_whether_it_is_delivered(status: int, result: str) -> None:
    async with running_receiver(WebhookReceiver(status)) as receiver, open_sender() as sender:
        assert (await sender.send(receiver.url(), MESSAGE)).result == result


async def test_a_redirect_is_not_followed() -> None:
    async with running_receiver(WebhookReceiver()) as inside:
        async with (
            running_receiver(WebhookReceiver(307, headers={"location": inside.url()})) as receiver,
            open_sender() as sender,
        ):
            assert await sender.send(receiver.url(), MESSAGE) == DeliveryAttempt("failed", "status 307")
        assert inside.received == []


async def test_a_receiver_that_does_not_respond_times_out() -> None:
    async with running_receiver(WebhookReceiver()) as receiver, open_sender(timeout_seconds=0.2) as sender:
        receiver.may_respond.clear()
        assert await sender.send(receiver.url(), MESSAGE) == DeliveryAttempt("failed", "no response within 0.2 seconds")


@contextlib.asynccontextmanager
async def endless_receiver(head: bytes, repeated: bytes) -> AsyncIterator[str]:
    """Send `head`, and then `repeated` until the connection is closed, which the end of the block waits for."""
    ended = asyncio.Event()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        with contextlib.suppress(OSError):
            while True:
                writer.write(repeated)
                await writer.drain()
        writer.close()
        ended.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        await asyncio.wait_for(ended.wait(), TEST_TIMEOUT_SECONDS)


async def test_an_endless_response_is_not_read() -> None:
    async with open_sender() as sender, endless_receiver(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536) as url:
        assert await sender.send(url, MESSAGE) == DeliveryAttempt("delivered")


async def test_interim_responses_without_end_are_a_failure() -> None:
    expected = DeliveryAttempt("failed", "the head of the response has more than 65536 bytes")
    async with open_sender() as sender, endless_receiver(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000) as url:
        assert await sender.send(url, MESSAGE) == expected


async def test_a_refused_connection_is_a_failure() -> None:
    async with running_receiver(WebhookReceiver()) as receiver:
        url = receiver.url()
    async with open_sender() as sender:
        assert (await sender.send(url, MESSAGE)).result == "failed"


async def test_the_certificate_of_a_receiver_is_verified() -> None:
    trusting_tls = ssl.create_default_context(cafile=str(CERTIFICATE))
    async with running_receiver(WebhookReceiver(), tls=True) as receiver:
        url = receiver.url(CERTIFICATE_HOST, "https")
        async with open_sender(resolver=StaticResolver(receiver_test=["127.0.0.1"]), tls=trusting_tls) as sender:
            assert await sender.send(url, MESSAGE) == DeliveryAttempt("delivered")
        async with open_sender(resolver=StaticResolver(receiver_test=["127.0.0.1"])) as sender:
            assert await sender.send(url, MESSAGE) == DeliveryAttempt("failed", "its certificate is not trusted")
        async with open_sender(resolver=StaticResolver(other_test=["127.0.0.1"]), tls=trusting_tls) as sender:
            refused = await sender.send(receiver.url("other.test", "https"), MESSAGE)
            assert refused == DeliveryAttempt("failed", "its certificate is not trusted")
    assert len(receiver.received) == 1


async def test_a_private_address_is_refused_also_behind_a_name() -> None:
    private = "the name stands for an address that is not public"
    async with running_receiver(WebhookReceiver()) as receiver:
        async with open_sender(
            UrlRules(allow_http=True), resolver=StaticResolver(receiver_test=["127.0.0.1"])
        ) as sender:
            assert await sender.send(receiver.url(CERTIFICATE_HOST), MESSAGE) == DeliveryAttempt("refused", private)
            assert (await sender.send(receiver.url(), MESSAGE)).result == "refused"
            assert (await sender.send(receiver.url("[::ffff:127.0.0.1]"), MESSAGE)).result == "refused"
        async with open_sender(UrlRules(allow_http=True)) as sender:
            assert await sender.send(receiver.url("localhost"), MESSAGE) == DeliveryAttempt("refused", private)
            assert await sender.send(receiver.url("0x7f.1"), MESSAGE) == DeliveryAttempt("refused", private)
    assert receiver.received == []


async def test_a_name_is_resolved_once_per_attempt() -> None:
    names = StaticResolver(receiver_test=["127.0.0.1", "127.0.0.1"])
    async with running_receiver(WebhookReceiver()) as receiver, open_sender(resolver=names) as sender:
        for _ in range(2):  # The resolver has no third result.
            assert await sender.send(receiver.url(CERTIFICATE_HOST), MESSAGE) == DeliveryAttempt("delivered")


async def test_an_unknown_name_is_a_failure() -> None:
    async with open_sender(resolver=StaticResolver()) as sender:
        assert await sender.send("http://receiver.test/", MESSAGE) == DeliveryAttempt("failed", "no such name")


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_receiver(WebhookReceiver()) as proxy, running_receiver(WebhookReceiver()) as receiver:
        monkeypatch.setenv("http_proxy", proxy.url())
        async with open_sender() as sender:
            assert await sender.send(receiver.url(), MESSAGE) == DeliveryAttempt("delivered")
    assert (len(proxy.received), len(receiver.received)) == (0, 1)


async def test_logs_contain_neither_password_nor_path(caplog: pytest.LogCaptureFixture) -> None:
    async with running_receiver(WebhookReceiver(500)) as receiver, open_sender() as sender:
        with capture_logs() as logged:
            await sender.send(f"http://user:password@127.0.0.1:{receiver.port}/T0/token?key=secret", MESSAGE)
            await sender.send("http://user:password@receiver.test:99999/token", MESSAGE)
    assert [each["reason"] for each in logged] == ["status 500", "it is no URL"]
    assert logged[0]["receiver"] == f"http://127.0.0.1:{receiver.port}"
    assert not any(word in f"{logged}{caplog.text}" for word in ("password", "token", "secret"))
