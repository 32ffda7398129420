"""Consume from queues, restored after whatever happens to the connection or the queue."""

from __future__ import annotations

import logging
import secrets
from typing import Any, NamedTuple

import msgspec
from aio_pika.abc import AbstractChannel

from evbus.engine.kit.topics import is_pattern, key_of
from evbus.engine.wire.amqp import frames
from evbus.engine.wire.amqp.connect import AmqpSession, Name, Refused, never
from evbus.engine.wire.amqp.intake import CONSUMER_TAG, Intake
from evbus.engine.wire.amqp.profile import Binding, ExchangeDeclaration, Profile, QueueDeclaration
from evbus.engine.wire.amqp.topology import (
    PRECONDITION_FAILED,
    STANDARD,
    TOPIC,
    check_topic,
    declare_exchange,
    declare_queue,
    not_topic,
)
from evbus.engine.wire.base.consume import BrokerConsumer
from evbus.engine.wire.base.supervisor import Connection
from evbus.errors import DeliveryError, ProfileError, Unavailable
from evbus.types import Subscription

__all__ = ["Consumer", "source_of"]

log = logging.getLogger("evbus.egress.amqp")


class _QueueSource(NamedTuple):
    """The queue that a subscription consumes from.

    :ivar bind: what it is bound to the profile's exchange by.
    :ivar passive: it is taken as it is when it is there.
    :ivar own: for this process alone.
    """

    queue: QueueDeclaration
    bind: list[Binding]
    passive: bool = False
    own: bool = False


def source_of(profile: Profile, subscription: Subscription) -> _QueueSource:
    """Return the queue of a subscription.

    Without a name it is the profile's own queue. With one it is ``<name>``, or ``<name>::<group>``, bound to
    the profile's exchange by the name; other settings are those of the profile's ``queue``. A copy for this
    process has a name of its own. That and what is not durable is gone when it had no consumer for a while
    (:meth:`evbus.engine.wire.amqp.profile.QueueDeclaration.passing`).

    :raises ProfileError: the profile has no queue, or its exchange cannot feed several.
    """
    if is_pattern(subscription.name) and not profile.exchange_name():
        raise ProfileError(not_topic("", "direct"), path="exchange")
    base = profile.queue_settings() or QueueDeclaration()
    exchange = profile.exchange_name()
    name, group = subscription.name, subscription.group
    if (group or subscription.per_process) and not exchange:
        raise ProfileError(
            "listeners, groups and copies for processes need an exchange that feeds several queues, and the "
            "default one feeds the queue of the routing key alone: name one, such as "
            "'exchange: {name: events, type: topic}'",
            path="exchange",
        )
    if not name and not base.name and not subscription.per_process:
        raise ProfileError(
            "nothing says what to consume: name a queue, such as 'queue: orders'", path="queue"
        )
    key = name or base.name
    bind: list[Binding] = [_filled(profile, key)] if name else profile.bindings(base)
    if subscription.per_process:
        unique = "::".join(part for part in (key, group, secrets.token_hex(8)) if part)
        return _QueueSource(base.passing(unique), bind, own=True)
    if not name and not group:
        return _QueueSource(base, bind, passive=isinstance(profile.queue, str))
    full = f"{key}::{group}" if group else key
    return _QueueSource(
        msgspec.structs.replace(base, name=full) if subscription.durable else base.passing(full), bind
    )


def _filled(profile: Profile, name: str) -> str:
    """Return the key by which the queue of a name is bound."""
    exchange = profile.exchange
    if isinstance(exchange, ExchangeDeclaration) and exchange.type in ("headers", "x-local-random"):
        raise ProfileError(
            f"an exchange of type {exchange.type} looks at no routing key, and so leads every event to "
            f"{name!r}; give one that does, such as 'type: topic'",
            path="exchange",
        )
    if is_pattern(name):
        _check_topic(profile)
    return key_of(profile.routing_key, name)


def _check_topic(profile: Profile) -> None:
    """Refuse an exchange that is known to match no patterns."""
    exchange = profile.exchange
    if isinstance(exchange, ExchangeDeclaration):
        kind = str(exchange.arguments.get("x-delayed-type", exchange.type))
    else:
        kind = STANDARD.get(profile.exchange_name(), TOPIC)
    if kind != TOPIC:
        raise ProfileError(not_topic(profile.exchange_name(), kind), path="exchange")


