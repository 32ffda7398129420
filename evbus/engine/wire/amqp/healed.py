"""The connection of a profile, as one of aio-pika that heals, for the authors of plugins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakSet

import aio_pika
from aio_pika.abc import AbstractChannel
from yarl import URL

from evbus.engine.wire.amqp.connect import AmqpSession
from evbus.engine.wire.base.supervisor import Connection
from evbus.errors import Unavailable

__all__ = ["HealedConnection"]


class _Channel(aio_pika.Channel):
    """A channel that is opened as soon as there is a connection."""

    async def _open(self) -> None:
        await self._connection.ready()
        await super()._open()


class HealedConnection(aio_pika.Connection):
    """A use of a profile's connection, with the interface of :class:`aio_pika.Connection`.

    evbus restores the connection for ever. A channel ends with the connection that it was opened on; one
    that is opened while there is none waits for the next. ``close_callbacks`` are called at each loss,
    and ``connected`` and ``ready()`` tell of the connection that there is.

    :param shared: the connection, which lanes and others may use as well.
    :param release: gives up its use.
    """

    CHANNEL_CLASS = _Channel

    def __init__(self, shared: Connection[AmqpSession], release: Callable[[], Awaitable[None]]) -> None:
        super().__init__(URL("amqp:"))
        self._shared = shared
        self._release = release
        self._session: AmqpSession | None = None
        self._channels: WeakSet[AbstractChannel] = WeakSet()
        self._telling: set[asyncio.Task[Any]] = set()

    def __str__(self) -> str:
        return self._shared.name

    def __del__(self) -> None:
        # The bus closes it, if nobody else does.
        pass

    async def connect(self, timeout: float | None = None) -> None:
        """Wait until there is a connection, for at most ``timeout`` seconds.

        :raises Unavailable: there is none by then; says why.
        :raises ValueError: the timeout is no number from 0 on.
        """
        if timeout is not None and (type(timeout) not in (int, float) or not timeout >= 0):
            raise ValueError(
                f"timeout is a number of seconds from 0 on, or None for no limit, and not {timeout!r}"
            )
        try:
            async with asyncio.timeout(timeout):
                await self.ready()
        except TimeoutError:
            raise self._shared.unavailable() from None

    async def ready(self) -> None:
        """Wait until there is a connection.

        :raises Unavailable: it was closed.
        """
        session = None if self.is_closed else await self._shared.live()
        if session is None or self.is_closed:
            raise Unavailable(f"{self._shared.name}: the connection is closed")
        if session is not self._session:
            self._session, self.transport = session, session.transport
            self.connected.set()
            session.lost.add_done_callback(self._lost)

    def _lost(self, lost: asyncio.Future[str]) -> None:
        self.connected.clear()
        if not self.is_closed:
            telling = asyncio.ensure_future(
                self._tell(aio_pika.exceptions.ConnectionClosed(0, lost.result()))
            )
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    async def _tell(self, problem: Exception) -> None:
        await self.close_callbacks(problem)

    def channel(self, *args: Any, **kwargs: Any) -> AbstractChannel:
        """Return a channel to be opened; see :meth:`aio_pika.Connection.channel`."""
        channel = super().channel(*args, **kwargs)
        self._channels.add(channel)
        return channel

    async def close(self, exc: Any = None) -> None:
        """Close the channels, and give up the use of the connection; the last one that does ends it."""
        if self.is_closed:
            return
        self._closed.set_result(True)
        session, self.transport = self._session, None
        try:
            if session is not None:
                session.lost.remove_done_callback(self._lost)
                opened = [channel for channel in self._channels if channel.is_initialized]
                await asyncio.gather(*(session.leave(channel) for channel in opened))
        finally:
            await self._release()
