"""The requests of one channel that wait for their replies."""

from __future__ import annotations

import asyncio
import logging
import secrets
import struct
import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import takewhile

from evbus.engine.kit.redact import one_line
from evbus.engine.wire.amqp import frames
from evbus.engine.wire.amqp.confirms import read_return
from evbus.errors import DeliveryTimeout, Rejected, Unavailable
from evbus.types import Envelope

__all__ = ["Waiting"]

log = logging.getLogger("evbus.ingress.amqp")

_TAG = struct.Struct(">QB")
_SIZE = struct.Struct(">Q")
#: Bytes before the properties of a content header: class, weight, size (section 4.2.6.1).
_PROPERTIES = 12
_CORRELATION_ID = "correlation-id"
#: Deadlines of requests that are long answered, before they are sorted out.
_STALE = 1000


class _PendingReply:
    """A request under way."""

    __slots__ = ("reply", "timeout")

    def __init__(self, reply: asyncio.Future[Envelope], timeout: float) -> None:
        self.reply = reply
        self.timeout = timeout


class Waiting:
    """The requests under way on one channel, whose publishes are confirmed.

    A :class:`evbus.engine.wire.amqp.transport.Sink`.

    :param write: writes frames.
    :param profile: the name of the profile, for the envelopes.
    :param name: what the connection is called in errors.
    :param refused: makes the error of a ``basic.nack``.
    :param unroutable: makes the error of a return, of its code, text, exchange and routing key.
    :param silent: called when the broker has confirmed nothing for ``patience`` seconds that it should have.
    :ivar ended: why it takes no more requests, ``""`` while it does.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        profile: str,
        name: str,
        refused: Callable[[], Exception],
        unroutable: Callable[[int, str, str, str], Rejected],
        silent: Callable[[], None],
        patience: float,
    ) -> None:
        self.ended = ""
        self._write = write
        self._profile = profile
        self._name = name
        self._refused = refused
        self._unroutable = unroutable
        self._silent = silent
        self._patience = patience
        self._confirmed = 0
        self._listening: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        # Nobody else can guess it, so that only who got a request can answer it.
        self._prefix = f"{secrets.token_hex(8)}-"
        self._count = 0
        self._sent = 0
        self._requests: dict[str, _PendingReply] = {}
        self._unconfirmed: dict[int, str] = {}
        self._out: list[bytes] = []
        self._deadlines: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._returned: Rejected | None = None
        self._properties = b""
        self._parts: list[bytes] = []
        self._missing = 0

    def __repr__(self) -> str:
        return f"<Waiting requests={len(self._requests)} ended={self.ended!r}>"

    def new_id(self) -> str:
        """Return the correlation id of the next request."""
        self._count += 1
        return f"{self._prefix}{self._count}"

    async def ask(self, message: bytes, correlation_id: str, deadline: float, timeout: float) -> Envelope:
        """Write a request, as its frames, and return the reply to it.

        :param deadline: until when it is waited for, by the loop's clock; ``timeout`` is for the error.
        """
        reply: asyncio.Future[Envelope] = self._loop.create_future()
        self._requests[correlation_id] = _PendingReply(reply, timeout)
        self._watch(deadline, correlation_id)
        self._sent += 1
        self._unconfirmed[self._sent] = correlation_id
        if self._listening is None:
            self._listen()
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(message)
        try:
            return await reply
        except asyncio.CancelledError:
            if not reply.cancelled():
                reply.exception()  # looked at, or asyncio would log that nobody did
            raise
        finally:
            self._requests.pop(correlation_id, None)

    def _flush(self) -> None:
        """Write all requests of one turn of the loop at once."""
        out, self._out = self._out, []
        # A frame on a channel that is closed would end the whole connection.
        if not self.ended:
            self._write(b"".join(out))

    # Silence: a server may be slow, and a broker confirms all the same

    def _listen(self) -> None:
        self._listening = self._loop.call_later(self._patience, self._heard, self._confirmed)

    def _heard(self, confirmed: int) -> None:
        """Tell when nothing was confirmed; one timer for the channel costs less than one for each request."""
        self._listening = None
        if self._unconfirmed:
            if self._confirmed == confirmed:
                self._silent()
            self._listen()

    # Deadlines

    def _watch(self, deadline: float, correlation_id: str) -> None:
        if len(self._deadlines) > 2 * len(self._requests) + _STALE:
            self._deadlines = [each for each in self._deadlines if each[1] in self._requests]
            heapify(self._deadlines)
        heappush(self._deadlines, (deadline, correlation_id))
        timer = self._timer
        if timer is None or deadline < timer.when():
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(deadline, self._look)

    def _look(self) -> None:
        """Give up the requests whose time is over; the timer is for the first of the others."""
        self._timer = None
        now, deadlines = self._loop.time(), self._deadlines
        while deadlines:
            deadline, correlation_id = deadlines[0]
            request = self._requests.get(correlation_id)
            if request is not None:
                if deadline > now:
                    self._timer = self._loop.call_at(deadline, self._look)
                    return
                _fail(request, DeliveryTimeout(request.timeout))
                del self._requests[correlation_id]
            heappop(deadlines)

    # Reading

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        self.end(f"the connection was lost: {one_line(reason)}")

    def end(self, reason: str, *, fault: bool = False) -> None:
        """Take no more requests.

        :param fault: a request is at fault, and if there is one only, it is that one.
        """
        if self.ended:
            return
        self.ended = reason
        for timer in (self._timer, self._listening):
            if timer is not None:
                timer.cancel()
        requests, self._requests = self._requests, {}
        said = f"{self._name}: {reason}"
        for request in requests.values():
            if fault and len(requests) == 1:
                _fail(request, Rejected(said))
            else:
                _fail(request, Unavailable(f"{said}; it is not known whether the request was handled"))
        self._unconfirmed.clear()
        self._deadlines.clear()

    def frame(self, kind: int, method: int, payload: bytes) -> bool:
        """Take a confirm, or a part of a reply or a return; everything else is aio-pika's."""
        if kind == 3:
            self._parts.append(payload)
            self._missing -= len(payload)
            if self._missing <= 0:
                self._complete()
        elif kind == 2:
            (self._missing,) = _SIZE.unpack_from(payload, 4)
            self._properties = payload[_PROPERTIES:]
            self._parts = []
            if not self._missing:
                self._complete()
        elif method == frames.DELIVER:
            self._returned = None
        elif method == frames.RETURN:
            self._returned = self._unroutable(*read_return(payload))
        elif method in (frames.ACK, frames.NACK):
            tag, bits = _TAG.unpack_from(payload, 4)
            self._settle(tag, confirmed=method == frames.ACK, multiple=bool(bits & 1))
        else:
            self._look_at(method, payload)
            return False
        return True

    def _look_at(self, method: int, payload: bytes) -> None:
        if method == frames.CHANNEL_CLOSE:
            code, text = frames.read_close(payload)
            # 404 and 403 are about the exchange, and so about every request; the others may be about one.
            self.end(
                f"the broker closed the channel: {one_line(text)} ({code})", fault=code not in (403, 404)
            )
        elif method == frames.CANCEL:
            self.end("the broker cancelled the consumer of replies")

    def _settle(self, tag: int, *, confirmed: bool, multiple: bool) -> None:
        self._confirmed += 1
        unconfirmed = self._unconfirmed
        for each in list(takewhile(tag.__ge__, unconfirmed)) if multiple else (tag,):
            correlation_id = unconfirmed.pop(each, "")
            request = self._requests.get(correlation_id)
            if request is not None and not confirmed:
                _fail(request, self._refused())

    def _complete(self) -> None:
        """Hand a reply, or what came back, to whoever waits for it."""
        parts, self._parts = self._parts, []
        try:
            headers = frames.properties_of(self._properties).headers
        except ValueError as exc:
            log.debug("%s: a reply is ignored: %s", self._name, one_line(exc))
            return
        request = self._requests.get(headers.get(_CORRELATION_ID, ""))
        if request is None:
            log.debug("%s: a reply is ignored, as nobody waits for it (any more)", self._name)
        elif self._returned is not None:
            _fail(request, self._returned)
        elif not request.reply.done():
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            request.reply.set_result(Envelope(self._profile, "", body, headers, time.monotonic()))


def _fail(request: _PendingReply, problem: Exception) -> None:
    if not request.reply.done():
        request.reply.set_exception(problem)
