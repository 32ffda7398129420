"""The deliveries of one channel: taken in, and settled."""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
import time
from collections import deque
from collections.abc import Callable

from evbus.engine.kit.redact import one_line
from evbus.engine.wire.amqp import frames
from evbus.engine.wire.amqp.transport import Sink
from evbus.engine.wire.amqp1.decode import body_of
from evbus.types import Delivery, Envelope, Origin, SharedHeaders

__all__ = ["CONSUMER_TAG", "Intake"]

log = logging.getLogger("evbus.egress.amqp")

#: What the one consumer of a channel is called. It is in each delivery, so it is short.
CONSUMER_TAG = "evbus"

_DELIVER = struct.Struct(">QB")
_OFFSET = "x-stream-offset"
#: What it means that the broker waits no longer for an acknowledgement, and what is to be set.
_TOO_LATE = (
    "a delivery was not settled within the broker's consumer_timeout: raise that, lower prefetch so that "
    "less waits behind what is slow, or give the listener a timeout"
)


class Intake(Sink, Origin):
    """A consumer's deliveries on one channel.

    :param channel: the number of the channel.
    :param write: writes frames.
    :param profile: the name of the profile, for the envelopes.
    :param waiting: where deliveries go; kept as an attribute.
    :param arrived: called when it is empty no more.
    :param pause: see :class:`evbus.types.Origin`; called when no more are wanted.
    :param drain: see :class:`evbus.types.Subscription`.
    :param stream: whether the queue may be a stream, whose messages have an offset.
    :ivar settled: the broker was told of a delivery.
    """

    def __init__(
        self,
        channel: int,
        write: Callable[[bytes], None],
        profile: str,
        waiting: deque[Delivery],
        arrived: Callable[[], None],
        pause: Callable[[], None] | None = None,
        *,
        drain: bool = False,
        stream: bool = False,
    ) -> None:
        Sink.__init__(self)
        Origin.__init__(self, pause)
        self.settled = False
        self.waiting = waiting
        self._arrived = arrived
        self._paused = False
        self._drain = drain
        self._stream = stream
        self._after: int | None = None
        self._warned = False
        self._channel = channel
        self._write = write
        self._profile = profile
        self._loop = asyncio.get_running_loop()
        self._drained: asyncio.Future[None] = self._loop.create_future()
        # What the broker waits for, in its order: delivery tag to stream offset.
        self._unsettled: dict[int, int | None] = {}
        self._acked: set[int] = set()
        # A stream delivers nothing again, so that is done here: tag to message, and how often it came.
        self._kept: dict[int, tuple[Envelope, int]] = {}
        self._refused: list[tuple[int, bool | None, bool]] = []
        self._flushing = False
        self._tag = 0
        self._redelivered = False
        self._routing_key = ""

    def __repr__(self) -> str:
        return f"<Intake unsettled={len(self._unsettled)} ended={self.ended!r}>"

    @property
    def next_offset(self) -> int | None:
        """The offset of a stream's first message that is not settled, None when nothing came of a stream."""
        first = next(iter(self._unsettled.values()), None)
        return self._after if first is None else first

    def lost(self, reason: str) -> None:
        """The connection is gone; what is unsettled comes again."""
        super().end(f"the connection was lost: {reason}")

    def pause(self) -> None:
        """Take no more, and give back what nobody has taken yet; what was taken can be settled."""
        if self.ended or self._paused:
            return
        self._paused = True
        super().pause()
        self._write(frames.cancel_frame(self._channel, CONSUMER_TAG, answer=self._drain))
        if not self._drain:
            self._arrived = self._return
            self._return()

    async def drained(self) -> None:
        """Return when the broker has answered the pause, or the channel has ended."""
        if self._drain and self._paused and not self.ended:
            self.watch(self._no_more)
            await asyncio.wait({self._drained})

    def _no_more(self, _: object = None) -> None:
        if not self._drained.done():
            self._drained.set_result(None)

    def _return(self) -> None:
        """Give back what nobody has taken; a stream keeps everything."""
        while self.waiting:
            self.waiting.pop().give_back()

    def end(self, reason: str) -> None:
        """Give back everything that is not settled, before the channel is closed."""
        self.flush()
        if self.ended:
            return
        parts = [] if self._paused else [frames.cancel_frame(self._channel, CONSUMER_TAG)]
        # Closing the channel gives back as well, but counts as a failed delivery of each.
        if not self._kept:
            parts.append(frames.return_frame(self._channel, 0, multiple=True))
        self._write(b"".join(parts))
        super().end(reason)

    # Reading

    def method(self, method: int, payload: bytes) -> bool:
        """Begin a delivery; everything else is aio-pika's."""
        if method == frames.CANCEL_OK and self._paused:
            self._no_more()
            return True
        if method != frames.DELIVER:
            self._look(method, payload)
            return False
        position = 5 + payload[4]  # the consumer tag: there is one consumer on the channel
        self._tag, self._redelivered = _DELIVER.unpack_from(payload, position)
        position += 9
        position += 1 + payload[position]  # the exchange
        self._routing_key = payload[position + 1 : position + 1 + payload[position]].decode(
            "utf-8", "replace"
        )
        return True

    def message(self, properties: bytes, body: bytes) -> None:
        """Take what was delivered."""
        headers, count, key, sectioned = self._read(properties)
        if sectioned:
            body = body_of(body)
        envelope = Envelope(
            self._profile, self._routing_key if key is None else key, body, headers, time.monotonic()
        )
        tag = self._tag
        offset = self._unsettled[tag] = _offset(headers.get(_OFFSET, "")) if self._stream else None
        if offset is not None:
            self._kept[tag] = (envelope, 0)
        waiting = self.waiting
        waiting.append(Delivery(envelope, self._settle, tag, bool(self._redelivered), count, self))
        if len(waiting) == 1:
            self._arrived()

    def _read(self, properties: bytes) -> frames.Properties:
        try:
            return frames.properties_of(properties)
        # Raised here it would end the connection, and the message would come again over the next one.
        except Exception as exc:
            if not self._warned:
                log.warning("%s: a message is taken without its headers: %s", self._profile, one_line(exc))
            self._warned = True
            return frames.Properties(SharedHeaders())

    def _look(self, method: int, payload: bytes) -> None:
        if method == frames.CANCEL:
            late = f", or {_TOO_LATE}" if self._unsettled else ""
            super().end(f"the broker cancelled the consumer: its queue was deleted or moved{late}")
        elif method == frames.CHANNEL_CLOSE:
            code, text = frames.read_close(payload)
            late = f"; {_TOO_LATE}" if "acknowledgement" in text and "timed out" in text else ""
            super().end(f"the broker closed the channel: {text} ({code}){late}")

    # Settling

    def _settle(self, tag: int, accepted: bool | None, requeue: bool) -> None:
        # On a channel that is gone the broker has put it back into its queue.
        if self.ended:
            return
        if accepted:
            self._acked.add(tag)
        else:
            self._refused.append((tag, accepted, requeue))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Tell the broker what was settled: one acknowledgement for all that come first in its order."""
        self._flushing = False
        if self.ended:
            return
        unsettled, acked = self._unsettled, self._acked
        parts = []
        for tag, accepted, requeue in self._refused:
            if requeue and tag in self._kept:
                self._again(tag)
                continue
            self._forget(tag)
            parts.append(
                frames.return_frame(self._channel, tag, multiple=False)
                if accepted is None
                else frames.reject_frame(self._channel, tag, requeue=requeue)
            )
        self._refused = []
        first = list(itertools.takewhile(acked.__contains__, unsettled))
        if first:
            parts.append(frames.ack_frame(self._channel, first[-1], multiple=len(first) > 1))
            acked.difference_update(first)
            for tag in first[:-1]:
                del unsettled[tag]
            if self._kept:
                for tag in first[:-1]:
                    self._kept.pop(tag, None)
            self._forget(first[-1])
        for tag in sorted(acked):
            self._forget(tag)
            parts.append(frames.ack_frame(self._channel, tag, multiple=False))
        acked.clear()
        if parts:
            self.settled = True
            self._write(b"".join(parts))

    def _again(self, tag: int) -> None:
        """Hand a stream's message out again; one that is asked to do that passes it over."""
        if self._paused:
            return
        envelope, count = self._kept[tag]
        self._kept[tag] = (envelope, count + 1)
        self.waiting.append(Delivery(envelope, self._settle, tag, True, count + 1, self))
        if len(self.waiting) == 1:
            self._arrived()

    def _forget(self, tag: int) -> None:
        offset = self._unsettled.pop(tag, None)
        if offset is not None:
            self._after = max(self._after or 0, offset + 1)
            del self._kept[tag]


def _offset(text: str) -> int | None:
    """Return a stream's offset, None if it is none: other people's messages may have such a header."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
