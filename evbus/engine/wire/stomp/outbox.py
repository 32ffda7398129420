"""The frames that wait to be sent over one STOMP session, in their order, without a task."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

from evbus.engine.wire.stomp.connect import StompConnection
from evbus.engine.wire.stomp.publish import CHUNK
from evbus.engine.wire.stomp.session import StompSession
from evbus.errors import DeliveryError, InvalidHeader, InvalidRoutingKey, Rejected, Unavailable

__all__ = ["Item", "Outbox"]


class Item(Protocol):
    """A frame to be sent."""

    def frame(self, number: int) -> bytes:
        """Return its bytes; ``number`` is that of its receipt."""

    def settle(self, index: int, outcome: DeliveryError | None) -> None:
        """Take the outcome (see :class:`evbus.engine.wire.stomp.session.Pending`)."""

    def fail(self, problem: DeliveryError) -> None:
        """Give up."""


class Outbox:
    """Sends frames over one session in their order, as there is room; those of one turn with one write.

    :param window: frames of the session that may be without a receipt.
    """

    def __init__(self, connection: StompConnection, session: StompSession, window: int) -> None:
        self._connection = connection
        self._session = session
        self._window = window
        self._items: OrderedDict[Item, None] = OrderedDict()
        self._chunk: list[bytes] = []
        self._size = 0
        self._stuck = False

    def put(self, item: Item) -> None:
        """Send it as soon as there is room, after those that were put before."""
        self._items[item] = None
        if not self._stuck:
            self._send()

    def forget(self, item: Item) -> None:
        """Do not send it, if it was not sent yet."""
        self._items.pop(item, None)

    def _send(self, _room: object = None) -> None:
        session = self._session
        self._stuck = False
        if session.lost.done():
            self._give_up()
            return
        while self._items and not session.full(self._window):
            item, _ = self._items.popitem(last=False)
            try:
                frame = item.frame(session.next_number)
            except (InvalidHeader, InvalidRoutingKey) as exc:
                refused = Rejected(str(exc))
                refused.__cause__ = exc
                item.fail(refused)
                continue
            session.expect(item, 0)
            self._write(frame)
        if self._items:
            # One for all who wait: each of thousands would wake with every receipt.
            self._stuck = True
            session.room().add_done_callback(self._send)

    def _write(self, frame: bytes) -> None:
        if not self._chunk:
            asyncio.get_running_loop().call_soon(self._flush)
        self._chunk.append(frame)
        self._size += len(frame)
        if self._size >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        chunk, self._chunk, self._size = self._chunk, [], 0
        if chunk:
            self._session.write(b"".join(chunk))

    def _give_up(self) -> None:
        reason = self._connection.clean(self._session.lost.result())
        while self._items:
            item, _ = self._items.popitem(last=False)
            item.fail(Unavailable(f"{self._connection.name}: the connection was lost before SEND: {reason}"))
