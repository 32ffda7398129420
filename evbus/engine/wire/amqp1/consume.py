"""Consume from addresses of AMQP 1.0, restored after whatever happens to the connection or the link."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from evbus.engine.kit.redact import one_line
from evbus.engine.wire.amqp1.address import Terminus, source
from evbus.engine.wire.amqp1.connect import Amqp1Connection, model
from evbus.engine.wire.amqp1.decode import decode
from evbus.engine.wire.amqp1.link import ACCEPTED, MODIFIED, REJECTED, RELEASED, Receiver
from evbus.engine.wire.amqp1.profile import Profile
from evbus.engine.wire.amqp1.session import Amqp1Session
from evbus.engine.wire.base.amqp1_types import Malformed
from evbus.engine.wire.base.consume import BrokerConsumer
from evbus.errors import DeliveryError, Unavailable
from evbus.types import Delivery, Envelope, Origin, SharedHeaders, Subscription

__all__ = ["Consumer"]

log = logging.getLogger("evbus.egress.amqp1")

#: Conditions that a person need not mend.
WAITED = frozenset(
    {"amqp:connection:forced", "amqp:internal-error", "amqp:link:detach-forced", "amqp:resource-locked"}
)


class Consumer(BrokerConsumer[Amqp1Session]):
    """One subscription to an address.

    :param name: the name of the profile, which the envelopes carry.
    """

    def __init__(
        self, connection: Amqp1Connection, profile: Profile, name: str, subscription: Subscription
    ) -> None:
        super().__init__(connection, subscription, profile.reconnect, log)
        self._profile = profile
        self._name = name
        self._prefetch = subscription.prefetch_for(profile.prefetch)
        self._source: Terminus | None = None
        self._link: Receiver | None = None
        self._counts = self._warned = False

    async def _subscribe(self, session: Amqp1Session) -> bool:
        link = self._attach(session)
        session.write()
        done, _ = await asyncio.wait({link.ready}, timeout=self._profile.settle_timeout)
        if not done:
            session.fail("the broker did not answer an attach")
        name, text = link.ready.result()
        if name:
            if session.lost.done():
                return False
            raise self._problem(name, text)
        # Not before: the engine counts from 0 until it knows where the broker begins, and RabbitMQ 4
        # begins elsewhere, so that the difference would be credit.
        link.grant(self._prefetch)
        if not self.subscribed and self._wanted.per_process and not self._counts:
            log.warning(
                "%s: what is sent to %s while the connection of this consumer is lost does not reach it; "
                "the provider amqp keeps that",
                self.connection.name,
                self.place,
            )
        return True

    def _attach(self, session: Amqp1Session) -> Receiver:
        found = model(self._profile, session)
        # RabbitMQ 3 leaves out how often it delivered a message, and that is not the same as never.
        self._counts = found != "rabbitmq3"
        if self._source is None:
            self._source = source(self._profile, found, self._wanted)
        where = self._source
        self.place = where.address
        link = self._link = session.receiver(
            where.address, where.capabilities, durable=where.durable and self._profile.durable
        )
        origin = Origin(partial(self._pause, link))
        # RabbitMQ 3 does not know *modified* either, and ends the session for it.
        settle = partial(_settle, link, MODIFIED if self._counts else RELEASED)
        link.taker = partial(self._take, origin, settle)
        link.changed = partial(_changed, link, origin)
        self._begin(session, origin)
        return link

    async def _leave(self, *, closing: bool) -> None:
        if self._session is not None and self._link is not None:
            self._session.detach(self._link)

    def _refusal(self) -> DeliveryError | None:
        link, session = self._link, self._session
        if link is None or session is None:
            return None
        self.settled = link.settled
        if session.lost.done() or link.end is None:
            return None
        return self._problem(link.end[0] or "amqp:link:detach-forced", link.end[1])

    def _problem(self, name: str, text: str) -> DeliveryError:
        said = f"{self.connection.name}: cannot consume {self.place}: {name}{': ' if text else ''}{text}"
        if name == "amqp:not-found" and self._wanted.group:
            said += "; AMQP 1.0 cannot make it: declare and bind it, or take the provider amqp, which does"
        return Unavailable(said) if name in WAITED else DeliveryError(said)

    # Messages

    def _pause(self, link: Receiver) -> None:
        self.paused = True
        link.pause(drain=self._counts)
        while self.waiting:
            self.waiting.popleft().give_back()

    def _take(
        self, origin: Origin, settle: Callable[[int, bool | None, bool], None], number: int, message: bytes
    ) -> None:
        key, headers, body, count, again = "", SharedHeaders(), message, None, False
        try:
            key, headers, body, count, again = decode(message, seconds=not self._counts)
        except Malformed as exc:
            # It is taken, as its bytes, by whoever decodes bodies: refused here it would come again.
            if not self._warned:
                log.warning("%s: a message is no AMQP 1.0: %s", self._name, one_line(exc))
            self._warned = True
        if count is None and self._counts:
            count = 0
        envelope = Envelope(self._name, key, body, headers, time.monotonic())
        self.waiting.append(
            Delivery(envelope, settle, number, redelivered=again, delivery_count=count, origin=origin)
        )
        if self._arrived is not None:
            self._wake()


def _changed(link: Receiver, origin: Origin) -> None:
    if link.end is not None:
        origin.end(": ".join(part for part in link.end if part))


def _settle(link: Receiver, again: int, number: int, accepted: bool | None, requeue: bool) -> None:
    """Tell the broker; a link that has ended needs to be told nothing.

    :param again: the outcome of what is to be delivered again: *modified* with ``delivery-failed`` (section
        3.4.5), and where it can be helped not *released*, which says that nobody tried: only so do brokers
        count it, and can end what always fails. What is given back was tried by nobody.
    """
    if accepted is None:
        link.settle(number, RELEASED)
    else:
        link.settle(number, ACCEPTED if accepted else again if requeue else REJECTED)
