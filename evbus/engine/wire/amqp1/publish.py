"""Send events over links of AMQP 1.0, one to each address, and wait for their outcomes.

Sections named here are those of the specification.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable

from evbus.engine.wire.amqp1.address import Target, target
from evbus.engine.wire.amqp1.batch import Batch, Transfer
from evbus.engine.wire.amqp1.connect import Amqp1Connection, model
from evbus.engine.wire.amqp1.link import Outcome, SendingLink
from evbus.engine.wire.amqp1.message import Encoder
from evbus.engine.wire.amqp1.profile import Model, Profile
from evbus.engine.wire.amqp1.session import FORCED, Amqp1Session
from evbus.engine.wire.base.coming_back import ComingBack
from evbus.engine.wire.base.inflight import InFlight
from evbus.errors import (
    ConnectionLost,
    DeliveryError,
    InvalidHeader,
    InvalidRoutingKey,
    Rejected,
    Unavailable,
)
from evbus.types import Envelope

__all__ = ["Publisher"]

Result = DeliveryError | None

#: Links that are kept for addresses that may be needed again. Each is a channel or two on RabbitMQ.
LINKS = 200
#: Bytes that are given to the engine before it is emptied.
CHUNK = 64 * 1024
#: Conditions that say nothing about the event: it is tried again for ever (sections 2.8.15 to 2.8.17).
WAITED = frozenset(
    {
        FORCED,
        "amqp:link:detach-forced",
        "amqp:resource-locked",
        "amqp:unauthorized-access",
    }
)
#: What a broker says that has failed itself, perhaps over an event.
FAILED = "amqp:internal-error"
#: There is no such queue or exchange.
ABSENT = "amqp:not-found"
#: A queue or a broker that is full: tried again, as often as the lane does.
FULL = "amqp:resource-limit-exceeded"


class _NotThere(Rejected):
    """The event reached no queue, or its queue or exchange is not there."""


class Publisher:
    """Sends the events of one lane over the connection of its profile."""

    def __init__(self, connection: Amqp1Connection, profile: Profile) -> None:
        self.connection = connection
        self._profile = profile
        self._encoder = self._encoder_for("artemis")
        self._session: Amqp1Session | None = None
        self._model: Model = "artemis"
        self._links: OrderedDict[str, SendingLink] = OrderedDict()
        self._targets: dict[str, Target] = {}
        self._left: InFlight[Transfer] = InFlight(10 * profile.window)
        self._flying = 0
        self._room: list[asyncio.Future[None]] = []
        self._last: tuple[Outcome, Result] = Outcome(""), None
        self._broken: Unavailable | None = None
        self._silences = 0
        self._coming_back = ComingBack(connection)

    def __repr__(self) -> str:
        return f"<Publisher {self.connection!r} in flight={self._flying} links={len(self._links)}>"

    def ready(self) -> tuple[str, Awaitable[None]] | None:
        """Return None when events can be taken, else why not, and what to await until they can."""
        return self.connection.ready()

    async def publish(self, events: list[Envelope]) -> list[Result]:
        """Send events and return one outcome each: None when it was accepted (section 3.4.2).

        :class:`Rejected` is what AMQP cannot carry, or the broker refused or found no queue for;
        :class:`DeliveryError` what the broker gave back; :class:`Unavailable` what has no outcome because the
        connection was lost or the broker does not answer.
        """
        try:
            session = self.connection.up()
        except Unavailable as exc:
            return [exc] * len(events)
        if session is not self._session:
            self._begin(session)
        batch = Batch(len(events))
        sent: list[Transfer | None] = []
        try:
            problem = await self._send(session, batch, events, sent)
            session.write()
            if problem is None:
                problem = await self._wait(batch)
        except BaseException:
            # Cancelled: nobody learns the outcomes, and all of the events are offered again.
            self._leave(events, sent, known=True)
            raise
        if problem is not None:
            for index, one in enumerate(sent):
                if one is not None and not one.done:
                    batch.outcomes[index] = problem
            self._leave(events, sent)
            for index in range(len(sent), len(events)):
                batch.outcomes[index] = problem
        if self._coming_back or batch.outcomes.count(None) < len(events):
            self._spare(events, batch.outcomes)
        return batch.outcomes

    def _leave(self, events: list[Envelope], sent: list[Transfer | None], *, known: bool = False) -> None:
        """Remember what is in flight, and with ``known`` what was accepted and nobody was told of."""
        for event, one in zip(events, sent, strict=False):
            if one is not None:
                one.batch = None
                if not one.done or (known and one.result is None):
                    self._left.keep(event, one)

    def _known(self, event: Envelope) -> Transfer | None:
        """Return what waits for an event that was sent before, or was accepted; None: send it."""
        while True:
            sent = self._left.take(event)
            if sent is None or not sent.done or sent.result is None:
                return sent

    def _spare(self, events: list[Envelope], outcomes: list[Result]) -> None:
        """Let what reached nothing be sent again, as queues may come back shortly after a connection."""
        for index, (event, outcome) in enumerate(zip(events, outcomes, strict=True)):
            if outcome is None:
                self._coming_back.arrived(event.routing_key)
            elif type(outcome) is _NotThere and self._coming_back.missed(event.routing_key):
                outcomes[index] = Unavailable(f"{outcome}; the queue may be about to come back")

    def _begin(self, session: Amqp1Session) -> None:
        self._session = session
        self._model = model(self._profile, session)
        self._encoder = self._encoder_for(self._model)
        self._links.clear()
        self._targets.clear()
        self._left.clear()
        self._flying = 0
        self._broken = None
        self._silences = 0
        self._coming_back.clear()

    def _encoder_for(self, model: Model) -> Encoder:
        profile = self._profile
        return Encoder(
            durable=profile.durable,
            priority=profile.priority,
            ttl=profile.ttl,
            headers=profile.headers,
            prefix=profile.cloudevents_prefix,
            short=model != "artemis",
            annotates=model == "rabbitmq4",
        )

    async def _send(
        self, session: Amqp1Session, batch: Batch, events: list[Envelope], sent: list[Transfer | None]
    ) -> Unavailable | None:
        size, again = 0, bool(self._left)
        for index, event in enumerate(events):
            known = self._known(event) if again else None
            if known is not None:
                sent.append(batch.adopt(known, index))
                continue
            try:
                where = self._target(event.routing_key)
                message = self._encoder.encode(
                    event.routing_key, event.headers, event.body, keyed=where.keyed
                )
            except (InvalidHeader, InvalidRoutingKey) as exc:
                refused = Rejected(str(exc))
                refused.__cause__ = exc
                batch.outcomes[index] = refused
                sent.append(None)
                continue
            link = self._links.get(where.address)
            if link is None or link.end is not None or not link.credit or self._full():
                session.write()
                size = 0
                found = await self._link(session, where)
                if isinstance(found, Unavailable):
                    return found
                if isinstance(found, DeliveryError):
                    batch.outcomes[index] = found
                    sent.append(None)
                    continue
                link = found
            one = batch.expect(index, self._result)
            sent.append(one)
            self._flying += 1
            link.send(message, one)
            size += len(message)
            if size >= CHUNK:
                session.write()
                size = 0
        return None

    def _full(self) -> bool:
        return self._flying >= self._profile.window

    def _target(self, key: str) -> Target:
        found = self._targets.get(key)
        if found is None:
            found = target(self._profile, self._model, key)
            if len(self._targets) < 10_000:
                self._targets[key] = found
        return found

    # Links

    async def _link(self, session: Amqp1Session, where: Target) -> SendingLink | DeliveryError:
        """Return the link to an address once it takes a message, or why that was given up."""
        while True:
            link = self._links.get(where.address)
            if link is None or link.end is not None:
                found = await self._attach(session, where)
                if isinstance(found, DeliveryError):
                    return found
                link = found
            if session.lost.done():
                return self._gone(session)
            if link.end is None and link.credit and not self._full():
                self._links.move_to_end(where.address)
                return link
            # Only outcomes and credit count as life: heartbeats come from a broker under an alarm, too.
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(room)
            done, _ = await asyncio.wait({room}, timeout=self._profile.settle_timeout)
            if not done:
                return self._silent()
            self._silences = 0

    async def _attach(self, session: Amqp1Session, where: Target) -> SendingLink | DeliveryError:
        refused = await self._probe(session, where)
        if refused is not None:
            return refused
        self._evict(session)
        link = session.sender(where.address, where.capabilities, durable=self._profile.durable)
        link.changed = self._wake
        self._links[where.address] = link
        refused = await self._attached(session, link.ready, where)
        if refused is not None:
            session.detach(link)
            if self._links.get(where.address) is link:
                del self._links[where.address]
            return refused
        return link

    async def _probe(self, session: Amqp1Session, where: Target) -> DeliveryError | None:
        """Return why nothing can be sent to a queue of RabbitMQ 3 that it would not be missed by.

        It attaches and accepts although there is no such queue. Whoever wants to receive is told.
        """
        if self._model != "rabbitmq3" or not where.address.startswith("/amq/queue/"):
            return None
        link = session.receiver(where.address, (), durable=self._profile.durable)
        try:
            return await self._attached(session, link.ready, where)
        finally:
            session.detach(link)

    async def _attached(
        self, session: Amqp1Session, ready: asyncio.Future[tuple[str, str]], where: Target
    ) -> DeliveryError | None:
        session.write()
        done, _ = await asyncio.wait({ready}, timeout=self._profile.settle_timeout)
        if session.lost.done():
            return self._gone(session)
        if not done:
            return self._silent(session)
        name, text = ready.result()
        if not name:
            self._silences = 0
            return None
        return self._refusal(f"nothing can be sent to {where.address}", name, text, alone=True)

    def _evict(self, session: Amqp1Session) -> None:
        """Give up the link that was not needed for longest, if there are many."""
        if len(self._links) < LINKS:
            return
        for address, link in list(self._links.items()):
            if not link.unsettled:
                del self._links[address]
                session.detach(link)
                return

    def _wake(self) -> None:
        waiting, self._room = self._room, []
        for room in waiting:
            if not room.done():
                room.set_result(None)

    # Outcomes

    async def _wait(self, batch: Batch) -> Unavailable | None:
        """Wait for all outcomes; return why that was given up."""
        if not await batch.complete(self._profile.settle_timeout):
            return self._silent()
        self._silences = 0
        return None

    def _result(self, outcome: Outcome) -> Result:
        self._flying -= 1
        if self._room:
            self._wake()
        if outcome.name == "accepted":
            return None
        # Those that end together share one outcome and so one error, which tells the lane that it is not
        # known which of them is meant.
        if outcome is not self._last[0]:
            self._last = outcome, self._problem(outcome)
        return self._last[1]

    def _problem(self, outcome: Outcome) -> DeliveryError:
        if outcome.name == "ended" and outcome.condition:
            return self._refusal("the link ended", outcome.condition, outcome.text, alone=outcome.alone)
        said = ": ".join(part for part in (outcome.condition, outcome.text) if part)
        told = f": {said}" if said else ""
        if outcome.name == "ended":
            session = self._session
            if session is not None and session.lost.done():
                return self._gone(session)
            return Unavailable(self._said(f"the connection was lost before the outcome{told}"))
        if outcome.name == "rejected" and outcome.condition != FULL:
            return Rejected(self._said(f"the broker rejected it{told}"))
        if outcome.name == "released":
            return _NotThere(self._said("the broker released it: it reached no queue"))
        return DeliveryError(self._said(f"the broker gave it back ({outcome.name}){told}"))

    def _said(self, what: str) -> str:
        return self.connection.clean(f"{self.connection.name}: {what}")

    def _refusal(self, what: str, name: str, text: str, *, alone: bool) -> DeliveryError:
        reason = self._said(f"{what}: {name}{': ' if text else ''}{text}")
        if name in WAITED:
            return Unavailable(reason)
        if name == FAILED:
            return ConnectionLost(reason, alone=alone)
        if alone and name == ABSENT:
            return _NotThere(reason)
        return Rejected(reason) if alone and name != FULL else DeliveryError(reason)

    def _silent(self, unanswered: Amqp1Session | None = None) -> Unavailable:
        """Return the error of what has no outcome; the second time give up a connection that stands still.

        :param unanswered: the connection, if it has not answered what it always has to.
        """
        self._silences += 1
        session = self._session
        if self._silences >= 2 and session is not None and (unanswered is session or session.unanswered):
            session.fail("it answers nothing any more (settle_timeout)")
        seconds = self._profile.settle_timeout
        return Unavailable(
            f"{self.connection.name}: the broker settled nothing within {seconds:g} s (settle_timeout)"
        )

    def _gone(self, session: Amqp1Session) -> Unavailable:
        """Return the error of all that was in flight, or about to be, when the connection was lost."""
        if self._broken is None:
            reason = self._said(f"the connection was lost before the outcome: {session.lost.result()}")
            if session.broke:
                self._broken = ConnectionLost(reason, alone=not self._flying)
            else:
                self._broken = Unavailable(reason)
        return self._broken
