"""Consume from addresses of AMQP 1.0, restored after whatever happens to the connection or the link."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from functools import partial

from evbus.engine.kit.backoff import backoff
from evbus.engine.kit.redact import one_line
from evbus.engine.wire.amqp1.address import Source, source
from evbus.engine.wire.amqp1.connect import Amqp1Connection, model
from evbus.engine.wire.amqp1.decode import decode
from evbus.engine.wire.amqp1.link import ACCEPTED, MODIFIED, REJECTED, RELEASED, Receiver
from evbus.engine.wire.amqp1.profile import Profile
from evbus.engine.wire.amqp1.session import Amqp1Session
from evbus.engine.wire.base.amqp1_types import Malformed
from evbus.engine.wire.base.breaks import BREAKS, Breaks
from evbus.errors import ConnectFailed, DeliveryError, ProfileError, Unavailable
from evbus.types import Delivery, Envelope, Origin, SharedHeaders, Subscription

__all__ = ["Consumer"]

log = logging.getLogger("evbus.egress.amqp1")

#: Conditions that a person need not mend.
WAITED = frozenset(
    {"amqp:connection:forced", "amqp:internal-error", "amqp:link:detach-forced", "amqp:resource-locked"}
)


class Consumer:
    """One subscription, restored whenever its connection or its link is.

    :param name: the name of the profile, which the envelopes carry.
    """

    def __init__(
        self, connection: Amqp1Connection, profile: Profile, name: str, subscription: Subscription
    ) -> None:
        self._connection = connection
        self._profile = profile
        self._name = name
        self._wanted = subscription
        self._prefetch = subscription.prefetch_for(profile.prefetch)
        self._source: Source | None = None
        self._counts = False
        self._again = MODIFIED
        self._messages: deque[tuple[int, bytes]] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._subscribed = self._failing = self._warned = self._paused = False
        self._breaks = Breaks()

    def __repr__(self) -> str:
        return f"<Consumer {self._connection.name} {self._source and self._source.address!r}>"

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """Yield deliveries, at most ``prefetch`` of them unsettled, until closed.

        :raises ConnectFailed: the broker refuses the link, the first time that it is asked for.
        :raises ProfileError: see :func:`evbus.engine.wire.amqp1.address.source`.
        """
        failures = 0
        consumers = self._connection.consumers
        consumers.gone(self)
        try:
            while True:
                session = await self._connection.live()
                if session is None:
                    return
                link, origin = self._attach(session)
                origin.watch(lambda _: consumers.gone(self))
                try:
                    refusal = await self._attached(session, link)
                    began = asyncio.get_running_loop().time()
                    while refusal is None and await self._next(link):
                        failures = 0
                        yield self._delivery(link, origin, *self._messages.popleft())
                    if self._paused:
                        return
                    if refusal is None:
                        self._broken(link, began)
                    refusal = refusal or self._ended(session, link)
                finally:
                    self._messages.clear()
                    session.detach(link)
                if refusal is not None:
                    failures += 1
                    self._refused(refusal, failures)
                    await asyncio.sleep(
                        backoff(failures, self._profile.reconnect.min, self._profile.reconnect.max)
                    )
        finally:
            consumers.closed(self)

    def _attach(self, session: Amqp1Session) -> tuple[Receiver, Origin]:
        found = model(self._profile, session)
        # RabbitMQ 3 leaves out how often it delivered a message, and that is not the same as never.
        self._counts = found != "rabbitmq3"
        # It does not know *modified* either, and ends the session for it.
        self._again = MODIFIED if self._counts else RELEASED
        if self._source is None:
            try:
                self._source = source(self._profile, found, self._wanted)
            except ProfileError as exc:
                raise ProfileError(f"{self._connection.name}: {exc.reason}", path=exc.path) from None
        link = session.receiver(
            self._source.address, self._source.capabilities, durable=self._durable, taker=self._take
        )
        origin = Origin(partial(self._pause, link))
        link.changed = partial(self._changed, link, origin)
        return link, origin

    @property
    def _durable(self) -> bool:
        return self._source is not None and self._source.durable and self._profile.durable

    async def _attached(self, session: Amqp1Session, link: Receiver) -> DeliveryError | None:
        session.write()
        done, _ = await asyncio.wait({link.ready}, timeout=self._profile.settle_timeout)
        if not done:
            session.fail("the broker did not answer an attach")
        name, text = link.ready.result()
        if not name:
            # Not before: the engine counts from 0 until it knows where the broker begins, and RabbitMQ 4
            # begins elsewhere, so that the difference would be credit.
            link.grant(self._prefetch)
            if not self._subscribed and self._wanted.per_process and not self._counts:
                assert self._source is not None
                log.warning(
                    "%s: what is sent to %s while the connection of this consumer is lost does not reach it; "
                    "the provider amqp keeps that",
                    self._connection.name,
                    self._source.address,
                )
            if self._failing:
                self._failing = False
                log.warning(
                    "%s: consuming from %s again",
                    self._connection.name,
                    self._source.address if self._source else "",
                )
            self._subscribed = True
            self._connection.consumers.back(self)
            self._wanted.ready()
            return None
        return self._refusal(name, text) if not session.lost.done() else None

    def _broken(self, link: Receiver, began: float) -> None:
        assert self._source is not None
        lived = asyncio.get_running_loop().time() - began
        if self._breaks.count(settled=link.settled, lived=lived):
            log.warning(BREAKS, self._connection.name, self._source.address)

    def _ended(self, session: Amqp1Session, link: Receiver) -> DeliveryError | None:
        """Return why the broker ended a link that was attached; None when the connection is gone."""
        if session.lost.done() or link.end is None:
            return None
        return self._refusal(link.end[0] or "amqp:link:detach-forced", link.end[1])

    def _refusal(self, name: str, text: str) -> DeliveryError:
        where = self._source.address if self._source is not None else ""
        said = f"{self._connection.name}: cannot consume {where}: {name}{': ' if text else ''}{text}"
        if name == "amqp:not-found" and self._wanted.group:
            said += "; AMQP 1.0 cannot make it: declare and bind it, or take the provider amqp, which does"
        return Unavailable(said) if name in WAITED else DeliveryError(said)

    def _refused(self, refusal: DeliveryError, failures: int) -> None:
        reason = self._connection.clean(refusal)
        if not self._subscribed and not isinstance(refusal, Unavailable):
            raise ConnectFailed(reason)
        if failures == 1:
            self._failing = True
            log.warning("%s; tries again for ever", reason)

    # Messages

    def _take(self, number: int, message: bytes) -> None:
        self._messages.append((number, message))
        if self._arrived is not None:
            self._wake()

    def _pause(self, link: Receiver) -> None:
        self._paused = True
        link.pause(drain=self._counts)
        while self._messages:
            link.settle(self._messages.popleft()[0], RELEASED)

    def _changed(self, link: Receiver, origin: Origin) -> None:
        if link.end is not None:
            origin.end(": ".join(part for part in link.end if part))
        self._wake()

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None and not arrived.done():
            arrived.set_result(None)

    async def _next(self, link: Receiver) -> bool:
        """Return whether there is a message, once there is one; False when the link has ended."""
        while link.end is None:
            if self._messages:
                return True
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        return False

    def _delivery(self, link: Receiver, origin: Origin, number: int, message: bytes) -> Delivery:
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
        return Delivery(
            Envelope(self._name, key, body, headers, time.monotonic()),
            partial(_settle, link, self._again),
            number,
            redelivered=again,
            delivery_count=count,
            origin=origin,
        )


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
