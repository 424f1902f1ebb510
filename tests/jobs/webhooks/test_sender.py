"""Sending, to a real server on this machine."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest
from aiohttp.abc import AbstractResolver
from structlog.testing import capture_logs

from dragoman.jobs.webhooks.message import message, parse_secret
from dragoman.jobs.webhooks.sender import Attempt, Sender
from dragoman.jobs.webhooks.urls import Rules
from tests.support.patience import PATIENCE_SECONDS
from tests.support.receivers import CERTIFICATE, HOST, SECRET, Names, Receiver, receiving

TOLD = message("job_1", "1", "finished", 1_800_000_000_000)
ANYWHERE = Rules(allow_http=True, allow_private=True)


@contextlib.asynccontextmanager
async def sender(
    rules: Rules = ANYWHERE,
    *,
    resolver: AbstractResolver | None = None,
    tls: ssl.SSLContext | None = None,
    timeout_seconds: float = 10,
) -> AsyncIterator[Sender]:
    made = Sender(parse_secret(SECRET), rules, resolver=resolver, tls=tls, timeout_seconds=timeout_seconds)
    async with made.opened():
        yield made


async def test_a_message_is_posted_signed_as_json() -> None:
    async with receiving(Receiver(204)) as receiver, sender() as ours:
        assert await ours.send(receiver.url(), TOLD) == Attempt("delivered")
    [received] = receiver.received
    received.assert_signed()
    assert (received.id, received.path, received.body) == (TOLD.id, "/hooks?token=secret", TOLD.body)
    assert received.headers["content-type"] == "application/json"
    assert received.headers["user-agent"].startswith("dragoman/")


@pytest.mark.parametrize(
    ("status", "result"),
    [(200, "delivered"), (299, "delivered"), (410, "gone"), (304, "failed"), (404, "failed"), (503, "failed")],
)
async def test_the_status_says_whether_it_is_delivered(status: int, result: str) -> None:
    async with receiving(Receiver(status)) as receiver, sender() as ours:
        assert (await ours.send(receiver.url(), TOLD)).result == result


async def test_a_redirect_is_not_followed() -> None:
    async with receiving(Receiver()) as inside:
        async with receiving(Receiver(307, headers={"location": inside.url()})) as receiver, sender() as ours:
            assert await ours.send(receiver.url(), TOLD) == Attempt("failed", "status 307")
        assert inside.received == []


async def test_a_receiver_that_does_not_answer_is_given_up() -> None:
    async with receiving(Receiver()) as receiver, sender(timeout_seconds=0.2) as ours:
        receiver.answers.clear()
        assert await ours.send(receiver.url(), TOLD) == Attempt("failed", "no response within 0.2 seconds")


async def test_a_response_without_end_is_not_read() -> None:
    ended = asyncio.Event()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        writer.close()
        ended.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, sender() as ours:
        port = server.sockets[0].getsockname()[1]
        assert await ours.send(f"http://127.0.0.1:{port}/", TOLD) == Attempt("delivered")
        await asyncio.wait_for(ended.wait(), PATIENCE_SECONDS)


async def test_nobody_there_is_a_failure() -> None:
    async with receiving(Receiver()) as receiver:
        url = receiver.url()
    async with sender() as ours:
        assert (await ours.send(url, TOLD)).result == "failed"


async def test_a_receiver_is_known_by_its_certificate() -> None:
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    async with receiving(Receiver(), tls=True) as receiver:
        url = receiver.url(HOST, "https")
        async with sender(resolver=Names(receiver_test=["127.0.0.1"]), tls=trusting) as ours:
            assert await ours.send(url, TOLD) == Attempt("delivered")
        async with sender(resolver=Names(receiver_test=["127.0.0.1"])) as ours:
            assert await ours.send(url, TOLD) == Attempt("failed", "its certificate is not trusted")
        async with sender(resolver=Names(other_test=["127.0.0.1"]), tls=trusting) as ours:
            refused = await ours.send(receiver.url("other.test", "https"), TOLD)
            assert refused == Attempt("failed", "its certificate is not trusted")
    assert len(receiver.received) == 1


async def test_a_private_address_is_refused_also_behind_a_name() -> None:
    private = "the name stands for an address that is not public"
    async with receiving(Receiver()) as receiver:
        async with sender(Rules(allow_http=True), resolver=Names(receiver_test=["127.0.0.1"])) as ours:
            assert await ours.send(receiver.url(HOST), TOLD) == Attempt("refused", private)
            assert (await ours.send(receiver.url(), TOLD)).result == "refused"
            assert (await ours.send(receiver.url("[::ffff:127.0.0.1]"), TOLD)).result == "refused"
        async with sender(Rules(allow_http=True)) as ours:
            assert await ours.send(receiver.url("localhost"), TOLD) == Attempt("refused", private)
            assert await ours.send(receiver.url("0x7f.1"), TOLD) == Attempt("refused", private)
    assert receiver.received == []


async def test_a_name_is_looked_up_once_and_what_was_found_is_connected_to() -> None:
    names = Names(receiver_test=["127.0.0.1", "127.0.0.1"])
    async with receiving(Receiver()) as receiver, sender(resolver=names) as ours:
        for _ in range(2):  # A third look-up would find nothing.
            assert await ours.send(receiver.url(HOST), TOLD) == Attempt("delivered")


async def test_an_unknown_name_is_a_failure() -> None:
    async with sender(resolver=Names()) as ours:
        assert await ours.send("http://receiver.test/", TOLD) == Attempt("failed", "no such name")


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving(Receiver()) as proxy, receiving(Receiver()) as receiver:
        monkeypatch.setenv("http_proxy", proxy.url())
        async with sender() as ours:
            assert await ours.send(receiver.url(), TOLD) == Attempt("delivered")
    assert (len(proxy.received), len(receiver.received)) == (0, 1)


async def test_logs_tell_neither_password_nor_path(caplog: pytest.LogCaptureFixture) -> None:
    async with receiving(Receiver(500)) as receiver, sender() as ours:
        with capture_logs() as logged:
            await ours.send(f"http://user:password@127.0.0.1:{receiver.port}/T0/token?key=secret", TOLD)
            await ours.send("http://user:password@receiver.test:99999/token", TOLD)
    assert [each["reason"] for each in logged] == ["status 500", "it is no URL"]
    assert logged[0]["receiver"] == f"http://127.0.0.1:{receiver.port}"
    assert not any(word in f"{logged}{caplog.text}" for word in ("password", "token", "secret"))
