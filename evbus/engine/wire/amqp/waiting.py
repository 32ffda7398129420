"""The requests of one channel that wait for their replies."""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Callable
from itertools import takewhile

from evbus.engine.kit.redact import one_line
from evbus.engine.wire.amqp import frames
from evbus.engine.wire.amqp.confirms import read_return
from evbus.engine.wire.base.correlate import Correlator
from evbus.errors import Rejected, Unavailable
from evbus.types import Envelope

__all__ = ["Waiting"]

log = logging.getLogger("evbus.ingress.amqp")

_TAG = struct.Struct(">QB")
_SIZE = struct.Struct(">Q")
#: Bytes before the properties of a content header: class, weight, size (section 4.2.6.1).
_PROPERTIES = 12
_CORRELATION_ID = "correlation-id"


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
        self._sent = 0
        self._requests = Correlator(name, log)
        self._unconfirmed: dict[int, str] = {}
        self._out: list[bytes] = []
        self._returned: Rejected | None = None
        self._properties = b""
        self._parts: list[bytes] = []
        self._missing = 0

    def __repr__(self) -> str:
        return f"<Waiting requests={len(self._requests)} ended={self.ended!r}>"

    def new_id(self) -> str:
        """Return the correlation id of the next request."""
        return self._requests.new_id()

    async def ask(self, message: bytes, correlation_id: str, deadline: float, timeout: float) -> Envelope:
        """Write a request, as its frames, and return the reply to it.

        :param deadline: until when it is waited for, by the loop's clock; ``timeout`` is for the error.
        """
        reply = self._requests.expect(correlation_id, deadline, timeout)
        self._sent += 1
        self._unconfirmed[self._sent] = correlation_id
        if self._listening is None:
            self._listen()
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(message)
        return await self._requests.reply(correlation_id, reply)

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
        if self._listening is not None:
            self._listening.cancel()
        self._unconfirmed.clear()
        said = f"{self._name}: {reason}"
        at_fault = fault and len(self._requests) == 1

        def problem() -> Exception:
            if at_fault:
                return Rejected(said)
            return Unavailable(f"{said}; it is not known whether the request was handled")

        self._requests.end(problem)

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
            if not confirmed:
                self._requests.fail(correlation_id, self._refused())

    def _complete(self) -> None:
        """Hand a reply, or what came back, to whoever waits for it."""
        parts, self._parts = self._parts, []
        try:
            headers = frames.properties_of(self._properties).headers
        except ValueError as exc:
            log.debug("%s: a reply is ignored: %s", self._name, one_line(exc))
            return
        reply: Envelope | Exception | None = self._returned
        if reply is None:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            reply = Envelope(self._profile, "", body, headers, time.monotonic())
        self._requests.answer(headers.get(_CORRELATION_ID, ""), reply)
