"""Connections that are open, each shared by its users."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple
from weakref import WeakValueDictionary

import msgspec

from evbus.engine.kit.names import unique
from evbus.engine.kit.waiting import timeout_of
from evbus.engine.wire.base.profile import BrokerProfile
from evbus.engine.wire.base.supervisor import Connection, Consumers

__all__ = ["Role", "Shared", "key_of"]

#: Who uses a connection. A broker under an alarm stops to read those that publish: what consumers acknowledge
#: would not be seen on them.
Role = Literal["lanes", "consumers"]


class _ConnectionKey(NamedTuple):
    """The key by which two users share a connection. ``settings`` is a digest: profiles hold secrets.

    :ivar broker: where it leads to, as far as that is known.
    """

    transport: str
    provider: str
    profile: str
    settings: bytes
    loop: Hashable
    role: Role = "lanes"
    broker: Hashable = None


def key_of(
    transport: str, provider: str, profile: str, settings: Any, role: Role = "lanes"
) -> _ConnectionKey:
    """Return the key of a profile's connection in the running loop."""
    digest = hashlib.sha256(msgspec.json.encode(settings, enc_hook=repr)).digest()
    loop = id(asyncio.get_running_loop())
    broker: Hashable = None
    if isinstance(settings, BrokerProfile):
        where = settings.where()
        broker = frozenset(where.hosts), where.vhost or "/"
    return _ConnectionKey(transport, provider, profile, digest, loop, role, broker)


def _name(key: _ConnectionKey) -> str:
    return f"{key.provider}.{key.profile}" + ("" if key.role == "lanes" else f".{key.role}")


class _Entry:
    def __init__(self, connection: Connection[Any], opening: asyncio.Future[None]) -> None:
        self.connection = connection
        self.opening = opening
        self.users = 0


class Shared:
    """The open connections of a hub.

    :param on_state: told the name of one, whether it is there, and why it is not.
    """

    def __init__(self, on_state: Callable[[str, bool, str], None] | None = None) -> None:
        self._on_state = on_state
        self._entries: dict[_ConnectionKey, _Entry] = {}
        self._consumers: WeakValueDictionary[Hashable, Consumers] = WeakValueDictionary()

    async def open(self, key: _ConnectionKey, make: Callable[[], Connection[Any]]) -> Connection[Any]:
        """Return the connection of ``key``, opened if nobody has it yet.

        :raises ConnectFailed: see :meth:`Connection.open`; everybody who waited for it gets this.
        :raises Unavailable: the deadline of the delivery that waits for it was over first.
        """
        entry = self._entries.get(key)
        if entry is None:
            connection = make()
            if self._on_state is not None:
                connection.on_state = functools.partial(self._on_state, _name(key))
            connection.join(self._consumers_of(key), "" if key.role == "lanes" else key.role)
            entry = self._entries[key] = _Entry(connection, asyncio.ensure_future(connection.open()))
        entry.users += 1
        try:
            await asyncio.shield(entry.opening)
        except BaseException as exc:
            problem = entry.connection.unavailable()
            await self._leave(key, entry)
            if isinstance(exc, asyncio.CancelledError) and timeout_of(exc) is not None:
                raise problem from exc
            raise
        return entry.connection

    def _consumers_of(self, key: _ConnectionKey) -> Consumers:
        """Return the consumers of a broker, which the connections of all its profiles share."""
        where = key._replace(role="lanes") if key.broker is None else (key.broker, key.loop)
        found = self._consumers.get(where)
        if found is None:
            found = self._consumers[where] = Consumers()
        return found

    def expect(self, key: _ConnectionKey, consumer: object) -> Callable[[], None]:
        """Let the lanes of a broker wait for a consumer that is to come; return what ends that."""
        consumers = self._consumers_of(key)
        consumers.gone(consumer)
        return functools.partial(consumers.closed, consumer)

    def session(self, key: _ConnectionKey) -> Any:
        """Return what a profile's connection is at present, None while there is none."""
        found = (
            entry.connection.session
            for other, entry in self._entries.items()
            if other._replace(role=key.role) == key
        )
        return next(filter(None, found), None)

    async def close(self, connection: Connection[Any]) -> None:
        """Give up the use of a connection; the last user closes it."""
        for key, entry in list(self._entries.items()):
            if entry.connection is connection:
                await self._leave(key, entry)
                return

    async def _leave(self, key: _ConnectionKey, entry: _Entry) -> None:
        entry.users -= 1
        if entry.users:
            return
        if self._entries.get(key) is entry:
            del self._entries[key]
        if not entry.opening.done():
            entry.opening.cancel()
            await asyncio.wait({entry.opening})
        if not entry.opening.cancelled():
            entry.opening.exception()  # looked at, or asyncio would log that nobody did
        await entry.connection.close()

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Return the state of every connection, of which a profile has two.

        That of its lanes is under ``provider.profile``, that of its consumers under
        ``provider.profile.consumers``; another one of the same name ends in ``#2``.
        """
        found: dict[str, dict[str, Any]] = {}
        for key, entry in list(self._entries.items()):
            found[unique(_name(key), found)] = entry.connection.snapshot()
        return found
