"""Publish to an exchange, each event confirmed by the broker."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from aio_pika.abc import AbstractChannel

from evbus.engine.kit.redact import one_line
from evbus.engine.wire.amqp import frames
from evbus.engine.wire.amqp.confirms import Batch, Confirms, Outcome, Sent
from evbus.engine.wire.amqp.connect import AmqpSession
from evbus.engine.wire.amqp.profile import Profile
from evbus.engine.wire.amqp.topology import declared
from evbus.engine.wire.base.publish import ComingBack, InFlight, Unroutable
from evbus.engine.wire.base.supervisor import Connection
from evbus.errors import (
    ConnectFailed,
    ConnectionLost,
    DeliveryError,
    InvalidHeader,
    PayloadError,
    Rejected,
    Unavailable,
)
from evbus.types import Envelope, SharedHeaders

__all__ = ["Publisher", "properties_for", "refused", "rejected", "unroutable"]

#: Heads of messages that are kept because others are likely to need the same.
CACHED = 4096
#: Events of unknown outcome that are remembered, so that they are not sent twice.
REMEMBERED = 100_000
PRECONDITION_FAILED = 406
#: How RabbitMQ refuses a body (its setting ``max_message_size``).
_TOO_LARGE = re.compile(r"message size \d+ is larger than (?:configured )?max size (\d+)")
#: Lists of further routing keys for RabbitMQ, which closes the channel when one of them is text.
_FURTHER_KEYS = ("CC", "BCC")


class _Head(NamedTuple):
    """Method and header frames of a message, good for every body of one size.

    ``headers`` is held so that its identity, by which heads are found, stays its own.
    """

    headers: dict[str, str]
    properties: bytes
    data: bytes


class _Published(NamedTuple):
    """An event of unknown outcome."""

    batch: Batch
    number: int
    event: Envelope


class _ConfirmChannel(Confirms):
    """An open channel whose publishes are confirmed.

    :param name: what the connection is called in errors.
    :param largest: the bytes of a body that the broker takes at most, once it has said so.
    """

    def __init__(
        self, session: AmqpSession, link: AbstractChannel, name: str, profile: Profile, largest: int | None
    ) -> None:
        super().__init__(profile.timeout or profile.confirm_timeout)
        self.session = session
        self.link = link
        self.largest = largest
        self._number = session.wire.attach(link.number, self)
        self._name = name
        self._profile = profile
        self._exchange = profile.exchange_name()
        self._heads: dict[tuple[str, int, int], _Head] = {}

    # Writing

    def encode(self, events: list[Envelope]) -> tuple[list[Sent], list[bytes], dict[int, Rejected]]:
        """Return events as they are written, and those that AMQP cannot carry, by their place."""
        number, frame_max = self._number, self.session.frame_max
        heads, most = self._heads, frame_max - frames.AROUND
        sent: list[Sent] = []
        parts: list[bytes] = []
        unfit: dict[int, Rejected] = {}
        for index, event in enumerate(events):
            body = event.body
            size = len(body)
            head = heads.get((event.routing_key, id(event.headers), size))
            if head is None:
                try:
                    head = self._head(event, size)
                except PayloadError as exc:
                    unfit[index] = rejected(self._name, exc)
                    continue
            sent.append((event.routing_key, head.properties, body))
            if 0 < size <= most:
                parts += (head.data, body, frames.END)
            else:
                parts.append(frames.message(number, frame_max, head.data, body))
        return sent, parts, unfit

    def publish(self, sent: list[Sent], parts: list[bytes]) -> Batch:
        """Write what :meth:`encode` has made."""
        batch = self.add(sent)
        self.session.wire.write(b"".join(parts))
        return batch

    def _head(self, event: Envelope, size: int) -> _Head:
        if self.largest is not None and size > self.largest:
            raise PayloadError(f"the body has {size} bytes, and the broker takes {self.largest} at most")
        number, frame_max = self._number, self.session.frame_max
        properties = properties_for(event.headers, self._profile, frame_max)
        data = frames.publish_method(
            number, self._exchange, event.routing_key, mandatory=self._profile.mandatory
        ) + frames.content_header(number, size, properties)
        if 0 < size <= frame_max - frames.AROUND:
            data += frames.body_head(number, size)
        head = _Head(event.headers, properties, data)
        if isinstance(event.headers, SharedHeaders):
            if len(self._heads) >= CACHED:
                self._heads.clear()
            self._heads[event.routing_key, id(event.headers), size] = head
        return head

    # What comes back

    def _refused(self) -> Exception:
        return refused(self._name, self._profile)

    def _unroutable(self, code: int, text: str, exchange: str, routing_key: str) -> Rejected:
        found = unroutable(self._name, code, text, exchange, routing_key)
        cure = _cure(self._profile)
        return Unroutable(f"{found}{cure}") if cure else found

    def _closed(self, code: int, text: str) -> Exception:
        if not code:
            said = f"{self._name}: the connection was lost before the broker confirmed: {text}"
            if self.session.wire.broke and self.pending:
                return ConnectionLost(said, alone=self.pending == 1)
            return Unavailable(said)
        said = f"{self._name}: the broker closed the channel: {one_line(text)} ({code})"
        if code == PRECONDITION_FAILED and (too_large := _TOO_LARGE.search(text)):
            self.largest = largest = int(too_large[1])
            self.reject(lambda body: len(body) > largest, lambda: Rejected(said))
            return Unavailable(said)
        # 404 and 403 are about the exchange, and so about every event; the others may be about one.
        return Unavailable(said) if code in (403, 404) else DeliveryError(said)

    def silent(self) -> Unavailable:
        # The broker may have no quorum for its queue; then it answers other things.
        self.session.probe(self.patience)
        blocked = self.session.blocked
        why = f"it blocks publishers: {one_line(blocked)}" if blocked else "it may be overloaded or frozen"
        return Unavailable(
            f"{self._name}: the broker has confirmed nothing for {self.patience:g} s (confirm_timeout); {why}"
        )

    async def answer(self, batch: Batch) -> None:
        """Wait until a batch is done, as long as confirms come in. Others may wait for it, too."""
        progress = -1
        while batch.left:
            if progress == self.progress:
                raise self.silent()
            progress = self.progress
            await asyncio.wait({batch.done}, timeout=self.patience)


class Publisher:
    """One lane's way to a broker: a channel of its own on the profile's connection."""

    def __init__(self, connection: Connection[AmqpSession], profile: Profile) -> None:
        self.connection = connection
        self._profile = profile
        self._name = connection.name
        self._exchange = profile.exchange_name()
        self._channel: _ConfirmChannel | None = None
        self._opening = asyncio.Lock()
        queue = profile.queue_settings()
        self._declares = queue is not None and bool(queue.name)
        # Routing keys that lead to no queue although the profile's own is there.
        self._nowhere: set[str] = set()
        # Those that may do so because the queue was deleted.
        self._suspects: set[str] = set()
        self._coming_back = ComingBack(connection)
        self._declarations = 0
        self._calls = 0
        self._under_way: set[int] = set()
        self._unwritten: set[int] = set()
        self._unknown: InFlight[_Published] = InFlight(REMEMBERED)

    def __repr__(self) -> str:
        return f"<Publisher {self._name} {self._channel or 'no channel'}>"

    async def open(self) -> None:
        """Open the channel and declare the topology, if the connection is up.

        :raises ConnectFailed: the broker refuses, and the profile does not say ``first_connect: wait``.
        """
        if self.connection.session is None:
            return
        try:
            await self._open()
        except Unavailable as exc:
            if self._profile.first_connect == "fail":
                raise ConnectFailed(str(exc)) from exc

    async def close(self) -> None:
        """Close the channel."""
        channel, self._channel = self._channel, None
        if channel is not None and channel.ended is None:
            try:
                await channel.session.leave(channel.link, channel)
            finally:
                channel.lost("the lane was closed")

    def begin(self, events: list[Envelope]) -> asyncio.Future[list[Outcome]] | None:
        """Publish events at once and return the future of their outcomes; see :meth:`publish`.

        None when that has to wait, as for a channel, and nothing was published.
        """
        batch = self._begin(events)
        if batch is None:
            return None
        batch.done.add_done_callback(partial(self._ended, self._calls, batch, events, self._declarations))
        return batch.done

    def _begin(self, events: list[Envelope]) -> Batch | None:
        channel = self._channel
        if channel is None or channel.ended is not None or self._unwritten or not events:
            return None
        if self._suspects or self._unknown:
            return None
        sent, parts, unfit = channel.encode(events)
        if unfit:
            return None
        self._calls += 1
        self._under_way.add(self._calls)
        batch = channel.publish(sent, parts)
        channel.watch(batch)
        return batch

    def _ended(
        self, call: int, batch: Batch, events: list[Envelope], declarations: int, answer: asyncio.Future[Any]
    ) -> None:
        """Note how a batch has ended that was published at once, and that nobody here waits for."""
        if answer.cancelled() or answer.exception() is not None:
            self._left(call, batch, events)
        else:
            self._under_way.discard(call)
            self._look_at(events, answer.result(), declarations)

    def _left(self, call: int, batch: Batch, events: list[Envelope]) -> None:
        """Remember a batch of which nobody was told the outcomes."""
        self._under_way.discard(call)
        batch.renew()
        self._remember(_published(batch, events))

    async def publish(self, events: list[Envelope]) -> list[Outcome]:
        """Publish events in order and return, once the broker has answered for all, one outcome each.

        None is a confirmed event. Cancelled, or given up for want of an answer, events of unknown outcome are
        remembered: while the channel lives, publishing them again waits for the answer instead.

        :raises Unavailable: no connection or channel, or no answer for ``confirm_timeout`` seconds.
        """
        batch = self._begin(events)
        if batch is not None:
            call, declarations = self._calls, self._declarations
            try:
                outcomes = await batch.done
            except (asyncio.CancelledError, DeliveryError):
                self._left(call, batch, events)
                raise
            self._under_way.discard(call)
            self._look_at(events, outcomes, declarations)
            return outcomes
        self._calls += 1
        call = self._calls
        self._under_way.add(call)
        self._unwritten.add(call)
        try:
            if self._suspects:
                await self._declare_again()
            declarations = self._declarations
            outcomes = await self._publish(events, call)
        finally:
            self._under_way.discard(call)
            self._unwritten.discard(call)
        self._look_at(events, outcomes, declarations)
        return outcomes

    async def _publish(self, events: list[Envelope], call: int) -> list[Outcome]:
        """Publish events of which some may be on their way already."""
        channel = self._channel
        # Who waits for the channel is woken some time after it is there.
        if channel is None or channel.ended is not None or min(self._unwritten) < call:
            channel = await (self._opened() if min(self._under_way) < call else self._open())
        self._unwritten.discard(call)
        known = [self._unknown.take(event) for event in events]
        fresh = [event for event, sent in zip(events, known) if sent is None]  # noqa: B905 - one each
        sent, parts, unfit = channel.encode(fresh)
        batch = channel.publish(sent, parts)
        new = iter(_published(batch, [event for place, event in enumerate(fresh) if place not in unfit]))
        of_fresh = iter([unfit.get(place) or next(new) for place in range(len(fresh))])
        found = [sent or next(of_fresh) for sent in known]
        under_way = [each for each in found if isinstance(each, _Published)]
        try:
            for one in {id(each.batch): each.batch for each in under_way}.values():
                await channel.answer(one)
        except (asyncio.CancelledError, Unavailable):
            self._remember(under_way)
            raise
        return [each.batch.outcomes[each.number] if isinstance(each, _Published) else each for each in found]

    def _look_at(self, events: list[Envelope], outcomes: list[Outcome], declarations: int) -> None:
        """Let what came back be published again, if its queue may only be missing for the moment.

        Somebody may have deleted the profile's queue. It is declared again when the lane does that, and not
        before: then nothing is under way that would come to the new queue before what came back. And shortly
        after a connection was restored those of other consumers may still be about to come back.

        :param declarations: how often the queue had been declared when the events were published. When it was
            not since, a key known to lead nowhere does so still.
        """
        sure = declarations == self._declarations
        if self._nowhere or (self._declares and outcomes.count(None) < len(outcomes)):
            for index, (event, outcome) in enumerate(zip(events, outcomes)):  # noqa: B905 - one each
                key = event.routing_key
                if outcome is None:
                    self._nowhere.discard(key)
                elif type(outcome) is Unroutable and not (sure and key in self._nowhere):
                    self._suspects.add(key)
                    outcomes[index] = Unavailable(f"{outcome}; the queue may have been deleted")
        self._coming_back.look(events, outcomes)

    async def _declare_again(self) -> None:
        async with self._opening:
            suspects, self._suspects = self._suspects, set()
            if not suspects:
                return
            try:
                await declared(self.connection.up(), self._profile)
            except Unavailable as exc:
                self._suspects |= suspects
                raise Unavailable(f"{self._name}: {exc}") from exc
            self._declarations += 1
            if len(self._nowhere) >= CACHED:
                self._nowhere.clear()
            self._nowhere |= suspects

    # The channel

    async def _opened(self) -> _ConfirmChannel:
        """Return the channel that an earlier call has opened; what that has lost must not be overtaken."""
        async with self._opening:
            channel = self._channel
        if channel is None or channel.ended is not None:
            raise Unavailable(f"{self._name}: an earlier batch waits for a channel")
        return channel

    async def _open(self) -> _ConfirmChannel:
        async with self._opening:
            channel = self._channel
            if channel is not None and channel.ended is None:
                return channel
            self._channel = None
            self._unknown.clear()
            self._nowhere.clear()
            self._suspects.clear()
            self._coming_back.clear()
            session = self.connection.up()
            largest = channel.largest if channel is not None and channel.session is session else None
            try:
                await declared(session, self._profile)
                link = await session.channel(confirms=True)
                channel = _ConfirmChannel(session, link, self._name, self._profile, largest)
            except Unavailable as exc:
                raise Unavailable(f"{self._name}: {exc}") from exc
            except Exception as exc:
                raise Unavailable(f"{self._name}: no channel: {one_line(str(exc))}") from exc
            self._channel = channel
            return channel

    def _remember(self, published: Iterable[_Published]) -> None:
        for each in published:
            self._unknown.keep(each.event, each)


def properties_for(headers: Mapping[str, str], profile: Profile, frame_max: int) -> bytes:
    """Return the properties of a message.

    :raises PayloadError: AMQP, or the broker, cannot carry them.
    """
    for name in _FURTHER_KEYS:
        if name in headers or name in profile.headers:
            raise InvalidHeader(f"the header {name!r} is a list for RabbitMQ, and no text; leave it out")
    properties = frames.encode_properties(headers, profile)
    if len(properties) + 24 > frame_max:
        raise PayloadError(
            f"the headers have {len(properties)} bytes, more than the broker's frame_max of {frame_max}"
        )
    return properties


def refused(name: str, profile: Profile) -> DeliveryError:
    """Return the error of a ``basic.nack`` on the connection ``name``."""
    said = f"{name}: refused by the broker (basic.nack): a queue is full and rejects, or failed"
    return Rejected(said) if profile.refused == "reject" else DeliveryError(said)


def unroutable(name: str, code: int, text: str, exchange: str, routing_key: str) -> Rejected:
    """Return the error of a ``basic.return`` on the connection ``name``."""
    where = f"the exchange {exchange!r} leads" if exchange else "there is"
    what = "to no queue for" if exchange else "no queue of the name of"
    return Unroutable(f"{name}: unroutable: {where} {what} the routing key {routing_key!r} ({text}, {code})")


def _cure(profile: Profile) -> str:
    """Return a hint for the profile, by which more than its own name leads to its queue."""
    queue = profile.queue_settings()
    if queue is None or not queue.name or profile.routing_key is not None:
        return ""
    name = queue.name
    if not profile.exchange_name():
        return (
            f"; the default exchange leads to the profile's queue {name!r} by its name alone, and all events "
            f"go there with 'routing_key: {name}'"
        )
    if queue.bind is None:
        return (
            f"; the profile's queue {name!r} is bound by its name alone: say more: 'queue: {{name: {name}, "
            'bind: ["#"]}\''
        )
    return ""


def _published(batch: Batch, events: list[Envelope]) -> list[_Published]:
    return [_Published(batch, number, event) for number, event in enumerate(events)]


def rejected(name: str, problem: PayloadError) -> Rejected:
    """Return the error of an event that cannot be carried."""
    made = Rejected(f"{name}: {problem}")
    made.__cause__ = problem
    return made
