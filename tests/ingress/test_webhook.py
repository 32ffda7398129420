"""The webhook plugin against a real HTTP server on the loopback: requests, outcomes, and what it leaves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import sys
import traceback
import zlib
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks import Webhook

import evbus.engine.wire.http
from evbus import api
from evbus.engine.stages.compress import Compressor
from evbus.errors import (
    DeliveryError,
    DestinationForbidden,
    MissingExtra,
    ProfileError,
    Rejected,
    Unavailable,
)
from evbus.ingress import webhook
from evbus.types import Envelope
from tests.ingress.webhook_kit import LOOPBACK, opened, publish, raw_server, receiver
from tests.transports.kit import closed_port


async def refused(ctx: Any, **kwargs: Any) -> Exception:
    with pytest.raises(DeliveryError) as caught:
        await publish(ctx, **kwargs)
    return caught.value


async def test_an_event_arrives_as_a_post_with_its_headers() -> None:
    async with (
        receiver(status=202) as server,
        opened(server.url + "?a=b", headers={"X-Tenant": "t"}) as ctx,
    ):
        await publish(ctx, "orders", b'{"id":1}', {"content-type": "application/json", "ce-type": "order"})
        request, body = server.requests[0]
        assert (request.method, request.path_qs, body) == ("POST", "/hook?a=b", b'{"id":1}')
        assert request.headers["Content-Type"] == "application/json"
        assert (request.headers["ce-type"], request.headers["X-Tenant"]) == ("order", "t")
        assert request.headers["evbus-routing-key"] == "orders"
        assert request.headers["User-Agent"] == "evbus"
        assert "Authorization" not in request.headers


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, 3 * 1024 * 1024])
async def test_a_body_of_any_size_arrives_whole(size: int) -> None:
    async with receiver() as server, opened(server.url) as ctx:
        await publish(ctx, body=b"x" * size)
        request, body = server.requests[0]
        assert body == b"x" * size
        assert request.headers["Content-Length"] == str(size)


async def test_the_signature_is_verified_by_an_independent_computation() -> None:
    key = bytes(range(24))
    secret = ["whsec_" + base64.b64encode(key).decode(), "raw:the old one"]

    async with receiver() as server, opened(server.url, secret=secret) as ctx:
        await publish(ctx, body=b'{"a":1}', headers={"ce-id": "5b1f"})
        request, body = server.requests[0]
        assert request.headers["webhook-id"] == "5b1f"
        content = b"5b1f." + request.headers["webhook-timestamp"].encode() + b"." + body
        expected = [
            "v1," + base64.b64encode(hmac.new(each, content, hashlib.sha256).digest()).decode()
            for each in (key, b"the old one")
        ]
        assert request.headers["webhook-signature"].split() == expected


async def test_the_user_in_the_url_becomes_basic_authentication_and_is_shown_nowhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(0)
    async with receiver(status=500) as server:
        url = server.url.replace("://", "://us%65r:p%40ss-geheim@")
        async with opened(url) as ctx:
            error = await refused(ctx)
            sent = server.requests[0][0].headers["Authorization"]
            assert base64.b64decode(sent.removeprefix("Basic ")) == b"user:p@ss-geheim"
            shown = "".join(traceback.format_exception(error)) + repr(ctx.state) + caplog.text
            assert "geheim" not in shown
            assert sent.removeprefix("Basic ") not in shown


async def test_an_answer_that_echoes_the_request_does_not_bring_secrets_back() -> None:
    async def echo(request: web.Request) -> web.Response:
        said = (
            f"no {request.headers['X-Api-Key']} at {request.path_qs} for {request.headers['Authorization']}"
        )
        return web.Response(status=404, text=said)

    async with receiver(answer=echo) as server:
        url = server.url.replace("://", "://user:hunter22@") + "/T0KENT0KENT0KENT0KEN?sig=abcdefgh"
        async with opened(url, headers={"X-Api-Key": "k3yk3yk3y"}) as ctx:
            error = await refused(ctx)
            assert str(error).endswith("404 Not Found: no *** at /hook/***?sig=*** for ***")


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
async def test_a_busy_destination_is_unavailable_for_as_long_as_it_says(status: int) -> None:
    async with (
        receiver(status=status, headers={"Retry-After": "17"}) as server,
        opened(server.url) as ctx,
    ):
        error = await refused(ctx)
        assert isinstance(error, Unavailable)
        assert error.retry_after == 17.0


@pytest.mark.parametrize(("status", "kind"), [(500, DeliveryError), (400, Rejected), (410, Rejected)])
async def test_an_error_answer_is_told_in_one_line_of_at_most_200_characters(status: int, kind: type) -> None:
    text = "first\nsecond \x1b[31m" + "x" * 500
    async with receiver(status=status, text=text) as server, opened(server.url) as ctx:
        error = await refused(ctx)
        assert type(error) is kind
        said = str(error).partition(": ")[2]
        assert said.startswith("first\\nsecond \\x1b[31mxxx")
        assert len(said) == 200


async def test_a_redirect_is_not_followed() -> None:
    target = "http://user:hunter22@127.0.0.1:1/elsewhere"
    async with receiver(status=307, headers={"Location": target}) as server, opened(server.url) as ctx:
        error = await refused(ctx)
        assert isinstance(error, DestinationForbidden)
        assert "redirect to http://user:***@127.0.0.1:1/elsewhere, which evbus does not follow" in str(error)
        assert len(server.requests) == 1


async def test_headers_that_http_cannot_carry_are_left_out_counted_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with receiver() as server, opened(server.url) as ctx:
        headers = {"x-exception-stacktrace": "geheim\n  at b", "x-good": "1", "a b": "c"}
        await publish(ctx, key="a\r\nb: c", headers=headers)
        await publish(ctx, headers=headers)
        assert [request.headers["x-good"] for request, _ in server.requests] == ["1", "1"]
        assert server.requests[0][0].headers["evbus-routing-key"] == "a%0D%0Ab:%20c"
        assert ctx.hub.ingress.LEFT_OUT == {"hooks": 4}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "webhook profile 'hooks': the header 'x-exception-stacktrace' is left out, as HTTP cannot carry "
        "it: its value holds a line break or another control character; further ones are counted under "
        "left_out in hub.evbus.stats.snapshot()"
    )


async def test_headers_that_are_left_out_show_in_the_snapshot() -> None:
    async with receiver() as server:
        async with api.bus({"webhook": {"hooks": {"url": server.url, "allow": LOOPBACK}}}) as events:
            assert events.hub.evbus.stats.snapshot()["left_out"] == {}
            await events.put("k", {}, "hooks", {"a b": "c"})
        assert events.hub.evbus.stats.snapshot()["left_out"] == {"hooks": 1}
        assert len(server.requests) == 1


LONG = b'{"a":"' + b"x" * 3000 + b'"}'


@pytest.mark.parametrize("way", ["zlib", "zstd"])
@pytest.mark.parametrize("secret", ["c2hvcC1zZWNyZXQtZm9yLW91ci10ZXN0cw==", None])
async def test_what_was_compressed_is_sent_as_it_was_so_that_its_signature_is_verified(
    way: str, secret: str | None
) -> None:
    async with receiver() as server, opened(server.url, secret=secret) as ctx:
        event = Envelope("p", "k", LONG, {"content-type": "application/json", "ce-id": "5"})
        Compressor(way, 1024, 2**20).send(event)
        assert len(event.body) < 100
        await publish(ctx, body=event.body, headers=event.headers)
        request, body = server.requests[0]
        assert body == LONG
        assert "Content-Encoding" not in request.headers
        if secret is not None:
            assert Webhook(secret).verify(body, dict(request.headers)) == {"a": "x" * 3000}


async def test_what_sign_signed_or_others_compressed_is_sent_as_it_is() -> None:
    signed = {"content-encoding": "deflate", "evbus-signature": "v1,k,AA=="}
    async with receiver() as server, opened(server.url) as ctx:
        for headers in (signed, {"content-encoding": "theirs"}):
            await publish(ctx, body=zlib.compress(LONG), headers=headers)
        sent = [request.headers["Content-Encoding"] for request, _ in server.requests]
        assert sent == ["deflate", "theirs"]
        # Whatever the server made of it: aiohttp undoes deflate by itself.
        assert server.requests[0][1] == LONG
    async with receiver() as server, opened(server.url, secret="raw:a") as ctx:
        await publish(ctx, body=zlib.compress(LONG), headers=signed)
        assert "Content-Encoding" not in server.requests[0][0].headers


async def test_cookies_are_not_kept() -> None:
    async with receiver(headers={"Set-Cookie": "a=b"}) as server, opened(server.url) as ctx:
        await publish(ctx)
        await publish(ctx)
        assert "Cookie" not in server.requests[1][0].headers


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")

    async with receiver() as server, opened(server.url) as ctx:
        await publish(ctx)
        assert len(server.requests) == 1


async def test_connections_are_used_again() -> None:
    async with receiver(text="x" * 1000) as server, opened(server.url) as ctx:
        for _ in range(3):
            await publish(ctx)
        assert len(server.peers) == 1


async def test_an_endless_answer_is_left_after_64_kib() -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse(status=int(request.query["status"]))
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"x" * 4096)
                sent += 4096
        except ConnectionResetError:
            return answer

    async with receiver(answer=endless) as server:
        async with opened(server.url + "?status=200", timeout=60) as ctx:
            await publish(ctx)
        async with opened(server.url + "?status=500", timeout=60) as ctx:
            assert "xxx" in str(await refused(ctx))
        assert len(server.requests) == 2
    assert sent < 64 * 1024 * 1024


async def test_a_compressed_answer_is_not_unpacked() -> None:
    headers = {"Content-Encoding": "gzip"}
    async with (
        receiver(status=400, text="no gzip at all", headers=headers) as server,
        opened(server.url) as ctx,
    ):
        assert str(await refused(ctx)).endswith("400 Bad Request: (a compressed answer)")


async def test_nobody_listening_is_unavailable() -> None:
    async with opened(f"http://127.0.0.1:{closed_port()}/") as ctx:
        error = await refused(ctx)
        assert isinstance(error, Unavailable)
        assert "cannot connect to http://127.0.0.1:" in str(error)


async def test_no_answer_in_time_is_unavailable() -> None:
    async with raw_server(b"", hang=True) as url, opened(url, timeout=0.05) as ctx:
        error = await refused(ctx)
        assert isinstance(error, Unavailable)
        assert "did not answer within timeout" in str(error)


async def test_a_2xx_whose_body_breaks_off_is_delivered() -> None:
    part = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"
    async with raw_server(part) as url, opened(url) as ctx:
        await publish(ctx)
    async with raw_server(part, hang=True) as url, opened(url, timeout=0.5) as ctx:
        await publish(ctx)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "closed the connection without an answer"),
        (b"220 smtp ready\r\n", "answered something that is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", "answered something that is not HTTP"),
    ],
)
async def test_a_broken_answer_is_a_counted_failure_without_the_url(answer: bytes, sentence: str) -> None:
    async with raw_server(answer) as url, opened(url + "?token=geheim") as ctx:
        error = await refused(ctx)
        assert type(error) is DeliveryError
        assert sentence in str(error)
        assert "geheim" not in "".join(traceback.format_exception(error))


async def test_a_cancelled_publish_stays_cancelled_and_the_client_lives() -> None:
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def slow(_request: web.Request) -> web.Response:
        arrived.set()
        await let_go.wait()
        return web.Response()

    async with receiver(answer=slow) as server, opened(server.url) as ctx:
        task = asyncio.create_task(publish(ctx))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        let_go.set()
        await publish(ctx)
        assert len(server.requests) == 2


async def test_after_close_nothing_is_sent() -> None:
    async with receiver() as server:
        async with opened(server.url) as ctx:
            await asyncio.gather(*(publish(ctx) for _ in range(5)))
            assert repr(ctx.state) == f"<webhook client of http://127.0.0.1:{server.port}, open>"
        assert isinstance(await refused(ctx), Unavailable)
        assert len(server.requests) == 5
        await webhook.close_(SimpleNamespace(), ctx)


async def test_a_missing_aiohttp_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "evbus.engine.wire.http.client", raising=False)
    monkeypatch.delattr(evbus.engine.wire.http, "client", raising=False)

    with pytest.raises(MissingExtra, match=r"pip install 'evbus-hub\[webhook\]'"):
        async with opened("https://example.org/"):
            pass


async def test_another_missing_module_is_not_blamed_on_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "evbus.engine.kit.redact", None)
    monkeypatch.delitem(sys.modules, "evbus.engine.wire.http.client", raising=False)
    monkeypatch.delattr(evbus.engine.wire.http, "client", raising=False)

    with pytest.raises(ModuleNotFoundError, match=r"evbus\.engine\.kit\.redact"):
        async with opened("https://example.org/"):
            pass


@pytest.mark.parametrize(
    ("url", "error", "sentence"),
    [
        ("file:///etc/passwd", DestinationForbidden, "the scheme 'file'"),
        ("ftp://example.org/", DestinationForbidden, "the scheme 'ftp'"),
        ("unix:/run/x.sock", DestinationForbidden, "the scheme 'unix'"),
        ("example.org/hook", ProfileError, "no scheme"),
        ("https:///hook", ProfileError, "no host|no valid url"),
        ("https://user:geheim@[::1/hook", ProfileError, "no valid url"),
        ("https://user:geheim@host:port/", ProfileError, "no valid url"),
    ],
)
async def test_a_url_that_is_no_web_address_is_refused_at_open(
    url: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as caught:
        async with opened(url):
            pass
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


async def test_two_authentications_are_refused() -> None:
    with pytest.raises(ProfileError, match="keep one of them"):
        async with opened("https://u:p@example.org", headers={"authorization": "Bearer x"}):
            pass