class Consumer(BrokerConsumer[AmqpSession]):
    """One subscription to a queue.

    :param name: the name of the profile, which the envelopes carry.
    """

    def __init__(
        self, connection: Connection[AmqpSession], profile: Profile, name: str, subscription: Subscription
    ) -> None:
        super().__init__(connection, subscription, profile.reconnect, log)
        self._profile = profile
        self._profile_name = name
        try:
            self._source = source_of(profile, subscription)
        except ProfileError as exc:
            raise ProfileError(f"{connection.name}: {exc.reason}", path=exc.path) from None
        self._name = self._source.queue.name
        self.place = repr(self._name)
        self._link: AbstractChannel | None = None
        self._intake: Intake | None = None
        self._next: int | None = None
        # A queue that was named only may be a stream or not; its messages tell, unless they are strange.
        self._resumes = True

    async def _subscribe(self, session: AmqpSession) -> bool:
        try:
            await self._consume(session)
        except Refused as exc:
            if exc.code == PRECONDITION_FAILED and self._source.queue.kind != "stream":
                self._next, self._resumes = None, False
            raise Unavailable(f"{self.connection.name}: {exc}") from exc
        # Whatever the client library makes of a connection that ends: a consumer goes on over the next.
        except Exception as exc:
            raise Unavailable(f"{self.connection.name}: {self.connection.clean(exc)}") from exc
        return True

    async def _consume(self, session: AmqpSession) -> None:
        source, profile = self._source, self._profile
        await declare_exchange(session, profile)
        if is_pattern(self._wanted.name):
            await check_topic(session, profile)
        known = await declare_queue(session, profile, source.queue, bind=source.bind, passive=source.passive)
        link = self._link = await session.channel()
        stream = source.queue.kind == "stream" or not known
        intake = self._intake = Intake(
            link.number or 0,
            session.wire.write,
            self._profile_name,
            self.waiting,
            self._wake,
            self._stop,
            drain=self._wanted.drain,
            stream=stream,
        )
        session.wire.attach(link.number, intake)
        self._begin(session, intake)
        try:
            await session.rpc(link.set_qos(prefetch_count=self._wanted.prefetch_for(profile.prefetch)))
            queue = await link.get_queue(Name(self._name), ensure=False)
            consuming = queue.consume(
                never, exclusive=profile.exclusive, arguments=self._arguments(), consumer_tag=CONSUMER_TAG
            )
            await session.rpc(consuming)
        except Refused as exc:
            raise Refused(exc.code, exc.text, f"cannot consume from {self._name!r}: {exc}") from exc

    def _stop(self) -> None:
        self.paused = True

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        if self._profile.consumer_priority is not None:
            arguments["x-priority"] = self._profile.consumer_priority
        if self._next is not None:
            arguments["x-stream-offset"] = self._next
        elif self._source.queue.kind == "stream":
            arguments["x-stream-offset"] = self._profile.offset
        return arguments

    def _refusal(self) -> None:
        """Tell why the subscription is interrupted; it is asked for again at once."""
        intake, session = self._intake, self._session
        if intake is not None and session is not None and not self.paused:
            self.settled = intake.settled
            # That the connection is lost has been told.
            log.log(
                logging.DEBUG if session.lost.done() else logging.WARNING,
                "%s: consuming from %s is interrupted: %s",
                self.connection.name,
                self.place,
                intake.ended,
            )

    def _fatal(self, problem: DeliveryError) -> bool:
        return self._profile.first_connect == "fail"

    async def _leave(self, *, closing: bool) -> None:
        """Give the channel back; what is unsettled goes to another consumer."""
        session, link, intake = self._session, self._link, self._intake
        self._link = self._intake = None
        if session is None or link is None or intake is None:
            return
        if self._resumes and intake.next_offset is not None:
            self._next = intake.next_offset
        if closing and self._source.own and not session.wire.is_closed(link.number):
            session.wire.write(frames.delete_frame(link.number or 0, self._name))
        await session.leave(link, intake)
