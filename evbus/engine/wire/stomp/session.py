"""One STOMP connection as long as it lives: receipts, subscriptions, heartbeats.

Sections named here are those of the STOMP specification 1.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from enum import Enum
from functools import partial
from typing import Any

from evbus.engine.kit.redact import one_line
from evbus.engine.kit.waiting import call
from evbus.engine.wire.base.session import BrokerSession
from evbus.engine.wire.stomp.frame import Frame, Malformed, Parser, escape
from evbus.engine.wire.stomp.frame import frame as encode
from evbus.engine.wire.stomp.profile import KEY, ROUTING_KEY
from evbus.errors import ConnectionLost, DeliveryError, DeliveryTimeout, Rejected, Unavailable

__all__ = [
    "MESSAGE_ID",
    "TIMESTAMP",
    "UNSUBSCRIBE_TIMEOUT",
    "Product",
    "StompSession",
    "fill",
    "sender_headers",
    "taken_apart",
]

Outcome = DeliveryError | None

#: Linux has it alone.
TCP_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
#: Seconds that the end of a subscription may take.
UNSUBSCRIBE_TIMEOUT = 3.0
#: Answers in a row between which nothing came, for a subscription to be taken for calm.
CALM = 3
#: Bytes from which on a frame does not wait for others.
LARGE = 4096
#: What RabbitMQ says in an ERROR that is not about the frames in flight. The first ones stand in ``message``.
NOT_ABOUT_FRAMES = ("access_refused", "connection_forced", "resource_error")
CLOSING = ("server_initiated_close", "connection_closing", "forced connection closure")

#: Headers of events that go by another name, as brokers write their own under it: the id of a frame, and on
#: ActiveMQ the time at which it came there.
MESSAGE_ID, TIMESTAMP = ("message-id", "amqp-message-id"), ("timestamp", "amqp-timestamp")

# What a broker says about a MESSAGE, and not what its sender said. RabbitMQ brings "receipt" along from SEND.
_NOT_THE_SENDERS = frozenset(
    {
        "ack",
        "content-length",
        "destination",
        "expiration",
        "expires",
        "message-id",
        "original-destination",
        "persistent",
        "priority",
        "receipt",
        "redelivered",
        "subscription",
        "x-delivery-count",
        ROUTING_KEY,
    }
)


class Product(Enum):
    """The broker on the other side, by the header ``server`` of CONNECTED."""

    RABBITMQ = "RabbitMQ"
    ACTIVEMQ = "ActiveMQ"
    OTHER = ""

    @classmethod
    def of(cls, server: str) -> Product:
        """Return the broker of ``RabbitMQ/3.10.8``."""
        return next((broker for broker in cls if server.startswith(broker.value)), cls.OTHER)


def fill(template: str, key: str, *, broker: Product) -> str:
    """Return a profile's destination for a routing key; in RabbitMQ's a slash of the key is written %2F."""
    if broker is Product.RABBITMQ:
        key = key.replace("/", "%2F")
    return template.replace(KEY, key)


def taken_apart(destination: str) -> str:
    """Return why ActiveMQ takes a destination for another one, or for several; ``""`` when it does not.

    It has no way to escape what it finds a meaning in.
    """
    name = destination.split("/", 2)[-1]
    if "," in name:
        return "holds a comma, which separates destinations on ActiveMQ"
    if "?" in name:
        return "holds a question mark, behind which ActiveMQ reads options"
    # What Java's String.trim takes away.
    if not name or name[0] <= " " or name[-1] <= " ":
        return "is empty, or begins or ends with a space, which ActiveMQ takes away"
    return ""


def sender_headers(headers: Mapping[str, str], broker: Product) -> dict[str, str]:
    """Return those of the headers of a MESSAGE that its sender has given it, by the names that they had."""
    kept = {name: value for name, value in headers.items() if name not in _NOT_THE_SENDERS}
    if broker is not Product.RABBITMQ:
        kept.pop(TIMESTAMP[0], None)
    for name, sent in (MESSAGE_ID, TIMESTAMP):
        if sent in kept:
            kept[name] = kept.pop(sent)
    return kept


class StompSession(BrokerSession[Frame]):
    """A connection as long as it lives.

    :param library: :mod:`evbus.engine.wire.stomp.library`, whose import takes a while.
    :ivar control: stomp.py's protocol, which writes control frames; None before the login.
    :ivar opened: the frame CONNECTED, or the ERROR in its place.
    :ivar version: that of RabbitMQ, such as ``(4, 0, 5)``; empty for others.
    :ivar redial: makes another session with the same broker.
    """

    def __init__(self, library: Any) -> None:
        super().__init__()
        self.library = library
        self.control: Any = None
        self.broker = Product.OTHER
        self.version: tuple[int, ...] = ()
        self.redial: Callable[[], Coroutine[Any, Any, StompSession]] | None = None
        self._parser = Parser(library.parse)
        self._takers: dict[str, Callable[[Frame], None]] = {}
        self._prompt: Callable[[], None] | None = None
        self._soon: list[bytes] = []
        self._last_sent = self._last_received = self._loop.time()
        self._send_every = self._expect_every = 0.0

    def __repr__(self) -> str:
        state = "lost" if self.lost.done() else "up"
        return f"<StompSession {self.broker.value or 'STOMP'} {state} receipts={len(self.receipts)}>"

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        super().connection_made(transport)
        self._last_received = self._loop.time()

    def data_received(self, data: bytes) -> None:
        """Take frames. Whatever goes wrong ends the session and nothing else."""
        self._last_received = self._loop.time()
        if self._prompt is not None:
            with contextlib.suppress(OSError):
                self._prompt()
        try:
            for found in self._parser.feed(data):
                if isinstance(found, list):
                    self._receipts(found)
                else:
                    self._frame(found)
                if self.lost.done():
                    break
        except Malformed as exc:
            self.fail(f"the other side does not speak STOMP as it should: {exc}")
        except Exception as exc:
            self.fail(f"a frame of the broker could not be taken: {type(exc).__name__}: {exc}")

    def _broke(self, reason: str) -> None:
        self.fail(reason, self._unexplained(reason))

    # Frames that come

    def _receipts(self, numbers: Iterable[int]) -> None:
        pending = self.receipts
        for number in numbers:
            found = pending.pop(number, None)
            if found is not None:
                found[0].settle(found[1], None)
        if self._room:
            self.wake()

    def _frame(self, frame: Frame) -> None:
        if frame.command == "MESSAGE":
            taker = self._takers.get(frame.headers.get("subscription", ""))
            if taker is not None:
                taker(frame)
        elif frame.command == "RECEIPT":
            number = frame.headers.get("receipt-id", "")
            self._receipts([int(number)] if number.isdecimal() else ())
        elif frame.command == "ERROR":
            self._error(frame)
        elif frame.command == "CONNECTED" and not self.opened.done():
            self.opened.set_result(frame)
        else:
            raise Malformed(f"it sent a frame {frame.command[:20]!r}")

    def _error(self, frame: Frame) -> None:
        reason = error_text(frame)
        if not self.opened.done():
            self.opened.set_result(frame)
            return
        number = frame.headers.get("receipt-id", "")
        if number.isdecimal() and int(number) in self.receipts:
            # The broker says which; whether it goes on with the others is seen by whether it closes.
            waiting, index = self.receipts.pop(int(number))
            waiting.settle(index, Rejected(f"the broker refused it: {reason}"))
            return
        self.fail(f"the broker reports an error: {reason}", self._blame(frame, reason))

    def _unexplained(self, reason: str) -> DeliveryError:
        """Return the outcome of what is in flight when the broker ends the connection and does not say why.

        ActiveMQ does that to who sends a header that it cannot read.
        """
        events = sum(not isinstance(waiting, _Answer) for waiting, _ in self.receipts.values())
        return ConnectionLost(
            f"the connection was lost before the receipt: {one_line(reason)}", alone=events == 1
        )

    def _blame(self, frame: Frame, reason: str) -> DeliveryError | None:
        """Return the outcome of what is in flight, after an ERROR that names none of it.

        The only one must be meant. Of several each is to be sent alone: one error for all tells the lane.
        """
        message = frame.headers.get("message", "").lower()
        if any(word in message for word in NOT_ABOUT_FRAMES) or any(word in reason for word in CLOSING):
            return None
        if "internal_error" in message:
            return self._unexplained(reason)
        if len(self.receipts) == 1:
            return Rejected(f"the broker refused it: {reason}")
        return DeliveryError(f"the broker refused one of the frames in flight: {reason}")

    def _ended(self, reason: str, outcome: DeliveryError | None) -> None:
        made = outcome or Unavailable(f"the connection was lost before the receipt: {reason}")
        receipts, self.receipts = self.receipts, {}
        for waiting, index in receipts.values():
            waiting.settle(index, made)
        self._takers.clear()
        self._soon.clear()

    # Frames that go

    async def ask(self, sent: bytes = b"", *, name: str = "evbus") -> Outcome:
        """Send something within a transaction that is given up; return when the broker has taken it.

        :param sent: a SEND with the header ``transaction``, which holds ``name``.
        """
        outcome = await self._transaction("BEGIN", name, sent)
        # Not at once: RabbitMQ stops to read a blocked publisher after the bytes in which its first SEND was.
        return await self._transaction("ABORT", name) if outcome is None else outcome

    async def _transaction(self, command: str, name: str, more: bytes = b"") -> Outcome:
        answer = _Answer(self._loop)
        headers = {"transaction": name, "receipt": str(self.expect(answer, 0))}
        self.write(encode(command, headers) + more)
        return await answer.future

    def write(self, data: bytes) -> None:
        """Write frames, without waiting. Nothing happens when the session is lost."""
        if self._transport is not None and not self.lost.done():
            self._last_sent = self._loop.time()
            self._transport.write(data)

    @property
    def taken(self) -> int:
        """The number of frames that had a receipt, or were refused."""
        return self.next_number - len(self.receipts)

    def prompt(self) -> None:
        """From now on have TCP acknowledge at once what comes.

        ActiveMQ sends no small frame before the last one is acknowledged (Nagle's algorithm): a reply that
        follows a receipt would be 40 ms late.
        """
        if self._transport is not None and TCP_QUICKACK is not None and self.broker is not Product.RABBITMQ:
            raw = self._transport.get_extra_info("socket")
            self._prompt = partial(raw.setsockopt, socket.IPPROTO_TCP, TCP_QUICKACK, 1)

    # Subscriptions

    def subscribe(
        self,
        name: str,
        destination: str,
        headers: Mapping[str, str],
        taker: Callable[[Frame], None],
        *,
        ack: str = "client-individual",
    ) -> asyncio.Future[Outcome]:
        """Subscribe ("SUBSCRIBE"); ``taker`` gets each MESSAGE.

        The future's result is None, or why the broker refused.
        """
        answer = _Answer(self._loop)
        self._takers[name] = taker
        receipt = self.expect(answer, 0)
        self.control.subscribe(destination, name, ack, dict(headers), receipt=str(receipt))
        return answer.future

    async def unsubscribe(
        self,
        name: str,
        *,
        delete: str = "",
        unsettled: Collection[str] | None = None,
        accepted: Collection[str] = (),
        most: int = 0,
        calm: bool = True,
    ) -> None:
        """End a subscription ("UNSUBSCRIBE"), and return when the broker has done it.

        :param delete: the queue behind a subscription to a topic, which RabbitMQ deletes then.
        :param unsettled: what came over it and is not settled, kept up to date by its taker. RabbitMQ would
            keep that until the connection ends; it goes to others at once.
        :param accepted: those of them that are acknowledged at the end, and go to nobody.
        :param most: how many of these there are at most; 0 if that is not bounded.
        :param calm: first wait until nothing more comes.
        """
        if name not in self._takers or self.lost.done():
            return
        self.flush()
        deadline = self._loop.time() + UNSUBSCRIBE_TIMEOUT
        try:
            if calm and unsettled is not None:
                with contextlib.suppress(DeliveryTimeout):
                    await call(self._calm(name, unsettled, most), UNSUBSCRIBE_TIMEOUT)
        finally:
            returned = list(unsettled or ())
            answer = self._end_subscription(name, delete, returned, accepted)
        if not self.lost.done():
            await asyncio.wait({answer}, timeout=deadline - self._loop.time())
        if unsettled is not None and len(unsettled) > len(returned):
            self.fail("a message came over a subscription that was ending")

    async def _calm(self, name: str, unsettled: Collection[str], most: int) -> None:
        """Wait until nothing more comes over a subscription, as no room is made for it.

        RabbitMQ reports an error for each message that it finds on its way when the subscription has ended.
        It answers before it has sent what the last ACKs made room for, so that one answer proves little.
        """
        count, still = -1, 0
        while still < CALM and not 0 < most <= len(unsettled) and not self.lost.done():
            still = still + 1 if count == len(unsettled) else 0
            count = len(unsettled)
            await self.ask(name=name)

    def _end_subscription(
        self, name: str, delete: str, unsettled: list[str], accepted: Collection[str]
    ) -> asyncio.Future[Outcome]:
        # Given back before the end it would come over this subscription again, and after it cannot be named
        # any more. What a transaction holds is named before, and given back after. To acknowledge makes room
        # for more, and so is done after as well.
        inside = {"transaction": name}
        if unsettled:
            settled = [
                encode("ACK", {"id": tag, **inside})
                if tag in accepted
                else encode("NACK", {"id": tag, "requeue": "true", **inside})
                for tag in unsettled
            ]
            self.write(b"".join((encode("BEGIN", inside), *settled)))
        answer = _Answer(self._loop)
        answer.future.add_done_callback(lambda _: self._takers.pop(name, None))
        deleting = {"durable": "true", "x-queue-name": delete} if delete else {}
        self.control.unsubscribe(name, deleting, receipt=str(self.expect(answer, 0)))
        if unsettled:
            self.write(encode("COMMIT", inside))
        return answer.future

    def settle(self, tag: str, headers: str = "", *, accepted: bool) -> None:
        """Acknowledge a message, or not ("ACK", "NACK")."""
        self.write_soon(f"{'ACK' if accepted else 'NACK'}\nid:{escape(tag)}\n{headers}\n\0".encode())

    def write_soon(self, frame: bytes) -> None:
        """Write a frame together with the others of this turn of the loop."""
        if not self._soon:
            self._loop.call_soon(self.flush)
        self._soon.append(frame)
        if len(frame) > LARGE:
            self.flush()

    def flush(self) -> None:
        """Write what is to be written soon."""
        frames, self._soon = self._soon, []
        if frames:
            self.write(b"".join(frames))

    # Heartbeats ("Heart-beating")

    def beat(self, ours: float, server: str) -> None:
        """Begin to send heartbeats and to expect them; ``server`` is the header of CONNECTED."""
        sends, _, wants = server.replace(" ", "").partition(",")
        theirs, wanted = (int(text) / 1000 if text.isdecimal() else 0.0 for text in (sends, wants))
        self._send_every = max(ours, wanted) if ours and wanted else 0.0
        self._expect_every = max(ours, theirs) if ours and theirs else 0.0
        self._tick()

    def _tick(self) -> None:
        if self.lost.done():
            return
        now = self._loop.time()
        if self._expect_every and now - self._last_received > 2 * self._expect_every:
            self.fail(f"nothing came from the broker for {now - self._last_received:.0f} s (two heartbeats)")
            return
        if self._send_every and now - self._last_sent >= self._send_every / 2:
            self.write(b"\n")
        steps = [every / 4 for every in (self._send_every, self._expect_every) if every]
        if steps:
            self._timer = self._loop.call_later(min(steps), self._tick)

    # The end

    async def close(self) -> None:
        """Say goodbye ("DISCONNECT") and wait for the answer, then for the end of the socket."""
        if not self.lost.done() and self.control is not None:
            self.flush()
            answer = _Answer(self._loop)
            self.control.disconnect(receipt=str(self.expect(answer, 0)))
            await answer.future
        await self._over()


class _Answer:
    """Waits for one receipt."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[Outcome] = loop.create_future()

    def settle(self, index: int, outcome: Outcome) -> None:
        if not self.future.done():
            self.future.set_result(outcome)


def error_text(frame: Frame) -> str:
    """Return the text of an ERROR frame, in one line."""
    message = frame.headers.get("message", "").strip()
    # ActiveMQ sends a Java traceback as the body, whose first line is enough.
    body = frame.body.decode("utf-8", "replace").strip()
    if "\n\tat " in body or "\n\t" in body:
        body = body.partition("\n")[0].rpartition("Exception: ")[2]
    said = message if not body or body in message else f"{message}: {body}" if message else body
    return one_line(" ".join(said.split()) or "it does not say which")
