"""Consume from queues, restored after whatever happens to the connection or the queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple, cast

import aiormq.abc
import msgspec
from aiormq.exceptions import ChannelPreconditionFailed
from pamqp.commands import Basic

from evbus.engine.kit.backoff import backoff
from evbus.engine.kit.redact import one_line
from evbus.engine.kit.topics import check_template, is_pattern
from evbus.engine.wire.amqp.connect import AmqpSession
from evbus.engine.wire.amqp.frames import method
from evbus.engine.wire.amqp.intake import CONSUMER_TAG, Intake
from evbus.engine.wire.amqp.profile import Binding, ExchangeDeclaration, Profile, QueueDeclaration
from evbus.engine.wire.amqp.topology import (
    STANDARD,
    TOPIC,
    check_topic,
    declare_exchange,
    declare_queue,
    not_topic,
)
from evbus.engine.wire.base.breaks import BREAKS, Breaks
from evbus.engine.wire.base.supervisor import Connection
from evbus.errors import ConnectFailed, ProfileError, Unavailable
from evbus.types import Delivery, Subscription

__all__ = ["Consumer", "QueueSource", "source_of"]

log = logging.getLogger("evbus.egress.amqp")

#: The template of a profile that has none.
KEY = "{routing_key}"


class QueueSource(NamedTuple):
    """The queue that a subscription consumes from.

    :ivar bind: what it is bound to the profile's exchange by.
    :ivar passive: it is taken as it is when it is there.
    :ivar own: for this process alone.
    """

    queue: QueueDeclaration
    bind: list[Binding]
    passive: bool = False
    own: bool = False


class _Subscribed(NamedTuple):
    """A consumer's channel on the connection that there is at present."""

    session: AmqpSession
    intake: Intake
    link: aiormq.abc.AbstractChannel


