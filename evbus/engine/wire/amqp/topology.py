"""Exchanges, queues and bindings of a profile, checked or declared on a live connection."""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec
from aio_pika.abc import AbstractChannel

from evbus.engine.kit.redact import one_line
from evbus.engine.wire.amqp.connect import AmqpSession, Name, Refused
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
#: Reply codes of a broker that closes a channel (section 1.2), and what they mean here.
NOT_FOUND, PRECONDITION_FAILED = 404, 406
_REFUSALS = {
    403: "the broker does not permit it for {what}: {text}",
    NOT_FOUND: "{what} is not on the broker: {text}",
    405: "{what} belongs to another connection alone: {text}",
    PRECONDITION_FAILED: (
        "{what} is there with other settings, or cannot have these: {text}; give its own settings, or "
        "its name alone to use it as it is"
    ),
}


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
        settings = {key: value for key, value in msgspec.structs.asdict(wanted).items() if key != "name"}
        await _step(session, what, lambda channel: channel.declare_exchange(Name(name), **settings))
        return
    try:
        await _step(session, what, lambda channel: channel.declare_exchange(Name(name), passive=True))
    except Refused as exc:
        if exc.code != NOT_FOUND:
            raise
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
        await _step(session, what, lambda channel: channel.declare_exchange(Name(name), TOPIC, durable=True))
    except Unavailable as exc:
        found = _OTHER_TYPE.search(str(exc))
        plugin = found is not None and found[1].startswith("x-")
        if found and not plugin:
            raise Unavailable(not_topic(name, found[1])) from None
        if plugin or not isinstance(exc, Refused) or exc.code != PRECONDITION_FAILED:
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
                lambda channel: channel.declare_queue(
                    Name(queue.name),
                    durable=queue.durable,
                    auto_delete=queue.auto_delete,
                    arguments=queue.table(session.server),
                ),
            )
        except Refused as exc:
            if exc.code != PRECONDITION_FAILED or not await _is_there(session, what, queue.name):
                raise
            found = False
            _tell(session, what, exc.text)
    exchange = profile.exchange_name()
    for one in bind if exchange else ():
        await _step(session, f"{what} or {exchange!r}", partial(_bind, queue.name, exchange, one))
    return found


async def _bind(queue: str, exchange: str, binding: Binding, channel: AbstractChannel) -> None:
    key, headers = ("", binding) if isinstance(binding, dict) else (binding, {})
    found = await channel.get_queue(Name(queue), ensure=False)
    await found.bind(Name(exchange), key, arguments=headers)


def _tell(session: AmqpSession, what: str, text: str) -> None:
    """Log the consequence of a queue that differs, once for each connection."""
    meaning = next((meaning for why, meaning in _MEANINGS.items() if re.search(why, text)), _OTHERWISE)
    said = f"{what} is there with other settings, and is used as it is: {text}; {meaning}"
    if said not in session.told:
        session.told.add(said)
        log.warning("%s", said)


async def _is_there(session: AmqpSession, what: str, name: str) -> bool:
    try:
        await _step(session, what, lambda channel: channel.declare_queue(Name(name), passive=True))
    except Refused as exc:
        if exc.code != NOT_FOUND:
            raise
        return False
    return True


async def _step(
    session: AmqpSession, what: str, step: Callable[[AbstractChannel], Coroutine[Any, Any, Any]]
) -> None:
    """Do something on a channel of its own: what the broker refuses ends its channel."""
    channel = await session.channel()
    try:
        await session.rpc(step(channel))
    except Refused as exc:
        said = _REFUSALS.get(exc.code, "{what}: {text}").format(what=what, text=exc.text)
        raise Refused(exc.code, exc.text, said) from exc
    except Unavailable as exc:
        hint = _TRANSIENT if "transient_nonexcl_queues" in str(exc) else ""
        raise Unavailable(f"{what}: {one_line(str(exc))}{hint}") from exc
    except (ValueError, TypeError, struct.error) as exc:
        # A name of more than 255 bytes, or an argument that is of none of AMQP's types.
        raise Unavailable(f"{what} cannot have this name or these arguments: {one_line(exc)}") from exc
    finally:
        await session.leave(channel)
