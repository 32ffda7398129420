"""Exchanges, queues and bindings of a profile, checked or declared on a live connection."""

from __future__ import annotations

import struct
from typing import Any

from aiormq.exceptions import (
    AMQPChannelError,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)

from evbus.errors import Unavailable
from evbus.redact import one_line

from ._amqp import AmqpSession
from ._amqp_profile import Exchange, Profile, Queue

__all__ = ["bind_keys", "declare_exchange", "declare_queue", "declared"]


async def declared(session: AmqpSession, profile: Profile) -> None:
    """Check or declare the exchange and the queue of a profile, and bind them.

    :raises Unavailable: the broker refuses; says what would be right.
    """
    await declare_exchange(session, profile)
    queue = profile.queue_settings()
    if queue is not None and queue.name:
        passive = isinstance(profile.queue, str)
        await declare_queue(session, profile, queue, bind=bind_keys(profile, queue), passive=passive)


def bind_keys(profile: Profile, queue: Queue) -> list[str]:
    """Return the keys by which the profile's queue is bound to its exchange; none to the default one."""
    if not profile.exchange_name():
        return []
    if queue.bind is not None:
        return [queue.bind] if isinstance(queue.bind, str) else list(queue.bind)
    key = profile.routing_key
    return [key if key is not None and "{" not in key else queue.name]


async def declare_exchange(session: AmqpSession, profile: Profile) -> None:
    """Check that the exchange is there, or declare it when the profile gives its settings."""
    name = profile.exchange_name()
    if not name:
        return
    wanted = profile.exchange
    what = f"the exchange {name!r}"
    if isinstance(wanted, Exchange):
        await _step(
            session,
            what,
            "exchange_declare",
            name,
            exchange_type=wanted.type,
            durable=wanted.durable,
            auto_delete=wanted.auto_delete,
            internal=wanted.internal,
            arguments=wanted.arguments or None,
        )
        return
    try:
        await _step(session, what, "exchange_declare", name, passive=True)
    except _Missing as exc:
        raise Unavailable(
            f"there is no exchange {name!r} on the broker; create it, or have it declared with "
            f"'exchange: {{name: {name}, type: topic}}'"
        ) from exc


async def declare_queue(
    session: AmqpSession,
    profile: Profile,
    queue: Queue,
    *,
    bind: list[str],
    passive: bool = False,
    exclusive: bool = False,
) -> None:
    """Declare a queue and bind it to the profile's exchange by the keys ``bind``.

    :param passive: take the queue as it is when it is there.
    :param exclusive: for this connection only, and gone with it.
    """
    what = f"the queue {queue.name!r}"
    if not (passive and await _is_there(session, what, queue.name)):
        await _step(
            session,
            what,
            "queue_declare",
            queue.name,
            durable=queue.durable and not exclusive,
            exclusive=exclusive,
            auto_delete=queue.auto_delete,
            arguments=queue.table() or None,
        )
    exchange = profile.exchange_name()
    for key in bind if exchange else ():
        await _step(session, f"{what} or {exchange!r}", "queue_bind", queue.name, exchange, key)


class _Missing(Unavailable):
    """Something is not there."""


async def _is_there(session: AmqpSession, what: str, name: str) -> bool:
    try:
        await _step(session, what, "queue_declare", name, passive=True)
    except _Missing:
        return False
    return True


async def _step(session: AmqpSession, what: str, method: str, *args: Any, **kwargs: Any) -> None:
    """Call a method of a channel of its own: one that the broker refuses ends its channel."""
    channel = await session.channel()
    try:
        await session.rpc(getattr(channel, method)(*args, **kwargs))
    except (AMQPChannelError, ChannelClosed) as exc:
        raise _explained(exc, what) from exc
    except Unavailable as exc:
        raise Unavailable(f"{what}: {exc}") from exc
    except (ValueError, TypeError, struct.error) as exc:
        # The client library has rules of its own for names, and types for arguments.
        await session.rpc(channel.close())
        if str(exc).startswith("Invalid value for"):
            raise Unavailable(
                f"{what} cannot have this name: the client library takes letters of ASCII, digits, spaces "
                "and -_.:@#,/ in names of queues and exchanges"
            ) from exc
        raise Unavailable(f"{what} cannot have this name or these arguments: {one_line(exc)}") from exc
    await session.rpc(channel.close())


def _explained(problem: Exception, what: str) -> Unavailable:
    text = one_line(problem.args[0] if problem.args else problem)
    if isinstance(problem, ChannelNotFoundEntity):
        return _Missing(f"{what} is not on the broker: {text}")
    if isinstance(problem, ChannelPreconditionFailed):
        return Unavailable(
            f"{what} is there with other settings, or cannot have these: {text}; give its own settings, or "
            "its name alone to use it as it is"
        )
    if isinstance(problem, ChannelAccessRefused):
        return Unavailable(f"the broker does not permit it for {what}: {text}")
    if isinstance(problem, ChannelLockedResource):
        return Unavailable(f"{what} belongs to another connection alone: {text}")
    return Unavailable(f"{what}: {text}")
