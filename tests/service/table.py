"""The channels, and what each of them can: tests run over every one that can what they are about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tests.evbus.kit import new_hub
from tests.service.everything import Everything, EverythingImpl

__all__ = ["CHANNELS", "Channel", "Place"]


@dataclass(frozen=True)
class Channel:
    """A channel.

    :ivar can: what tests ask for: ``remote``, which is another process; ``streams``; ``addresses``, of which
        there may be several; ``port``, which is reached over TCP and so through a proxy that cuts;
        ``cancels``, which is of methods whose callers are.
    :ivar broker: the fixture of the broker that calls go over, and the attribute that has its port.
    :ivar profiles: of that broker, and ``settings`` those of the channel, with a queue for the test alone.
    """

    name: str
    can: frozenset[str]
    broker: tuple[str, str] | None = None
    profiles: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def at(self, node: Any, unique: str) -> Channel:
        """Return the same at a broker."""
        assert self.broker is not None
        url = f"{self.name}://guest:guest@127.0.0.1:{getattr(node, self.broker[1])}/"
        profiles = {self.name: {"rpc": {"url": url}}}
        settings = {"profile": "rpc", "queue": f"{unique}.{{component}}"}
        return replace(self, profiles=profiles, settings=settings)

    def __str__(self) -> str:
        return self.name if self.broker is None else f"{self.name}-{self.broker[0]}"


CHANNELS = (
    Channel("local", frozenset({"streams", "cancels"})),
    Channel("dispatch-json", frozenset({"remote", "streams", "addresses", "port", "cancels"})),
    Channel("dispatch-msgpack", frozenset({"remote", "streams", "addresses", "port", "cancels"})),
    Channel("rest", frozenset({"remote", "addresses", "port", "cancels"})),
    Channel("amqp", frozenset({"remote"}), ("rabbitmq", "port")),
    Channel("stomp", frozenset({"remote"}), ("rabbitmq", "stomp_port")),
    Channel("stomp", frozenset({"remote"}), ("activemq", "stomp_port")),
)


class Place:
    """A server with :class:`Everything`, and a caller of it, over a channel.

    :ivar made: the implementation.
    :ivar proxy: what the caller has.
    """

    def __init__(self, channel: Channel, server: Any, caller: Any) -> None:
        self.channel, self.server, self.caller = channel, server, caller
        self.made: EverythingImpl = server.service.SERVICES.hosted.implementation(Everything)
        self.proxy: Everything = caller.service.init.get(Everything, channel.name)

    @property
    def port(self) -> int:
        return int(self.server.service.init.report()["port"])


@asynccontextmanager
async def serving(channel: Channel, **options: Any) -> AsyncIterator[Any]:
    """Start a process that implements it."""
    hub = new_hub(**options)
    hub.service.init.add(EverythingImpl)
    if channel.broker is None:
        await hub.service.init.start(port=0 if "remote" in channel.can else None)
    else:
        settings = {"channels": {channel.name: channel.settings}}
        await hub.service.init.start(settings=settings, profiles=channel.profiles)
    try:
        yield hub
    finally:
        hub.service.SERVICES.hosted.implementation(Everything).gate.set()
        await hub.service.init.stop(5)


@asynccontextmanager
async def calling(
    channel: Channel, *ports: int, channels: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Any]:
    """Start a process that calls it at ports."""
    hub = new_hub(**options)
    uris = [f"http://127.0.0.1:{port}" for port in ports]
    settings: dict[str, Any] = {"channels": channels or {}}
    if channel.broker is None:
        settings["registry"] = {"static": {"everything": {channel.name: uris}}}
    else:
        own = settings["channels"].get(channel.name, {})
        settings["channels"] = {channel.name: {**channel.settings, **own}}
    await hub.service.init.start(settings=settings, profiles=channel.profiles)
    try:
        yield hub
    finally:
        await hub.service.init.stop(5)


@asynccontextmanager
async def place(
    channel: Channel,
    *,
    server: dict[str, Any] | None = None,
    channels: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Place]:
    """Start a server and a caller; of the local channel they are one.

    :param server: options of the server, and ``options`` of the caller.
    """
    async with serving(channel, **(options if server is None else server)) as there:
        if "remote" not in channel.can:
            yield Place(channel, there, there)
            return
        port = there.service.init.report()["port"]
        async with calling(channel, port, channels=channels, **options) as here:
            yield Place(channel, there, here)
