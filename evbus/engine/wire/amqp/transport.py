"""The bytes of an AMQP connection, taken apart before aio-pika sees them.

aio-pika reads and writes each frame by itself, which costs more than everything else that evbus does with a
message. It lets its users bring the transport, though: this protocol sits below it and hands frames of
deliveries, confirms and returns to the channels that want them, and every other byte on to aio-pika.
"""

from __future__ import annotations

import asyncio
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

from evbus.engine.wire.amqp import frames

__all__ = ["Sink", "Wire"]

_HEAD = struct.Struct(">BHI")
_METHOD = struct.Struct(">I")
_SIZE = struct.Struct(">Q")
#: Bytes before the properties of a content header: class, weight, size (section 4.2.6.1).
_PROPERTIES = 12
#: Frames have one of these types (section 2.3.5): method, header, body, heartbeat.
_KINDS = (1, 2, 3, 8)
#: The reply code of a broker that an operator stops, or has close the connection (section 1.2).
CONNECTION_FORCED = 320
#: What a frame can have at most whatever was negotiated: a peer that speaks something else is not buffered.
_LARGEST = 128 * 1024 * 1024


class Sink(ABC):
    """A receiver of the frames of a channel, which puts messages together."""

    def __init__(self) -> None:
        self._missing = 0
        self._properties = b""
        self._parts: list[bytes] = []

    @abstractmethod
    def method(self, method: int, payload: bytes) -> bool:
        """Take the frame of a method; return False to leave it to aio-pika."""

    @abstractmethod
    def message(self, properties: bytes, body: bytes) -> None:
        """Take a message that was delivered, or came back."""

    @abstractmethod
    def lost(self, reason: str) -> None:
        """Note that the connection is gone."""

    def content(self, kind: int, payload: bytes) -> None:
        """Take the header of a message (2), or a part of its body (3)."""
        if kind == 2:
            (self._missing,) = _SIZE.unpack_from(payload, 4)
            self._properties = payload[_PROPERTIES:]
            self._parts = []
            if not self._missing:
                self.message(self._properties, b"")
            return
        self._missing -= len(payload)
        if not self._parts and not self._missing:
            self.message(self._properties, payload)
            return
        self._parts.append(payload)
        if not self._missing:
            self.message(self._properties, b"".join(self._parts))


