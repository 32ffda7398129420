"""Send events over links of AMQP 1.0, one to each address, and wait for their outcomes.

Sections named here are those of the specification.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from evbus.engine.wire.amqp1.address import Terminus, target
from evbus.engine.wire.amqp1.connect import Amqp1Connection, model
from evbus.engine.wire.amqp1.link import Outcome, SendingLink
from evbus.engine.wire.amqp1.message import Encoder
from evbus.engine.wire.amqp1.profile import Profile
from evbus.engine.wire.amqp1.session import FORCED, Amqp1Session
from evbus.engine.wire.base.publish import INVALID, Batch, BrokerPublisher, ComingBack, Unroutable, rejected
from evbus.engine.wire.base.publish import Outcome as Result
from evbus.errors import ConnectionLost, DeliveryError, Rejected, Unavailable
from evbus.types import Envelope

__all__ = ["Publisher"]

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


class Publisher(BrokerPublisher[Amqp1Session]):
    """Sends the events of one lane over links of AMQP 1.0: delivered is what was accepted (section 3.4.2)."""

    SILENT = "the broker settled nothing", "settle_timeout"

    def __init__(self, connection: Amqp1Connection, profile: Profile) -> None:
        super().__init__(connection, profile.window, profile.settle_timeout)
        self._profile = profile
        self._links: OrderedDict[str, SendingLink] = OrderedDict()
        self._targets: dict[str, Terminus] = {}
        self._last: tuple[Outcome, Result] = Outcome(""), None
        self._broken: Unavailable | None = None
        self._coming_back = ComingBack(connection)

    async def publish(self, events: list[Envelope]) -> list[Result]:
        """Send events and return one outcome each; what reached nothing may be sent again for a while."""
        outcomes = await super().publish(events)
        self._coming_back.look(events, outcomes)
        return outcomes

    def _begin(self, session: Amqp1Session) -> None:
        profile = self._profile
        self._model = model(profile, session)
        self._encoder = Encoder(
            durable=profile.durable,
            priority=profile.priority,
            ttl=profile.ttl,
            headers=profile.headers,
            prefix=profile.cloudevents_prefix,
            short=self._model != "artemis",
            annotates=self._model == "rabbitmq4",
        )
        self._links.clear()
        self._targets.clear()
        self._broken = None
        self._coming_back.clear()

    async def _send(
        self, session: Amqp1Session, batch: Batch, events: list[Envelope], numbers: list[int]
    ) -> Unavailable | None:
        size, again = 0, bool(self._left)
        for index, event in enumerate(events):
            if again and self._adopt(session, batch, index, event, numbers):
                continue
            try:
                where = self._target(event.routing_key)
                message = self._encoder.encode(
                    event.routing_key, event.headers, event.body, keyed=where.keyed
                )
            except INVALID as exc:
                batch.outcomes[index] = rejected(exc)
                numbers.append(0)
                continue
            link = self._links.get(where.address)
            if link is None or link.end is not None or not link.credit or self._full(session):
                session.write()
                size = 0
                found = await self._link(session, where, event)
                if isinstance(found, Unavailable):
                    return found
                if isinstance(found, DeliveryError):
                    batch.outcomes[index] = found
                    numbers.append(0)
                    continue
                link = found
            number = session.expect(batch, index)
            batch.left += 1
            numbers.append(number)
            link.send(message, number)
            size += len(message)
            if size >= CHUNK:
                session.write()
                size = 0
        session.write()
        return None

    def _full(self, session: Amqp1Session) -> bool:
        return len(session.receipts) >= self._window

    def _target(self, key: str) -> Terminus:
        found = self._targets.get(key)
        if found is None:
            found = target(self._profile, self._model, key)
            if len(self._targets) < 10_000:
                self._targets[key] = found
        return found

    # Links

    async def _link(
        self, session: Amqp1Session, where: Terminus, event: Envelope
    ) -> SendingLink | DeliveryError:
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
            if link.end is None and link.credit and not self._full(session):
                self._links.move_to_end(where.address)
                return link
            problem = await self._room(session, event)
            if problem is not None:
                return problem

    async def _attach(self, session: Amqp1Session, where: Terminus) -> SendingLink | DeliveryError:
        refused = await self._probe(session, where)
        if refused is not None:
            return refused
        self._evict(session)
        link = session.sender(where.address, where.capabilities, durable=self._profile.durable)
        link.result = self._result
        self._links[where.address] = link
        refused = await self._attached(session, link.ready, where)
        if refused is not None:
            session.detach(link)
            if self._links.get(where.address) is link:
                del self._links[where.address]
            return refused
        return link

    async def _probe(self, session: Amqp1Session, where: Terminus) -> DeliveryError | None:
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
        self, session: Amqp1Session, ready: asyncio.Future[tuple[str, str]], where: Terminus
    ) -> DeliveryError | None:
        session.write()
        done, _ = await asyncio.wait({ready}, timeout=self._profile.settle_timeout)
        if session.lost.done():
            return self._gone(session)
        if not done:
            return await self._nothing_came(session, None, unanswered=True)
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

    # Outcomes

    async def _stands_still(self, session: Amqp1Session, event: Envelope | None) -> bool:
        return session.unanswered

    def _result(self, outcome: Outcome) -> Result:
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
            return Unroutable(self._said("the broker released it: it reached no queue"))
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
            return Unroutable(reason)
        return Rejected(reason) if alone and name != FULL else DeliveryError(reason)

    def _gone(self, session: Amqp1Session) -> Unavailable:
        """Return the error of all that was in flight, or about to be, when the connection was lost."""
        if self._broken is None:
            reason = self._said(f"the connection was lost before the outcome: {session.lost.result()}")
            if session.broke:
                self._broken = ConnectionLost(reason, alone=not session.receipts)
            else:
                self._broken = Unavailable(reason)
        return self._broken
