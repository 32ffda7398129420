"""A receiver of webhooks on the loopback, certificates for it, and the plugin opened on a profile."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import trustme
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from dict_tools.data import NamespaceDict

from evbus.engine.core.settings import Settings
from evbus.engine.wire.http.webhook import WebhookProfile
from evbus.ingress import webhook

LOOPBACK = ["127.0.0.0/8"]
GRACE = 5.0  # seconds
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` and check that it leaves no task behind."""

    async def watched() -> None:
        await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        # The server's own tasks may still be ending; one that does not end is a leak.
        pending = (await asyncio.wait(left, timeout=GRACE))[1] if left else set()
        assert pending == set()

    asyncio.run(watched())


@dataclass
class Receiver:
    """What came in, and what is answered: a status, or a coroutine that makes the answer."""

    port: int = 0
    scheme: str = "http"
    answer: Answer | None = None
    status: int = 200
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[web.Request, bytes]] = field(default_factory=list)
    peers: set[tuple[str, int]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            self.peers.add(request.transport.get_extra_info("peername"))
        self.requests.append((request, await request.read()))
        if self.answer is not None:
            return await self.answer(request)
        return web.Response(status=self.status, text=self.text, headers=self.headers)


@asynccontextmanager
async def receiver(tls: ssl.SSLContext | None = None, **kwargs: Any) -> AsyncIterator[Receiver]:
    """Serve a Receiver on a free port of 127.0.0.1."""
    made = Receiver(scheme="https" if tls else "http", **kwargs)
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        made.port = runner.addresses[0][1]
        yield made
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(answer: bytes, *, hang: bool = False) -> AsyncIterator[str]:
    """Serve fixed bytes after the first piece of a request, and yield the url; `hang` keeps it open."""
    held: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.read(65536)
        writer.write(answer)
        if not hang:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    finally:
        server.close()
        for writer in held:
            writer.transport.abort()
        await server.wait_closed()


@asynccontextmanager
async def opened(url: str, **data: Any) -> AsyncIterator[Any]:
    """Open the plugin on a profile, as the bus does, and yield its ctx."""
    data = {"url": url, "allow": LOOPBACK, **data}
    ctx = NamespaceDict(acct=data, name="hooks", provider="webhook", state=None)
    ctx["profile"] = msgspec.convert(data, type=WebhookProfile, strict=False)
    hub: Any = SimpleNamespace(ingress=SimpleNamespace(LEFT_OUT={}))
    hub.evbus = SimpleNamespace(init=SimpleNamespace(settings=Settings))
    ctx["hub"] = hub
    ctx["state"] = await webhook.open_(hub, ctx)
    try:
        yield ctx
    finally:
        await webhook.close_(hub, ctx)


async def publish(
    ctx: Any, key: str = "", body: bytes = b"{}", headers: dict[str, str] | None = None
) -> None:
    await webhook.publish(SimpleNamespace(), ctx, key, body, headers)


@dataclass
class Authority:
    """A certificate authority whose own certificate lies in `file`."""

    folder: Path
    made: trustme.CA = field(default_factory=trustme.CA)

    @property
    def file(self) -> str:
        path = self.folder / "ca.pem"
        self.made.cert_pem.write_to_path(str(path))
        return str(path)

    def server(self, *names: str, **kwargs: Any) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.made.issue_cert(*names, **kwargs).configure_cert(context)
        return context

    def client_files(self, name: str) -> tuple[str, str]:
        leaf = self.made.issue_cert(name)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        leaf.cert_chain_pems[0].write_to_path(str(cert))
        leaf.private_key_pem.write_to_path(str(key))
        return str(cert), str(key)


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return the server side of a certificate that nobody but itself vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "self.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(
        cert.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    return context


def encrypted_key(folder: Path) -> str:
    """Return the file of a key that needs a password."""
    path = folder / "locked.key"
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hunter22"),
        )
    )
    return str(path)