class Wire(asyncio.StreamReaderProtocol):
    """One connection's transport.

    :ivar last_received: when the last bytes came in, by the loop's clock.
    :ivar heard: whether anything ever came in.
    :ivar closed_by: code and text of the broker's ``connection.close``, if it sent one.
    :ivar strange: the first bytes, when they are not AMQP.
    :ivar broke: whether the other side ended it without a cause of its own, such as an operator or its stop:
        then what was in flight may be the cause.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Kept here: the protocol holds its reader by a weak reference only.
        self.reader = asyncio.StreamReader(loop=loop)
        super().__init__(self.reader, loop=loop)
        self.last_received = loop.time()
        self.heard = False
        self.closed_by: tuple[int, str] | None = None
        self.strange = b""
        self.blocked = ""
        self.on_blocked: Callable[[], None] | None = None
        self.lost: asyncio.Future[str] = loop.create_future()
        self.broke = False
        self.connections_made = 0
        self.transport: asyncio.Transport | None = None
        self._clock = loop
        self._sinks: dict[int, Sink] = {}
        # Channels that the broker has closed; aio-pika gets to know that some turns of the loop later.
        self._closed_channels: set[int] = set()
        self._rest = b""
        self._fed = loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and count it: aio-pika may open more than one."""
        # Another event loop's transport is like asyncio's, and no subclass of it.
        self.transport = cast("asyncio.Transport", transport)
        self.connections_made += 1
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End everything that waits, with the reason."""
        super().connection_lost(exc)
        if not self.lost.done():
            self.broke = self._unexplained()
        self.end(self._why(exc))

    def eof_received(self) -> bool | None:
        """Note that the broker has ended the connection, and whether it said why."""
        self.broke = self._unexplained()
        return super().eof_received()

    def _unexplained(self) -> bool:
        return self.closed_by is None or self.closed_by[0] != CONNECTION_FORCED

    def _why(self, exc: Exception | None) -> str:
        if self.closed_by is not None:
            return f"the broker closed it: {self.closed_by[1]} ({self.closed_by[0]})"
        return str(exc or "") or "the broker ended it without a word"

    def end(self, reason: str) -> None:
        """Tell everybody that the connection is gone, once."""
        if not self.lost.done():
            self.lost.set_result(reason)
        sinks, self._sinks = self._sinks, {}
        for sink in sinks.values():
            sink.lost(reason)

    def abort(self) -> None:
        """Drop the connection without a word."""
        if self.transport is not None:
            self.transport.abort()

    # Writing

    def write(self, data: bytes) -> None:
        """Write whole frames. Nothing happens on a connection that is gone: its sinks have been told."""
        if self.transport is None or self.lost.done():
            return
        try:
            closing = self.transport.is_closing()
            if not closing:
                self.transport.write(data)
        except RuntimeError:
            closing = True  # aio-pika has sent the end of the stream, and is about to close it
        if closing:
            self.broke = self.broke or (self.closed_by is not None and self._unexplained())
            self.end(self._why(None) if self.broke else "it is being closed")

    # Reading

    def attach(self, channel: int | None, sink: Sink) -> int:
        """Hand the frames of an open channel to ``sink`` from now on; return its number."""
        assert channel is not None
        self._sinks[channel] = sink
        return channel

    def opened(self, channel: int | None) -> None:
        """Note that a channel was opened."""
        self._closed_channels.discard(channel or 0)

    def is_closed(self, channel: int | None) -> bool:
        """Return whether the broker has closed a channel: who closes it as well ends the connection."""
        return channel in self._closed_channels

    def detach(self, channel: int | None, sink: Sink) -> None:
        """Hand the frames of ``channel`` to aio-pika again."""
        if channel is not None and self._sinks.get(channel) is sink:
            del self._sinks[channel]

    def data_received(self, data: bytes) -> None:
        """Hand whole frames to whom they are for."""
        now = self.last_received = self._clock.time()
        self.heard = True
        if self.strange:
            super().data_received(data)
            return
        data = self._rest + data if self._rest else data
        position, end = 0, len(data)
        passed: list[bytes] = []
        sinks = self._sinks
        while end - position >= frames.AROUND:
            kind, channel, size = _HEAD.unpack_from(data, position)
            if kind not in _KINDS or size > _LARGEST or (kind == 1 and size < _METHOD.size):
                self._refuse(data[position:], passed)
                return
            stop = position + size + frames.AROUND
            if stop > end:
                break
            sink = sinks.get(channel)
            if kind == 1:
                method = _METHOD.unpack_from(data, position + 7)[0]
                payload = data[position + 7 : stop - 1]
                if sink is None or not sink.method(method, payload):
                    self._look(channel, method, payload)
                    passed.append(data[position:stop])
            elif sink is None or kind == 8:
                passed.append(data[position:stop])
            else:
                sink.content(kind, data[position + 7 : stop - 1])
            position = stop
        # A TLS alert is shorter than any frame.
        if position < end and data[position] not in _KINDS:
            self._refuse(data[position:], passed)
            return
        self._rest = data[position:]
        if passed:
            self._fed = now
            super().data_received(b"".join(passed))
        elif now - self._fed > 1:
            # aio-pika watches the connection by what it is given.
            self._fed = now
            super().data_received(frames.HEARTBEAT)

    def _refuse(self, data: bytes, passed: list[bytes]) -> None:
        """Hand what is no AMQP to aio-pika, which ends the connection."""
        self.strange = data[:64]
        self._rest = b""
        super().data_received(b"".join((*passed, data)))

    def _look(self, channel: int, method: int, payload: bytes) -> None:
        if method == frames.CHANNEL_CLOSE:
            self._closed_channels.add(channel)
        elif method == frames.CONNECTION_CLOSE:
            self.closed_by = frames.read_close(payload)
        elif method in (frames.BLOCKED, frames.UNBLOCKED):
            blocked = method == frames.BLOCKED
            self.blocked = (
                (payload[5 : 5 + payload[4]].decode("utf-8", "replace") or "an alarm") if blocked else ""
            )
            if self.on_blocked is not None:
                self.on_blocked()
