"""Exchanges, queues and bindings of a profile, checked or declared on a live connection."""

from __future__ import annotations

import logging
import re
import struct
from typing import Any, cast

import aiormq
from aiormq.exceptions import (
    AMQPChannelError,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)
from pamqp import commands
from pamqp.base import Frame

from evbus.engine.kit.redact import one_line
from evbus.engine.wire.amqp.connect import AmqpSession
from evbus.engine.wire.amqp.frames import method
from evbus.engine.wire.amqp.profile import Binding, ExchangeDeclaration, Profile, QueueDeclaration
from evbus.errors import Unavailable

__all__ = [
    "STANDARD",
    "TOPIC",
    "check_topic",
    "declare_exchange",
    "declare_queue",
    "declared",
    "not_topic",
]

log = logging.getLogger("evbus.connection.amqp")

#: The type of exchange that matches patterns, and the types of those that every broker has.
TOPIC = "topic"
STANDARD = {
    "": "direct",
    "amq.topic": TOPIC,
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.headers": "headers",
    "amq.match": "headers",
}
#: What a broker says of an exchange that is declared with another type.
_OTHER_TYPE = re.compile(r"inequivalent arg 'type'.*current is '([^']*)'")

#: What it means that a queue which is there differs from the one that evbus declares.
_MEANINGS = {
    "'x-delivery-limit'.* current is none": (
        "RabbitMQ 4 drops a message of it that was returned more than 20 times; a policy with "
        "'delivery-limit: -1' or a dead letter exchange mends that"
    ),
    "'durable'.* current is 'false'": (
        "it goes with its last consumer or with the broker, and what waits in it is lost then; older "
        "versions of evbus declared it so: stop all of its consumers once, and it is declared anew"
    ),
}
_OTHERWISE = "delete it when nothing waits in it, and it is declared anew; or give the profile its settings"
_TRANSIENT = (
    "; this broker has no queues that are neither durable nor exclusive: leave out 'durable: false'; "
    "'arguments: {x-expires: 300000}' (milliseconds) lets a queue go that nobody uses"
)


async def declared(session: AmqpSession, profile: Profile) -> None:
    """Check or declare the exchange and the queue of a profile, and bind them.

    :raises Unavailable: the broker refuses; says what would be right.
    """
    await declare_exchange(session, profile)
    queue = profile.queue_settings()
    if queue is not None and queue.name:
        passive = isinstance(profile.queue, str)
        bind = profile.bindings(queue)
        await declare_queue(session, profile, queue, bind=bind, passive=passive)


async def declare_exchange(session: AmqpSession, profile: Profile) -> None:
    """Check that the exchange is there, or declare it when the profile gives its settings."""
    name = profile.exchange_name()
    if not name:
        return
    wanted = profile.exchange
    what = f"the exchange {name!r}"
    if isinstance(wanted, ExchangeDeclaration):
        await _step(
            session,
            what,
            commands.Exchange.Declare,
            exchange=name,
            exchange_type=wanted.type,
            durable=wanted.durable,
            auto_delete=wanted.auto_delete,
            internal=wanted.internal,
            arguments=wanted.arguments,
        )
        return
    try:
        await _step(session, what, commands.Exchange.Declare, exchange=name, passive=True)
    except _Missing as exc:
        raise Unavailable(
            f"there is no exchange {name!r} on the broker; create it, or have it declared with "
            f"'exchange: {{name: {name}, type: topic}}'"
        ) from exc


def not_topic(name: str, kind: str) -> str:
    """Return the sentence that says what listeners to patterns need."""
    which = f"{name!r} is of type {kind}" if name else "the default one takes routing keys as they are"
    return (
        f"a listener to a pattern needs an exchange of type topic, and {which}: name one, such as 'exchange: "
        "{name: events, type: topic}', or listen to each event by its name"
    )