def source_of(profile: Profile, subscription: Subscription) -> QueueSource:
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
        return QueueSource(base.passing(unique), bind, own=True)
    if not name and not group:
        return QueueSource(base, bind, passive=isinstance(profile.queue, str))
    full = f"{key}::{group}" if group else key
    return QueueSource(
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
    template = profile.routing_key
    if is_pattern(name):
        _check_topic(profile)
        check_template(template or KEY, name, "routing_key")
    return name if template is None else template.format(routing_key=name, profile="*")


def _check_topic(profile: Profile) -> None:
    """Refuse an exchange that is known to match no patterns."""
    exchange = profile.exchange
    if isinstance(exchange, ExchangeDeclaration):
        kind = str(exchange.arguments.get("x-delayed-type", exchange.type))
    else:
        kind = STANDARD.get(profile.exchange_name(), TOPIC)
    if kind != TOPIC:
        raise ProfileError(not_topic(profile.exchange_name(), kind), path="exchange")


class Consumer:
    """One subscription, for as long as somebody iterates over :meth:`deliveries`."""

    def __init__(
        self, connection: Connection[AmqpSession], profile: Profile, name: str, subscription: Subscription
    ) -> None:
        self.connection = connection
        self._profile = profile
        self._profile_name = name
        try:
            self._source = source_of(profile, subscription)
        except ProfileError as exc:
            raise ProfileError(f"{connection.name}: {exc.reason}", path=exc.path) from None
        self._pattern = is_pattern(subscription.name)
        self._on_ready = subscription.ready
        self._prefetch = subscription.prefetch_for(profile.prefetch)
        self._next: int | None = None
        # A queue that was named only may be a stream or not; its messages tell, unless they are strange.
        self._resumes = True
        self._started = False
        self._failures = 0
        self._breaks = Breaks()

    def __repr__(self) -> str:
        return f"<Consumer {self.connection.name} {self._source.queue.name!r}>"

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """Yield deliveries, at most ``prefetch`` of them unsettled, until closed.

        :raises ConnectFailed: the queue cannot be consumed from at first, and the profile does not say
            ``first_connect: wait``.
        """
        consumers = self.connection.consumers
        consumers.gone(self)
        try:
            while True:
                session, intake, link = await self._subscribed()
                consumers.back(self)
                began = asyncio.get_running_loop().time()
                intake.watch(lambda _: consumers.gone(self))
                try:
                    while not intake.ended:
                        while intake.waiting:
                            yield intake.waiting.popleft()
                        await intake.arrival()
                finally:
                    intake.leave(delete=self._name if self._source.own else "")
                    await self._leave(session, intake, link)
                if intake.paused:
                    return
                # That the connection is lost has been told.
                log.log(
                    logging.DEBUG if session.lost.done() else logging.WARNING,
                    "%s: consuming from %r is interrupted: %s",
                    self.connection.name,
                    self._name,
                    intake.ended,
                )
                lived = asyncio.get_running_loop().time() - began
                if session.lost.done() and self._breaks.count(settled=intake.settled, lived=lived):
                    log.warning(BREAKS, self.connection.name, repr(self._name))
        finally:
            consumers.closed(self)

    @property
    def _name(self) -> str:
        return self._source.queue.name

    async def _subscribed(self) -> _Subscribed:
        while True:
            session = self.connection.session
            if session is None:
                await self.connection.changed()
                continue
            try:
                found = await self._subscribe(session)
            # Whatever the client library makes of a connection that ends: a consumer goes on over the next.
            except Exception as exc:
                problem = self.connection.clean(exc)
                if not self._started and self._profile.first_connect == "fail":
                    raise ConnectFailed(f"{self.connection.name}: {problem}") from exc
                await self._pause(problem)
            else:
                if self._failures:
                    log.warning("%s: consuming from %r again", self.connection.name, self._name)
                self._started, self._failures = True, 0
                self._on_ready()
                return found

    async def _pause(self, problem: str) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning(
                "%s: consuming from %r fails and is tried again: %s",
                self.connection.name,
                self._name,
                problem,
            )
        pause = self._profile.reconnect
        await asyncio.sleep(backoff(self._failures, pause.min, pause.max))

    async def _subscribe(self, session: AmqpSession) -> _Subscribed:
        source = self._source
        await declare_exchange(session, self._profile)
        if self._pattern:
            await check_topic(session, self._profile)
        known = await declare_queue(
            session, self._profile, source.queue, bind=source.bind, passive=source.passive
        )
        link = await session.channel()
        stream = source.queue.kind == "stream" or not known
        intake = Intake(link.number, session.wire.write, self._profile_name, stream=stream)
        session.wire.attach(link.number, intake)
        try:
            await session.rpc(link.basic_qos(prefetch_count=self._prefetch))
            await session.rpc(
                cast("aiormq.Channel", link).rpc(
                    method(
                        Basic.Consume,
                        queue=self._name,
                        consumer_tag=CONSUMER_TAG,
                        exclusive=self._profile.exclusive,
                        arguments=self._arguments(),
                    )
                )
            )
        except BaseException as exc:
            await self._leave(session, intake, link)
            if isinstance(exc, ChannelPreconditionFailed) and source.queue.kind != "stream":
                self._next, self._resumes = None, False
            if isinstance(exc, Unavailable) or not isinstance(exc, Exception):
                raise
            raise Unavailable(f"cannot consume from {self._name!r}: {one_line(exc)}") from exc
        return _Subscribed(session, intake, link)

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        if self._profile.consumer_priority is not None:
            arguments["x-priority"] = self._profile.consumer_priority
        if self._next is not None:
            arguments["x-stream-offset"] = self._next
        elif self._source.queue.kind == "stream":
            arguments["x-stream-offset"] = self._profile.offset
        return arguments

    async def _leave(self, session: AmqpSession, intake: Intake, link: aiormq.abc.AbstractChannel) -> None:
        """Give the channel back; what is unsettled goes to another consumer."""
        if self._resumes and intake.next_offset is not None:
            self._next = intake.next_offset
        intake.end("it was closed")
        if not session.lost.done() and not link.is_closed:
            with contextlib.suppress(Exception):
                await session.rpc(link.close())
        session.wire.detach(link.number, intake)
