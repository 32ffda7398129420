"""Replies over AMQP 0-9-1 to whoever waits at an address: a queue, or a channel by direct reply-to."""

from __future__ import annotations

import contextlib
from urllib.parse import unquote

import msgspec

from evbus.engine.wire.amqp.connect import AmqpSession
from evbus.engine.wire.amqp.profile import Profile
from evbus.engine.wire.amqp.publish import Publisher
from evbus.engine.wire.base.supervisor import Connection
from evbus.errors import Rejected
from evbus.types import Envelope

__all__ = ["Replier"]

#: How the addresses of direct reply-to begin.
_DIRECT = "amq.rabbitmq.reply-to."
#: How those begin that STOMP clients of the same broker give.
_STOMP = ("/amq/queue/", "/reply-queue/", "/queue/")


class Replier:
    """One profile's way to reply.

    A queue that is gone makes the broker return a mandatory message. With direct reply-to that says nothing:
    RabbitMQ 3.10 returns each, also those that it delivers. So nobody is told there that a client is gone;
    asking the broker beside each reply (a passive declaration of the address) would halve what goes through.
    """

    def __init__(self, connection: Connection[AmqpSession], profile: Profile) -> None:
        plain = msgspec.structs.replace(profile, exchange="", queue=None, routing_key=None, mandatory=True)
        self._name = connection.name
        self._queues = Publisher(connection, plain)
        self._direct = Publisher(connection, msgspec.structs.replace(plain, mandatory=False))

    def __repr__(self) -> str:
        return f"<Replier {self._name}>"

    async def reply(self, address: str, event: Envelope) -> None:
        """Publish an event to whoever waits at ``address``; return when the broker has it.

        :raises Rejected: the queue is gone, or AMQP cannot carry it.
        :raises DeliveryError: refused by ``basic.nack``.
        :raises Unavailable: no connection, no permission, or no answer.
        """
        address = _queue_of(address)
        if not address:
            raise Rejected(f"{self._name}: there is no address to reply to; the header reply-to names it")
        # Without a time it is not remembered when its outcome is unknown: nobody sends it again as it is.
        envelope = Envelope(event.profile, address, event.body, event.headers)
        publisher = self._direct if address.startswith(_DIRECT) else self._queues
        (outcome,) = await publisher.publish([envelope])
        if outcome is not None:
            raise outcome

    async def close(self) -> None:
        """Close the channels."""
        async with contextlib.AsyncExitStack() as stack:
            for each in (self._queues, self._direct):
                stack.push_async_callback(each.close)


def _queue_of(address: str) -> str:
    """Return the queue of an address that a client of RabbitMQ's STOMP plugin gave, others as they are."""
    for prefix in _STOMP:
        if address.startswith(prefix):
            return unquote(address[len(prefix) :])
    return address