async def check_topic(session: AmqpSession, profile: Profile) -> None:
    """Find out whether an exchange that the profile only names is one that matches patterns.

    A declaration with other settings is refused, and says in what they differ, the type first.

    :raises Unavailable: it is of another type.
    """
    name = profile.exchange_name()
    if isinstance(profile.exchange, ExchangeDeclaration) or name in STANDARD:
        return
    what = f"the exchange {name!r}"
    try:
        await _step(
            session, what, commands.Exchange.Declare, exchange=name, exchange_type=TOPIC, durable=True
        )
    except Unavailable as exc:
        found = _OTHER_TYPE.search(str(exc))
        plugin = found is not None and found[1].startswith("x-")
        if found and not plugin:
            raise Unavailable(not_topic(name, found[1])) from None
        if plugin or not isinstance(exc, _Differs):
            log.warning("whether %s matches patterns cannot be seen: %s", what, exc)


async def declare_queue(
    session: AmqpSession,
    profile: Profile,
    queue: QueueDeclaration,
    *,
    bind: list[Binding],
    passive: bool = False,
) -> bool:
    """Declare a queue and bind it to the profile's exchange.

    One that is there with other settings is used as it is, and that is told.

    :param passive: take the queue as it is when it is there.
    :returns: whether it is as it was to be declared.
    """
    what = f"the queue {queue.name!r}"
    found = not (passive and await _is_there(session, what, queue.name))
    if found:
        try:
            await _step(
                session,
                what,
                commands.Queue.Declare,
                queue=queue.name,
                durable=queue.durable,
                auto_delete=queue.auto_delete,
                arguments=queue.table(session.server),
            )
        except _Differs as exc:
            if not await _is_there(session, what, queue.name):
                raise
            found = False
            _tell(session, what, exc.text)
    exchange = profile.exchange_name()
    for one in bind if exchange else ():
        key, headers = ("", one) if isinstance(one, dict) else (one, {})
        await _step(
            session,
            f"{what} or {exchange!r}",
            commands.Queue.Bind,
            queue=queue.name,
            exchange=exchange,
            routing_key=key,
            arguments=headers,
        )
    return found


def _tell(session: AmqpSession, what: str, text: str) -> None:
    """Log the consequence of a queue that differs, once for each connection."""
    meaning = next((meaning for why, meaning in _MEANINGS.items() if re.search(why, text)), _OTHERWISE)
    said = f"{what} is there with other settings, and is used as it is: {text}; {meaning}"
    if said not in session.told:
        session.told.add(said)
        log.warning("%s", said)


class _Missing(Unavailable):
    """Something is not there."""


class _Differs(Unavailable):
    """Something is there with other settings, or cannot have those that are asked for.

    :ivar text: what the broker says.
    """

    def __init__(self, what: str, text: str) -> None:
        super().__init__(
            f"{what} is there with other settings, or cannot have these: {text}; give its own settings, or "
            "its name alone to use it as it is"
        )
        self.text = text


async def _is_there(session: AmqpSession, what: str, name: str) -> bool:
    try:
        await _step(session, what, commands.Queue.Declare, queue=name, passive=True)
    except _Missing:
        return False
    return True


async def _step(session: AmqpSession, what: str, kind: type[Frame], **fields: Any) -> None:
    """Call a method on a channel of its own: one that the broker refuses ends its channel."""
    channel = await session.channel()
    try:
        await session.rpc(cast("aiormq.Channel", channel).rpc(method(kind, **fields)))
    except (AMQPChannelError, ChannelClosed) as exc:
        raise _explained(exc, what) from exc
    except Unavailable as exc:
        hint = _TRANSIENT if "transient_nonexcl_queues" in str(exc) else ""
        raise Unavailable(f"{what}: {one_line(str(exc))}{hint}") from exc
    except (ValueError, TypeError, struct.error) as exc:
        # A name of more than 255 bytes, or an argument that is of none of AMQP's types.
        await session.rpc(channel.close())
        raise Unavailable(f"{what} cannot have this name or these arguments: {one_line(exc)}") from exc
    await session.rpc(channel.close())


def _explained(problem: Exception, what: str) -> Unavailable:
    text = one_line(problem.args[0] if problem.args else problem)
    if isinstance(problem, ChannelNotFoundEntity):
        return _Missing(f"{what} is not on the broker: {text}")
    if isinstance(problem, ChannelPreconditionFailed):
        return _Differs(what, text)
    if isinstance(problem, ChannelAccessRefused):
        return Unavailable(f"the broker does not permit it for {what}: {text}")
    if isinstance(problem, ChannelLockedResource):
        return Unavailable(f"{what} belongs to another connection alone: {text}")
    return Unavailable(f"{what}: {text}")
