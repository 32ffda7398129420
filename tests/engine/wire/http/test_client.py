"""The webhook client's two guards, against a real server: where it connects to, and whom it believes."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.wire.http import client
from evbus.engine.wire.http.address import AddressPolicy
from evbus.errors import DeliveryError, DestinationForbidden, ProfileError, Unavailable
from tests.engine.wire.http.test_address import FORBIDDEN, ODD
from tests.ingress.webhook_kit import Authority, encrypted_key, opened, publish, receiver, self_signed

REAL = socket.getaddrinfo


class Names:
    """Stands in for the name server: each question takes the next answer, and the last one stays."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = answers
        self.asked = 0

    def __call__(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if host != "hook.example":
            return REAL(host, port, *args, **kwargs)
        self.asked += 1
        turns = self.answers["hook"]
        found = turns.pop(0) if len(turns) > 1 else turns[0]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [self._info(address, port) for address in found]

    @staticmethod
    def _info(address: str, port: int) -> tuple[Any, ...]:
        six = ":" in address
        family = socket.AF_INET6 if six else socket.AF_INET
        sockaddr = (address, port, 0, 0) if six else (address, port)
        return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names(hook=[["127.0.0.1"]])
    monkeypatch.setattr(socket, "getaddrinfo", made)
    return made


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@pytest.mark.parametrize("host", [address for address, _ in FORBIDDEN] + ODD)
async def test_a_forbidden_address_is_refused_at_open(host: str) -> None:
    with pytest.raises(DestinationForbidden):
        async with opened(f"http://{bracketed(host)}:9/", allow=[]):
            pass


@pytest.mark.parametrize("host", ["①②⑦.⓪.⓪.①", "127。0。0。1", "%31%32%37.0.0.1", "a@127.0.0.1", "localhost"])
async def test_a_disguised_loopback_is_refused_at_open(host: str) -> None:
    with pytest.raises((DestinationForbidden, ProfileError)):
        async with opened(f"http://{host}:9/", allow=[]):
            pass


@pytest.mark.parametrize(("address", "kind"), FORBIDDEN)
async def test_a_name_that_leads_to_a_forbidden_address_is_not_connected_to(
    names: Names, address: str, kind: str
) -> None:
    names.answers["hook"] = [[address]]

    async with opened("http://hook.example:9/", allow=[]) as ctx:
        with pytest.raises(DestinationForbidden, match=kind):
            await publish(ctx)


@pytest.mark.parametrize(
    ("answer", "url", "options", "kind", "said"),
    [
        (
            ["10.0.0.1", "::1", "fe80::1%eth0"],
            "http://hook.example:9/",
            {"allow": []},
            DestinationForbidden,
            r"hook\.example \(10\.0\.0\.1\) is a private",
        ),
        ([], "http://hook.example/", {}, Unavailable, r"http://hook\.example cannot be resolved: Name or "),
    ],
    ids=["many forbidden addresses", "no address"],
)
async def test_a_name_that_leads_nowhere_is_told(
    names: Names, answer: list[str], url: str, options: Any, kind: Any, said: str
) -> None:
    names.answers["hook"] = [answer]
    async with opened(url, **options) as ctx:
        with pytest.raises(kind, match=said):
            await publish(ctx)


async def test_only_the_permitted_addresses_of_a_name_are_connected_to(names: Names) -> None:
    names.answers["hook"] = [["8.8.8.8", "127.0.0.1", "2a00:1450::1", "::1"]]

    found = await client._GuardedResolver(AddressPolicy()).resolve("hook.example", 80)
    assert [(each["host"], each["port"], each["family"]) for each in found] == [
        ("8.8.8.8", 80, socket.AF_INET),
        ("2a00:1450::1", 80, socket.AF_INET6),
    ]


async def test_the_address_that_was_checked_is_the_one_connected_to(names: Names) -> None:
    # A name server that turns after the check: the second answer must never be asked for, let alone used.
    names.answers["hook"] = [["127.0.0.2"], ["169.254.169.254"]]

    async with (
        receiver() as server,
        opened(f"http://hook.example:{server.port}/", allow=["127.0.0.2"], timeout=5) as ctx,
    ):
        # Nobody listens on 127.0.0.2, so being refused shows where the connection went.
        with pytest.raises(Unavailable, match="cannot connect"):
            await publish(ctx)
        assert names.asked == 1
        assert server.requests == []


async def test_a_name_is_checked_for_every_new_connection(names: Names) -> None:
    names.answers["hook"] = [["127.0.0.1"], ["127.0.0.2"]]

    async with (
        receiver(headers={"Connection": "close"}) as server,
        opened(f"http://hook.example:{server.port}/", allow=["127.0.0.1"]) as ctx,
    ):
        await publish(ctx)
        with pytest.raises(DestinationForbidden, match="loopback"):
            await publish(ctx)
        assert len(server.requests) == 1


async def test_a_socket_is_checked_again_before_it_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def careless(_self: Any, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        return [
            {"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0},
            {"hostname": host, "host": "::1", "port": port, "family": 10, "proto": 0, "flags": 0},
        ]

    monkeypatch.setattr(client._GuardedResolver, "resolve", careless)

    async with receiver() as server, opened(f"http://hook.example:{server.port}/", allow=[]) as ctx:
        with pytest.raises(Unavailable, match="forbidden"):
            await publish(ctx)
        assert server.requests == []


async def test_an_allowed_name_may_be_private(names: Names) -> None:
    async with (
        receiver() as server,
        opened(f"http://hook.example:{server.port}/", allow=["hook.example"]) as ctx,
    ):
        await publish(ctx)
        assert server.requests[0][0].headers["Host"] == f"hook.example:{server.port}"


async def refusal(url: str, **data: Any) -> str:
    async with opened(url, **data) as ctx:
        with pytest.raises(DeliveryError) as caught:
            await publish(ctx)
        assert type(caught.value) is DeliveryError
        return str(caught.value)


async def test_a_trusted_certificate_is_accepted(authority: Authority) -> None:
    async with receiver(authority.server("127.0.0.1")) as server:
        async with opened(server.url, ca_file=authority.file) as ctx:
            await publish(ctx)
        assert len(server.requests) == 1


@pytest.mark.parametrize("own", [True, False], ids=["self-signed", "an unknown authority"])
async def test_a_certificate_of_nobody_known_is_refused(
    authority: Authority, tmp_path: Path, own: bool
) -> None:
    async with receiver(self_signed(tmp_path) if own else authority.server("127.0.0.1")) as server:
        said = "its certificate is self-signed" if own else "an authority that is not trusted"
        assert said in await refusal(server.url)
        assert server.requests == []


async def test_a_certificate_for_another_host_is_refused(authority: Authority) -> None:
    async with receiver(authority.server("other.example")) as server:
        said = await refusal(server.url, ca_file=authority.file)
        assert "its certificate is for another address" in said
        said = await refusal(f"https://localhost:{server.port}/", ca_file=authority.file)
        assert "its certificate is for another host name" in said
        assert server.requests == []


async def test_an_expired_certificate_is_refused(authority: Authority) -> None:
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)

    async with receiver(authority.server("127.0.0.1", not_after=past)) as server:
        assert "its certificate has expired" in await refusal(server.url, ca_file=authority.file)
        assert server.requests == []


async def test_a_server_without_tls_is_refused() -> None:
    async with receiver() as server:
        said = await refusal(server.url.replace("http:", "https:"))
        assert "no secure connection to https://127.0.0.1:" in said
        assert server.requests == []


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_an_old_protocol_version_is_refused(authority: Authority) -> None:
    context = authority.server("127.0.0.1")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with receiver(context) as server:
        # The server breaks off without an alert, so it may look like any reset.
        async with opened(server.url, ca_file=authority.file) as ctx:
            with pytest.raises(DeliveryError):
                await publish(ctx)
        assert server.requests == []


async def test_insecure_accepts_any_certificate_and_warns_once(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="evbus"):
        async with receiver(authority.server("other.example")) as server:
            async with opened(server.url, insecure=True) as ctx:
                await publish(ctx)
                await publish(ctx)
            assert len(server.requests) == 2
    assert [
        (record.name, record.levelname) for record in caplog.records if record.name.startswith("evbus")
    ] == [("evbus.ingress.webhook", "WARNING")]
    assert "'hooks': insecure is set" in caplog.text


async def test_a_client_certificate_is_shown(authority: Authority) -> None:
    context = authority.server("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.made.configure_trust(context)
    cert, key = authority.client_files("client.example")
    async with receiver(context) as server:
        async with opened(server.url, ca_file=authority.file, client_cert=cert, client_key=key) as ctx:
            await publish(ctx)
        assert len(server.requests) == 1


# Python 3.10 calls a TLS transport unclosed whose connection the other side has closed.
@pytest.mark.filterwarnings("ignore:.*_SSLProtocolTransport:pytest.PytestUnraisableExceptionWarning")
async def test_a_server_that_wants_a_client_certificate_does_not_get_the_event(authority: Authority) -> None:
    context = authority.server("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.made.configure_trust(context)
    # Under TLS 1.3 the refusal comes after the handshake, when the request is under way.
    async with receiver(context) as server:
        async with opened(server.url, ca_file=authority.file) as ctx:
            with pytest.raises(DeliveryError):
                await publish(ctx)
        assert server.requests == []


async def test_unusable_certificate_files_are_named_at_open(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.client_files("client.example")
    _, other = authority.client_files("other.example")
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    cases: list[tuple[dict[str, str], str]] = [
        ({"ca_file": "/missing/ca.pem"}, "ca_file: '/missing/ca.pem' cannot be read: No such file"),
        ({"ca_file": str(junk)}, "does not hold certificates in PEM format"),
        ({"client_cert": "/missing/c.pem"}, "client_cert: '/missing/c.pem' cannot be read"),
        ({"client_cert": str(junk)}, "does not hold a certificate and its key"),
        ({"client_cert": cert, "client_key": other}, "client_key: does not belong to client_cert"),
        ({"client_cert": cert, "client_key": encrypted_key(tmp_path)}, "client_key: is encrypted"),
    ]

    assert key
    for data, sentence in cases:
        with pytest.raises(ProfileError) as caught:
            async with opened("https://example.org/", **data):
                pass
        assert sentence in str(caught.value)


async def test_an_open_client_leaves_no_connection_behind_after_close(authority: Authority) -> None:
    async with receiver(authority.server("127.0.0.1")) as server:
        async with opened(server.url, ca_file=authority.file, connections=3) as ctx:
            await asyncio.gather(*(publish(ctx) for _ in range(10)))
        assert len(server.requests) == 10
