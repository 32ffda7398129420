"""A service whose methods ask for something, the tokens for it, and what serves it."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from evbus.api import Service, authorize, caller, implementation, rest, service
from evbus.engine.service.rest import get, post
from evbus.engine.wire.http.pool import Answer, HttpPool, address_of
from tests.evbus.kit import new_hub

WAIT = 20.0
SECRET = "7d1ef0a3c9b84e5fa2c6d8e0b1f3a5c7"
OTHER = "00112233445566778899aabbccddeeff"


class Keys:
    """Keys that are made once, as RSA takes a while."""

    one_rsa = rsa.generate_private_key(65537, 2048)
    other_rsa = rsa.generate_private_key(65537, 2048)
    ec = ec.generate_private_key(ec.SECP256R1())
    ed = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def jwk(key: Any, algorithm: str, **more: Any) -> dict[str, Any]:
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**made, **more}


def token(key: Any = None, algorithm: str = "RS256", headers: Any = None, **claims: Any) -> str:
    """Return a token of Joe's for an hour; a claim that is None is left out."""
    said = {"sub": "joe", "exp": time.time() + 3600, "scope": "vault:read", **claims}
    said = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(said, Keys.one_rsa if key is None else key, algorithm, headers)


@authorize("vault:read")
@rest("/vault")
@service()
class Vault(Service):
    """What is locked."""

    @get("/look")
    @abstractmethod
    async def look(self) -> str: ...

    @authorize("vault:write")
    @post("/put")
    @abstractmethod
    async def put(self, what: dict[str, str]) -> None: ...

    @authorize()
    @abstractmethod
    def plain(self) -> str: ...

    @abstractmethod
    def all(self, to: int) -> AsyncIterator[str]: ...

    @abstractmethod
    async def _private(self) -> None: ...


@authorize(anonymous=True)
@rest("/door")
@service()
class Door(Service):
    """What anybody may see."""

    @get("/sign")
    @abstractmethod
    async def sign(self) -> str: ...


def said() -> str:
    found = caller()
    return "nobody was asked" if found is None else found.name or "nobody"


@implementation()
class VaultImpl(Vault):
    async def look(self) -> str:
        return said()

    async def put(self, what: dict[str, str]) -> None: ...

    def plain(self) -> str:
        return said()

    async def all(self, to: int) -> AsyncIterator[str]:
        for _ in range(to):
            yield said()

    async def _private(self) -> None: ...


@implementation()
class DoorImpl(Door):
    async def sign(self) -> str:
        return said()


@asynccontextmanager
async def serving(
    auth: Any, *classes: type, server: Any = None, mounts: Any = None, **options: Any
) -> AsyncIterator[Any]:
    """Start a server that asks who calls."""
    hub = new_hub(**options)
    hub.service.init.add(*(classes or (VaultImpl,)))
    for path, app in (mounts or {}).items():
        hub.service.init.mount(path, app)
    settings = {"server": {"port": 0, **(server or {})}, **({"auth": auth} if auth else {})}
    await hub.service.init.start(settings=settings)
    try:
        yield hub
    finally:
        await hub.service.init.stop(5)


@asynccontextmanager
async def calling(server: Any, channel: str, url: str = "", **settings: Any) -> AsyncIterator[Any]:
    """Start a process that calls it."""
    hub = new_hub(**settings.pop("options", {}))
    where = {name: {channel: url or server.service.init.report()["url"]} for name in ("vault", "door")}
    await hub.service.init.start(
        settings={"registry": {"static": where}, "channels": {channel: settings}}, client=True
    )
    try:
        yield hub
    finally:
        await hub.service.init.stop(5)


async def ask(
    hub: Any, method: str, path: str, body: Any = None, *, bearer: str = "", tls: Any = None, **headers: str
) -> Answer:
    """Send a request to a server, and return the answer."""
    url = hub if isinstance(hub, str) else hub.service.init.report()["url"]
    address = address_of(url)
    lines = {"host": address.authority, "authorization": f"Bearer {bearer}" if bearer else "", **headers}
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    if data:
        lines.setdefault("content_type", "application/json")
    written = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items() if value)
    pool = HttpPool(connections=1, connect_timeout=WAIT, max_answer=10_000_000, tls=tls)
    try:
        return await pool.request(address, f"{method} {path} HTTP/1.1\r\n{written}".encode(), data)
    finally:
        await pool.close()


async def invoke(hub: Any, name: str, *args: Any, **more: Any) -> Answer:
    return await ask(hub, "POST", "/invoke", {"method": name, "args": args}, **more)


def key_file(folder: Path, *keys: Any) -> str:
    path = folder / "keys.pem"
    path.write_bytes(b"".join(pem(key) for key in keys or (Keys.one_rsa,)))
    return str(path)
